//! The command line as people and scripts meet it: exit codes, and what is said.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use common::certificate::Pair;
use common::client::{Client, connect};
use common::demo::Demo;
use common::process::Process;
use common::{Setup, TestRepo};
use tempfile::TempDir;

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ostree-serve"))
}

fn run(arguments: &[&str]) -> (i32, String) {
    spoken(command().args(arguments).output().unwrap())
}

/// The exit code, and everything that was said.
fn spoken(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

/// A configuration file with this text, and its directory.
fn written(setup: &Setup) -> String {
    let file = setup.directory().join("serve.toml");
    fs::write(&file, setup.config()).unwrap();
    let key = setup.directory().join("key.pem");
    fs::set_permissions(key, PermissionsExt::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn exit_codes_say_what_was_wrong() {
    let directory = TempDir::new().unwrap();
    let typo = directory.path().join("typo.toml");
    fs::write(&typo, "[listen]\nhtpps = []\n").unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (
            &["--version"],
            0,
            concat!("ostree-serve ", env!("CARGO_PKG_VERSION")),
        ),
        (&["--help"], 0, "Usage: ostree-serve"),
        (&["check", "--help"], 0, "--config"),
        (&["--colour"], 64, "unexpected argument '--colour'"),
        (&["serve"], 64, "unrecognized subcommand 'serve'"),
        (&["--config"], 64, "a value is required"),
        (
            &["--config", "/nonexistent.toml"],
            78,
            "/nonexistent.toml: error: cannot be read",
        ),
        (
            &["--config", typo.to_str().unwrap()],
            78,
            ":2:1: error: unknown key `htpps`\n    fix: did you mean `https`?",
        ),
    ];
    for (arguments, expected, text) in cases {
        let (code, said) = run(arguments);
        assert_eq!(code, expected, "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
}

#[test]
fn a_taken_port_is_a_failure_while_running() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path());
    let file = written(&setup);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1),
    )
    .unwrap();
    let (code, said) = run(&["--config", &file]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&format!("cannot listen at 127.0.0.1:{port}")),
        "{said}"
    );
    assert!(said.contains("ss -ltnp"), "{said}");
}

#[test]
fn a_good_configuration_checks_clean() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path());
    let (code, said) = run(&["check", "--config", &written(&setup)]);
    assert!(said.contains("0 errors, 0 warnings"), "{said}");
    assert!(
        said.contains("note: a certificate for localhost, 127.0.0.1, ::1, valid until"),
        "{said}"
    );
    assert!(
        said.contains("note: an archive repository, served at /repo"),
        "{said}"
    );
    assert_eq!(code, 0);
}

/// A chain whose second certificate is another authority's. Clients that look for
/// the rest themselves are served, so it is no reason not to start.
#[test]
fn a_broken_chain_is_found_by_check_and_spoken_of_at_the_start() {
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
    let (pair, other) = (Pair::issued(1), Pair::issued(2));
    let alone = pair.alone();
    let foreign = &other.certificate[other.alone().certificate.len()..];
    alone.put(setup.directory());
    let file = setup.directory().join("certificate.pem");
    fs::write(&file, alone.certificate + foreign).unwrap();
    let (code, said) = run(&["check", "--config", &written(&setup)]);
    let expected = "certificate.pem: error: certificate 2 of the chain (";
    assert!(said.contains(expected), "{said}");
    assert_eq!(code, 78, "{said}");
    let server = Process::start(setup);
    let log = server.log();
    let line = log.lines().find(|it| it.contains("has not issued the one"));
    assert!(line.is_some_and(|it| it.contains("WARN")), "{log}");
}

/// Another machine's address, as after a copy of its configuration; and one that
/// is in use, as it is while the server runs.
#[test]
fn check_tries_the_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path());
    let file = written(&setup);
    let text = fs::read_to_string(&file).unwrap();
    let cases = [
        // Of TEST-NET-3 (RFC 5737), which is nobody's.
        (
            "203.0.113.1:8443".to_owned(),
            78,
            "error: cannot listen at 203.0.113.1:8443: ",
            "fix: this machine has no such address: `ip address`",
        ),
        (
            taken.to_string(),
            0,
            "note: somebody listens at 127.0.0.1:",
            "shows who",
        ),
    ];
    for (address, expected, reason, remedy) in cases {
        fs::write(&file, text.replacen("127.0.0.1:0", &address, 1)).unwrap();
        let (code, said) = run(&["check", "--config", &file]);
        assert_eq!(code, expected, "{said}");
        assert!(said.contains(&format!("{file}:2:10: {reason}")), "{said}");
        assert!(said.contains(remedy), "{said}");
    }
}

/// What is spoiled, and what `check` and the start have to say about it.
#[test]
fn what_clients_would_trip_over_is_found() {
    type Spoil = fn(&TestRepo, &Path);
    let cases: [(&str, Spoil, i32, &str); 13] = [
        (
            "mode",
            |repo, _| {
                fs::write(repo.file("config"), "[core]\nrepo_version=1\nmode=bare\n").unwrap()
            },
            78,
            "/repo/config: error: the repository's mode is `bare`, not `archive`",
        ),
        (
            "config",
            |repo, _| fs::remove_file(repo.file("config")).unwrap(),
            78,
            "is no ostree repository",
        ),
        (
            "gone",
            |repo, _| fs::rename(repo.path(), repo.path().with_extension("x")).unwrap(),
            78,
            "the repository cannot be opened",
        ),
        (
            "summary",
            |repo, _| fs::remove_file(repo.file("summary")).unwrap(),
            0,
            "/repo/summary: warning: the repository has no summary",
        ),
        (
            "summary",
            |repo, _| fs::remove_file(repo.file("summary")).unwrap(),
            0,
            "fix: ostree summary --update --repo=/",
        ),
        (
            "key",
            |_, directory| {
                fs::set_permissions(directory.join("key.pem"), PermissionsExt::from_mode(0o644))
                    .unwrap()
            },
            0,
            "every user of this machine may read the private key (mode 0644)",
        ),
        (
            "linked objects",
            |repo, _| {
                fs::rename(repo.file("objects"), repo.file("o")).unwrap();
                symlink("o", repo.file("objects")).unwrap();
            },
            78,
            "/repo/objects: error: a symbolic link is not served",
        ),
        (
            "linked summary",
            |repo, _| {
                fs::rename(repo.file("summary"), repo.file("s")).unwrap();
                symlink("s", repo.file("summary")).unwrap();
            },
            78,
            "/repo/summary: error: a symbolic link is not served",
        ),
        (
            "alias out of refs",
            |repo, _| symlink("../../config", repo.file("refs/heads/out")).unwrap(),
            78,
            "/repo/refs/heads/out: error: the alias cannot be followed",
        ),
        (
            "alias to nothing",
            |repo, _| symlink("nothing", repo.file("refs/heads/dangling")).unwrap(),
            0,
            "/repo/refs/heads/dangling: warning: the alias leads to no ref",
        ),
        (
            "alias",
            |repo, _| symlink("demo", repo.file("refs/heads/directory")).unwrap(),
            0,
            "0 errors, 0 warnings",
        ),
        (
            "pair",
            |_, directory| {
                let other = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
                fs::write(directory.join("key.pem"), other.signing_key.serialize_pem()).unwrap();
            },
            78,
            "key.pem: error: the key does not belong to the certificate",
        ),
        (
            "nameless",
            |_, directory| {
                let other = rcgen::generate_simple_self_signed([]).unwrap();
                fs::write(directory.join("certificate.pem"), other.cert.pem()).unwrap();
                fs::write(directory.join("key.pem"), other.signing_key.serialize_pem()).unwrap();
            },
            78,
            "the certificate names no host",
        ),
    ];
    for (what, spoil, expected, text) in cases {
        let repo = TestRepo::new();
        let setup = Setup::new().repo("/repo", &repo.path());
        let file = written(&setup);
        spoil(&repo, setup.directory());
        let (code, said) = run(&["check", "--config", &file]);
        assert_eq!(code, expected, "{what}: {said}");
        assert!(said.contains(text), "{what}: {said}");
    }
}

#[test]
fn a_repository_that_this_user_cannot_read_is_found() {
    // Root may read everything, so somebody else has to look.
    let nobody = 65534;
    let repo = TestRepo::new();
    let setup = Setup::new().repo("/repo", &repo.path());
    let file = written(&setup);
    for directory in [setup.directory(), repo.path().parent().unwrap()] {
        fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let is_root = rustix::process::geteuid().is_root();
    let check = || {
        let mut command = command();
        command.args(["check", "--config", &file]);
        if is_root {
            fs::set_permissions(
                setup.directory().join("key.pem"),
                PermissionsExt::from_mode(0o640),
            )
            .unwrap();
            std::os::unix::fs::chown(setup.directory().join("key.pem"), None, Some(nobody))
                .unwrap();
            command.uid(nobody).gid(nobody);
        }
        spoken(command.output().unwrap())
    };
    let (code, said) = check();
    assert_eq!(code, 0, "{said}");

    // What a strict umask does to directories (client-contract 4.1).
    let objects = repo.file(&repo.find(".commit"));
    let fan_out = objects.parent().unwrap();
    let cases = [
        (fan_out, 0o700, "cannot enter the directory"),
        (objects.as_path(), 0o600, "cannot read the file"),
    ];
    for (path, mode, text) in cases {
        let before = fs::metadata(path).unwrap().permissions();
        // The owner is denied where nobody else is there to be.
        let mode = if is_root { mode } else { 0 };
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (code, said) = check();
        fs::set_permissions(path, before).unwrap();
        assert_eq!(code, 78, "{said}");
        assert!(
            said.contains(&format!("{}: error: this user {text}", path.display())),
            "{said}"
        );
        assert!(said.contains("fix: chmod -R a+rX "), "{said}");
    }
}

/// The demonstration says what to do, serves it, and leaves nothing behind.
#[test]
fn the_demonstration_works_and_cleans_up() {
    let mut demo = Demo::start();
    for part in ["curl --cacert ", "ostree remote add ", "ostree pull "] {
        assert!(demo.said.contains(part), "{part} is not in {}", demo.said);
    }
    let mut client = Client::tls_over(
        connect(demo.https()),
        &demo.directory().join("certificate.pem"),
    );
    assert_eq!(client.get("/repo/demo/config").status, 200);
    let tip = client.get("/repo/demo/refs/heads/demo/x86_64/stable");
    assert_eq!(tip.body, format!("{}\n", common::TIP).into_bytes());
    let page = client.get("/");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(client.get("/demo.gpg").body, ostree_serve::demo::PUBLIC_KEY);
    drop(client);
    demo.stop();
}

#[test]
fn a_taken_port_is_no_obstacle_for_the_demonstration() {
    // Whoever has it, it is taken.
    let _taken = ["127.0.0.1:8443", "127.0.0.1:8080"].map(TcpListener::bind);
    let mut demo = Demo::start();
    for port in ["8443", "8080"] {
        let note = format!("Port {port} is taken on this machine; using ");
        assert!(demo.said.contains(&note), "{}", demo.said);
    }
    let mut client = Client::tls_over(
        connect(demo.https()),
        &demo.directory().join("certificate.pem"),
    );
    assert_eq!(client.get("/repo/demo/config").status, 200);
    drop(client);
    demo.stop();
}
