//! What clients do beside downloading: pull with the real ostree, come and go,
//! stay without doing anything, and stop reading.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use http::Response;
use hyper::body::Incoming;
use rustls::HandshakeKind;
use tempfile::TempDir;

use crate::common::command::{Output, Program};
use crate::common::publisher;
use crate::load::{Connection, Protocol, Task, Tls};
use crate::repository::{BRANCH, KINOITE, Object};
use crate::servers::Server;

/// A repository that pulls from a server with the real ostree, over HTTP/2.
pub struct Clone {
    directory: TempDir,
}

impl Clone {
    /// Has nothing yet.
    pub fn new(server: &Server) -> Self {
        // Where there is room for all of it, and beside what it is a copy of.
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let clone = Self { directory };
        publisher::init(&clone.repo(), "archive");
        let authority = format!("--set=tls-ca-path={}", server.certificate().display());
        let url = format!("https://localhost:{}/{KINOITE}", server.https().port());
        let args = [
            "remote",
            "add",
            "--no-gpg-verify",
            &authority,
            "origin",
            &url,
        ];
        publisher::ostree(&clone.repo(), &args).run();
        clone
    }

    fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    /// Pulls the commit; how the program is run can be changed.
    pub fn pull(&self, change: impl FnOnce(Program) -> Program) -> Output {
        let pull = publisher::ostree(&self.repo(), &["pull", "origin", BRANCH]);
        change(pull).run()
    }
}

/// Connects, asks for one thing and leaves, so many times.
pub async fn come_and_go(server: &Server, tls: &Tls, task: &Task, times: usize, resumed: bool) {
    for _ in 0..times {
        let mut connection = Connection::open(server, Protocol::Http1, tls).await;
        let wanted = match resumed {
            true => HandshakeKind::Resumed,
            false => HandshakeKind::Full,
        };
        assert_eq!(connection.handshake, Some(wanted));
        connection.perform(task).await;
        connection.close().await;
    }
}

/// Connections that have asked for one thing each, and now only stay.
pub async fn idlers(
    server: &Server,
    protocol: Protocol,
    count: usize,
    task: &Task,
) -> Vec<Connection> {
    let tls = Tls::new(server, protocol);
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = Connection::open(server, protocol, &tls).await;
        connection.perform(task).await;
        idle.push(connection);
    }
    idle
}

/// Begins downloads, and reads nothing but their beginnings.
pub async fn stall(
    server: &Server,
    protocol: Protocol,
    count: usize,
    object: &Object,
) -> Vec<(Connection, Response<Incoming>)> {
    /// Bytes that are read of a connection: enough for any head.
    const READ: usize = 64 * 1024;
    let tls = Tls::new(server, protocol);
    let mut stalled = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = Connection::open_to_read(server, protocol, &tls, READ).await;
        let reply = connection.begin(&object.into()).await;
        stalled.push((connection, reply));
    }
    stalled
}

/// Asks again and again for an object in plaintext until it comes; gives when.
pub fn first_answer(server: &Server, object: &Object, since: Instant) -> Duration {
    let deadline = since + Duration::from_secs(60);
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        object.path
    );
    loop {
        if let Ok(mut stream) = TcpStream::connect(server.http()) {
            let mut reply = Vec::new();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_end(&mut reply).unwrap();
            assert!(
                reply.starts_with(b"HTTP/1.1 200 "),
                "{}",
                String::from_utf8_lossy(&reply)
            );
            return since.elapsed();
        }
        assert!(
            Instant::now() < deadline,
            "it does not listen: {}",
            server.log()
        );
        thread::sleep(Duration::from_micros(200));
    }
}
