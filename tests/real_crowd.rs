//! Many desktops at once: fifty real clients pull, none fails, and none is starved.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use common::process::Process;
use common::publisher::{BRANCH, init, ostree};
use common::{Setup, pattern};
use tempfile::TempDir;

/// Half of them over HTTP/2 and TLS, half over HTTP/1.1 in plaintext.
const CLIENTS: usize = 50;
/// The slowest may take so many times as long as the fastest. All begin at once and
/// want the same, so with equal shares they end at about the same time; a client that
/// waits until others are through takes dozens of times as long as the first of them.
const UNEQUAL: f64 = 4.0;

/// A tree of some hundred files, from small to what is sent while it is read, none
/// like another.
fn plant(tree: &Path) {
    for number in 0..250 {
        let len = if number % 10 == 0 { 200_000 } else { 2_000 };
        let mut bytes = pattern(len + number);
        // What is packed is about as long as what is not.
        bytes.iter_mut().enumerate().for_each(|(at, byte)| {
            *byte ^= (at as u32 ^ number as u32)
                .wrapping_mul(2_654_435_761)
                .to_le_bytes()[2];
        });
        let directory = tree.join(format!("{}", number % 20));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(number.to_string()), bytes).unwrap();
    }
}

/// A client with nothing but a remote.
fn client(directory: &Path, url: &str, certificate: &Path) {
    init(directory, "bare-user-only");
    ostree(directory, &["remote", "add", "--no-gpg-verify"])
        .arg(format!("--set=tls-ca-path={}", certificate.display()))
        .args(["origin", url])
        .run();
}

#[test]
fn fifty_clients_get_equal_shares() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    plant(&at("tree"));
    init(&at("repo"), "archive");
    ostree(&at("repo"), &["commit", "--canonical-permissions"])
        .arg(format!("--branch={BRANCH}"))
        .arg(format!("--tree=dir={}", at("tree").display()))
        .run();
    ostree(&at("repo"), &["summary", "--update"]).run();
    let commit = ostree(&at("repo"), &["rev-parse", BRANCH]).run().stdout;

    let server = Process::start(Setup::new().repo("/repo", &at("repo")));
    let urls = [
        format!("https://localhost:{}/repo", server.https().port()),
        format!("http://localhost:{}/repo", server.http().port()),
    ];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let repo = at(&format!("client-{number}"));
            client(&repo, &urls[number % urls.len()], &server.certificate());
            repo
        })
        .collect();

    let begin = Barrier::new(CLIENTS);
    let pull = |repo: &Path| {
        let pull = ostree(repo, &["pull", "--disable-static-deltas", "origin", BRANCH]);
        begin.wait();
        let begun = Instant::now();
        pull.run();
        begun.elapsed()
    };
    let took: Vec<Duration> = thread::scope(|scope| {
        let pulls: Vec<_> = clients
            .iter()
            .map(|repo| scope.spawn(|| pull(repo)))
            .collect();
        pulls.into_iter().map(|it| it.join().unwrap()).collect()
    });

    for repo in &clients {
        let name = format!("origin:{BRANCH}");
        assert_eq!(ostree(repo, &["rev-parse", &name]).run().stdout, commit);
    }
    let (fastest, slowest) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    assert!(
        slowest.as_secs_f64() < UNEQUAL * fastest.as_secs_f64(),
        "from {fastest:?} to {slowest:?}: {took:?}"
    );
    let log = server.log();
    assert!(!log.contains("ERROR"), "{log}");
}
