//! The promise, kept to the real tools: while ostree and flatpak write, and while
//! they are killed in the middle of it, no client ever gets a half-done update.
//! Clients verify every signature, and so would notice.

#![cfg(feature = "real-clients")]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::client::Client;
use common::command::{Output, Program};
use common::publisher::{BRANCH, Follower, History, Publisher, Remote, Tally, while_pulling};
use common::transport::{Traffic, Transport};
use common::{Setup, TestServer, wait_for};

/// One test at a time: each of them is a crowd on few cores, and a crowd that is
/// slowed down races less.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn commits_and_summaries_under_pulling_clients() {
    const ROUNDS: usize = 300;
    let _alone = alone();
    let publisher = Publisher::new(2000);
    let crowd = Crowd::of(&publisher.repo(), &publisher, 8);
    let tally = crowd.pull_while(&publisher.history, || {
        for _ in 0..ROUNDS {
            publisher.publish();
        }
    });
    assert!(tally.seen.len() > ROUNDS / 5, "{}", tally.seen.len());
    crowd.arrive(&publisher.history.last());
}

/// Deltas are replaced file by file, and with them, later, what the summary says
/// of them; and commits are pruned that clients are in the middle of.
#[test]
fn deltas_and_prunes_under_pulling_clients() {
    const ROUNDS: usize = 12;
    let _alone = alone();
    let publisher = Publisher::new(100_000);
    let crowd = Crowd::of(&publisher.repo(), &publisher, 20);
    let deltas = AtomicUsize::new(0);
    let each = |follower: &Follower, output: &Output| {
        let traffic = Traffic::of(output);
        let is_part = |path: &&String| path.contains("/deltas/") && path.ends_with("/0");
        deltas.fetch_add(traffic.requests.iter().filter(is_part).count(), Relaxed);
        follower.start_over();
    };
    let tally = crowd.pull_while_and(&publisher.history, each, || {
        for _ in 0..ROUNDS {
            publisher.commit();
            let generate = |options: &[&str]| {
                let generate = publisher.ostree(&["static-delta", "generate"]);
                generate.args(options).arg(BRANCH).run();
            };
            generate(&["--empty"]);
            publisher.update_summary();
            generate(&["--empty", "--max-chunk-size=1", "--swap-endianness"]);
            publisher.update_summary();
            let prune = publisher.ostree(&["prune", "--refs-only", "--depth=0"]);
            prune.run();
        }
    });
    assert!(tally.seen.len() > ROUNDS / 2, "{}", tally.seen.len());
    let deltas = deltas.into_inner();
    assert!(
        deltas > ROUNDS,
        "only {deltas} parts of deltas were fetched"
    );
    crowd.arrive(&publisher.history.last());
}

/// A writer is killed before each of its steps in turn, as by a power cut or the
/// OOM killer, and the next run is the repair.
#[test]
fn writers_that_are_killed_halfway() {
    /// Later ones are like those before: one object after the other.
    const MOST: usize = 15;
    let _alone = alone();
    let publisher = Publisher::new(500);
    let server = Transport::Http2.start(Setup::new().repo("/repo", &publisher.repo()));
    let follower = Follower::new(&remote(&server), &publisher.key);
    follower.must_pull();

    let delta = |publisher: &Publisher| {
        let generate = publisher.ostree(&["static-delta", "generate", "--empty"]);
        generate.arg(BRANCH)
    };
    let prune = |publisher: &Publisher| publisher.ostree(&["prune", "--refs-only", "--depth=0"]);
    let steps: [(&str, &dyn Fn(&Publisher) -> Program, usize); 4] = [
        ("commit", &Publisher::commit_program, 10),
        ("summary", &Publisher::summary_program, 3),
        ("static-delta", &delta, 2),
        ("prune", &prune, 5),
    ];
    for (what, program, least) in steps {
        let mut kills = 0;
        for call in STEPS {
            for number in 1..=MOST {
                if !is_killed_before(program(&publisher), call, number) {
                    break;
                }
                kills += 1;
                publisher.note_tip();
                pulls_go_well(&follower, &publisher.history);
                let commit = publisher.publish();
                wait_until_summary_names(&server, &commit);
                follower.must_pull();
                assert_eq!(follower.tip(), Some(commit), "{what}, {call} {number}");
            }
            // It came to its end, and the next one is to have something to do.
            publisher.note_tip();
            publisher.publish();
        }
        eprintln!("{what}: killed before each of {kills} steps");
        assert!(kills >= least, "{what} has only {kills} steps");
        pulls_go_well(&follower, &publisher.history);
    }
    follower.fsck();
}

/// What changes names; strace counts each of them by itself.
const STEPS: [&str; 8] = [
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlinkat",
    "unlink",
    "unlinkat",
];

/// Runs a writer that is killed before its so-manieth call, if it gets there.
fn is_killed_before(writer: Program, call: &str, number: usize) -> bool {
    let fault = format!("inject={call}:signal=SIGKILL:when={number}");
    let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &fault];
    let (status, output) = writer.under(&strace).finish();
    let is_killed = status.code() == Some(137) || status.signal() == Some(9);
    assert!(status.success() || is_killed, "{status}: {output:?}");
    is_killed
}

/// Pulls for as long as the server takes to look at a repository, several times
/// over.
fn pulls_go_well(follower: &Follower, history: &History) {
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        let before = follower.tip().and_then(|it| history.position(&it));
        follower.must_pull();
        let after = follower.tip().and_then(|it| history.position(&it));
        assert!(after.is_some() && after >= before, "{before:?} {after:?}");
    }
}

/// Verifying clients of one repository, half of them over HTTP/1.1, and half
/// over HTTP/2.
struct Crowd {
    servers: [(Transport, TestServer); 2],
    followers: Vec<Follower>,
}

impl Crowd {
    fn of(repo: &Path, publisher: &Publisher, count: usize) -> Self {
        let servers = Transport::TLS.map(|transport| {
            // So many clients on so few cores may take long for a handshake.
            let setup = Setup::new().limit("handshake = \"1m\"");
            (transport, transport.start(setup.repo("/repo", repo)))
        });
        let followers = servers.iter().cycle().take(count);
        let followers = followers.map(|(_, server)| Follower::new(&remote(server), &publisher.key));
        Self {
            followers: followers.collect(),
            servers,
        }
    }

    /// They pull while `write` goes on, and no pull fails.
    fn pull_while(&self, history: &History, write: impl FnOnce()) -> Tally {
        self.pull_while_and(history, |_, _| {}, write)
    }

    /// The same, and `each` is called after each pull.
    fn pull_while_and(
        &self,
        history: &History,
        each: impl Fn(&Follower, &Output) + Sync,
        write: impl FnOnce(),
    ) -> Tally {
        let check = |follower: &Follower, output: &Output| {
            assert_nothing_is_missing(&Traffic::of(output));
            each(follower, output);
        };
        let tally = while_pulling(&self.followers, history, check, write);
        eprintln!("{} pulls, {} commits seen", tally.pulls, tally.seen.len());
        tally.assert_flawless();
        tally
    }

    /// In the end all of them have this commit, whole.
    fn arrive(&self, commit: &str) {
        for (_, server) in &self.servers {
            wait_until_summary_names(server, commit);
        }
        for (follower, (transport, _)) in self.followers.iter().zip(self.servers.iter().cycle()) {
            let output = follower.must_pull();
            Traffic::of(&output).assert_over(*transport);
            assert_eq!(follower.tip().as_deref(), Some(commit));
            follower.fsck();
        }
    }
}

fn remote(server: &TestServer) -> Remote {
    Remote {
        url: format!("{}/repo", server.url()),
        certificate: Some(server.certificate()),
    }
}

/// Only deltas and their indexes may be missing: a client asks for them to see
/// whether there are any.
fn assert_nothing_is_missing(traffic: &Traffic) {
    let may_be_missing = |path: &&String| {
        let (_, name) = path.split_once("/repo/").expect("the prefix");
        name.starts_with("delta")
    };
    let optional = traffic.requests.iter().filter(may_be_missing).count();
    let missing = traffic.statuses().filter(|&it| it == 404).count();
    let unexpected = traffic.statuses().any(|it| ![200, 304, 404].contains(&it));
    assert!(missing <= optional && !unexpected, "{traffic:#?}");
}

fn wait_until_summary_names(server: &TestServer, commit: &str) {
    let bytes: Vec<u8> = (0..commit.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&commit[at..at + 2], 16).unwrap())
        .collect();
    wait_for("the last commit to be published", || {
        let summary = Client::plain(server).get("/repo/summary").body;
        summary
            .windows(bytes.len())
            .any(|it| it == bytes)
            .then_some(())
    });
}
