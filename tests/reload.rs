//! A configuration that is replaced under load: what is good is in force at
//! once, what is not changes nothing, and no client notices either.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::certificate::{Greeted, Pair, trusting};
use common::client::{Client, connect, try_connect};
use common::hyper_client::Sender;
use common::process::Process;
use common::{Setup, TestRepo, TestServer, pattern, summary_with, wait_for};
use ostree_serve::config::Address;
use ostree_serve::daemon::{Outcome, Refused};
use rustix::process::Signal;

/// The changes, or a panic with what is wrong.
fn reload(server: &mut TestServer, text: &str) -> Vec<String> {
    match server.reload(text) {
        Ok(reloaded) => reloaded.changes,
        Err(refused) => panic!("{refused:?}\n{text}"),
    }
}

/// What is wrong, one line after the other.
fn refusal(server: &mut TestServer, text: &str) -> String {
    match server.reload(text) {
        Err(Refused::Wrong(findings)) => findings.iter().map(|it| format!("{it}\n")).collect(),
        other => panic!("{other:?}\n{text}"),
    }
}

fn status(address: SocketAddr, path: &str) -> u16 {
    Client::over(connect(address)).get(path).status
}

/// An address that was free a moment ago.
fn free_address(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("{path:?}"),
    }
}

/// The number of the last line that holds this text, counted from one.
fn line_of(text: &str, part: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    1 + lines
        .iter()
        .rposition(|line| line.contains(part))
        .expect(part)
}

fn has_shown(server: &TestServer, pair: &Pair, others: &[&Pair]) -> bool {
    let all: Vec<_> = others.iter().copied().chain([pair]).collect();
    Greeted::try_by(server.https(), &trusting(&all)).is_ok_and(|it| it.was_shown(pair))
}

#[test]
fn what_is_served_changes() {
    let (repo, other) = (TestRepo::new(), TestRepo::new());
    let mut server = TestServer::of(&repo);
    let first = server.configuration();
    assert_eq!(reload(&mut server, &first), [""; 0]);

    let mount = |prefix: &str, repo: &TestRepo| {
        format!("[[repo]]\nprefix = {prefix:?}\npath = {:?}\n", repo.path())
    };
    let files = |path: &Path| format!("[[static]]\nprefix = \"/files\"\npath = {path:?}\n");
    let www = server.directory().join("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("a.txt"), "a").unwrap();
    let base = first.split("[[repo]]").next().unwrap().to_owned();

    // What is configured, what changes, and what is then answered.
    type Statuses<'a> = &'a [(&'a str, u16)];
    let steps: [(String, &[&str], Statuses<'_>); 6] = [
        (
            format!("{first}{}", mount("/other", &other)),
            &["repository /other added"],
            &[("/repo/config", 200), ("/other/config", 200)],
        ),
        (
            format!("{first}{}", mount("/moved", &other)),
            &["repository /moved added", "repository /other removed"],
            &[("/other/config", 404), ("/moved/config", 200)],
        ),
        (
            format!("{first}poll = \"7s\"\n{}", mount("/moved", &other)),
            &["repository /repo changed"],
            &[("/repo/config", 200), ("/moved/config", 200)],
        ),
        (
            format!("{first}{}", files(&www)),
            &[
                "directory /files added",
                "repository /repo changed",
                "repository /moved removed",
            ],
            &[("/files/a.txt", 200), ("/moved/config", 404)],
        ),
        (
            format!("# Moved down.\n{first}{}", files(&www)),
            &[],
            &[("/files/a.txt", 200)],
        ),
        (
            format!("{base}{}", files(&www)),
            &["repository /repo removed"],
            &[("/repo/config", 404), ("/files/a.txt", 200)],
        ),
    ];
    let mut alive = Client::plain(&server);
    for (text, changes, statuses) in steps {
        assert_eq!(reload(&mut server, &text), changes, "{text}");
        for (path, expected) in statuses {
            assert_eq!(alive.get(path).status, *expected, "{path} with {text}");
        }
    }
}

/// A reload does not open a repository anew: that would publish whatever lies
/// there. What is put in its place is noticed without a reload, and judged.
#[test]
fn a_repository_stays_what_it_is() {
    let (repo, other) = (TestRepo::new(), TestRepo::new());
    let mut server = TestServer::of(&repo);
    let text = server.configuration();
    let summary = repo.read("summary");
    fs::rename(repo.path(), repo.path().with_extension("old")).unwrap();
    assert!(reload(&mut server, &text).is_empty());
    assert_eq!(Client::plain(&server).get("/repo/summary").body, summary);

    // A broken one is not published, whatever else a reload changes.
    fs::write(other.file("summary"), "broken").unwrap();
    fs::rename(other.path(), repo.path()).unwrap();
    let changed = text.replace("[[repo]]", "[[repo]]\ngrace = \"2h\"");
    assert_eq!(reload(&mut server, &changed), ["repository /repo changed"]);
    assert_eq!(Client::plain(&server).get("/repo/summary").body, summary);
    assert_eq!(Client::plain(&server).get("/repo/summary.sig").status, 200);

    // A repaired one is, with no reload.
    let tip = repo.read("refs/heads/demo/x86_64/stable");
    fs::write(repo.file("refs/heads/another"), tip).unwrap();
    fs::write(repo.file("summary"), summary).unwrap();
    wait_for("the other repository to be served", || {
        let reply = Client::plain(&server).get("/repo/refs/heads/another");
        (reply.status == 200).then_some(())
    });
}

/// Without generations the directory is what counts, whatever was published
/// before.
#[test]
fn coherence_can_be_turned_off() {
    let (repo, other) = (TestRepo::new(), TestRepo::new());
    let mut server = TestServer::of(&repo);
    let text = server.configuration();
    let changed = text.replace("[[repo]]", "[[repo]]\ncoherent = false");
    assert_eq!(reload(&mut server, &changed), ["repository /repo changed"]);
    fs::write(repo.file("summary"), "as it lies").unwrap();
    let summary = |server: &TestServer| Client::plain(server).get("/repo/summary").body;
    assert_eq!(summary(&server), b"as it lies");

    fs::rename(repo.path(), repo.path().with_extension("old")).unwrap();
    fs::write(other.file("summary"), "another").unwrap();
    fs::rename(other.path(), repo.path()).unwrap();
    wait_for("the other directory", || {
        (summary(&server) == b"another").then_some(())
    });
    // It stays the other one, also when something has made the server look.
    fs::write(repo.file("refs/heads/new"), "x").unwrap();
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        assert_eq!(summary(&server), b"another");
    }
    assert_eq!(reload(&mut server, &text), ["repository /repo changed"]);
}

/// The pin of a connection outlives a reload of its repository.
#[test]
fn who_has_a_signature_gets_its_summary_over_a_reload() {
    let repo = TestRepo::new();
    fs::remove_file(repo.file("summary.sig")).unwrap();
    let mut server = TestServer::of(&repo);
    let text = server.configuration();
    let old = repo.read("summary");
    let mut client = Client::plain(&server);
    assert_eq!(client.get("/repo/summary.sig").status, 404);

    let new = summary_with(&pattern(100_000));
    fs::write(repo.file("tmp-summary"), &new).unwrap();
    fs::rename(repo.file("tmp-summary"), repo.file("summary")).unwrap();
    let changed = text.replace("[[repo]]", "[[repo]]\ngrace = \"2h\"");
    assert_eq!(reload(&mut server, &changed), ["repository /repo changed"]);
    wait_for("the new summary to be served", || {
        (Client::plain(&server).get("/repo/summary").body == new).then_some(())
    });
    assert!(
        client.get("/repo/summary").body == old,
        "another generation"
    );
}

#[test]
fn what_is_wrong_changes_nothing() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let pair = Pair::new(1);
    pair.put(setup.directory());
    let mut server = setup.start();
    let good = server.configuration();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_address = busy.local_addr().unwrap();
    let new = free_address("127.0.0.3");
    let occupied = server.directory().join("occupied");
    fs::write(&occupied, "precious").unwrap();
    let http = "http = [\"127.0.0.1:0\"";
    let listen_also = |more: &str| good.replace(http, &format!("{http}, \"{new}\",\n  {more}"));

    let cases: [(&str, String, &str, &str); 8] = [
        ("broken", good.clone() + "[[repo\n", "[[repo", "error: "),
        (
            "unknown key",
            good.replace("https =", "htpps ="),
            "htpps",
            "did you mean `https`?",
        ),
        (
            "missing repository",
            good.replace("/repo\"\n", "/gone\"\n")
                .replace("prefix = \"/gone\"", "prefix = \"/repo\""),
            "/gone\"",
            "the repository cannot be opened",
        ),
        (
            "missing directory",
            format!("{good}[[static]]\nprefix = \"/x\"\npath = \"gone\"\n"),
            "path = \"gone\"",
            "the directory cannot be opened",
        ),
        (
            "busy port",
            listen_also(&format!("\"{busy_address}\"")),
            &busy_address.to_string(),
            "another process has the port",
        ),
        (
            "occupied socket",
            listen_also("\"unix:occupied\""),
            "unix:occupied",
            "cannot listen at unix:",
        ),
        (
            "missing certificate",
            good.replace("certificate.pem", "gone.pem"),
            "gone.pem",
            "does not exist",
        ),
        (
            "no certificate",
            good.replace("certificate.pem", "serve.toml"),
            "= \"serve.toml\"",
            "there is no certificate in PEM form",
        ),
    ];
    let mut alive = Client::plain(&server);
    for (what, text, part, reason) in &cases {
        let said = refusal(&mut server, text);
        let file = server.directory().join("serve.toml");
        let place = format!("{}:{}:", file.display(), line_of(text, part));
        assert!(said.contains(&place), "{what}: {place} is not in {said}");
        assert!(said.contains(reason), "{what}: {reason} is not in {said}");
        assert_eq!(alive.get("/repo/config").status, 200, "{what}");
        assert_eq!(status(server.http(), "/repo/config"), 200, "{what}");
        assert!(has_shown(&server, &pair, &[]), "{what}");
        assert!(try_connect(new).is_err(), "{what}: what was new is bound");
    }
    assert_eq!(fs::read(&occupied).unwrap(), b"precious");
    drop(busy);
    let text = listen_also(&format!("\"{busy_address}\""));
    let changes = reload(&mut server, &text);
    assert_eq!(changes.len(), 2, "{changes:?}");
}

/// Several things that are wrong are told at once.
#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let repo = TestRepo::new();
    let mut server = TestServer::of(&repo);
    let text = server.configuration().replace("key.pem", "none.pem")
        + "[[repo]]\nprefix = \"/a\"\npath = \"none\"\n[[static]]\nprefix = \"/b\"\npath = \"none\"\n";
    let said = refusal(&mut server, &text);
    assert_eq!(said.matches(": error: ").count(), 3, "{said}");
}

#[test]
fn listeners_come_and_go() {
    let repo = TestRepo::new();
    let mut server = TestServer::of(&repo);
    let old = server.configuration();
    let (http, https) = (server.http(), server.https());
    let mut alive = Client::plain(&server);
    let mut encrypted = Client::tls(&server);
    assert_eq!(alive.get("/repo/config").status, 200);
    assert_eq!(encrypted.get("/repo/config").status, 200);

    // Those that stay keep their socket, wherever in the list they are.
    let more = old.replace(
        "http = [\"127.0.0.1:0\"]",
        "http = [\"127.0.0.2:0\", \"127.0.0.1:0\", \"unix:a.sock\"]",
    );
    let changes = reload(&mut server, &more);
    assert_eq!(changes.len(), 2, "{changes:?}");
    let addresses = server.addresses().to_vec();
    assert_eq!(tcp(&addresses[0]), https);
    assert_eq!(tcp(&addresses[2]), http);
    let socket = server.directory().join("a.sock");
    assert_eq!(status(tcp(&addresses[1]), "/repo/config"), 200);
    let mut local = Client::over(UnixStream::connect(&socket).unwrap());
    assert_eq!(local.get("/repo/config").status, 200);
    assert_eq!(reload(&mut server, &more), [""; 0]);

    // Those that go leave their clients, who are not told to go.
    let none = old
        .replace("https = [\"127.0.0.1:0\"]", "https = [\"127.0.0.4:0\"]")
        .replace("http = [\"127.0.0.1:0\"]", "http = []");
    let changes = reload(&mut server, &none);
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert!(try_connect(http).is_err() && try_connect(https).is_err());
    assert!(!socket.exists());
    for client in [&mut alive, &mut encrypted, &mut local] {
        for _ in 0..3 {
            let response = client.get("/repo/config");
            assert_eq!(response.status, 200);
            assert_eq!(response.header("connection"), None);
        }
    }
    let mut redirected = Client::over(connect(tcp(&server.addresses()[1])));
    let location = format!("https://localhost:{}/x", server.https().port());
    assert_eq!(redirected.get("/x").header("location"), Some(&*location));

    // At the end all of them are asked to.
    drop((alive, encrypted, redirected));
    server.begin_shutdown();
    assert_eq!(local.read_to_end().0, b"");
    assert_eq!(server.stop(), Outcome::Drained);
}

#[test]
fn a_unix_socket_that_went_can_come_back() {
    let repo = TestRepo::new();
    let mut server = TestServer::of(&repo);
    let without = server.configuration();
    let with = without.replace("http = [", "http = [\"unix:a.sock\", ");
    let socket = server.directory().join("a.sock");
    for _ in 0..50 {
        reload(&mut server, &with);
        let stream = UnixStream::connect(&socket).unwrap();
        assert_eq!(Client::over(stream).get("/repo/config").status, 200);
        reload(&mut server, &without);
        assert!(!socket.exists(), "a reload ends before the listener does");
    }
}

/// `0.0.0.0:8443` is in the way of `[::]:8443`, and is still open when that is
/// bound.
#[test]
fn an_address_can_become_one_that_overlaps() {
    let cases = [
        ("0.0.0.0", "[::]"),
        ("[::]", "0.0.0.0"),
        ("127.0.0.1", "[::]"),
        ("[::]", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
    ];
    let repo = TestRepo::new();
    for (old, new) in cases {
        let port = free_address("127.0.0.1").port();
        let listen = |ip: &str| format!("https = []\nredirect = []\nhttp = [\"{ip}:{port}\"]\n");
        let mut server = Setup::new()
            .listen(&listen(old))
            .repo("/repo", &repo.path())
            .start();
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let mut alive = Client::over(connect(local));
        assert_eq!(alive.get("/repo/config").status, 200, "{old} to {new}");
        let text = server.configuration().replace(&listen(old), &listen(new));
        let changes = reload(&mut server, &text);
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(status(local, "/repo/config"), 200, "{old} to {new}");
        assert_eq!(alive.get("/repo/config").status, 200, "{old} to {new}");
        // And back, for the port has been shared once now.
        let text = text.replace(&listen(new), &listen(old));
        reload(&mut server, &text);
        assert_eq!(status(local, "/repo/config"), 200, "{new} to {old}");
    }
}

/// Clients that come all the time, each for one request, and must be served.
struct Crowd {
    done: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Crowd {
    fn at(address: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let client = |_| {
            let (done, served) = (Arc::clone(&done), Arc::clone(&served));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(status(address, "/repo/config"), 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..3).map(client).collect();
        Self {
            done,
            served,
            clients,
        }
    }

    /// Does something, and waits until more clients have been served.
    fn while_they_come(&self, act: impl FnOnce()) {
        let before = self.served.load(Ordering::Relaxed);
        act();
        wait_for("more clients", || {
            let on = self.served.load(Ordering::Relaxed) > before + 10;
            let gone = self
                .clients
                .iter()
                .any(std::thread::JoinHandle::is_finished);
            (on || gone).then_some(())
        });
    }

    fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("nobody is refused");
        }
    }
}

/// Clients come all the time while two sockets have the port and one goes.
#[test]
fn nobody_is_refused_while_addresses_overlap() {
    let repo = TestRepo::new();
    let port = free_address("127.0.0.1").port();
    let listen = |ip: &str| format!("https = []\nredirect = []\nhttp = [\"{ip}:{port}\"]\n");
    let mut server = Setup::new()
        .listen(&listen("0.0.0.0"))
        .repo("/repo", &repo.path())
        .start();
    let text = server.configuration();
    let crowd = Crowd::at(SocketAddr::from(([127, 0, 0, 1], port)));
    for ip in ["[::]", "127.0.0.1", "[::]", "0.0.0.0"]
        .iter()
        .cycle()
        .take(8)
    {
        crowd.while_they_come(|| {
            reload(&mut server, &text.replace(&listen("0.0.0.0"), &listen(ip)));
        });
    }
    crowd.end();
}

/// The second of two new addresses cannot be had. The first one would have got
/// the clients of the one that runs, and was to be closed with them inside.
#[test]
fn a_refused_reload_takes_no_clients() {
    let repo = TestRepo::new();
    let port = free_address("127.0.0.1").port();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = |http: &str| format!("https = []\nredirect = []\nhttp = [{http}]\n");
    let before = listen(&format!("\"0.0.0.0:{port}\""));
    let mut server = Setup::new()
        .listen(&before)
        .repo("/repo", &repo.path())
        .start();
    let after = format!("\"127.0.0.1:{port}\", \"{}\"", busy.local_addr().unwrap());
    let text = server.configuration().replace(&before, &listen(&after));
    let crowd = Crowd::at(SocketAddr::from(([127, 0, 0, 1], port)));
    for _ in 0..30 {
        crowd.while_they_come(|| {
            for _ in 0..10 {
                assert!(refusal(&mut server, &text).contains("another process has the port"));
            }
        });
    }
    crowd.end();
}

/// A socket may get another purpose; a connection keeps the one it was let in for.
#[test]
fn a_listener_can_change_its_purpose() {
    let repo = TestRepo::new();
    let (one, two) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let listen = |https, http, redirect| {
        format!("https = [\"{https}\"]\nhttp = [\"{http}\"]\nredirect = [\"{redirect}\"]\n")
    };
    let third = free_address("127.0.0.1");
    let before = listen(one, two, third);
    let mut server = Setup::new()
        .listen(&before)
        .repo("/repo", &repo.path())
        .start();
    let mut content = Client::plain(&server);
    assert_eq!(content.get("/repo/config").status, 200);
    let text = server.configuration();
    let changes = reload(
        &mut server,
        &text.replace(&before, &listen(two, third, one)),
    );
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert_eq!(
        [server.https(), server.http(), server.redirect()],
        [two, third, one]
    );
    assert_eq!(Client::tls(&server).get("/repo/config").status, 200);
    assert_eq!(Client::plain(&server).get("/repo/config").status, 200);
    assert_eq!(status(server.redirect(), "/repo/config"), 308);
    assert_eq!(content.get("/repo/config").status, 200);
}

/// At a full server, clients in the kernel's queue came for what it was.
#[test]
fn who_waits_gets_what_it_came_for() {
    let repo = TestRepo::new();
    let (one, two) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let listen = |http, redirect| {
        format!("https = [\"127.0.0.1:0\"]\nhttp = [\"{http}\"]\nredirect = [\"{redirect}\"]\n")
    };
    let mut server = Setup::new()
        .listen(&listen(one, two))
        .limit("connections = 1")
        .repo("/repo", &repo.path())
        .start();
    let mut inside = Client::over(connect(one));
    assert_eq!(inside.get("/repo/config").status, 200);
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let mut socket = connect(one);
            let request = b"GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n";
            socket.write_all(request).unwrap();
            socket
        })
        .collect();
    let text = server.configuration();
    reload(
        &mut server,
        &text.replace(&listen(one, two), &listen(two, one)),
    );
    drop(inside);
    for socket in waiting {
        assert_eq!(Client::over(socket).response("GET").status, 200);
    }
    assert_eq!(status(one, "/repo/config"), 308);
}

#[test]
fn slots_become_more_and_fewer() {
    let repo = TestRepo::new();
    let mut server = Setup::new()
        .limit("connections = 1")
        .repo("/repo", &repo.path())
        .start();
    let text = server.configuration();
    let with = |server: &mut TestServer, count: usize| {
        let changed = text.replace("connections = 1", &format!("connections = {count}"));
        assert_eq!(reload(server, &changed), ["limits changed"]);
    };
    with(&mut server, 3);
    let http = server.http();
    let request = b"GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut inside: Vec<Client> = (0..3).map(|_| Client::over(connect(http))).collect();
    for client in &mut inside {
        assert_eq!(client.get("/repo/config").status, 200);
    }
    let mut waiting = connect(http);
    waiting.write_all(request).unwrap();
    // Nobody is put out, and nobody is let in before there are fewer.
    with(&mut server, 1);
    assert_eq!(inside[0].get("/repo/config").status, 200);
    inside.truncate(1);
    waiting.set_nonblocking(true).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "it was let in");
    waiting.set_nonblocking(false).unwrap();
    with(&mut server, 2);
    let mut waiting = Client::over(waiting);
    assert_eq!(waiting.response("GET").status, 200);
    // Exactly two.
    let mut another = connect(http);
    another.write_all(request).unwrap();
    assert_eq!(inside[0].get("/repo/config").status, 200);
    assert_eq!(waiting.get("/repo/config").status, 200);
    another.set_nonblocking(true).unwrap();
    assert!(another.read(&mut [0]).is_err(), "a third was let in");
    another.set_nonblocking(false).unwrap();
    drop(waiting);
    assert_eq!(Client::over(another).response("GET").status, 200);
}

#[test]
fn a_transfer_ends_as_it_began() {
    const LEN: usize = 8_000_000;
    let repo = TestRepo::new();
    let other = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LEN));
    let mut server = TestServer::of(&repo);
    let mut clients = [Client::plain(&server), Client::tls(&server)];
    for client in &mut clients {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(client.read_head().unwrap().contains(" 200 "));
    }
    let text = format!(
        "[listen]\nhttps = []\nredirect = []\nhttp = [\"127.0.0.2:0\"]\n\
         [limits]\nconnections = 1\n[[repo]]\nprefix = \"/\"\npath = {:?}\n",
        other.path()
    );
    let changes = reload(&mut server, &text);
    assert!(
        changes.contains(&"certificate removed".to_owned()),
        "{changes:?}"
    );
    fs::remove_dir_all(repo.path()).unwrap();
    for client in &mut clients {
        assert!(
            client.read_exactly(LEN).unwrap() == pattern(LEN),
            "other bytes"
        );
    }
}

/// Requests without a pause over fifty reloads that change everything there is.
#[test]
fn no_request_fails() {
    let (repo, other) = (TestRepo::new(), TestRepo::new());
    let path: Arc<str> = format!("/repo/{}", repo.plant_object(50_000)).into();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let pairs: Vec<Pair> = (1..=5).map(Pair::new).collect();
    pairs[0].put(setup.directory());
    let mut server = setup.start();
    let trust = trusting(&pairs.iter().collect::<Vec<_>>());
    let (http, https) = (server.http(), server.https());
    let done = Arc::new(AtomicBool::new(false));
    let finished: [Arc<AtomicUsize>; 4] = Default::default();

    let worker = |number: usize, ask: Box<dyn FnMut(&str) -> u16 + Send>| {
        let (done, path) = (Arc::clone(&done), Arc::clone(&path));
        let (mut ask, finished) = (ask, Arc::clone(&finished[number]));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(ask(&path), 200);
                finished.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut plain = Client::over(connect(http));
    let mut kept = Greeted::by(https, &trust).client;
    let workers = [
        worker(0, Box::new(move |path| plain.get(path).status)),
        worker(1, Box::new(move |path| kept.get(path).status)),
        worker(
            2,
            Box::new(move |path| Greeted::by(https, &trust).client.get(path).status),
        ),
    ];
    let runtime = ostree_serve::daemon::runtime().unwrap();
    let mut sender = runtime.block_on(Sender::connect(&server, "h2"));
    let h2 = {
        let (done, path, finished) = (
            Arc::clone(&done),
            Arc::clone(&path),
            Arc::clone(&finished[3]),
        );
        runtime.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(sender.download(&path).await, 50_000);
                finished.fetch_add(1, Ordering::Relaxed);
            }
        })
    };

    let good = server.configuration();
    let extra = format!("[[repo]]\nprefix = \"/other\"\npath = {:?}\n", other.path());
    for number in 0..50 {
        let counts = finished.each_ref().map(|it| it.load(Ordering::Relaxed));
        let text = match number % 5 {
            0 => format!("{good}{extra}"),
            1 => good.replace("http = [", "http = [\"127.0.0.2:0\", \"unix:a.sock\", "),
            2 => good.replace("[limits]\n", "[limits]\nconnections = 20\nidle = \"20s\"\n"),
            3 => format!("{good}[[repo"),
            _ => format!("{good}poll = \"9s\"\n"),
        };
        pairs[number % pairs.len()].put(server.directory());
        assert_eq!(server.reload(&text).is_ok(), number % 5 != 3);
        wait_for("every client to get on", || {
            let on =
                |(it, before): (&Arc<AtomicUsize>, &usize)| it.load(Ordering::Relaxed) > *before;
            let gone = workers.iter().any(std::thread::JoinHandle::is_finished);
            (gone || h2.is_finished() || finished.iter().zip(&counts).all(on)).then_some(())
        });
    }
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("no request fails");
    }
    runtime.block_on(h2).expect("no request fails");
    assert_eq!(server.stop(), Outcome::Drained);
}

/// How the files of a certificate get their new content.
type Rotation = fn(&Path, &Pair);

/// Every way that is common.
fn rotations() -> Vec<(&'static str, Rotation)> {
    fn write(directory: &Path, name: &str, text: &str) {
        fs::write(directory.join(name), text).unwrap();
    }
    fn rename(directory: &Path, name: &str, text: &str) {
        write(directory, "new", text);
        fs::rename(directory.join("new"), directory.join(name)).unwrap();
    }
    vec![
        ("key first", |it, pair| {
            rename(it, "key.pem", &pair.key);
            rename(it, "certificate.pem", &pair.certificate);
        }),
        ("certificate first", |it, pair| {
            rename(it, "certificate.pem", &pair.certificate);
            rename(it, "key.pem", &pair.key);
        }),
        ("in place", |it, pair| {
            for (name, text) in [
                ("certificate.pem", &pair.certificate),
                ("key.pem", &pair.key),
            ] {
                let mut file = fs::File::create(it.join(name)).unwrap();
                let (half, rest) = text.as_bytes().split_at(text.len() / 2);
                file.write_all(half).unwrap();
                file.write_all(rest).unwrap();
            }
        }),
        // As certbot does it: live/ leads to archive/, one link after the other.
        ("links", |it, pair| {
            let archive = it.join("archive");
            fs::create_dir_all(&archive).unwrap();
            for (name, text) in [
                ("certificate.pem", &pair.certificate),
                ("key.pem", &pair.key),
            ] {
                write(&archive, name, text);
                std::os::unix::fs::symlink(archive.join(name), it.join("link")).unwrap();
                fs::rename(it.join("link"), it.join(name)).unwrap();
            }
        }),
    ]
}

#[test]
fn watchers_hear_of_other_certificate_files() {
    let repo = TestRepo::new();
    let mut server = TestServer::of(&repo);
    let text = server.configuration();
    let mut files = server.control().certificate_files();
    let names = |files: &[PathBuf]| {
        let name = |it: &PathBuf| it.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&files.borrow_and_update()),
        ["certificate.pem", "key.pem"]
    );
    reload(&mut server, &format!("# The same.\n{text}"));
    assert!(!files.has_changed().unwrap());
    fs::copy(server.certificate(), server.directory().join("ca.pem")).unwrap();
    let with_clients = text.replace("[limits]", "client_ca = \"ca.pem\"\n[limits]");
    reload(&mut server, &with_clients);
    assert!(files.has_changed().unwrap());
    let expected = ["certificate.pem", "key.pem", "ca.pem"];
    assert_eq!(names(&files.borrow_and_update()), expected);
}

/// Without anybody's telling: by looking alone.
#[test]
fn a_new_certificate_is_found() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let rotations = rotations();
    let pairs: Vec<Pair> = (0..=rotations.len() as u64).map(Pair::new).collect();
    let all: Vec<&Pair> = pairs.iter().collect();
    pairs[0].put(setup.directory());
    let server = setup.start();
    let mut alive = Greeted::by(server.https(), &trusting(&all)).client;
    for ((how, rotate), pair) in rotations.iter().zip(&pairs[1..]) {
        rotate(server.directory(), pair);
        wait_for(how, || has_shown(&server, pair, &all).then_some(()));
        assert_eq!(alive.get("/repo/config").status, 200, "{how}");
    }
}

/// What is looked at between two steps of a replacement is no good, and what is
/// served with is.
#[test]
fn half_a_replacement_is_waited_for() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let (old, new) = (Pair::new(1), Pair::new(2));
    old.put(setup.directory());
    let mut server = setup.start();
    let text = server.configuration();
    let files = [("key.pem", &new.key), ("certificate.pem", &new.certificate)];
    for (name, content) in files {
        let before = fs::read(server.directory().join(name)).unwrap();
        fs::write(server.directory().join(name), content).unwrap();
        server.control().look_at_certificate();
        // It looks as well, and says what comes of it.
        let said = refusal(&mut server, &text);
        assert!(
            said.contains("the key does not belong to the certificate"),
            "{said}"
        );
        assert!(said.contains("named at: "), "{said}");
        assert!(has_shown(&server, &old, &[&new]), "{name}");
        fs::write(server.directory().join(name), before).unwrap();
        assert_eq!(reload(&mut server, &text), [""; 0]);
    }
    new.put(server.directory());
    server.control().look_at_certificate();
    // It was replaced by the look already, or at the latest by this.
    reload(&mut server, &text);
    assert!(has_shown(&server, &new, &[&old]));
}

#[test]
fn a_bad_pair_never_replaces_a_good_one() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let good = Pair::new(1);
    good.put(setup.directory());
    let mut server = setup.start();
    let text = server.configuration();
    let spoilt = |certificate: &str| {
        let mut pair = Pair::new(2);
        pair.certificate = certificate.into();
        pair
    };
    let cases = [
        ("expired", Pair::expired(2), "the certificate expired on"),
        (
            "early",
            Pair::not_yet_valid(2),
            "the certificate is not valid before",
        ),
        ("empty", spoilt(""), "there is no certificate in PEM form"),
        (
            "garbage",
            spoilt("\0\u{7f}garbage"),
            "there is no certificate in PEM form",
        ),
        (
            "cut",
            spoilt(&Pair::new(3).certificate[..300]),
            "the certificate is malformed",
        ),
    ];
    for (what, pair, reason) in &cases {
        pair.put(server.directory());
        server.control().look_at_certificate();
        let said = refusal(&mut server, &text);
        assert!(said.contains(reason), "{what}: {said}");
        assert!(has_shown(&server, &good, &[]), "{what}");
    }
    fs::remove_file(server.directory().join("key.pem")).unwrap();
    server.control().look_at_certificate();
    assert!(refusal(&mut server, &text).contains("does not exist"));
    assert!(has_shown(&server, &good, &[]));
    good.put(server.directory());
    assert_eq!(reload(&mut server, &text), [""; 0]);
}

/// A chain that was written one certificate after the other, or cut off between
/// two, was good, and clients that do not know the authority refused it.
#[test]
fn a_chain_that_became_shorter_has_to_stay_so() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let pairs: Vec<Pair> = (1..=4).map(Pair::issued).collect();
    let all: Vec<&Pair> = pairs.iter().collect();
    pairs[0].put(setup.directory());
    let mut server = setup.start();
    let https = server.https();
    let shown = |pair: &Pair| {
        let greeted = Greeted::by(https, &trusting(&all));
        greeted.was_shown(pair).then_some(greeted.chain)
    };
    assert_eq!(shown(&pairs[0]), Some(2));

    // The end comes a moment later.
    pairs[1].alone().put(server.directory());
    server.control().look_at_certificate();
    pairs[1].put(server.directory());
    wait_for("the whole chain", || {
        (shown(&pairs[1]) == Some(2)).then_some(())
    });

    // It does not come.
    let written = Instant::now();
    pairs[2].alone().put(server.directory());
    let chain = wait_for("the short chain", || shown(&pairs[2]));
    assert_eq!(chain, 1);
    assert!(written.elapsed() >= Duration::from_secs(2), "at one look");

    // A reload has no look before it, and takes its time.
    pairs[3].put(server.directory());
    wait_for("another chain", || shown(&pairs[3]));
    let text = server.configuration();
    pairs[0].alone().put(server.directory());
    assert_eq!(reload(&mut server, &text), ["certificate replaced"]);
    assert_eq!(shown(&pairs[0]), Some(1));
}

/// The operator's own decision at the start; a reload for another reason does
/// not question it.
#[test]
fn an_expired_certificate_does_not_keep_other_changes_out() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    Pair::expired(1).put(setup.directory());
    let mut server = setup.start();
    let text = server.configuration();
    let changed = text.replace("[limits]\n", "[limits]\nidle = \"20s\"\n");
    assert_eq!(reload(&mut server, &changed), ["limits changed"]);
    let changed = changed.replace("[\"h2\", \"http/1.1\"]", "[\"http/1.1\"]");
    assert_eq!(reload(&mut server, &changed), ["TLS settings changed"]);
    let new = Pair::new(2);
    new.put(server.directory());
    wait_for("the new one", || {
        has_shown(&server, &new, &[]).then_some(())
    });
}

#[test]
fn sessions_outlive_a_certificate_but_not_the_authority_of_clients() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let (old, new) = (Pair::new(1), Pair::new(2));
    old.put(setup.directory());
    let mut server = setup.start();
    let text = server.configuration();
    let client = trusting(&[&old, &new]);
    // The ticket comes with the first response.
    let greet = |server: &TestServer| {
        let mut greeted = Greeted::by(server.https(), &client);
        assert_eq!(greeted.client.get("/repo/config").status, 200);
        greeted.resumed
    };
    assert!(!greet(&server));
    assert!(greet(&server));
    new.put(server.directory());
    reload(&mut server, &text);
    assert!(has_shown(&server, &new, &[]));
    assert!(greet(&server), "after a rotation");

    fs::write(server.directory().join("ca.pem"), Pair::new(3).certificate).unwrap();
    let with_clients = text.replace("[limits]", "client_ca = \"ca.pem\"\n[limits]");
    assert_eq!(reload(&mut server, &with_clients), ["TLS settings changed"]);
    assert!(!greet(&server), "after another authority");
    assert!(greet(&server));
    fs::write(server.directory().join("ca.pem"), Pair::new(4).certificate).unwrap();
    reload(&mut server, &with_clients);
    assert!(!greet(&server), "after the authority's file has changed");
}

/// By the real signal: what the log says.
#[test]
fn the_signal_reloads_and_the_log_tells() {
    let repo = TestRepo::new();
    let server = Process::start(Setup::new().repo("/repo", &repo.path()));
    let file = server.directory().join("serve.toml");
    let good = fs::read_to_string(&file).unwrap();
    server.hang_up();
    assert!(
        server
            .log()
            .contains("configuration reloaded: nothing changed")
    );
    let lines = good.lines().count();
    let cases = [
        (
            "[[repo\n".to_owned(),
            format!("{}:{}:", file.display(), lines + 1),
        ),
        (
            "idel = 1\n".to_owned(),
            format!("{}:{}:1 ", file.display(), lines + 1),
        ),
        (
            "[[repo]]\nprefix = \"/x\"\npath = \"gone\"\n".to_owned(),
            format!("named_at={}:{}:8 ", file.display(), lines + 3),
        ),
    ];
    for (appended, place) in cases {
        server.configure(|_| format!("{good}{appended}"));
        server.hang_up();
        let log = server.log();
        assert!(log.contains(&place), "{place} is not in {log}");
        assert_eq!(status(server.http(), "/repo/config"), 200);
    }
    assert_eq!(
        server
            .log()
            .matches("the configuration is not reloaded")
            .count(),
        3
    );
    server.configure(|_| good.replace("prefix = \"/repo\"", "prefix = \"/moved\""));
    server.hang_up();
    let said = "configuration reloaded: repository /moved added; repository /repo removed";
    assert!(server.log().contains(said), "{}", server.log());
    assert_eq!(status(server.http(), "/moved/config"), 200);
}

/// The log names the certificate that is served with now.
#[test]
fn a_rotation_is_logged() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    Pair::new(0x1d).put(setup.directory());
    let server = Process::start(setup);
    assert!(server.log().contains("serial=\"1D\""), "{}", server.log());
    Pair::new(0xabcd).put(server.directory());
    wait_for("the rotation", || {
        server.log().contains("certificate replaced").then_some(())
    });
    assert!(server.log().contains("serial=\"ABCD\""), "{}", server.log());
}

/// A reload for another reason is none to say again what was said.
#[test]
fn too_few_descriptors_are_spoken_of_once() {
    let repo = TestRepo::new();
    let setup = Setup::new()
        .limit("connections = 1000")
        .repo("/repo", &repo.path());
    let few = ["-c", "ulimit -n 400 && exec \"$0\" \"$@\""];
    let server = Process::start_under(setup, "sh", &few);
    let told = || {
        server
            .log()
            .matches("fewer connections than configured")
            .count()
    };
    assert_eq!(told(), 1, "{}", server.log());
    server.hang_up();
    server.configure(|text| text.replace("\"/repo\"", "\"/moved\""));
    server.hang_up();
    assert_eq!(told(), 1, "{}", server.log());
    server.configure(|text| text.replace("connections = 1000", "connections = 2000"));
    server.hang_up();
    assert_eq!(told(), 2, "{}", server.log());
    assert!(
        server.log().contains("LimitNOFILE=5467"),
        "{}",
        server.log()
    );
    server.configure(|text| text.replace("connections = 2000", "connections = 100"));
    server.hang_up();
    assert_eq!(told(), 2, "{}", server.log());
}

/// The log says that clients will notice, and nobody has to look for it.
#[test]
fn a_certificate_for_other_hosts_is_spoken_of() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    Pair::new(1).put(setup.directory());
    let server = Process::start(setup);
    let other = rcgen::generate_simple_self_signed(["mail.example.com".to_owned()]).unwrap();
    let directory = server.directory();
    fs::write(directory.join("key.pem"), other.signing_key.serialize_pem()).unwrap();
    fs::write(directory.join("certificate.pem"), other.cert.pem()).unwrap();
    let said = "the certificate is for mail.example.com, and the one before it was for localhost";
    wait_for("the warning", || server.log().contains(said).then_some(()));
    assert!(server.log().contains("WARN"), "{}", server.log());
}

/// Ends with the test, also if that fails.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A pipe that takes no more before somebody reads from it.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    for bytes in [&[b'\n'; 4096][..], b"\n"] {
        while writer.write(bytes).is_ok() {}
    }
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// It starts when it has logged its first line, which a full pipe lets the test
/// decide.
#[test]
fn a_signal_before_the_server_is_ready_does_not_end_it() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path());
    let file = setup.directory().join("serve.toml");
    fs::write(&file, setup.config()).unwrap();
    let (mut reader, writer) = full_pipe();
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_ostree-serve"))
        .arg("--config")
        .arg(&file)
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut server = Server(child);
    let pid = rustix::process::Pid::from_child(&server.0);
    wait_for("the signal to be caught", || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(line.trim(), 16).unwrap();
        (caught & 1 != 0).then_some(())
    });
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let written = Arc::clone(&log);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            *written.lock().unwrap() += &String::from_utf8_lossy(&bytes[..count]);
        }
    });
    let said = |part: &str| {
        wait_for(part, || log.lock().unwrap().contains(part).then_some(()));
    };
    said("listening for HTTP to redirect");
    // It was not forgotten, either.
    said("configuration reloaded: nothing changed");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(server.0.wait().unwrap().success());
}

fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).unwrap();
}

/// Nobody writes to it. A reload waited for that for ever, and certificates with
/// it.
#[test]
fn a_configuration_that_is_no_file_is_refused() {
    let repo = TestRepo::new();
    let server = Process::start(Setup::new().repo("/repo", &repo.path()));
    let file = server.directory().join("serve.toml");
    fs::remove_file(&file).unwrap();
    make_fifo(&file);
    server.hang_up();
    let log = server.log();
    assert!(
        log.contains("cannot be read: it is no regular file"),
        "{log}"
    );
    assert_eq!(status(server.http(), "/repo/config"), 200);
}

/// A key is on a file server that does not answer, for which a FIFO stands. The
/// certificate is renewed all the same, and who asks for further reloads gets one
/// when it answers again.
#[test]
fn a_reload_that_hangs_keeps_nothing_else_waiting() {
    let (repo, other) = (TestRepo::new(), TestRepo::new());
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let (old, new) = (Pair::new(1), Pair::new(2));
    old.put(setup.directory());
    let server = setup.start();
    let key = server.directory().join("key");
    make_fifo(&key);
    let text = server.configuration();
    let signed = format!(
        "{text}[[repo]]\nprefix = \"/other\"\npath = {:?}\nverify_keys = [\"key\"]\n",
        other.path()
    );
    fs::write(server.directory().join("serve.toml"), signed).unwrap();
    let ask = |server: &TestServer| {
        let control = server.control().clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(control.reload())
        })
    };
    let hanging = ask(&server);
    // It opens as soon as somebody is about to read, and the reader then waits for
    // what does not come.
    let mut answer = fs::File::options().write(true).open(&key).unwrap();
    new.put(server.directory());
    wait_for("the new certificate", || {
        has_shown(&server, &new, &[&old]).then_some(())
    });
    assert_eq!(status(server.http(), "/repo/config"), 200);
    assert!(!hanging.is_finished());
    // What the file says now is for the others, and not for the one that hangs.
    fs::write(server.directory().join("serve.toml"), &text).unwrap();
    let others: Vec<_> = (0..3).map(|_| ask(&server)).collect();
    assert!(has_shown(&server, &new, &[&old]));
    answer.write_all(ostree_serve::demo::PUBLIC_KEY).unwrap();
    drop(answer);
    // What it opened before the look is not in force again.
    let changes = hanging.join().unwrap().unwrap().changes;
    assert_eq!(changes, ["repository /other added"]);
    for other in others {
        let changes = other.join().unwrap().unwrap().changes;
        assert_eq!(changes, ["repository /other removed"]);
    }
    assert!(has_shown(&server, &new, &[&old]));
}

#[test]
fn a_signal_while_the_server_drains_is_ignored() {
    const LEN: usize = 16_000_000;
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LEN));
    let mut server = Process::start(Setup::new().repo("/repo", &repo.path()));
    let mut transfer = Client::over(connect(server.http()));
    transfer.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    transfer.read_head().unwrap();
    server.signal(Signal::TERM);
    let closed = || try_connect(server.http()).is_err().then_some(());
    wait_for("the listener to close", closed);
    server.signal(Signal::HUP);
    assert!(transfer.read_exactly(LEN).unwrap() == pattern(LEN));
    drop(transfer);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(!server.log().contains("reloaded"), "{}", server.log());
}
