//! The promise, kept to the real tools: while ostree and flatpak write, and while
//! they are killed in the middle of it, no client ever gets a half-done update.
//! Clients verify every signature, and so would notice.

#![cfg(feature = "real-clients")]

mod common;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::client::{Client, connect};
use common::command::{Output, Program};
use common::flatpak;
use common::manager::Manager;
use common::process::Process;
use common::publisher::{
    BRANCH, Follower, History, Publisher, Remote, Tally, add_remote, init, ostree, while_pulling,
};
use common::transport::{Traffic, Transport};
use common::{Setup, TestServer, wait_for};
use ostree_serve::format::signatures::Signatures;
use ostree_serve::format::summary::Summary;
use ostree_serve::resource::Checksum;
use ostree_serve::signature::{Fit, fit};
use rustix::process::Signal;
use tempfile::TempDir;

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

/// A mirror writes the summary first and the objects after it.
#[test]
fn a_mirror_that_is_pulled_into_under_pulling_clients() {
    const ROUNDS: usize = 40;
    let _alone = alone();
    let publisher = Publisher::new(2000);
    let upstream = Setup::new().repo("/repo", &publisher.repo()).start();
    let directory = TempDir::new().unwrap();
    let mirror = directory.path().join("repo");
    init(&mirror, "archive");
    add_remote(&mirror, &remote(&upstream), &publisher.key.public());
    let pull = || ostree(&mirror, &["pull", "--mirror", "demo"]).run();
    pull();
    let crowd = Crowd::of(&mirror, &publisher, 8);
    let tally = crowd.pull_while(&publisher.history, || {
        for _ in 0..ROUNDS {
            publisher.publish();
            pull();
        }
        wait_until_summary_names(&upstream, &publisher.history.last());
        pull();
    });
    assert!(tally.seen.len() > ROUNDS / 5, "{}", tally.seen.len());
    crowd.arrive(&publisher.history.last());
}

/// What was tried out in one repository is copied into the one that is served,
/// and that one's old commits are pruned.
#[test]
fn promotions_under_pulling_clients() {
    const ROUNDS: usize = 40;
    let _alone = alone();
    let publisher = Publisher::new(2000);
    let directory = TempDir::new().unwrap();
    let served = directory.path().join("repo");
    init(&served, "archive");
    let promote = || {
        let source = publisher.repo();
        ostree(&served, &["pull-local"])
            .arg(source)
            .arg(BRANCH)
            .run();
        let summary = ostree(&served, &["summary", "--update"]);
        summary.args(publisher.key.signature()).run();
    };
    promote();
    let crowd = Crowd::of(&served, &publisher, 8);
    let tally = crowd.pull_while(&publisher.history, || {
        for _ in 0..ROUNDS {
            // pull-local believes the summary of what it pulls from.
            publisher.publish();
            promote();
            ostree(&served, &["prune", "--refs-only", "--depth=0"]).run();
        }
    });
    assert!(tally.seen.len() > ROUNDS / 5, "{}", tally.seen.len());
    crowd.arrive(&publisher.history.last());
}

/// flatpak's repositories have an index beside the summary, and its own updater
/// prunes.
#[test]
fn flatpak_updates_under_pulling_clients() {
    const ROUNDS: usize = 12;
    const CLIENTS: usize = 4;
    let _alone = alone();
    let publisher = FlatpakPublisher::new();
    let servers = Transport::TLS.map(|transport| {
        let setup = Setup::new().limit("handshake = \"1m\"");
        transport.start(setup.repo("/repo", &publisher.repo()))
    });
    let clients: Vec<_> = servers
        .iter()
        .cycle()
        .take(CLIENTS)
        .map(|server| FlatpakClient::new(server, &publisher))
        .collect();
    let is_over = AtomicBool::new(false);
    let updates = AtomicUsize::new(0);
    let versions = Mutex::new(BTreeSet::new());
    let follow = |client: &FlatpakClient| {
        let mut last = 1;
        while !is_over.load(Relaxed) {
            client.run(&["update", "--appstream", "example"]);
            client.run(&["remote-ls", "example"]);
            client.run(&["update", "--noninteractive"]);
            let version = client.version();
            assert!(version >= last, "{version} after {last}");
            last = version;
            versions.lock().unwrap().insert(version);
            updates.fetch_add(1, Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(|| follow(client)))
            .collect();
        for version in 2..2 + ROUNDS {
            publisher.publish(version);
        }
        is_over.store(true, Relaxed);
        threads.into_iter().for_each(|it| it.join().unwrap());
    });
    let (updates, versions) = (updates.into_inner(), versions.into_inner().unwrap());
    eprintln!("{updates} updates, versions {versions:?}");
    assert!(versions.len() > 3, "{versions:?}");
    for client in &clients {
        wait_for("the last version", || {
            client.run(&["update", "--noninteractive"]);
            (client.version() == 1 + ROUNDS).then_some(())
        });
    }
}

const APPLICATION: &str = "org.example.Hello";

/// What `tests/fixtures/make-flatpak-repository` makes, and further versions of
/// its application.
struct FlatpakPublisher {
    directory: TempDir,
}

impl FlatpakPublisher {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let calls = ["flatpak", "ostree", "gpg", "gpgconf", "openssl"];
        let script = Program::fixture("make-flatpak-repository", &calls);
        script.arg(directory.path()).run();
        Self { directory }
    }

    fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    /// Commits the next version, and updates the repository as flatpak does,
    /// which prunes all that nothing refers to.
    fn publish(&self, version: usize) {
        let script = "
            export GNUPGHOME=$PWD/gnupg
            key=$(gpg --batch --quiet --with-colons --list-keys |
                awk -F: '$1 == \"fpr\" { print $10; exit }')
            runtime=org.example.Platform/$(flatpak --default-arch)/1
            mkdir -p app/files/bin app/export
            printf '[Application]\\nname=org.example.Hello\\nruntime=%s\\nsdk=%s\\ncommand=hello\\n' \
                $runtime $runtime >app/metadata
            printf '#!/bin/sh\\necho %s\\n' $VERSION >app/files/bin/hello
            chmod 755 app/files/bin/hello
            flatpak build-export --gpg-sign=$key --no-update-summary --disable-fsync \
                --subject=$VERSION repo app stable
            flatpak build-update-repo --gpg-sign=$key --generate-static-deltas \
                --prune --prune-depth=0 repo";
        let sh = Program::new("sh").args(["-euc", script]);
        sh.env("VERSION", version.to_string())
            .current_dir(self.directory.path())
            .run();
    }
}

/// A user with an installation, who verifies every signature.
struct FlatpakClient {
    home: TempDir,
    certificate: PathBuf,
}

impl FlatpakClient {
    /// One who has the application.
    fn new(server: &TestServer, publisher: &FlatpakPublisher) -> Self {
        let client = Self {
            home: TempDir::new().unwrap(),
            certificate: server.certificate(),
        };
        let key = publisher.directory.path().join("key.gpg");
        let key = format!("--gpg-import={}", key.display());
        let url = format!("{}/repo", server.url());
        client.run(&["remote-add", &key, "example", &url]);
        client.run(&["install", "--noninteractive", "example", APPLICATION]);
        client
    }

    /// Runs a subcommand; panics if it fails.
    fn run(&self, args: &[&str]) -> Output {
        let output = flatpak::user(self.home.path(), &self.certificate, args).run();
        // `update` goes on after a failure, and tells of it.
        assert!(!output.stderr.contains("rror"), "{args:?}: {output:?}");
        output
    }

    /// Which version is installed, as its commit says.
    fn version(&self) -> usize {
        let info = self.run(&["info", APPLICATION]).stdout;
        let subject = info
            .lines()
            .find_map(|line| line.trim().strip_prefix("Subject: "))
            .unwrap_or_else(|| panic!("{info}"));
        // The first one says more than its number.
        subject.trim_start_matches("Version ").parse().unwrap()
    }
}

/// Whoever prunes right after an update gives nobody the time to look: what a
/// client that has the old summary will ask for is kept before.
#[test]
fn what_is_pruned_at_once_is_served_nevertheless() {
    let _alone = alone();
    // Of the generation that the server begins with, and of a later one.
    for updates in [0, 1] {
        let publisher = Publisher::new(500);
        // It looks late, so that what is to be seen is gone by then.
        let setup = Setup::new().repo("/repo", &publisher.repo());
        let setup = setup.repo_line("notice = \"poll\"");
        let server = setup.repo_line("poll = \"3s\"").start();
        let mut before = BTreeSet::new();
        for _ in 0..updates {
            before = objects(&publisher);
            publisher.publish();
        }
        wait_until_summary_names(&server, &publisher.history.last());
        let current = objects(&publisher);
        publisher.publish();
        let prune = publisher.ostree(&["prune", "--refs-only", "--depth=0"]);
        prune.run();
        let after = objects(&publisher);
        let gone = |name: &&String| !before.contains(*name) && !after.contains(*name);
        let gone: Vec<_> = current.iter().filter(gone).collect();
        assert!(gone.len() > 5, "{gone:?}");
        let mut client = Client::plain(&server);
        for name in gone {
            let status = client.get(&format!("/repo/{name}")).status;
            assert_eq!(status, 200, "{name} after {updates} updates");
        }
    }
}

/// The names of all objects.
fn objects(publisher: &Publisher) -> BTreeSet<String> {
    let find = Program::new("find").args(["objects", "-type", "f"]);
    let listing = find.current_dir(&publisher.repo()).run().stdout;
    listing.lines().map(str::to_owned).collect()
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
    type Step<'a> = (&'a str, &'a dyn Fn(&Publisher) -> Program, usize);
    let steps: [Step<'_>; 4] = [
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

/// An operator brakes in the middle of a rollout. The simulated clients are many,
/// and begin anew each time; the real ones are a few.
#[test]
fn nobody_goes_past_a_hold() {
    const CLIENTS: usize = 60;
    let _alone = alone();
    let publisher = Publisher::new(500);
    let history = &publisher.history;
    let manager = Manager::new();
    let mut first = start_by(&manager, &publisher, None);
    let mut real = [(); 3].map(|()| Follower::new(&remote_of(&first), &publisher.key));

    // Some of them are ahead of others when the brake is pulled.
    let polls = Mutex::new(Vec::new());
    let is_over = AtomicBool::new(false);
    let poll_on = |process: &Process| {
        while !is_over.load(Relaxed) {
            let begun = Instant::now();
            let position = poll(process, "/repo", history);
            polls.lock().unwrap().push((begun, position));
        }
    };
    let (held, frozen) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| poll_on(&first)))
            .collect();
        for _ in 0..5 {
            publisher.publish();
        }
        command(&first, &["hold", "/repo", "--reason", "bad kernel"]);
        let held = Instant::now();
        let frozen = poll(&first, "/repo", history);
        for _ in 0..3 {
            publisher.publish();
        }
        wait_until_latest(&first, "/free", history);
        is_over.store(true, Relaxed);
        clients.into_iter().for_each(|it| it.join().unwrap());
        (held, frozen)
    });
    let polls = polls.into_inner().unwrap();
    let (after, before): (Vec<_>, Vec<_>) = polls.into_iter().partition(|(begun, _)| *begun > held);
    assert!(after.len() >= CLIENTS, "{}", after.len());
    assert!(
        after.iter().all(|(_, position)| *position == frozen),
        "{frozen}: {after:?}"
    );
    assert!(
        before.iter().all(|(_, position)| *position <= frozen),
        "{frozen}: {before:?}"
    );
    assert!(
        before.iter().any(|(_, position)| *position < frozen),
        "nobody was behind"
    );
    let all_are_at = |process: &Process, real: &[Follower], position: usize| {
        std::thread::scope(|scope| {
            let poll = || assert_eq!(poll(process, "/repo", history), position);
            (0..CLIENTS).for_each(|_| _ = scope.spawn(poll));
        });
        for follower in real {
            follower.must_pull();
            let tip = follower.tip().unwrap();
            assert_eq!(history.position(&tip), Some(position));
        }
    };
    all_are_at(&first, &real, frozen);

    // The service is restarted, and what was published meanwhile stays unseen.
    let hold = stored(&manager);
    first.signal(Signal::TERM);
    assert!(first.wait().success());
    publisher.publish();
    let second = start_by(&manager, &publisher, Some(&hold));
    real.iter_mut().for_each(|it| it.moved(&remote_of(&second)));
    wait_until_latest(&second, "/free", history);
    // Nothing of it is lost to somebody who pulls it for the first time.
    publisher
        .ostree(&["prune", "--refs-only", "--depth=0"])
        .run();
    Follower::new(&remote_of(&second), &publisher.key).must_pull();
    all_are_at(&second, &real, frozen);

    command(&second, &["release", "/repo"]);
    let last = history.position(&history.last()).unwrap();
    wait_until_latest(&second, "/repo", history);
    all_are_at(&second, &real, last);
    real.iter().for_each(Follower::fsck);
}

/// A client that has nothing yet: what it would get is checked, and the position
/// of its commit told.
fn poll(process: &Process, prefix: &str, history: &History) -> usize {
    let mut client = Client::tls_over(connect(process.https()), &process.certificate());
    let mut get = |name: &str| {
        let response = client.get(&format!("{prefix}/{name}"));
        assert_eq!(response.status, 200, "{name}");
        response.body
    };
    let (signature, summary) = (get("summary.sig"), get("summary"));
    let signatures = Signatures::parse(&signature).unwrap();
    assert_eq!(fit(&summary, &signatures), Fit::Fits);
    let summary = Summary::parse(&summary).unwrap();
    let tip = summary.refs.iter().find(|it| it.name == BRANCH).unwrap();
    let hex = tip.commit.to_string();
    let commit = get(&format!("objects/{}/{}.commit", &hex[..2], &hex[2..]));
    assert_eq!(Checksum::of(&commit), tip.commit);
    history.position(&hex).expect("a commit of the publisher's")
}

fn wait_until_latest(process: &Process, prefix: &str, history: &History) {
    let last = history.position(&history.last()).unwrap();
    wait_for("the last commit to be published", || {
        (poll(process, prefix, history) == last).then_some(())
    });
}

/// Runs a subcommand that asks the server.
fn command(process: &Process, arguments: &[&str]) {
    let program = Program::new(env!("CARGO_BIN_EXE_ostree-serve")).args(arguments);
    let config = process.certificate().with_file_name("serve.toml");
    program.arg("--config").arg(config).run();
}

fn remote_of(process: &Process) -> Remote {
    Remote {
        url: format!("https://localhost:{}/repo", process.https().port()),
        certificate: Some(process.certificate()),
    }
}

/// Starts the server as a service with this hold in its store. It serves the
/// repository twice, so that one of them can be held and the other not.
fn start_by(manager: &Manager, publisher: &Publisher, hold: Option<&OwnedFd>) -> Process {
    let listen = ["https", "http", "redirect"].map(|it| format!("{it} = [\"127.0.0.1:0\"]\n"));
    let setup = Setup::new()
        .listen(&listen.concat())
        .limit("handshake = \"1m\"")
        .repo("/repo", &publisher.repo())
        .repo("/free", &publisher.repo());
    let stored: Vec<_> = hold.iter().map(|it| ("hold-/repo", *it)).collect();
    let process = manager.start(setup, &stored);
    wait_for("the control socket", || {
        let log = process.log();
        log.contains("listening for control").then_some(())
    });
    process
}

/// The hold that the server has given it.
fn stored(manager: &Manager) -> OwnedFd {
    let (_, descriptors) = manager.wait_for("FDSTORE=1");
    descriptors.into_iter().next().expect("a descriptor")
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
