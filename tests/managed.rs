//! The server under a service manager that holds its sockets and waits for signs of
//! life: what clients notice of a restart, and what the manager hears.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::client::{Client, connect};
use common::hyper_client::{RequestBody, Sender};
use common::manager::Manager;
use common::process::Process;
use common::{Setup, TestRepo, pattern, wait_for};
use http_body_util::BodyExt;
use rustix::process::Signal;

/// The sockets of a socket unit.
struct Sockets {
    descriptors: Vec<OwnedFd>,
    addresses: Vec<SocketAddr>,
}

impl Sockets {
    fn new(count: usize) -> Self {
        let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let listeners: Vec<_> = listeners.collect();
        let addresses = listeners.iter().map(|it| it.local_addr().unwrap());
        Self {
            addresses: addresses.collect(),
            descriptors: listeners.into_iter().map(OwnedFd::from).collect(),
        }
    }

    fn passed(&self) -> Vec<(&'static str, &OwnedFd)> {
        self.descriptors.iter().map(|it| ("listen", it)).collect()
    }

    /// `[listen]` with the first one for HTTPS, the second one for plaintext, the third
    /// one for redirects.
    fn configured(&self) -> String {
        let keys = ["https", "http", "redirect"].iter().zip(&self.addresses);
        keys.map(|(key, address)| format!("{key} = [\"{address}\"]\n"))
            .collect()
    }
}

/// Serves with the certificate of another one before it.
fn with_certificate_of(process: &Process, setup: Setup) -> Setup {
    for name in ["certificate.pem", "key.pem"] {
        fs::copy(process.directory().join(name), setup.directory().join(name)).unwrap();
    }
    setup.own_certificate()
}

/// What clients do while the server is restarted, and what they must not see.
struct Load {
    files: Vec<(String, Vec<u8>)>,
    finished: AtomicUsize,
    enough: AtomicBool,
}

impl Load {
    fn on(repo: &TestRepo) -> Arc<Self> {
        let files = [700, 90_000, 2_000_000]
            .map(|len| (format!("/repo/{}", repo.plant_object(len)), pattern(len)));
        Arc::new(Self {
            files: files.into(),
            finished: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        })
    }

    /// One connection after the other, each until the server says goodbye. Each is let
    /// in, and its first request is answered: a client has no second try for either. A
    /// connection that has had an answer may end before the next one begins.
    fn http1(&self, new_client: impl Fn() -> Client) {
        while !self.enough.load(Ordering::Relaxed) {
            let mut client = new_client();
            for (answers, (path, expected)) in self.files.iter().cycle().enumerate() {
                let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
                let response = client
                    .try_send(request)
                    .and_then(|()| client.try_response("GET"));
                let response = match response {
                    Ok(response) => response,
                    Err(error) => {
                        assert!(answers > 0, "no answer at all: {error}");
                        assert!(!client.has_begun(), "{path} was cut off: {error}");
                        break;
                    }
                };
                assert_eq!(response.status, 200);
                assert!(response.body == *expected, "other bytes");
                self.finished.fetch_add(1, Ordering::Relaxed);
                let ends = response.header("connection") == Some("close");
                if ends || self.enough.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }

    /// The same over HTTP/2, with several transfers at a time; none is cut off.
    async fn http2(&self, address: SocketAddr, certificate: &Path) {
        while !self.enough.load(Ordering::Relaxed) {
            let sender = Sender::connect_to(address, certificate, "h2").await;
            let streams = |number| self.streams(sender.another(), number);
            let (one, two, three) = tokio::join!(streams(0), streams(1), streams(2));
            let answers = one + two + three;
            assert!(answers > 0, "no answer at all");
        }
    }

    /// How many requests were answered before the goodbye.
    async fn streams(&self, mut sender: Sender, number: usize) -> usize {
        let mut answers = 0;
        for (path, expected) in self.files.iter().cycle().skip(number).take(30) {
            let request = sender.request("GET", path).body(RequestBody::default());
            let reply = match sender.send(request.unwrap()).await {
                Ok(reply) => reply,
                Err(error) => {
                    let goodbye = error.is_canceled()
                        || error.is_closed()
                        || format!("{error:?}").contains("GoAway");
                    assert!(goodbye, "{error:?}");
                    break;
                }
            };
            assert_eq!(reply.status(), 200);
            let body = reply.into_body().collect().await.unwrap().to_bytes();
            assert!(body == *expected, "other bytes");
            self.finished.fetch_add(1, Ordering::Relaxed);
            answers += 1;
        }
        answers
    }

    /// Waits until so many more transfers have finished.
    fn goes_on(&self, count: usize) {
        let before = self.finished.load(Ordering::Relaxed);
        wait_for("some load", || {
            let finished = self.finished.load(Ordering::Relaxed);
            (finished > before + count).then_some(())
        });
    }
}

/// Under load, the sockets of a socket unit go from one process to the next: nobody is
/// refused, reset or cut off, over HTTP/1.1, TLS and HTTP/2.
#[test]
fn a_restart_loses_no_client() {
    let repo = TestRepo::new();
    let load = Load::on(&repo);
    let (manager, sockets) = (Manager::new(), Sockets::new(3));
    let setup = || {
        Setup::new()
            .listen(&sockets.configured())
            .repo("/repo", &repo.path())
    };
    let mut server = manager.start(setup(), &sockets.passed());
    let log = server.log();
    assert!(
        log.contains("listening for HTTPS at a socket that was passed"),
        "{log}"
    );

    // The first process' directory goes with it.
    let trusted = tempfile::tempdir().unwrap();
    let certificate = trusted.path().join("certificate.pem");
    fs::copy(server.certificate(), &certificate).unwrap();
    let [https, http] = [sockets.addresses[0], sockets.addresses[1]];
    let runtime = ostree_serve::daemon::runtime().unwrap();
    let http2: Vec<_> = (0..2)
        .map(|_| {
            let (load, certificate) = (Arc::clone(&load), certificate.clone());
            runtime.spawn(async move { load.http2(https, &certificate).await })
        })
        .collect();
    let http1: Vec<_> = (0..4)
        .map(|number| {
            let (load, certificate): (_, PathBuf) = (Arc::clone(&load), certificate.clone());
            std::thread::spawn(move || {
                load.http1(|| match number % 2 {
                    0 => Client::over(connect(http)),
                    _ => Client::tls_over(connect(https), &certificate),
                });
            })
        })
        .collect();
    for _ in 0..3 {
        load.goes_on(30);
        let next = with_certificate_of(&server, setup());
        server.signal(Signal::TERM);
        assert!(server.wait().success(), "{}", server.log());
        // Whoever comes now waits until somebody serves again.
        server = manager.start(next, &sockets.passed());
        load.goes_on(30);
    }
    load.enough.store(true, Ordering::Relaxed);
    for client in http1 {
        client.join().unwrap();
    }
    for client in http2 {
        runtime.block_on(client).unwrap();
    }
}

/// A reload may end a listener at such a socket and begin one again. The socket stays;
/// where nobody serves it the log says so.
#[test]
fn a_reload_leaves_and_takes_up_a_socket() {
    let repo = TestRepo::new();
    let (manager, sockets) = (Manager::new(), Sockets::new(3));
    let setup = Setup::new()
        .listen(&sockets.configured())
        .repo("/repo", &repo.path());
    let process = manager.start(setup, &sockets.passed());
    let http = sockets.addresses[1];
    let line = format!("http = [\"{http}\"]\n");
    let ask = || Client::over(connect(http)).get("/repo/config").status;
    assert_eq!(ask(), 200);
    let complaint = "a socket that was passed is not configured";
    assert!(!process.log().contains(complaint));

    process.configure(|text| text.replace(&line, "http = []\n"));
    process.hang_up();
    let log = process.log();
    let warning = log.lines().find(|it| it.contains(complaint));
    let warning = warning.unwrap_or_else(|| panic!("{log}"));
    assert!(
        warning.contains("WARN") && warning.contains(&http.to_string()),
        "{warning}"
    );
    // It is not refused, and waits.
    let mut waiting = connect(http);
    process.configure(|text| text.replace("http = []\n", &line));
    process.hang_up();
    std::io::Write::write_all(
        &mut waiting,
        b"GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n",
    )
    .unwrap();
    assert_eq!(Client::over(waiting).response("GET").status, 200);
    assert_eq!(ask(), 200);
}

/// The name of a Unix socket is the manager's, and is there for the next process.
#[test]
fn a_unix_socket_is_adopted_with_its_name() {
    let repo = TestRepo::new();
    let manager = Manager::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let socket = OwnedFd::from(UnixListener::bind(&path).unwrap());
    let listen = format!(
        "https = [\"127.0.0.1:0\"]\nredirect = [\"127.0.0.1:0\"]\nhttp = [\"unix:{}\"]\n",
        path.display()
    );
    let ask = || {
        let stream = UnixStream::connect(&path).unwrap();
        Client::over(stream).get("/repo/config").status
    };
    for _ in 0..2 {
        let setup = Setup::new().listen(&listen).repo("/repo", &repo.path());
        let mut process = manager.start(setup, &[("http", &socket)]);
        assert_eq!(ask(), 200);
        process.signal(Signal::TERM);
        assert!(process.wait().success());
        assert!(path.exists());
    }
}

/// Two ways to write the same port are two addresses; the error says which one is held.
#[test]
fn a_socket_in_the_way_is_named() {
    let repo = TestRepo::new();
    let (manager, sockets) = (Manager::new(), Sockets::new(1));
    let port = sockets.addresses[0].port();
    let setup = Setup::new()
        .listen(&format!(
            "https = [\"127.0.0.1:0\"]\nredirect = []\nhttp = [\"0.0.0.0:{port}\"]\n"
        ))
        .repo("/repo", &repo.path());
    let output = manager.start_in_vain(setup, &sockets.passed());
    assert!(
        output.contains(&format!(
            "the service manager holds 127.0.0.1:{port} (listen)"
        )),
        "{output}"
    );
}

/// With each protocol that a listener may be reduced to, and at a server whose only
/// slot is taken, the manager hears that it lives.
#[test]
fn a_server_that_answers_says_that_it_lives() {
    let repo = TestRepo::new();
    let both: fn(Setup) -> Setup = |it| it;
    for protocols in [both, Setup::http1_only, Setup::http2_only] {
        let patience = Duration::from_secs(3);
        let manager = Manager::new().watching(patience);
        let setup = protocols(Setup::new())
            .limit("connections = 1")
            .repo("/repo", &repo.path());
        let process = manager.start(setup, &[]);
        let mut inside = Client::over(connect(process.http()));
        assert_eq!(inside.get("/repo/config").status, 200);
        let _waiting = connect(process.http());
        let began = Instant::now();
        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1");
        }
        // Three times as often as the manager wants.
        assert!(
            began.elapsed() < patience + Duration::from_secs(2),
            "{}",
            process.log()
        );
        let log = process.log();
        assert!(
            !log.contains("does not answer a request of its own"),
            "{log}"
        );
    }
}

/// While transfers finish nobody is let in, and the manager has to be patient.
#[test]
fn a_server_that_drains_says_that_it_lives() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(16_000_000));
    let manager = Manager::new().watching(Duration::from_secs(1));
    let process = manager.start(Setup::new().repo("/repo", &repo.path()), &[]);
    let mut slow = connect(process.http());
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    std::io::Write::write_all(&mut slow, request.as_bytes()).unwrap();
    std::io::Read::read_exact(&mut slow, &mut [0; 100]).unwrap();
    process.signal(Signal::TERM);
    manager.wait_for("STOPPING=1");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
}
