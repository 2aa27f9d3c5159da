//! Clients that pause find their connection as they left it, although what is kept
//! for requests alone was given back meanwhile.

mod common;

use std::process::Command;

use common::client::{Client, connect};
use common::process::Process;
use common::{Setup, TestRepo, wait_for};
use ostree_serve::logging::FILTER_VARIABLE;
use rustix::process::Signal;

fn server(repo: &TestRepo, limit: &str) -> Process {
    let setup = Setup::new().repo("/repo", &repo.path()).limit(limit);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostree-serve"));
    command.env(FILTER_VARIABLE, "trace");
    Process::start_with(setup, command)
}

/// One over TLS, one in plaintext.
fn clients(server: &Process) -> [Client; 2] {
    [
        Client::tls_over(connect(server.https()), &server.certificate()),
        Client::over(connect(server.http())),
    ]
}

fn wait_until_rested(server: &Process, times: usize) {
    wait_for("a client to rest", || {
        let count = server.log().matches("a client rests").count();
        (count >= times).then_some(())
    });
}

#[test]
fn who_comes_back_is_served() {
    let repo = TestRepo::new();
    let server = server(&repo, "");
    let large = format!("/repo/{}", repo.plant_object(300_000));
    let mut clients = clients(&server);
    for round in 1..=2 {
        for client in &mut clients {
            assert_eq!(client.get("/repo/summary").status, 200);
            assert_eq!(client.get(&large).body, common::pattern(300_000));
        }
        wait_until_rested(&server, 2 * round);
    }
    // A request that comes in two pieces, and two that come in one.
    for client in &mut clients {
        client.send("GET /repo/config HT");
    }
    // Each came back twice before.
    wait_for("the half requests to be noticed", || {
        let count = server.log().matches("a client comes back").count();
        (count >= 4).then_some(())
    });
    for client in &mut clients {
        client.send("TP/1.1\r\nHost: h\r\n\r\nGET /repo/summary HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.response("GET").body, repo.read("config"));
        assert_eq!(client.response("GET").body, repo.read("summary"));
    }
}

#[test]
fn who_rests_for_too_long_is_sent_away_politely() {
    let repo = TestRepo::new();
    let server = server(&repo, "idle = \"5s\"");
    let mut clients = clients(&server);
    for client in &mut clients {
        assert_eq!(client.get("/repo/config").status, 200);
    }
    wait_until_rested(&server, 2);
    for client in &mut clients {
        let (rest, error) = client.read_to_end();
        assert!(rest.is_empty());
        // Over TLS that is a close_notify.
        assert!(error.is_none(), "{error:?}");
    }
}

#[test]
fn who_rests_does_not_keep_the_server() {
    let repo = TestRepo::new();
    let mut server = server(&repo, "");
    let mut clients = clients(&server);
    for client in &mut clients {
        assert_eq!(client.get("/repo/config").status, 200);
    }
    wait_until_rested(&server, 2);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    for client in &mut clients {
        let (rest, error) = client.read_to_end();
        assert!(rest.is_empty() && error.is_none(), "{error:?}");
    }
}
