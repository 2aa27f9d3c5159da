//! The brake over its socket, with the real program at both ends: who may ask,
//! what is said, and what a service manager gets to keep.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::client::{Client, connect};
use common::manager::Manager;
use common::process::Process;
use common::{Setup, TestRepo, wait_for};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::process::Signal;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ostree-serve");
const REF: &str = "refs/heads/demo/x86_64/stable";
const NOBODY: u32 = 65534;
/// Far longer than anything here takes, so that who waits in vain fails.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// A server that can be asked.
fn start(setup: Setup) -> Process {
    listening(Process::start(setup))
}

fn listening(process: Process) -> Process {
    wait_for("the control socket", || {
        process
            .log()
            .contains("listening for control")
            .then_some(())
    });
    process
}

fn serving(repo: &TestRepo) -> Setup {
    Setup::new().repo("/repo", &repo.path())
}

/// A subcommand, up to the options.
fn command(process: &Process, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .arg("--config")
        .arg(process.directory().join("serve.toml"));
    command
}

/// The exit code, and everything that was said.
fn spoken(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    (output.status.code().unwrap(), text)
}

fn ask(process: &Process, arguments: &[&str]) -> (i32, String) {
    spoken(command(process, arguments).output().unwrap())
}

/// Asks for what has to go well.
fn done(process: &Process, arguments: &[&str]) -> String {
    let (code, said) = ask(process, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}\n{}", process.log());
    said
}

/// The report of the first repository.
fn status(process: &Process) -> Value {
    let report: Value = serde_json::from_str(&done(process, &["status", "--json"])).unwrap();
    report["repositories"][0].clone()
}

fn get(process: &Process, path: &str) -> (u16, Vec<u8>) {
    let response = Client::over(connect(process.http())).get(path);
    (response.status, response.body)
}

fn socket(process: &Process) -> PathBuf {
    process.directory().join("control.sock")
}

/// The server's reply to these bytes, which may be no request.
fn reply_to(process: &Process, bytes: &[u8]) -> Value {
    let mut stream = UnixStream::connect(socket(process)).unwrap();
    // It may have heard enough before the end.
    _ = stream.write_all(bytes);
    _ = stream.shutdown(Shutdown::Write);
    hear(stream)
}

fn hear(stream: UnixStream) -> Value {
    stream.set_read_timeout(PATIENCE).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn refusal(reply: &Value) -> &str {
    reply["refused"]["reason"]
        .as_str()
        .unwrap_or_else(|| panic!("not refused: {reply}"))
}

#[test]
fn status_is_for_people_and_for_programs() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let text = done(&process, &["status"]);
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        text.starts_with(&format!("ostree-serve {version}, up ")),
        "{text}"
    );
    assert!(text.contains("\n/repo\n  directory   "), "{text}");
    let one = done(&process, &["status", "/repo/"]);
    assert!(one.contains("\n/repo\n"), "{one}");

    let report: Value = serde_json::from_str(&done(&process, &["status", "--json"])).unwrap();
    assert_eq!(report["version"], version);
    assert_eq!(report["obstacles"], Value::Array(vec![]));
    assert_eq!(report["repositories"][0]["prefix"], "/repo");
    assert_eq!(report["repositories"][0]["held"], Value::Null);
}

#[test]
fn an_unknown_prefix_is_told_the_known_ones() {
    let repo = TestRepo::new();
    let process = start(serving(&repo).repo("/other", &repo.path()));
    let cases: [&[&str]; 3] = [
        &["hold", "/rep", "--reason", "x"],
        &["release", "/rep"],
        &["status", "/rep"],
    ];
    for arguments in cases {
        let (code, said) = ask(&process, arguments);
        assert_eq!(code, 1, "{arguments:?}: {said}");
        let expected = "ostree-serve: no repository is served at /rep\n    \
                        fix: one of these: /other, /repo\n";
        assert_eq!(said, expected, "{arguments:?}");
    }
}

#[test]
fn a_wrong_command_line_is_told_from_a_refusal() {
    let cases: [(&[&str], &str); 5] = [
        (&["hold", "/repo"], "--reason"),
        (&["hold", "/repo", "--reason", " "], "say why"),
        (&["hold", "/repo", "--reason", "a\nb"], "one line of text"),
        (&["hold", "repo", "--reason", "x"], "must begin with `/`"),
        (&["release"], "<PREFIX>"),
    ];
    for (arguments, expected) in cases {
        let (code, said) = spoken(Command::new(PROGRAM).args(arguments).output().unwrap());
        assert_eq!(code, 64, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// While one repository is held, the same publication goes out of another.
#[test]
fn what_is_held_stays_as_it_is_until_it_is_released() {
    let (held, free) = (TestRepo::new(), TestRepo::new());
    for repo in [&held, &free] {
        // Refs alone make a generation then.
        for name in ["summary", "summary.sig"] {
            fs::remove_file(repo.file(name)).unwrap();
        }
    }
    let setup = Setup::new()
        .repo("/held", &held.path())
        .repo("/free", &free.path());
    let process = start(setup);
    let said = done(&process, &["hold", "/held", "--reason", "bad kernel"]);
    for part in ["/held is HELD.", "Clients get exactly this generation: "] {
        assert!(said.contains(part), "{said}");
    }
    let log = process.log();
    let line = log.lines().find(|it| it.contains("held: nothing newer"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for part in ["WARN", "prefix=/held", "bad kernel", &user()] {
        assert!(line.contains(part), "{line}");
    }

    let new = held.read("refs/heads/demo/prüfung");
    for repo in [&held, &free] {
        let staged = repo.file("refs/heads/demo/staged");
        fs::write(&staged, &new).unwrap();
        fs::rename(&staged, repo.file(REF)).unwrap();
    }
    let published = |prefix: &str| {
        let (status, body) = get(&process, &format!("/{prefix}/{REF}"));
        assert_eq!(status, 200);
        body == new
    };
    wait_for("the new ref where nothing is held", || {
        published("free").then_some(())
    });
    assert!(!published("held"));
    assert_eq!(status_of(&process, "/held")["held"]["by"], user());
    wait_for("status to tell that something newer is ready", || {
        let newer = &status_of(&process, "/held")["newer"];
        (*newer == Value::Bool(true)).then_some(())
    });
    let said = done(&process, &["status", "/held"]);
    assert!(said.contains("is published at the release"), "{said}");

    let said = done(&process, &["release", "/held"]);
    assert!(said.contains("/held is released. It was held by"), "{said}");
    assert!(process.log().contains("released: what is new is published"));
    wait_for("the new ref after the release", || {
        published("held").then_some(())
    });
    assert_eq!(status_of(&process, "/held")["held"], Value::Null);
}

fn status_of(process: &Process, prefix: &str) -> Value {
    let report = done(process, &["status", prefix, "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    report["repositories"][0].clone()
}

/// Who runs the tests.
fn user() -> String {
    ostree_serve::control::peer::user_name(rustix::process::geteuid().as_raw())
}

#[test]
fn what_is_no_request_is_refused() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let padded = |len: usize| {
        let request = b"{\"status\":{}}\n";
        [vec![b' '; len - request.len()], request.to_vec()].concat()
    };
    let longest = padded(64 * 1024);
    let too_long = padded(64 * 1024 + 1);
    let endless = vec![b' '; 100 * 1024];
    let cases: [(&[u8], &str); 6] = [
        (b"", "the request has no end"),
        (b"{\"status\":{}}", "the request has no end"),
        (b"GET / HTTP/1.1\r\n\r\n", "the request is not understood"),
        (b"\xff\n", "the request is not understood"),
        (&too_long, "the request is longer than 65536 bytes"),
        (&endless, "the request is longer than 65536 bytes"),
    ];
    for (bytes, expected) in cases {
        let reply = reply_to(&process, bytes);
        assert!(refusal(&reply).contains(expected), "{reply}");
    }
    let reply = reply_to(&process, &longest);
    assert_eq!(reply["status"]["repositories"][0]["prefix"], "/repo");
}

/// Silent clients take every place, and lose them.
#[test]
fn clients_that_say_nothing_do_not_keep_others_out() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let silent: Vec<_> = (0..ostree_serve::control::server::CLIENTS)
        .map(|_| UnixStream::connect(socket(&process)).unwrap())
        .collect();
    done(&process, &["status"]);
    for stream in silent {
        assert!(refusal(&hear(stream)).contains("no request came within"));
    }
}

/// A command as another user. std takes supplementary groups away and has no
/// stable way to give some.
fn as_user(mut command: Command, uid: u32, gid: u32, groups: &'static [u32]) -> (i32, String) {
    // SAFETY: nothing but system calls on values that were made before the fork.
    unsafe {
        command.pre_exec(move || {
            let failed = libc::setgroups(groups.len(), groups.as_ptr()) != 0
                || libc::setgid(gid) != 0
                || libc::setuid(uid) != 0;
            match failed {
                true => Err(std::io::Error::last_os_error()),
                false => Ok(()),
            }
        });
    }
    spoken(command.output().unwrap())
}

#[test]
fn the_servers_group_may_ask_and_others_may_not() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    fs::set_permissions(process.directory(), PermissionsExt::from_mode(0o755)).unwrap();
    let mode = fs::metadata(socket(&process)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    if !rustix::process::geteuid().is_root() {
        // Nobody else is there to be. The owner is kept out by the same file, and
        // whom the server lets in is tested in `control::peer`.
        fs::set_permissions(socket(&process), PermissionsExt::from_mode(0o000)).unwrap();
        let (code, said) = ask(&process, &["status"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("or as a member of the group"), "{said}");
        return;
    }
    let own = rustix::process::getegid().as_raw();
    assert_eq!(own, 0, "root's group");
    let status = || command(&process, &["status"]);

    let (code, said) = as_user(status(), NOBODY, NOBODY, &[]);
    assert_eq!(code, 1, "{said}");
    let expected = "fix: do it as root, or as a member of the group root";
    assert!(said.contains(expected), "{said}");

    let cases: [(u32, &'static [u32]); 2] = [(own, &[]), (NOBODY, &[7, 0])];
    for (gid, groups) in cases {
        let (code, said) = as_user(status(), NOBODY, gid, groups);
        assert_eq!(code, 0, "{gid} {groups:?}: {said}");
    }

    // The configuration file is not theirs to read.
    let file = process.directory().join("serve.toml");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (_, said) = as_user(status(), NOBODY, NOBODY, &[7, 0]);
    assert!(
        said.contains("serve.toml: warning: cannot be read: Permission denied"),
        "{said}"
    );
    let mut hold = Command::new(PROGRAM);
    hold.args(["hold", "/repo", "--reason", "bad kernel", "--socket"])
        .arg(socket(&process));
    let (code, said) = as_user(hold, NOBODY, NOBODY, &[7, 0]);
    assert_eq!(code, 0, "{said}");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();

    // Should somebody open the socket to everybody, the server looks for itself.
    fs::set_permissions(socket(&process), PermissionsExt::from_mode(0o666)).unwrap();
    let (code, said) = as_user(status(), NOBODY, NOBODY, &[7]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("only root, the server's user and its group"),
        "{said}"
    );
    assert!(
        said.contains("fix: ask as root, or as a member of the group root"),
        "{said}"
    );
    let log = process.log();
    let refused = log
        .lines()
        .find(|it| it.contains("a control client was refused"));
    assert!(refused.is_some_and(|it| it.contains("uid 65534")), "{log}");
}

#[test]
fn a_socket_of_a_dead_process_is_replaced() {
    let repo = TestRepo::new();
    let setup = serving(&repo);
    let path = setup.directory().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let mut process = start(setup);
    done(&process, &["status"]);

    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(!path.exists(), "the socket goes with the server");
    let (code, said) = ask(&process, &["status"]);
    assert_eq!(code, 1, "{said}");
    let file = process.directory().join("serve.toml");
    let expected = format!(
        "is the server running? {} says control = \"{}\"",
        file.display(),
        path.display()
    );
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_socket_of_a_living_process_is_left_to_it() {
    let repo = TestRepo::new();
    let setup = serving(&repo);
    let path = setup.directory().join("control.sock");
    let _living = UnixListener::bind(&path).unwrap();
    let file = setup.directory().join("serve.toml");
    fs::write(&file, setup.config()).unwrap();
    let output = Command::new(PROGRAM).arg("--config").arg(file).output();
    let (code, said) = spoken(output.unwrap());
    assert_eq!(code, 1, "{said}");
    let expected = "(`listen.control`): another process listens there; stop it first";
    assert!(said.contains(expected), "{said}");
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
}

#[test]
fn without_a_directory_for_the_socket_it_serves_all_the_same() {
    let repo = TestRepo::new();
    let process = Process::start(serving(&repo).control("run/control.sock"));
    let log = wait_for("a warning", || {
        let log = process.log();
        log.contains("there is no directory").then_some(log)
    });
    assert!(log.contains("RuntimeDirectory=ostree-serve"), "{log}");
    assert_eq!(get(&process, "/repo/config").0, 200);
    let (code, said) = ask(&process, &["status"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no control socket at "), "{said}");
}

/// Somebody is repairing the configuration, and it is not finished.
#[test]
fn the_brake_works_while_the_configuration_has_faults() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    process.configure(|text| text + "grase = \"2h\"\n");
    let said = done(&process, &["hold", "/repo", "--reason", "bad kernel"]);
    assert!(said.contains("/repo is HELD."), "{said}");

    process.configure(|text| text + "grace = 2h\n");
    let said = done(&process, &["status"]);
    let file = process.directory().join("serve.toml");
    let warning = format!("{}:", file.display());
    assert!(
        said.contains(&warning) && said.contains(": warning: "),
        "{said}"
    );
    assert!(said.contains("it asks at"), "{said}");
    assert!(said.contains("HELD        by"), "{said}");
}

#[test]
fn the_brake_works_by_the_socket_alone() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    fs::remove_file(process.directory().join("serve.toml")).unwrap();
    let (code, said) = ask(&process, &["status"]);
    assert_eq!(code, 1, "{said}");
    let parts = [
        "serve.toml: warning: cannot be read: ",
        "fix: it asks at /run/ostree-serve/control.sock all the same",
        "--socket PATH",
        "serve.toml may name another",
    ];
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }

    let path = socket(&process);
    let by_socket = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--socket").arg(&path);
        spoken(command.output().unwrap())
    };
    let (code, said) = by_socket(&["hold", "/repo", "--reason", "bad kernel"]);
    assert_eq!(code, 0, "{said}");
    let release = format!("ostree-serve release /repo --socket {}\n", path.display());
    assert!(said.contains(&release), "{said}");
    let (_, said) = by_socket(&["status"]);
    assert!(said.contains(&release), "{said}");
    assert_eq!(by_socket(&["release", "/repo"]).0, 0);
}

#[test]
fn commands_that_are_named_find_the_same_server() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let file = process.directory().join("serve.toml");
    let said = done(&process, &["hold", "/repo", "--reason", "bad kernel"]);
    let expected = format!("ostree-serve release /repo --config {}\n", file.display());
    assert!(said.contains(&expected), "{said}");
}

fn status_at(path: &Path) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    command.arg("status").arg("--socket").arg(path);
    spoken(command.output().unwrap())
}

#[test]
fn a_reload_moves_the_socket() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let old = socket(&process);
    let new = process.directory().join("other.sock");
    let name = |text: String, path: &Path| {
        text.replace(
            old.file_name().unwrap().to_str().unwrap(),
            path.to_str().unwrap(),
        )
    };

    // Something is there already, and it is somebody's.
    let living = UnixListener::bind(&new).unwrap();
    process.configure(|text| name(text, &new));
    process.hang_up();
    let log = process.log();
    assert!(log.contains("the configuration is not reloaded"), "{log}");
    let line = log
        .lines()
        .find(|it| it.contains("another process listens there"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("ERROR") && line.contains("serve.toml:"),
        "{line}"
    );
    assert_eq!(status_at(&old).0, 0);

    drop(living);
    process.hang_up();
    let log = process.log();
    assert!(log.contains("control socket"), "{log}");
    assert!(!old.exists(), "the old socket goes");
    done(&process, &["status"]);
    assert_eq!(status_at(&new).0, 0);
}

#[test]
fn a_reload_opens_what_the_start_could_not() {
    let repo = TestRepo::new();
    // Something is in the way.
    let setup = serving(&repo).control("run/control.sock");
    let path = setup.directory().join("run/control.sock");
    fs::create_dir(setup.directory().join("run")).unwrap();
    fs::write(&path, "precious").unwrap();
    let process = Process::start(setup);
    process.hang_up();
    let log = process.log();
    assert!(
        log.contains("configuration reloaded: nothing changed"),
        "{log}"
    );
    assert_eq!(status_at(&path).0, 1);

    fs::remove_file(&path).unwrap();
    process.hang_up();
    assert_eq!(status_at(&path).0, 0, "{}", process.log());

    // Somebody tidied up.
    fs::remove_file(&path).unwrap();
    process.hang_up();
    assert_eq!(status_at(&path).0, 0, "{}", process.log());
}

#[test]
fn a_directory_that_may_not_be_written_keeps_nothing_from_being_served() {
    let repo = TestRepo::new();
    let setup = serving(&repo).control("run/control.sock");
    let directory = setup.directory().join("run");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o555)).unwrap();
    let nobody = |command: &mut Command| {
        if rustix::process::geteuid().is_root() {
            // Root may write everywhere, so somebody else has to be there.
            command.uid(NOBODY).gid(NOBODY);
        }
    };
    for directory in [setup.directory(), repo.path().parent().unwrap()] {
        fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut server = Command::new(PROGRAM);
    nobody(&mut server);
    let process = Process::start_with(setup, server);
    let expected = format!(
        "this user cannot make the control socket in {}: Permission denied",
        directory.display()
    );
    let log = wait_for("the error", || {
        let log = process.log();
        log.contains(&expected).then_some(log)
    });
    let line = log.lines().find(|it| it.contains(&expected)).unwrap();
    let parts = ["ERROR", "RuntimeDirectory=ostree-serve", "chown USER"];
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert_eq!(get(&process, "/repo/config").0, 200);

    let mut check = command(&process, &["check"]);
    nobody(&mut check);
    let (_, said) = spoken(check.output().unwrap());
    assert!(said.contains(&format!("warning: {expected}")), "{said}");
    assert!(
        said.contains("fix: RuntimeDirectory=ostree-serve"),
        "{said}"
    );
}

#[test]
fn the_socket_of_a_later_process_is_left_to_it() {
    let repo = TestRepo::new();
    let mut process = start(serving(&repo));
    let path = socket(&process);
    fs::remove_file(&path).unwrap();
    let _later = UnixListener::bind(&path).unwrap();
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_refused_reload_shows_until_one_succeeds() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    assert!(!done(&process, &["status"]).contains("RELOAD"));
    process.configure(|text| text + "grase = \"2h\"\n");
    process.hang_up();
    wait_for("the refusal", || {
        let text = done(&process, &["status"]);
        let shown = text.contains("  RELOAD      refused, the old configuration is in force: ");
        (shown && text.contains("unknown key `grase`")).then_some(())
    });
    process.configure(|text| text.replace("grase", "grace"));
    process.hang_up();
    wait_for("no refusal", || {
        (!done(&process, &["status"]).contains("RELOAD")).then_some(())
    });
}

#[test]
fn the_certificate_shows_and_what_is_wrong_with_its_files() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let certificate = || {
        let report = done(&process, &["status", "--json"]);
        serde_json::from_str::<Value>(&report).unwrap()["certificate"].clone()
    };
    let first = certificate();
    let serial = first["serial"].as_str().unwrap();
    let text = done(&process, &["status"]);
    assert!(text.contains(&format!("serial {serial}\n")), "{text}");
    assert!(
        first["expires"]
            .as_str()
            .is_some_and(|it| it.ends_with('Z'))
    );
    assert_eq!(first["unfit"], Value::Null);

    let file = process.certificate();
    let good = fs::read(&file).unwrap();
    fs::write(&file, "half").unwrap();
    let unfit = wait_for("the fault", || {
        let unfit = certificate()["unfit"].clone();
        (!unfit.is_null()).then_some(unfit)
    });
    assert_eq!(unfit["place"], file.to_str().unwrap());
    assert_eq!(certificate()["serial"], serial);

    fs::write(&file, good).unwrap();
    wait_for("no fault", || {
        certificate()["unfit"].is_null().then_some(())
    });
}

#[test]
fn another_prefix_of_the_same_directory_is_named() {
    let repo = TestRepo::new();
    let process = start(serving(&repo).repo("/other", &repo.path()));
    let warning = "THE SAME DIRECTORY IS SERVED AT";
    let said = done(&process, &["hold", "/repo", "--reason", "bad kernel"]);
    assert!(
        said.contains(&format!("{warning} /other, WHICH IS NOT HELD")),
        "{said}"
    );
    let said = done(&process, &["hold", "/other", "--reason", "bad kernel"]);
    assert!(!said.contains(warning), "{said}");
}

/// A transfer that goes on keeps the process; a hold would be lost with it.
#[test]
fn nothing_is_held_by_a_server_that_ends() {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(64 << 20));
    let process = start(serving(&repo));
    let mut slow = connect(process.http());
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    slow.write_all(request.as_bytes()).unwrap();
    slow.read_exact(&mut [0; 1]).unwrap();
    process.signal(Signal::TERM);
    wait_for("the end to begin", || {
        process.log().contains("shutting down").then_some(())
    });
    let refused = wait_for("a refusal", || {
        let (code, said) = ask(&process, &["hold", "/repo", "--reason", "bad kernel"]);
        (code == 1).then_some(said)
    });
    assert!(refused.contains("the server is ending"), "{refused}");
    done(&process, &["status"]);
}

/// Starts the server as a service with these descriptors in its store.
fn start_by(manager: &Manager, setup: Setup, stored: &[(&str, &OwnedFd)]) -> Process {
    listening(manager.start(setup, stored))
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let memory = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&memory, bytes).unwrap();
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    fcntl_add_seals(&memory, seals).unwrap();
    memory
}

#[test]
fn a_service_manager_is_told_of_start_reload_and_end() {
    let repo = TestRepo::new();
    let manager = Manager::new();
    let mut process = start_by(&manager, serving(&repo), &[]);
    assert_eq!(manager.next().0, "READY=1\n");
    let (serving, _) = manager.next();
    let generation = "STATUS=Serving 1 repository; newest generation: 0 of /repo, published 2";
    assert!(serving.starts_with(generation), "{serving}");

    process.hang_up();
    let (text, _) = manager.next();
    let time = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let time = time.and_then(|it| it.trim_end().parse::<u64>().ok());
    assert!(time.is_some_and(|it| it > 0), "{text}");
    assert_eq!(manager.next().0, "READY=1\n");
    assert_eq!(manager.next().0, serving);

    process.configure(|text| text + "grase = \"2h\"\n");
    process.hang_up();
    let (text, _) = manager.wait_for("READY=1");
    assert_eq!(text, "READY=1\n");
    let (text, _) = manager.next();
    let refused = format!("{}; last reload refused at 2", serving.trim_end());
    assert!(text.starts_with(&refused), "{text}");

    // A publication is told without being asked.
    fs::write(repo.file(REF), repo.read("refs/heads/demo/prüfung")).unwrap();
    let (text, _) = manager.next();
    assert!(
        text.contains("newest generation: 1 of /repo, published 2"),
        "{text}"
    );

    process.signal(Signal::TERM);
    assert_eq!(manager.next().0, "STOPPING=1\n");
    assert!(process.wait().success());
}

#[test]
fn a_hold_survives_a_restart() {
    let repo = TestRepo::new();
    let manager = Manager::new();
    let mut first = start_by(&manager, serving(&repo), &[]);
    let said = done(&first, &["hold", "/repo", "--reason", "bad kernel"]);
    assert!(said.contains("survives a restart of the service"), "{said}");
    manager.wait_for("FDSTOREREMOVE=1");
    let (text, descriptors) = manager.next();
    assert_eq!(text, "FDSTORE=1\nFDNAME=hold-/repo\nFDPOLL=0\n");
    let [kept] = &descriptors[..] else {
        panic!("{descriptors:?}");
    };
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    assert!(fcntl_get_seals(kept).unwrap().contains(seals));
    let (text, _) = manager.next();
    assert!(
        text.starts_with("STATUS=Serving 1 repository; newest "),
        "{text}"
    );
    assert!(text.ends_with("; HELD: /repo\n"), "{text}");

    // The second one is there before the first one goes.
    done(&first, &["hold", "/repo", "--reason", "bad glibc"]);
    let (text, descriptors) = manager.next();
    assert_eq!(text, "FDSTORE=1\nFDNAME=hold-/repo~2\nFDPOLL=0\n");
    let [newer] = &descriptors[..] else {
        panic!("{descriptors:?}");
    };
    let (text, _) = manager.next();
    assert_eq!(text, "FDSTOREREMOVE=1\nFDNAME=hold-/repo\n");

    let held = status(&first)["held"].clone();
    let before = get(&first, &format!("/repo/{REF}"));
    first.signal(Signal::TERM);
    assert!(first.wait().success());

    // Published while nobody serves.
    fs::write(repo.file(REF), repo.read("refs/heads/demo/prüfung")).unwrap();
    let stored = [("hold-/repo", kept), ("hold-/repo~2", newer)];
    let second = start_by(&manager, serving(&repo), &stored);
    assert_eq!(get(&second, &format!("/repo/{REF}")), before);
    assert_eq!(status(&second)["held"], held);
    assert!(second.log().contains("still held, as before the restart"));

    let said = done(&second, &["release", "/repo"]);
    assert!(said.contains("It was held by"), "{said}");
    let (text, _) = manager.wait_for("FDSTOREREMOVE=1");
    assert_eq!(text, "FDSTOREREMOVE=1\nFDNAME=hold-/repo\n");
    let (text, _) = manager.next();
    assert_eq!(text, "FDSTOREREMOVE=1\nFDNAME=hold-/repo~2\n");
}

/// A reload opens anew what is configured in another way, and that would publish.
#[test]
fn a_reload_does_not_end_a_hold() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    done(&process, &["hold", "/repo", "--reason", "bad kernel"]);
    process.configure(|text| text + "grace = \"2h\"\n");
    process.hang_up();
    let log = process.log();
    assert!(
        log.contains("configuration reloaded: repository /repo changed"),
        "{log}"
    );
    assert_eq!(status(&process)["held"]["reason"], "bad kernel");

    // What would end it is refused.
    process.configure(|text| text.replace("\"/repo\"", "\"/elsewhere\""));
    process.hang_up();
    let log = process.log();
    assert!(log.contains("the configuration is not reloaded"), "{log}");
    assert!(log.contains("ostree-serve release /repo"), "{log}");
    assert_eq!(status(&process)["held"]["reason"], "bad kernel");
}

#[test]
fn without_a_service_manager_a_hold_says_that_it_ends_with_the_process() {
    let repo = TestRepo::new();
    let process = start(serving(&repo));
    let said = done(&process, &["hold", "/repo", "--reason", "bad kernel"]);
    assert!(
        said.contains("THE HOLD ENDS WITH THE SERVER'S PROCESS"),
        "{said}"
    );
}

#[test]
fn a_hold_that_cannot_be_restored_is_shouted() {
    let repo = TestRepo::new();
    let unsealed = OwnedFd::from(tempfile::tempfile().unwrap());
    for broken in [sealed(b"no generation"), unsealed] {
        let manager = Manager::new();
        let process = start_by(&manager, serving(&repo), &[("hold-/repo", &broken)]);
        let log = process.log();
        let line = log.lines().find(|it| it.contains("IT IS NOT HELD"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(line.contains("ERROR"), "{line}");
        assert!(line.contains("ostree-serve hold /repo --reason"), "{line}");

        let text = done(&process, &["status"]);
        assert!(
            text.contains("  WAITING     hold-/repo: IT IS NOT HELD"),
            "{text}"
        );
        assert_eq!(get(&process, "/repo/config").0, 200);

        done(&process, &["release", "/repo"]);
        let (text, _) = manager.wait_for("FDSTOREREMOVE=1");
        assert!(text.contains("FDNAME=hold-/repo\n"), "{text}");
        assert!(!done(&process, &["status"]).contains("IT IS NOT HELD"));
    }
}

#[test]
fn other_descriptors_are_left_alone() {
    let repo = TestRepo::new();
    let manager = Manager::new();
    let (socket, _other) = UnixStream::pair().unwrap();
    let socket = OwnedFd::from(socket);
    let orphan = sealed(b"");
    let stored = [("http", &socket), ("hold-/gone", &orphan)];
    let process = start_by(&manager, serving(&repo), &stored);
    let log = process.log();
    assert!(log.contains("has no use here name=\"http\""), "{log}");
    let line = log.lines().find(|it| it.contains("not served any more"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    let release = "ostree-serve release /gone --config ";
    assert!(line.contains("ERROR") && line.contains(release), "{line}");
    let text = done(&process, &["status", "/gone"]);
    assert!(text.contains(release), "{text}");
    assert!(
        text.contains("hold-/gone: a hold is kept for a repository that is not served"),
        "{text}"
    );
    let said = done(&process, &["release", "/gone"]);
    assert!(
        said.contains("the hold that was kept for it is gone"),
        "{said}"
    );
    manager.wait_for("FDSTOREREMOVE=1");
}

/// What the manager says is no reason not to serve.
#[test]
fn a_broken_list_of_descriptors_is_shouted() {
    let repo = TestRepo::new();
    let mut command = Command::new("sh");
    command
        .args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\"", PROGRAM])
        .env("LISTEN_FDS", "1000")
        .env("LISTEN_FDNAMES", "hold-/repo");
    let process = listening(Process::start_with(serving(&repo), command));
    let log = process.log();
    assert!(
        log.contains("what the service manager kept cannot be taken over"),
        "{log}"
    );
    assert_eq!(get(&process, "/repo/config").0, 200);
    assert!(Path::new(&socket(&process)).exists());
}
