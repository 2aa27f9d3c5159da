//! The promise, kept to the real tools: while ostree and flatpak write, and while
//! they are killed in the middle of it, no client ever gets a half-done update.
//! Clients verify every signature, and so would notice.

#![cfg(feature = "real-clients")]

mod common;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::client::Client;
use common::publisher::{Follower, History, Publisher, Remote, Tally, while_pulling};
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

/// Verifying clients of one repository, half of them over HTTP/1.1, and half
/// over HTTP/2.
struct Crowd {
    servers: [(Transport, TestServer); 2],
    followers: Vec<Follower>,
}

impl Crowd {
    fn of(repo: &Path, publisher: &Publisher, count: usize) -> Self {
        let servers = Transport::TLS.map(|transport| {
            let server = transport.start(Setup::new().repo("/repo", repo));
            (transport, server)
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
        let tally = while_pulling(
            &self.followers,
            history,
            |_, output| {
                // Each of these over one transport; that it is the right one, the
                // server sees to.
                let traffic = Traffic::of(output);
                assert_nothing_is_missing(&traffic);
            },
            write,
        );
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
