//! What replies say about themselves: how long they may be kept, what they are,
//! and as little as possible about errors.

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::TestRepo;
use common::in_process::{InProcess, one_of_each, repo_site, static_site};
use http::{Method, Request};
use tempfile::TempDir;

#[test]
fn how_long_each_kind_may_be_kept() {
    let repo = TestRepo::new();
    let names = one_of_each(&repo);
    let server = InProcess::of(&repo);
    for (name, policy) in names {
        let path = format!("/repo/{name}");
        let whole = server.get(&path);
        let same = server.get_with(&path, &[("if-none-match", whole.tag())]);
        let part = server.get_with(&path, &[("range", "bytes=0-0")]);
        assert_eq!([whole.status, same.status, part.status], [200, 304, 206]);
        for answer in [whole, same, part] {
            assert_eq!(answer.header("cache-control"), Some(policy), "{name}");
        }
    }
}

/// A browser must not take a `.filez` for something that it can show, and a
/// proxy not a `.gz` for an encoding that it may undo: flatpak wants the bytes.
#[test]
fn everything_in_a_repository_is_opaque_bytes() {
    let repo = TestRepo::new();
    let names = one_of_each(&repo);
    let server = InProcess::of(&repo);
    for (name, _) in names {
        let lines = [("accept-encoding", "gzip, deflate, br, zstd")];
        let answer = server.get_with(&format!("/repo/{name}"), &lines);
        assert_eq!(
            answer.header("content-type"),
            Some("application/octet-stream"),
            "{name}"
        );
        assert_eq!(answer.header("content-encoding"), None, "{name}");
        assert_eq!(answer.header("vary"), None, "{name}");
        if name != "config" {
            assert_eq!(answer.body, repo.read(&name), "{name}");
        }
    }
}

#[test]
fn media_types_of_plain_files() {
    let www = TempDir::new().unwrap();
    let cases = [
        ("app.flatpakref", "application/vnd.flatpak.ref"),
        ("repo.flatpakrepo", "application/vnd.flatpak.repo"),
        ("index.html", "text/html; charset=utf-8"),
        ("logo.png", "image/png"),
        ("logo.svg", "image/svg+xml"),
        ("key.gpg", "application/octet-stream"),
        ("README", "application/octet-stream"),
        ("notes.txt", "text/plain; charset=utf-8"),
    ];
    for (name, _) in cases {
        fs::write(www.path().join(name), name).unwrap();
    }
    let server = InProcess::new(vec![("/", static_site(www.path()))]);
    for (name, expected) in cases {
        let answer = server.get(&format!("/{name}"));
        assert_eq!(answer.body, name.as_bytes());
        assert_eq!(answer.header("content-type"), Some(expected), "{name}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
    }
}

/// `config` is not the file of this name, in which there may be passwords.
#[test]
fn the_configuration_is_made_for_clients() {
    let repo = TestRepo::new();
    fs::write(
        repo.file("config"),
        "[core]\nmode=archive-z2\nrepo_version=1\nindexed-deltas=true\nmin-free-space-size=1MB\n\
         [remote \"upstream\"]\nurl=https://user:password@host/\ntls-client-key-path=/etc/key\n",
    )
    .unwrap();
    let answer = InProcess::of(&repo).get("/repo/config");
    assert_eq!(
        String::from_utf8(answer.body).unwrap(),
        "[core]\nrepo_version=1\nmode=archive-z2\nindexed-deltas=true\n"
    );
}

/// Requests that fail, each in its own way, on a path.
fn failing(path: &str) -> Vec<(Request<()>, u16)> {
    let request = || Request::builder().uri(path);
    let with_host = || request().header("host", "localhost");
    let long = format!("{path}/{}", "a".repeat(3 * 4096));
    let cases = [
        (with_host().uri(format!("{path}/nothing")), 404),
        (with_host().method("POST"), 405),
        (
            with_host().method("POST").header("content-length", "3"),
            405,
        ),
        (with_host().header("if-match", "\"other\""), 412),
        (with_host().header("range", "bytes=999999-"), 416),
        (with_host().uri(long), 414),
        (request(), 400),
        (with_host().header("host", "localhost"), 400),
        (with_host().header("content-length", "3"), 400),
        (with_host().header("transfer-encoding", "chunked"), 400),
    ];
    cases
        .into_iter()
        .map(|(request, status)| (request.body(()).unwrap(), status))
        .collect()
}

/// libostree 2022.7 writes the body of an error in front of the object that it
/// then gets elsewhere, so there is none where it asks.
#[test]
fn errors_are_empty_for_clients_and_one_line_for_people() {
    let repo = TestRepo::new();
    let www = TempDir::new().unwrap();
    fs::write(www.path().join("a.txt"), "a").unwrap();
    let sites = vec![("/repo", repo_site(&repo)), ("/", static_site(www.path()))];
    let server = InProcess::new(sites);
    for (request, status) in failing("/repo/summary") {
        let about = format!("{request:?}");
        let answer = server.ask_as_it_is(request);
        assert_eq!(answer.status, status, "{about}");
        assert_eq!(answer.body, b"", "{about}");
    }
    for (request, status) in failing("/a.txt") {
        let about = format!("{request:?}");
        let answer = server.ask_as_it_is(request);
        assert_eq!(answer.status, status, "{about}");
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert!(text.ends_with(".\n") && text.lines().count() == 1, "{text}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

/// After these, what follows on the connection may be anything.
#[test]
fn the_connection_ends_with_what_is_ambiguous() {
    let repo = TestRepo::new();
    let server = InProcess::of(&repo);
    let request = || Request::get("/repo/summary").header("host", "localhost");
    let cases = [
        (request(), false),
        (request().header("content-length", "0"), false),
        (request().method("POST"), false),
        (request().method("POST").header("content-length", "3"), true),
        (request().header("content-length", "3"), true),
        (request().header("transfer-encoding", "chunked"), true),
        (request().header("host", "other"), true),
        (request().header("if-match", "\"other\""), false),
    ];
    for (request, closes) in cases {
        let request = request.body(()).unwrap();
        let about = format!("{request:?}");
        let answer = server.ask_as_it_is(request);
        let expected = closes.then_some("close");
        assert_eq!(answer.header("connection"), expected, "{about}");
    }
}

/// A client takes 404 for "this does not exist", and acts on it: what exists and
/// cannot be read is another matter.
#[test]
fn what_cannot_be_read_is_an_error_of_the_server() {
    let repo = TestRepo::new();
    let www = TempDir::new().unwrap();
    symlink("/etc/passwd", www.path().join("passwd")).unwrap();
    let directory = common::object_name(1);
    fs::create_dir_all(repo.file(&directory)).unwrap();
    let link = common::object_name(2);
    symlink("/etc/passwd", repo.file(&link)).unwrap();
    symlink("/etc/passwd", repo.file("refs/heads/outside")).unwrap();
    fs::write(
        repo.file("config"),
        "[core]\nmode=archive\nrepo_version=1\n",
    )
    .unwrap();
    let sites = vec![("/repo", repo_site(&repo)), ("/", static_site(www.path()))];
    let server = InProcess::new(sites);
    fs::write(repo.file("config"), "[core]\nmode=bare\nrepo_version=1\n").unwrap();

    for name in [&*directory, &link, "refs/heads/outside", "config"] {
        for method in [Method::GET, Method::HEAD] {
            let answer = server.ask(&method, &format!("/repo/{name}"), &[]);
            assert_eq!((answer.status, &*answer.body), (500, &b""[..]), "{name}");
        }
    }
    let answer = server.get("/passwd");
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.body,
        b"The server cannot read this file; its log says why.\n"
    );
    assert_eq!(server.get("/repo/summary").status, 200);
}
