//! What lies in the place of a file, or happens to one while it is sent.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::client::{Client, connect};
use common::hyper_client::{RequestBody, Sender};
use common::process::Process;
use common::{Setup, TIP, TestRepo, TestServer, object_name, pattern};
use http_body_util::BodyExt;
use rustix::fs::{CWD, FileType, Mode, mkfifoat, mknodat};

const LARGE: usize = 30_000_000;
const CUT: usize = 1_000_000;

/// Asks for a file and reads its beginning, so that the transfer has begun.
fn begin(client: &mut Client, path: &str) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    let head = client.read_head().unwrap();
    assert!(head.contains(&format!("content-length: {LARGE}")), "{head}");
}

#[test]
fn a_file_cut_while_it_is_sent_breaks_its_transfer_and_no_other() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    for new_client in [Client::plain, Client::tls] {
        let object = repo.plant_object(LARGE);
        let path = format!("/repo/{object}");
        let mut other = new_client(&server);
        let mut client = new_client(&server);
        begin(&mut client, &path);
        repo.truncate(&object, CUT as u64);
        let (bytes, _) = client.read_to_end();
        // Much was in the kernel's buffers; what came is what was there.
        assert!(bytes.len() < LARGE, "all of it came");
        // What the kernel sends by itself waits in the file's own memory, and what
        // remains of a page or of several when a file is cut is cleared there. So
        // beyond the cut there may be zeros, and nothing else.
        let sent = pattern(LARGE);
        let differs = |at: &usize| bytes[*at] != sent[*at] && (*at < CUT || bytes[*at] != 0);
        assert_eq!((0..bytes.len()).find(differs), None, "other bytes");
        assert_eq!(other.get("/repo/config").status, 200);
    }
}

/// Over TLS a broken transfer must not look like a finished one: there is no
/// close_notify, which rustls reports as an error of its own.
#[test]
fn a_broken_transfer_has_no_clean_end() {
    let repo = TestRepo::new();
    let object = repo.plant_object(LARGE);
    let server = TestServer::of(&repo);
    let mut client = Client::tls(&server);
    begin(&mut client, &format!("/repo/{object}"));
    repo.truncate(&object, 0);
    let (_, error) = client.read_to_end();
    let error = error.expect("an end without close_notify");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_stream_is_reset_and_the_others_go_on() {
    let repo = TestRepo::new();
    let object = repo.plant_object(LARGE);
    let other = format!("/repo/{}", repo.plant_object(LARGE - 1));
    let server = TestServer::of(&repo);
    let mut sender = Sender::connect(&server, "h2").await;
    let request = sender
        .request("GET", &format!("/repo/{object}"))
        .body(RequestBody::default());
    let mut body = sender.send(request.unwrap()).await.unwrap().into_body();
    let mut first = body
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
        .to_vec();
    repo.truncate(&object, 1_000_000);
    let mut second = sender.another();
    let undisturbed = tokio::spawn(async move { second.download(&other).await });
    let error = loop {
        match body.frame().await {
            Some(Ok(frame)) => first.extend_from_slice(frame.data_ref().unwrap()),
            Some(Err(error)) => break error,
            None => panic!("a clean end after {} bytes", first.len()),
        }
    };
    assert!(format!("{error:?}").contains("Reset"), "{error:?}");
    assert!(first == pattern(LARGE)[..first.len()], "other bytes");
    assert_eq!(undisturbed.await.unwrap(), LARGE - 1);
}

#[test]
fn a_file_removed_while_it_is_sent_is_sent_whole() {
    let repo = TestRepo::new();
    let object = repo.plant_object(LARGE);
    let path = format!("/repo/{object}");
    let server = TestServer::of(&repo);
    let mut client = Client::tls(&server);
    begin(&mut client, &path);
    fs::remove_file(repo.file(&object)).unwrap();
    assert!(client.read_exactly(LARGE).unwrap() == pattern(LARGE));
    // And once more: another client may be in the middle of the same pull.
    assert!(client.get(&path).body == pattern(LARGE));
}

/// Puts something in the place of an object, by its path.
type Plant = fn(&Path);

#[test]
fn what_is_no_file_is_never_served_and_never_waited_for() {
    let repo = TestRepo::new();
    fs::write(repo.file("secret"), "secret").unwrap();
    let plants: [(&str, Plant); 6] = [
        ("a link to a file", |path| {
            symlink("../../secret", path).unwrap()
        }),
        ("a link to nothing", |path| {
            symlink("nothing", path).unwrap()
        }),
        ("a link out of the repository", |path| {
            symlink("/etc/passwd", path).unwrap()
        }),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        // Opening one for reading waits for a writer, unless told otherwise.
        ("a FIFO", |path| mkfifoat(CWD, path, Mode::RWXU).unwrap()),
        ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ];
    fs::create_dir_all(repo.file("objects/ee")).unwrap();
    // A socket's name is limited to 107 bytes, so a short path leads there.
    let short = tempfile::TempDir::new_in("/tmp").unwrap();
    let server = TestServer::of(&repo);
    for (number, (what, plant)) in plants.iter().enumerate() {
        let name = object_name(number as u64);
        let planted = short.path().join("x");
        plant(&planted);
        fs::rename(&planted, repo.file(&name)).unwrap();
        let response = Client::plain(&server).get(&format!("/repo/{name}"));
        assert_eq!((response.status, response.body.len()), (500, 0), "{what}");
        assert_eq!(response.header("cache-control"), Some("no-store"), "{what}");
    }
    assert_eq!(
        Client::plain(&server)
            .get(&format!("/repo/{}", object_name(99)))
            .status,
        404
    );
}

#[test]
fn a_device_is_never_served() {
    let repo = TestRepo::new();
    fs::create_dir_all(repo.file("objects/ee")).unwrap();
    let name = object_name(1);
    // /dev/zero: endless if it were read.
    let made = mknodat(
        CWD,
        repo.file(&name),
        FileType::CharacterDevice,
        Mode::RUSR | Mode::ROTH,
        rustix::fs::makedev(1, 5),
    );
    if made.is_err() {
        // Only root may make devices, so somebody else can plant none either.
        assert!(!rustix::process::geteuid().is_root());
        return;
    }
    let server = TestServer::of(&repo);
    let response = Client::plain(&server).get(&format!("/repo/{name}"));
    assert_eq!((response.status, response.body.len()), (500, 0));
}

#[test]
fn links_are_followed_inside_refs_and_nowhere_else() {
    let repo = TestRepo::new();
    fs::write(repo.file("secret"), "secret").unwrap();
    let heads = repo.file("refs/heads");
    symlink("demo/x86_64/stable", heads.join("alias")).unwrap();
    symlink("demo", heads.join("directory")).unwrap();
    symlink("../../secret", heads.join("out")).unwrap();
    symlink("/etc/passwd", heads.join("absolute")).unwrap();
    symlink("loop", heads.join("loop")).unwrap();
    // A fan-out directory that is a link.
    let object = repo.find(".dirtree");
    let fan_out = repo.file(&object).parent().unwrap().to_owned();
    fs::rename(&fan_out, repo.file("objects/moved")).unwrap();
    symlink("moved", &fan_out).unwrap();

    let server = TestServer::of(&repo);
    let tip = format!("{TIP}\n");
    let cases = [
        ("refs/heads/alias", 200, tip.as_str()),
        ("refs/heads/directory/x86_64/stable", 200, &tip),
        ("refs/heads/demo/x86_64/latest", 200, &tip),
        ("refs/heads/out", 500, ""),
        ("refs/heads/absolute", 500, ""),
        ("refs/heads/loop", 500, ""),
        ("refs/heads/directory", 404, ""),
        (&object, 500, ""),
    ];
    for (name, status, body) in cases {
        let response = Client::plain(&server).get(&format!("/repo/{name}"));
        assert_eq!(response.status, status, "{name}");
        assert_eq!(response.body, body.as_bytes(), "{name}");
    }
}

#[test]
fn beside_repositories_only_files_are_served() {
    let www = tempfile::TempDir::new().unwrap();
    let at = |name: &str| www.path().join(name);
    fs::write(at("page.html"), "page").unwrap();
    fs::write(at(".hidden"), "hidden").unwrap();
    fs::create_dir(at("directory")).unwrap();
    symlink("page.html", at("link")).unwrap();
    mkfifoat(CWD, at("fifo"), Mode::RWXU).unwrap();
    let server = Setup::new().statics("/", www.path()).start();
    let cases = [
        ("/page.html", 200),
        ("/.hidden", 404),
        ("/directory", 404),
        ("/directory/", 404),
        ("/", 404),
        ("/fifo", 404),
        ("/link", 500),
        ("/page.html/", 404),
    ];
    for (path, status) in cases {
        assert_eq!(Client::plain(&server).get(path).status, status, "{path}");
    }
}

/// The log of a failure names the file, the reason and what to do; the client is
/// told none of it.
#[test]
fn what_may_not_be_read_is_an_error_with_advice() {
    let repo = TestRepo::new();
    let object = repo.find(".dirtree");
    fs::set_permissions(repo.file(&object), PermissionsExt::from_mode(0o000)).unwrap();
    // The server's user may not write beside the configuration.
    let setup = Setup::new()
        .control("nowhere/control.sock")
        .repo("/repo", &repo.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostree-serve"));
    if rustix::process::geteuid().is_root() {
        // Root may read everything, so somebody else has to serve.
        for directory in [setup.directory(), repo.path().parent().unwrap()] {
            fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
        }
        command.uid(65534).gid(65534);
    }
    let server = Process::start_with(setup, command);
    let mut client = Client::over(connect(server.http()));
    let response = client.get(&format!("/repo/{object}"));
    assert_eq!((response.status, response.body.len()), (500, 0));
    let log = server.log();
    let file = repo.file(&object);
    let line = log
        .lines()
        .find(|line| line.contains(&format!("{}: Permission denied", file.display())))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("ERROR") && line.contains("namei -l"),
        "{line}"
    );
    // The rest is served.
    assert_eq!(client.get("/repo/config").status, 200);
}

/// With fewer descriptors than clients nobody is refused: they wait their turn.
#[test]
fn descriptors_that_run_out_delay_clients() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(100_000));
    // As many descriptors as allow for 10 connections with a file each.
    let setup = Setup::new().repo("/repo", &repo.path());
    let server = Process::start_under(setup, "sh", &["-c", "ulimit -n 120; exec \"$@\"", "sh"]);
    assert!(server.log().contains("LimitNOFILE="), "{}", server.log());
    let address = server.http();
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let mut socket = connect(address);
            socket
                .write_all(
                    format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                        .as_bytes(),
                )
                .unwrap();
            socket
        })
        .collect();
    for mut socket in clients {
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).unwrap();
        assert!(reply.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(reply.ends_with(&pattern(100_000)));
    }
}
