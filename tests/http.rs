//! HTTP on the wire: what a connection looks like from outside. What a reply
//! says is the matter of other tests, which need no sockets.

mod common;

use std::io::{ErrorKind, Read, Write};

use common::client::{Client, connect};
use common::hyper_client::{RequestBody, Sender};
use common::{Setup, TestRepo, TestServer, pattern, summary_with};
use http_body_util::BodyExt;

#[test]
fn a_file_is_served_in_plaintext_and_over_tls() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    for mut client in [Client::plain(&server), Client::tls(&server)] {
        let response = client.get("/repo/summary");
        assert_eq!(response.status, 200);
        assert_eq!(response.body, repo.read("summary"));
        assert_eq!(client.get("/repo/nothing").status, 404);
    }
}

/// A reply without a body ends with its header, whatever length it announces:
/// a byte more, and the client would take it for the beginning of the next one.
#[test]
fn a_connection_goes_on_after_replies_without_body() {
    let repo = TestRepo::new();
    let large = format!("/repo/{}", repo.plant_object(300_000));
    let server = TestServer::of(&repo);
    for mut client in [Client::plain(&server), Client::tls(&server)] {
        let head = client.head_with(&large, "");
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-length"), Some("300000"));
        let tag = head.header("etag").unwrap().to_owned();
        // Outside of repositories, errors have bodies.
        let head = client.head_with("/nothing", "");
        assert_eq!(head.status, 404);
        assert_eq!(head.header("content-length"), Some("11"));
        let same = format!("If-None-Match: {tag}\r\n");
        assert_eq!(client.head_with(&large, &same).status, 304);

        for (path, lines, status) in [
            (&*large, &*same, 304),
            (&large, "If-Match: \"other\"\r\n", 412),
            (&large, "Range: bytes=300000-\r\n", 416),
            (&large, "Range: bytes=-3\r\n", 206),
            (&large, "Content-Length: 0\r\n", 200),
            ("/repo/nothing", "", 404),
            ("/nothing", "", 404),
        ] {
            assert_eq!(client.get_with(path, lines).status, status, "{lines}");
        }
        for method in ["POST", "OPTIONS", "DELETE"] {
            client.send(format!(
                "{method} {large} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ));
            assert_eq!(client.response(method).status, 405);
        }
        assert_eq!(client.get(&large).body, pattern(300_000));
    }
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let repo = TestRepo::new();
    let large = format!("/repo/{}", repo.plant_object(300_000));
    let server = TestServer::of(&repo);
    let request =
        |method, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for mut client in [Client::plain(&server), Client::tls(&server)] {
        client.send(
            [
                request("GET", "/repo/summary"),
                request("HEAD", &large),
                request("GET", "/repo/nothing"),
                request("GET", &large),
                request("GET", "/repo/summary.sig"),
            ]
            .concat(),
        );
        assert_eq!(client.response("GET").body, repo.read("summary"));
        assert_eq!(client.response("HEAD").status, 200);
        assert_eq!(client.response("GET").status, 404);
        assert_eq!(client.response("GET").body, pattern(300_000));
        assert_eq!(client.response("GET").body, repo.read("summary.sig"));
    }
}

/// A header that leaves alone makes its body wait for the acknowledgement of a
/// client that delays it: 40 ms for each object (client-contract 2.3).
#[test]
fn header_and_body_of_a_small_reply_leave_together() {
    let repo = TestRepo::new();
    let paths = [
        "/repo/config".to_owned(),
        "/repo/summary".into(),
        format!("/repo/{}", repo.plant_object(5_000)),
        format!("/repo/{}", repo.plant_object(20_000)),
        "/nothing".into(),
    ];
    let server = TestServer::of(&repo);
    let mut socket = connect(server.http());
    let mut buffer = vec![0; 1024 * 1024];
    for path in paths.iter().cycle().take(100) {
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let count = socket.read(&mut buffer).unwrap();
        let mut response = Client::over(std::io::Cursor::new(buffer[..count].to_vec()));
        let response = response.try_response("GET");
        assert!(response.is_ok(), "{path}: {count} bytes came first");
    }
}

/// The body of a request is not read, and neither is what looks like another
/// request behind it.
#[test]
fn a_connection_ends_after_a_request_with_a_body() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let smuggled = "GET /repo/summary HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let cases = [
        (
            "GET",
            format!("Host: a\r\nContent-Length: {}\r\n", smuggled.len()),
            400,
        ),
        (
            "POST",
            format!("Host: a\r\nContent-Length: {}\r\n", smuggled.len()),
            405,
        ),
        ("GET", "Host: a\r\nHost: b\r\n".into(), 400),
        ("GET", String::new(), 400),
    ];
    for (method, lines, status) in cases {
        for mut client in [Client::plain(&server), Client::tls(&server)] {
            let head = format!("{method} /repo/summary HTTP/1.1\r\n{lines}\r\n");
            client.send(head + smuggled);
            let response = client.response(method);
            assert_eq!(response.status, status, "{lines}");
            assert_eq!(response.header("connection"), Some("close"), "{lines}");
            let (rest, error) = client.read_to_end();
            assert_eq!(rest, b"", "{lines}");
            // The kernel resets a connection that is closed with bytes unread.
            let clean = error.is_none_or(|error| error.kind() == ErrorKind::ConnectionReset);
            assert!(clean, "{lines}");
        }
    }
}

#[test]
fn http_1_0_ends_with_the_reply_unless_it_is_asked_to_stay() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let mut client = Client::plain(&server);
    client.send("GET /repo/summary HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response("GET").body, repo.read("summary"));
    client.send("GET /repo/summary HTTP/1.0\r\n\r\n");
    assert_eq!(client.response("GET").body, repo.read("summary"));
    let (rest, error) = client.read_to_end();
    assert!(rest.is_empty() && error.is_none());
}

/// libcurl offers it in the clear with each request; clients must get HTTP/1.1.
#[test]
fn an_offer_to_upgrade_is_ignored() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let mut client = Client::plain(&server);
    let lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    for _ in 0..2 {
        let response = client.get_with("/repo/summary", lines);
        assert_eq!(response.status, 200);
        assert_eq!(response.body, repo.read("summary"));
    }
}

#[test]
fn both_protocols_answer_the_same() {
    let repo = TestRepo::new();
    let large = format!("/repo/{}", repo.plant_object(300_000));
    let server = TestServer::of(&repo);
    let runtime = ostree_serve::daemon::runtime().unwrap();
    let ask = |protocol: &'static str| {
        let (server, large) = (&server, large.as_str());
        runtime.block_on(async move {
            let mut sender = Sender::connect(server, protocol).await;
            let cases = [
                ("GET", large, ("x", "x"), 200),
                ("HEAD", large, ("x", "x"), 200),
                ("GET", large, ("range", "bytes=9-100000"), 206),
                ("GET", large, ("range", "bytes=300000-"), 416),
                ("GET", large, ("if-none-match", "*"), 304),
                ("GET", large, ("if-match", "\"other\""), 412),
                ("GET", "/repo/summary?query", ("x", "x"), 200),
                ("GET", "/repo/nothing", ("x", "x"), 404),
                ("GET", "/nothing", ("x", "x"), 404),
                ("HEAD", "/nothing", ("x", "x"), 404),
                ("POST", "/repo/summary", ("x", "x"), 405),
            ];
            let mut answers = Vec::new();
            for (method, path, (name, value), status) in cases {
                let request = sender.request(method, path).header(name, value);
                let request = request.body(RequestBody::default()).unwrap();
                let (mut reply, body) = sender.send(request).await.unwrap().into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                assert_eq!(reply.status, status, "{protocol} {method} {path} {value}");
                // The server's clock; the next request may be in the next second.
                reply.headers.remove("date");
                answers.push((reply.headers, body));
            }
            answers
        })
    };
    let (first, second) = (ask("http/1.1"), ask("h2"));
    for (number, (first, second)) in first.iter().zip(&second).enumerate() {
        assert_eq!(first, second, "request {number}");
    }
}

/// HTTP/2 has no `Connection` header, and a body is the stream's own matter:
/// the other streams go on.
#[test]
fn over_http2_a_refused_body_ends_its_stream_alone() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let runtime = ostree_serve::daemon::runtime().unwrap();
    runtime.block_on(async {
        let mut sender = Sender::connect(&server, "h2").await;
        for (method, status) in [("GET", 400), ("POST", 405)] {
            let request = sender.request(method, "/repo/summary");
            let request = request.header("content-length", "4");
            let body = RequestBody::from("body");
            let reply = sender.send(request.body(body).unwrap()).await.unwrap();
            assert_eq!(reply.status(), status);
            assert!(!reply.headers().contains_key("connection"));
            assert_eq!(
                sender.download("/repo/summary").await,
                repo.read("summary").len()
            );
        }
    });
}

#[test]
fn the_redirect_listener_leads_to_https() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let port = server.https().port();
    let ask = |method: &str, target: &str, lines: &str| {
        let mut client = Client::over(connect(server.redirect()));
        client.send(format!("{method} {target} HTTP/1.1\r\n{lines}\r\n"));
        client.response(method)
    };
    let hosts = [
        ("localhost", "localhost"),
        ("repo.example.com:8080", "repo.example.com"),
        ("127.0.0.1:8080", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("[::1]", "[::1]"),
        ("[2001:db8::1]:8080", "[2001:db8::1]"),
    ];
    let target = "/repo/deltas/a+b%2Bc/0?q=%20";
    for (host, name) in hosts {
        for method in ["GET", "HEAD", "POST"] {
            let response = ask(method, target, &format!("Host: {host}\r\n"));
            assert_eq!(response.status, 308, "{host}");
            let expected = format!("https://{name}:{port}{target}");
            assert_eq!(response.header("location"), Some(&*expected));
            assert_eq!(response.header("content-length"), Some("0"));
            assert_eq!(response.body, b"");
        }
    }
    for lines in [
        "",
        "Host:\r\n",
        "Host: a/b\r\n",
        "Host: user@host\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: a:port\r\n",
        "Host: a b\r\n",
        "Host: \"><script>\r\n",
    ] {
        let response = ask("GET", target, lines);
        assert_eq!(response.status, 400, "{lines:?}");
        assert_eq!(response.header("location"), None, "{lines:?}");
        assert_eq!(response.header("connection"), Some("close"), "{lines:?}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    // A path that looks like an address is still a path.
    let response = ask("GET", "//evil.example/", "Host: localhost\r\n");
    let expected = format!("https://localhost:{port}//evil.example/");
    assert_eq!(response.header("location"), Some(&*expected));
}

/// Where it leads, the file is.
#[test]
fn a_redirect_can_be_followed() {
    let repo = TestRepo::new();
    let server = Setup::new().repo("/", &repo.path()).start();
    let mut client = Client::over(connect(server.redirect()));
    let response = client.get("/summary");
    let location = response.header("location").unwrap();
    let path = location.strip_prefix(&server.url()).unwrap();
    assert_eq!(Client::tls(&server).get(path).body, repo.read("summary"));
    // Nothing is served where it came from.
    assert_eq!(client.get("/config").status, 308);
}

/// A client that has said all it has to say may close its side and still listen,
/// as `nc -N` does.
#[test]
fn a_client_may_close_its_side() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(3_000_000));
    let server = TestServer::of(&repo);
    let mut socket = connect(server.http());
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).unwrap();
    assert!(
        reply.ends_with(&pattern(3_000_000)),
        "{} bytes",
        reply.len()
    );
}

/// The copies of a document that many streams wait for would be many times its
/// size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_document_is_not_kept_in_memory_for_each_stream() {
    let repo = TestRepo::new();
    let len = 20_000_000;
    std::fs::remove_file(repo.file("summary.sig")).unwrap();
    std::fs::write(repo.file("summary"), summary_with(&pattern(len))).unwrap();
    let server = TestServer::of(&repo);
    let mut sender = Sender::connect(&server, "h2").await;
    let mut replies = Vec::new();
    for _ in 0..50 {
        let request = sender
            .request("GET", "/repo/summary")
            .body(RequestBody::default());
        let reply = sender.send(request.unwrap()).await.unwrap();
        assert_eq!(reply.status(), 200);
        replies.push(reply);
    }
    // Of 1 GB that was asked for, this process (which is the client, too, and
    // grants windows of 16 MB) holds far less.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = rss.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 400_000, "{kilobytes} kB");
}
