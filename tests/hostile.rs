//! Requests that no honest client sends, byte for byte. Each gets an error or
//! nothing, on a connection that then ends if what follows cannot be trusted;
//! and afterwards the server serves as before.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::client::{Client, connect};
use common::hyper_client::{RequestBody, Sender};
use common::{Setup, TestRepo, TestServer};
use http_body_util::BodyExt;

/// What a server made of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// A reply, after which the connection ended.
    Closed(u16),
    /// A reply, after which the connection answered another request.
    Open(u16),
    /// No reply; the connection ended.
    Nothing,
}

/// Sends some bytes in plaintext, reads the one reply, and tries another
/// request.
fn outcome(server: &TestServer, bytes: &[u8]) -> (Outcome, Vec<u8>) {
    let mut client = Client::plain(server);
    client.send(bytes);
    let Ok(first) = client.try_response("GET") else {
        return (Outcome::Nothing, Vec::new());
    };
    // A smuggled request would be answered before this one.
    let probe = "GET /probe HTTP/1.1\r\nHost: h\r\n\r\n";
    let outcome = match client
        .try_send(probe)
        .and_then(|()| client.try_response("GET"))
    {
        Ok(second) => {
            assert_eq!(
                second.body, b"Not found.\n",
                "a second request was answered"
            );
            Outcome::Open(first.status)
        }
        Err(_) => Outcome::Closed(first.status),
    };
    (outcome, first.body)
}

fn still_serves(server: &TestServer) {
    assert_eq!(Client::plain(server).get("/repo/config").status, 200);
    assert_eq!(Client::tls(server).get("/repo/config").status, 200);
}

const SMUGGLED: &str = "GET /repo/config HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn ambiguous_requests_end_the_connection() {
    use Outcome::{Closed, Nothing};
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let get = "GET /repo/config HTTP/1.1\r\n";
    let len = SMUGGLED.len();
    let cases = [
        // Where does the body end (RFC 9112, section 11.2)?
        (
            format!(
                "{get}Host: h\r\nContent-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            Closed(400),
        ),
        (
            format!(
                "{get}Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nTransfer-Encoding: xchunked\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nTransfer-Encoding: identity\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nTransfer-Encoding : chunked\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nContent-Length: {len}\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nContent-Length: 0\r\nContent-Length: {len}\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!(
                "{get}Host: h\r\nContent-Length: {len}\r\nContent-Length: {len}\r\n\r\n{SMUGGLED}"
            ),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nContent-Length: 0, {len}\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nContent-Length: +{len}\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nContent-Length: -1\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!("{get}Host: h\r\nContent-Length: 99999999999999999999\r\n\r\n{SMUGGLED}"),
            Closed(400),
        ),
        (
            format!(
                "GET /repo/config HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            Closed(400),
        ),
        (
            format!(
                "POST /repo/config HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n{SMUGGLED}"
            ),
            Closed(405),
        ),
        (
            format!(
                "POST /repo/config HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            Closed(405),
        ),
        // For which host is it?
        (format!("{get}\r\n"), Closed(400)),
        (format!("{get}Host: a\r\nHost: b\r\n\r\n"), Closed(400)),
        // What is it at all?
        (format!("{get} Host: h\r\n\r\n"), Closed(400)),
        (format!("{get}Host h\r\n\r\n"), Closed(400)),
        (format!("{get}Host: h\0\r\n\r\n"), Closed(400)),
        (format!("{get}Ho\0st: h\r\n\r\n"), Closed(400)),
        (format!("{get}Host: h\r\nX: a\rb\r\n\r\n"), Closed(400)),
        (format!("{get}Host: h\r\n: x\r\n\r\n"), Closed(400)),
        (
            "GET /repo/config HTTP/3.0\r\nHost: h\r\n\r\n".into(),
            Closed(400),
        ),
        ("GET /repo/config\r\n\r\n".into(), Closed(400)),
        (
            "GET /repo/con fig HTTP/1.1\r\nHost: h\r\n\r\n".into(),
            Closed(400),
        ),
        (
            "GET repo/config HTTP/1.1\r\nHost: h\r\n\r\n".into(),
            Closed(400),
        ),
        ("GET  HTTP/1.1\r\nHost: h\r\n\r\n".into(), Closed(400)),
        ("\0\0\0\0\r\n\r\n".into(), Closed(400)),
        // A TLS client at the wrong port.
        (
            "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03\r\n\r\n".into(),
            Closed(400),
        ),
    ];
    for (request, expected) in &cases {
        let (got, body) = outcome(&server, request.as_bytes());
        assert_eq!(&got, expected, "{request:?}");
        assert!(body.is_empty(), "{request:?}");
    }
    // HTTP/2 without TLS is not spoken.
    let (got, _) = outcome(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(matches!(got, Closed(400) | Nothing), "{got:?}");
    still_serves(&server);
}

#[test]
fn odd_but_clear_requests_are_answered() {
    use Outcome::Open;
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let host = "HTTP/1.1\r\nHost: h\r\n\r\n";
    let cases = [
        (format!("GET http://other/repo/config {host}"), Open(200)),
        (format!("\r\nGET /repo/config {host}"), Open(200)),
        (format!("GET /repo/config?a=b#c {host}"), Open(200)),
        (
            "GET /repo/config HTTP/1.1\r\nHost:\r\n\r\n".into(),
            Open(200),
        ),
        (format!("OPTIONS * {host}"), Open(405)),
        (format!("TRACE /repo/config {host}"), Open(405)),
        (format!("get /repo/config {host}"), Open(405)),
        (format!("G!T /repo/config {host}"), Open(405)),
        (format!("GET /repo/%00 {host}"), Open(404)),
        (format!("GET /repo/%zz {host}"), Open(404)),
        (format!("GET /repo/../../etc/passwd {host}"), Open(404)),
        (format!("GET /repo/..%2f..%2fetc/passwd {host}"), Open(404)),
        (format!("GET //repo/config {host}"), Open(404)),
        (format!("GET /repo/{} {host}", "a/".repeat(2000)), Open(404)),
    ];
    for (request, expected) in &cases {
        let (got, _) = outcome(&server, request.as_bytes());
        assert_eq!(&got, expected, "{request:?}");
    }
    // Nothing is a tunnel.
    let (got, _) = outcome(&server, b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    assert!(matches!(got, Outcome::Closed(405) | Open(405)), "{got:?}");
}

/// The listener that redirects is as careful: it, too, does not read bodies.
#[test]
fn redirects_are_no_way_around() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let len = SMUGGLED.len();
    let bodies = [
        format!("Content-Length: {len}\r\n\r\n{SMUGGLED}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("Content-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
    ];
    for method in ["GET", "POST"] {
        for body in &bodies {
            let mut client = Client::over(connect(server.redirect()));
            client.send(format!(
                "{method} /repo/config HTTP/1.1\r\nHost: h\r\n{body}"
            ));
            let response = client.response(method);
            assert_eq!(response.status, 308, "{method} {body:?}");
            let (rest, _) = client.read_to_end();
            assert!(
                rest.is_empty(),
                "a second request was answered: {method} {body:?}"
            );
        }
    }
}

#[test]
fn methods_that_are_refused_are_told_which_are_not() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let mut client = Client::plain(&server);
    for path in ["/repo/config", "/elsewhere"] {
        client.send(format!("DELETE {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.response("DELETE");
        assert_eq!(response.status, 405);
        assert_eq!(response.header("allow"), Some("GET, HEAD"));
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .limit("header_size = \"16KiB\"")
        .repo("/repo", &repo.path())
        .start();
    let host = "Host: h\r\n";
    let long = "a".repeat(20_000);
    let many: String = (0..200)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    let cases = [
        (
            "a header",
            format!("GET /repo/config HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
            431,
        ),
        (
            "many headers",
            format!("GET /repo/config HTTP/1.1\r\n{host}{many}\r\n"),
            431,
        ),
        (
            "a target within the size",
            format!("GET /repo/{} HTTP/1.1\r\n{host}\r\n", &long[..13_000]),
            414,
        ),
        (
            "a target beyond the size",
            format!("GET /repo/{long} HTTP/1.1\r\n{host}\r\n"),
            431,
        ),
    ];
    for (what, request, status) in cases {
        let (got, _) = outcome(&server, request.as_bytes());
        assert_eq!(got, Outcome::Closed(status), "{what}");
    }
    // What fits is answered.
    let fits = format!(
        "GET /repo/config HTTP/1.1\r\n{host}X: {}\r\n\r\n",
        &long[..12_000]
    );
    assert_eq!(outcome(&server, fits.as_bytes()).0, Outcome::Open(200));
    still_serves(&server);
}

#[test]
fn plaintext_at_the_tls_port_ends_with_an_alert() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
        b"\0",
        &[0x80; 4096],
    ] {
        let mut socket = connect(server.https());
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // The server may reset what it did not read.
        _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    }
    still_serves(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_no_way_around() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let mut sender = Sender::connect(&server, "h2").await;

    let ask = |request: http::request::Builder, body: &'static str| {
        request.body(RequestBody::from(body)).unwrap()
    };
    let long = "a".repeat(40_000);
    let cases = [
        (ask(sender.request("POST", "/repo/config"), "body"), 405),
        (ask(sender.request("GET", "/repo/config"), "body"), 400),
        (
            ask(
                sender.request("GET", &format!("/repo/{}", &long[..13_000])),
                "",
            ),
            414,
        ),
        (ask(sender.request("GET", "/repo/%2e%2e/secret"), ""), 404),
        (
            ask(
                sender
                    .request("GET", "/repo/config")
                    .header("host", "a")
                    .header("host", "b"),
                "",
            ),
            400,
        ),
        (ask(sender.request("GET", "/repo/config"), ""), 200),
    ];
    for (request, status) in cases {
        let what = format!("{request:?}");
        let reply = sender.send(request).await.unwrap();
        assert_eq!(reply.status(), status, "{}", &what[..what.len().min(200)]);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.is_empty(), status != 200);
    }

    // Too large a header is refused, and the connection goes on or ends, but
    // the server stays.
    let request = ask(sender.request("GET", "/repo/config").header("x", &long), "");
    if let Ok(reply) = sender.send(request).await {
        assert_eq!(reply.status(), 431);
    }
    tokio::task::spawn_blocking(move || still_serves(&server))
        .await
        .unwrap();
}

/// Requests that are given up as soon as they are made (CVE-2023-44487), a
/// bounded number of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_given_up_cost_nobody_else() {
    let repo = TestRepo::new();
    let large = format!("/repo/{}", repo.plant_object(1_000_000));
    let server = TestServer::of(&repo);
    let mut hasty = Sender::connect(&server, "h2").await;
    for _ in 0..2000 {
        let request = hasty
            .request("GET", &large)
            .body(RequestBody::default())
            .unwrap();
        let reply = tokio::time::timeout(Duration::from_micros(50), hasty.send(request)).await;
        if matches!(reply, Ok(Err(_))) {
            // The server has had enough of it.
            break;
        }
    }
    let mut honest = Sender::connect(&server, "h2").await;
    assert_eq!(honest.download(&large).await, 1_000_000);
}
