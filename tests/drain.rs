//! The end of a server under load: what began is finished, what cannot be
//! finished is cut off in time, and clients are told.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::client::{Client, connect, tls_config, try_connect};
use common::hyper_client::{RequestBody, Sender};
use common::process::Process;
use common::{Setup, TestRepo, TestServer, pattern, wait_for};
use http_body_util::BodyExt;
use ostree_serve::daemon::Outcome;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

const SIZES: [usize; 3] = [700, 90_000, 2_000_000];

struct Load {
    paths: Vec<(String, Vec<u8>)>,
    finished: AtomicUsize,
}

impl Load {
    fn on(repo: &TestRepo) -> Arc<Self> {
        let paths = SIZES.map(|len| (format!("/repo/{}", repo.plant_object(len)), pattern(len)));
        Arc::new(Self {
            paths: paths.into(),
            finished: AtomicUsize::new(0),
        })
    }

    /// Asks until the server says goodbye. A transfer that began has to be whole.
    /// An old connection that ends before a reply's first byte is how HTTP/1.1
    /// says it; libcurl then asks again on a new one.
    fn http1(&self, mut new_client: impl FnMut() -> Option<Client>) {
        while let Some(mut client) = new_client() {
            for (path, expected) in self.paths.iter().cycle() {
                let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
                if client.try_send(request).is_err() {
                    break;
                }
                match client.try_response("GET") {
                    Ok(response) => {
                        assert_eq!(response.status, 200);
                        assert!(response.body == *expected, "other bytes");
                        self.finished.fetch_add(1, Ordering::Relaxed);
                        if response.header("connection") == Some("close") {
                            break;
                        }
                    }
                    Err(error) => {
                        assert!(!client.has_begun(), "{path}: {error}");
                        break;
                    }
                }
            }
        }
    }

    /// The same over HTTP/2, with several transfers at a time.
    async fn http2(self: Arc<Self>, sender: Sender) {
        let mut workers = tokio::task::JoinSet::new();
        for number in 0..4 {
            let (load, mut sender) = (Arc::clone(&self), sender.another());
            workers.spawn(async move {
                for (path, expected) in load.paths.iter().cycle().skip(number) {
                    let request = sender.request("GET", path).body(RequestBody::default());
                    // After GOAWAY no stream is opened; that is no failure.
                    let reply = match sender.send(request.unwrap()).await {
                        Ok(reply) => reply,
                        Err(error) => {
                            let goodbye =
                                error.is_canceled() || error.is_closed() || is_go_away(&error);
                            assert!(goodbye, "{error:?}");
                            return;
                        }
                    };
                    assert_eq!(reply.status(), 200);
                    let body = reply.into_body().collect().await.unwrap().to_bytes();
                    assert!(body == *expected, "other bytes");
                    load.finished.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker.unwrap();
        }
    }
}

fn is_go_away(error: &hyper::Error) -> bool {
    format!("{error:?}").contains("GoAway")
}

#[test]
fn no_transfer_fails() {
    let repo = TestRepo::new();
    let load = Load::on(&repo);
    let mut server = TestServer::of(&repo);
    let certificate = server.certificate();
    let (http, https) = (server.http(), server.https());

    let runtime = ostree_serve::daemon::runtime().unwrap();
    let sender = runtime.block_on(Sender::connect(&server, "h2"));
    let http2 = runtime.spawn(Arc::clone(&load).http2(sender));
    let http1: Vec<_> = (0..6)
        .map(|number| {
            let (load, certificate) = (Arc::clone(&load), certificate.clone());
            std::thread::spawn(move || {
                load.http1(|| match number % 2 {
                    0 => Some(Client::over(try_connect(http).ok()?)),
                    _ => Some(Client::tls_over(try_connect(https).ok()?, &certificate)),
                });
            })
        })
        .collect();

    wait_for("some load", || {
        (load.finished.load(Ordering::Relaxed) > 60).then_some(())
    });
    server.begin_shutdown();
    assert_eq!(server.stop(), Outcome::Drained);
    for client in http1 {
        client.join().unwrap();
    }
    runtime.block_on(http2).unwrap();
    assert!(try_connect(http).is_err(), "it still listens");
}

/// It reads on long after everything was sent to it, and goes on saying something (for
/// curl it is how much more it could take). A server that had closed its socket would
/// answer that by a reset, and what is under way would be lost.
#[test]
fn a_slow_client_gets_the_end_of_its_reply() {
    const LEN: usize = 3_000_000;
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0areyouup";
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LEN));
    let mut server = TestServer::of(&repo);
    let config = Arc::new(tls_config(&server.certificate(), &["h2"]));
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(config, name).unwrap();
    let socket = connect(server.https());
    // What it has not read is in the server's kernel, not in its own.
    set_socket_recv_buffer_size(&socket, 64 * 1024).unwrap();
    let mut client = StreamOwned::new(session, socket);
    client.write_all(&http2_request(&path)).unwrap();

    let (mut data, mut told) = (0, false);
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        let read = client.read_exact(&mut payload);
        read.unwrap_or_else(|error| panic!("after {data} bytes: {error}"));
        let (kind, is_last) = (head[3], head[4] & 1 == 1);
        if kind == 6 && head[4] == 0 {
            // The server asks whether its goodbye has come.
            client.write_all(b"\0\0\x08\x06\x01\0\0\0\0").unwrap();
            client.write_all(&payload).unwrap();
        }
        if kind == 0 {
            data += len;
            if !told {
                server.begin_shutdown();
                told = true;
            }
            if is_last {
                break;
            }
            // What makes it slow.
            std::thread::sleep(Duration::from_millis(3));
            client.write_all(PING).unwrap();
        }
    }
    assert_eq!(data, LEN);
    drop(client);
    assert_eq!(server.stop(), Outcome::Drained);
}

/// What a client says that asks for one thing and has room for all of it (RFC 9113,
/// sections 3.4, 6.5, 6.9 and 6.2; RFC 7541, section 6).
fn http2_request(path: &str) -> Vec<u8> {
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // INITIAL_WINDOW_SIZE, and the connection's window.
    said.extend(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\xff\xff\xff");
    said.extend(b"\0\0\x04\x08\0\0\0\0\0\0\xff\xff\xff");
    // GET by https, and two literals: a path, and an authority.
    let mut fields = vec![0x82, 0x87];
    for (index, value) in [(0x04, path), (0x01, "localhost")] {
        fields.extend([index, u8::try_from(value.len()).unwrap()]);
        fields.extend(value.as_bytes());
    }
    let len = u8::try_from(fields.len()).unwrap();
    said.extend([0, 0, len, 0x01, 0x05, 0, 0, 0, 1]);
    said.extend(fields);
    said
}

/// Clients that were let in and have not asked yet: those that the kernel alone
/// knows of, and those that the server has accepted. None has had an answer on
/// its connection, so for libcurl an end without one is a failure.
#[test]
fn who_was_let_in_is_served() {
    let repo = TestRepo::new();
    for _ in 0..10 {
        let mut server = TestServer::of(&repo);
        let mut clients: Vec<_> = (0..20).map(|_| connect(server.http())).collect();
        let encrypted: Vec<_> = (0..5).map(|_| connect(server.https())).collect();
        server.begin_shutdown();
        wait_for("the listeners to close", || {
            let closed = |address| try_connect(address).is_err();
            (closed(server.http()) && closed(server.https())).then_some(())
        });
        for socket in &mut clients {
            socket
                .write_all(b"GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n")
                .unwrap();
        }
        for socket in encrypted {
            // Even the handshake comes only now.
            let mut client = Client::tls_over(socket, &server.certificate());
            assert_eq!(client.get("/repo/config").status, 200);
        }
        for socket in clients {
            assert_eq!(Client::over(socket).response("GET").status, 200);
        }
        assert_eq!(server.stop(), Outcome::Drained);
    }
}

/// At a full server clients wait in the kernel's queue. They were not refused
/// when they came, and are not when the server goes.
#[test]
fn who_waits_at_a_full_server_is_served() {
    let repo = TestRepo::new();
    let mut server = Setup::new()
        .limit("connections = 1")
        .repo("/repo", &repo.path())
        .start();
    let mut inside = Client::plain(&server);
    assert_eq!(inside.get("/repo/config").status, 200);
    let mut waiting: Vec<_> = (0..20).map(|_| connect(server.http())).collect();
    for socket in &mut waiting {
        socket
            .write_all(b"GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
    }
    server.begin_shutdown();
    for socket in waiting {
        assert_eq!(Client::over(socket).response("GET").status, 200);
    }
    assert_eq!(server.stop(), Outcome::Drained);
}

/// The opposite: who was let in and says nothing does not keep the server.
#[test]
fn who_never_asks_does_not_keep_the_server() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let _silent = connect(server.http());
    let mut idle = Client::plain(&server);
    assert_eq!(idle.get("/repo/config").status, 200);
    let started = Instant::now();
    assert_eq!(server.stop(), Outcome::Drained);
    // Far below the deadline for a header.
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stalled_transfer_does_not_keep_the_server() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(16_000_000));
    let server = Setup::new()
        .limit("drain = \"300ms\"")
        .repo("/repo", &repo.path())
        .start();
    let mut stalled = connect(server.http());
    stalled
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
        .unwrap();
    stalled.read_exact(&mut [0; 100]).unwrap();
    let started = Instant::now();
    assert_eq!(server.stop(), Outcome::CutOff(1));
    assert!(started.elapsed() >= Duration::from_millis(300));
}

/// By the real signals, in a process of its own.
#[test]
fn the_first_signal_drains_and_the_second_leaves() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(16_000_000));
    for signal in [Signal::TERM, Signal::INT] {
        // Nothing under way: it ends at once and clean.
        let mut server = Process::start(Setup::new().repo("/repo", &repo.path()));
        assert_eq!(
            Client::over(connect(server.http()))
                .get("/repo/config")
                .status,
            200
        );
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());

        // A transfer that stalls: it stays, until it is told again.
        let mut server = Process::start(Setup::new().repo("/repo", &repo.path()));
        let address = server.http();
        let mut stalled = connect(address);
        stalled
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
            .unwrap();
        stalled.read_exact(&mut [0; 100]).unwrap();
        server.signal(signal);
        wait_for("the listener to close", || {
            matches!(std::net::TcpStream::connect(address), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
                .then_some(())
        });
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(1), "{}", server.log());
        assert!(server.log().contains("second signal"), "{}", server.log());
    }
}
