//! Clients that take their time. Whoever gets nowhere is cut off by a deadline
//! of the configuration; whoever is merely slow is not; and nobody waits for
//! either.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::client::{Client, connect, tls_config};
use common::{Setup, TestRepo, TestServer, pattern};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ostree_serve::config::Address;
use rustix::net::{AddressFamily, SocketType};
use rustls::pki_types::ServerName;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(20);
const LARGE: usize = 16_000_000;

/// A server whose every deadline is long but for one.
fn server(repo: &TestRepo, limit: &str) -> TestServer {
    let mut setup = Setup::new().repo("/repo", &repo.path());
    for key in ["handshake", "header", "idle", "stalled_transfer"] {
        let line = match limit.starts_with(&format!("{key} ")) {
            true => limit.to_owned(),
            false => format!("{key} = \"10m\""),
        };
        setup = setup.limit(&line);
    }
    setup.start()
}

/// Waits for the end of a connection; panics if there is none.
fn wait_for_end(socket: &mut impl Read) -> usize {
    let mut buffer = [0; 64 * 1024];
    let mut len = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return len,
            Ok(count) => len += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it goes on"),
            // However it ends.
            Err(_) => return len,
        }
    }
}

/// A connection with a receive buffer so small that the server soon notices
/// when nobody reads.
fn connect_with_small_buffer(address: SocketAddr) -> TcpStream {
    let socket: OwnedFd =
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn a_handshake_that_does_not_come_is_ended() {
    let repo = TestRepo::new();
    let server = server(&repo, "handshake = \"200ms\"");
    // Silence; and the beginning of a record that never ends.
    for bytes in [&b""[..], &[0x16, 3, 1, 2, 0, 1]] {
        let started = Instant::now();
        let mut socket = connect(server.https());
        socket.write_all(bytes).unwrap();
        wait_for_end(&mut socket);
        assert!(started.elapsed() >= Duration::from_millis(200));
    }
}

#[test]
fn a_silent_client_delays_nobody() {
    let repo = TestRepo::new();
    let server = server(&repo, "handshake = \"10m\"");
    let _silent: Vec<TcpStream> = (0..50).map(|_| connect(server.https())).collect();
    assert_eq!(Client::tls(&server).get("/repo/config").status, 200);
}

#[test]
fn a_header_that_does_not_end_is_ended() {
    let repo = TestRepo::new();
    let server = server(&repo, "header = \"300ms\"");
    // Nothing at all.
    wait_for_end(&mut connect(server.http()));
    // A byte now and then, of the first request and of a later one.
    for requests_before in [0, 1] {
        let mut socket = connect(server.http());
        for _ in 0..requests_before {
            socket.write_all(get("/repo/config").as_bytes()).unwrap();
            let mut byte = [0];
            let mut seen = Vec::new();
            while !seen.ends_with(b"indexed-deltas=true\n") {
                socket.read_exact(&mut byte).unwrap();
                seen.push(byte[0]);
            }
        }
        socket
            .write_all(b"GET /repo/config HTTP/1.1\r\nX: ")
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let started = Instant::now();
        let mut byte = [0];
        loop {
            match socket.read(&mut byte) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) => panic!("an answer to half a request"),
                Err(_) => break,
            }
            assert!(started.elapsed() < PATIENCE, "it goes on");
            if socket.write_all(b"x").is_err() {
                break;
            }
        }
        assert!(started.elapsed() >= Duration::from_millis(250));
    }
}

#[test]
fn an_idle_connection_is_ended_and_not_before_its_time() {
    let repo = TestRepo::new();
    let server = server(&repo, "idle = \"500ms\"");
    for mut client in [Client::plain(&server), Client::tls(&server)] {
        assert_eq!(client.get("/repo/config").status, 200);
        let started = Instant::now();
        let (bytes, error) = client.read_to_end();
        assert!(bytes.is_empty());
        // A clean end, over TLS with close_notify.
        assert!(error.is_none(), "{error:?}");
        assert!(started.elapsed() >= Duration::from_millis(400));
    }
}

#[test]
fn a_transfer_that_nobody_reads_is_ended() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LARGE));
    let server = server(&repo, "stalled_transfer = \"400ms\"");
    let mut socket = connect_with_small_buffer(server.http());
    socket.write_all(get(&path).as_bytes()).unwrap();
    let mut first = [0; 100];
    socket.read_exact(&mut first).unwrap();
    // As long as nobody reads nothing can be seen of the end, but the other way
    // round it can: the server stops answering for the socket.
    let started = Instant::now();
    common::wait_for("the server to give up", || {
        std::thread::sleep(Duration::from_millis(20));
        socket.write_all(b"x").is_err().then_some(())
    });
    assert!(started.elapsed() >= Duration::from_millis(350));
    assert!(wait_for_end(&mut socket) < LARGE);
}

#[test]
fn a_transfer_that_trickles_is_ended() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LARGE));
    let server = server(&repo, "stalled_transfer = \"1s\"");
    let mut socket = connect_with_small_buffer(server.http());
    socket.write_all(get(&path).as_bytes()).unwrap();
    let started = Instant::now();
    let mut byte = [0];
    common::wait_for("the server to give up", || {
        // Some 50 bytes a second.
        std::thread::sleep(Duration::from_millis(20));
        let ended = matches!(socket.read(&mut byte), Ok(0) | Err(_));
        (ended || socket.write_all(b"x").is_err()).then_some(())
    });
    assert!(started.elapsed() >= Duration::from_millis(900));
}

/// Far slower than the deadline is long, but always getting ahead: it gets every
/// byte. The kernel's buffers hold megabytes on the way, so the server sees many
/// a deadline pass without being able to send anything.
#[test]
fn a_slow_transfer_is_finished() {
    let len = 6_000_000;
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(len));
    let server = server(&repo, "stalled_transfer = \"300ms\"");
    let mut socket = connect_with_small_buffer(server.http());
    socket.write_all(get(&path).as_bytes()).unwrap();
    let started = Instant::now();
    let mut all = Vec::new();
    let mut buffer = [0; 40_000];
    while all.len() < len {
        match socket.read(&mut buffer).unwrap() {
            0 => panic!("cut off after {} bytes", all.len()),
            count => all.extend_from_slice(&buffer[..count]),
        }
        // The pace of the client, for the first half of the way.
        if all.len() < len / 2 {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(started.elapsed() < 3 * PATIENCE, "too slow a machine");
        if all.len() >= len {
            break;
        }
    }
    let header_end = all.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let mut rest = vec![0; len - (all.len() - header_end)];
    socket.read_exact(&mut rest).unwrap();
    all.extend(rest);
    assert!(all[header_end..] == pattern(len), "other bytes");
    assert!(started.elapsed() > Duration::from_millis(600));
}

/// The end of a transfer that waits in this server, after the last byte was read
/// from the file, is still a transfer: a client that takes a break there is
/// judged by `stalled_transfer`, not by `idle`.
///
/// Where the end begins depends on the socket's buffers, so there are many
/// clients with transfers of different lengths. The buffers of Unix sockets are
/// of a fixed and moderate size.
#[test]
fn a_break_just_before_the_end_is_not_idleness() {
    let repo = TestRepo::new();
    let object = format!("/repo/{}", repo.plant_object(1 << 20));
    let server = Setup::new()
        .listen("https = []\nredirect = []\nhttp = [\"unix:http.sock\"]\n")
        .repo("/repo", &repo.path())
        .limit("idle = \"100ms\"")
        .limit("stalled_transfer = \"1h\"")
        .start();
    let Address::Unix(socket) = &server.addresses()[0] else {
        panic!("{:?}", server.addresses());
    };
    let mut clients: Vec<_> = (1..=20)
        .map(|number| {
            let len = number * 48 * 1024;
            let stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut client = Client::over(stream);
            client.send(format!(
                "GET {object} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-{}\r\n\r\n",
                len - 1
            ));
            (client, len)
        })
        .collect();
    // The break, several times as long as `idle`.
    std::thread::sleep(Duration::from_millis(700));
    for (client, len) in &mut clients {
        let response = client.response("GET");
        assert!(
            response.body == pattern(1 << 20)[..*len],
            "{len}: other bytes"
        );
    }
}

/// An HTTP/2 connection whose end can be waited for. `window` is what a reply
/// may have in bytes before the client has read any of it.
async fn connect_http2(
    server: &TestServer,
    window: u32,
) -> (
    http2::SendRequest<Empty<Bytes>>,
    JoinHandle<hyper::Result<()>>,
) {
    let stream = tokio::net::TcpStream::connect(server.https())
        .await
        .unwrap();
    let config = Arc::new(tls_config(&server.certificate(), &["h2"]));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(connection))
}

fn request(path: &str) -> http::Request<Empty<Bytes>> {
    let request = http::Request::get(format!("https://localhost{path}"));
    request.body(Empty::new()).unwrap()
}

/// An HTTP/2 client that opens no window for what it asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_window_is_ended() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LARGE));
    let server = server(&repo, "stalled_transfer = \"400ms\"");
    let (mut sender, connection) = connect_http2(&server, 1000).await;
    let reply = sender.send_request(request(&path)).await.unwrap();
    // The body is not read, so hyper grants nothing beyond the first 1000 bytes.
    let started = Instant::now();
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    _ = ended.expect("the connection ends");
    assert!(started.elapsed() >= Duration::from_millis(350));
    let mut body = reply.into_body();
    let mut len = 0;
    let error = loop {
        match body.frame().await {
            Some(Ok(frame)) => len += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(error)) => break error,
            None => panic!("a clean end after {len} bytes"),
        }
    };
    assert!(len < LARGE, "{error}");
}

/// hyper takes 128 KiB ahead for each stream. A client that takes its time to
/// read those of eight streams, as many as libostree has, is slow, and not
/// stalled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_http2_streams_are_not_cut_off() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LARGE));
    let server = server(&repo, "stalled_transfer = \"600ms\"");
    let (mut sender, _connection) = connect_http2(&server, 16_384).await;
    let mut bodies = Vec::new();
    for _ in 0..8 {
        let reply = sender.send_request(request(&path)).await.unwrap();
        bodies.push(reply.into_body());
    }
    // Some 160 KB a second in all, several deadlines long.
    let started = Instant::now();
    let mut len = 0;
    while started.elapsed() < Duration::from_secs(4) {
        for body in &mut bodies {
            let frame = body.frame().await.expect("more to come").unwrap();
            len += frame.into_data().unwrap().len();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(len < 1_000_000, "that was not slow: {len}");
}

/// A client cannot keep streams that it does not read by asking for trifles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trifles_do_not_keep_a_stalled_stream() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LARGE));
    let server = server(&repo, "stalled_transfer = \"500ms\"");
    let (mut sender, connection) = connect_http2(&server, 1000).await;
    let _stalled = sender.send_request(request(&path)).await.unwrap();
    let started = Instant::now();
    while sender.send_request(request("/repo/none")).await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "it goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    _ = tokio::time::timeout(PATIENCE, connection)
        .await
        .expect("the connection ends");
    assert!(started.elapsed() >= Duration::from_millis(450));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_http2_connection_is_told_goodbye() {
    let repo = TestRepo::new();
    let server = server(&repo, "idle = \"500ms\"");
    let (mut sender, connection) = connect_http2(&server, 65_535).await;
    let reply = sender.send_request(request("/repo/config")).await.unwrap();
    assert_eq!(
        reply.into_body().collect().await.unwrap().to_bytes().len(),
        58
    );
    let started = Instant::now();
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    // GOAWAY without an error, and then the end.
    ended.expect("the connection ends").unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_connection_without_a_request_is_ended() {
    let repo = TestRepo::new();
    let server = server(&repo, "header = \"300ms\"");
    let (_sender, connection) = connect_http2(&server, 65_535).await;
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    _ = ended.expect("the connection ends");
}

#[test]
fn a_full_server_lets_clients_wait_and_refuses_nobody() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .limit("connections = 2")
        .repo("/repo", &repo.path())
        .start();
    let mut inside: Vec<Client> = (0..2).map(|_| Client::plain(&server)).collect();
    for client in &mut inside {
        assert_eq!(client.get("/repo/config").status, 200);
    }
    // The kernel lets it in, the server does not yet.
    let mut waiting = connect(server.http());
    waiting.write_all(get("/repo/config").as_bytes()).unwrap();
    waiting
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut byte = [0];
    let error = waiting.read(&mut byte).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);

    inside.pop();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(Client::over(waiting).response("GET").status, 200);
}

/// A request whose beginning came together with the one before, and whose end was
/// lost on its way and comes a moment later. Meanwhile nothing seems to be under way.
#[test]
fn a_request_that_came_in_part_with_another_is_answered() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .limit("idle = \"4s\"")
        .repo("/repo", &repo.path())
        .start();
    for mut client in [Client::plain(&server), Client::tls(&server)] {
        client.send(
            "GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n\
             GET /repo/summary HTTP/1.1\r\n",
        );
        assert_eq!(client.response("GET").body, repo.read("config"));
        // Longer than a client pauses that has more to ask for.
        std::thread::sleep(Duration::from_millis(2_500));
        client.send("Host: h\r\n\r\n");
        assert_eq!(client.response("GET").body, repo.read("summary"));
    }
}
