//! The process confines itself: that it is confined in each of its threads, that it
//! serves all the same, and what a reload may then change.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::process::Process;
use common::{Setup, TestRepo, wait_for};
use rustix::process::{Resource, Rlimit, Signal, geteuid, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ostree-serve");

fn serving(repo: &TestRepo) -> Setup {
    Setup::new().repo("/repo", &repo.path())
}

/// What a subcommand that asks the server says, and its exit code.
fn ask(process: &Process, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(PROGRAM)
        .args(arguments)
        .arg("--config")
        .arg(process.directory().join("serve.toml"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The attempts of `sandbox-check`, and its exit code.
fn attempts(process: &Process) -> (i32, Vec<Value>) {
    let (code, out, errors) = ask(process, &["sandbox-check", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{errors}"));
    (code, report["attempts"].as_array().unwrap().clone())
}

/// The status code of a request in plaintext.
fn get(process: &Process, path: &str) -> u16 {
    let mut stream = TcpStream::connect(process.http()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply);
    let code = reply.split(' ').nth(1).unwrap_or_default();
    code.parse().unwrap_or_else(|_| panic!("{reply}"))
}

/// A line of the status of each thread, and how many threads there are.
fn threads(process: &Process, key: &str) -> Vec<String> {
    let tasks = format!("/proc/{}/task", process.pid().as_raw_nonzero());
    let line = |entry: fs::DirEntry| {
        // One may end while it is looked at.
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|it| it.strip_prefix(key));
        Some(
            line.unwrap_or_else(|| panic!("{key}: {status}"))
                .trim()
                .to_owned(),
        )
    };
    let tasks = fs::read_dir(tasks).unwrap();
    tasks.filter_map(|it| line(it.unwrap())).collect()
}

#[test]
fn every_thread_is_confined() {
    allow_core_dumps();
    let repo = TestRepo::new();
    let large = repo.plant_object(3_000_000);
    let process = Process::start(
        serving(&repo)
            .uncached()
            .sandbox("mode = \"require\"\nuser = \"root\"\n"),
    );
    // So that threads are there which wait for disks.
    for _ in 0..8 {
        assert_eq!(get(&process, &format!("/repo/{large}")), 200);
    }
    assert_eq!(ask(&process, &["status"]).0, 0);
    let processors = std::thread::available_parallelism().unwrap().get();
    for (key, expected) in [
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("CapAmb:", "0000000000000000"),
        ("CapInh:", "0000000000000000"),
    ] {
        let found = threads(&process, key);
        assert!(found.len() > 2 * processors, "{found:?}");
        assert!(found.iter().all(|it| it == expected), "{key} {found:?}");
    }
    // Reading all, and low ports, is all that root keeps.
    for capabilities in threads(&process, "CapEff:") {
        let bits = u64::from_str_radix(&capabilities, 16).unwrap();
        assert_eq!(bits & !(1 << 2 | 1 << 10), 0, "{capabilities}");
    }
    assert_eq!(core_limit(&process), "0");
    let log = process.log();
    assert!(
        log.contains("confined by no new privileges, Landlock ABI"),
        "{log}"
    );
    let (_, status, _) = ask(&process, &["status"]);
    let line = status
        .lines()
        .find(|it| it.trim_start().starts_with("confined"));
    assert!(
        line.is_some_and(|it| it.contains("Landlock ABI") && it.ends_with("seccomp")),
        "{status}"
    );
}

#[test]
fn everything_forbidden_is_denied() {
    let repo = TestRepo::new();
    let process = Process::start(serving(&repo));
    let (code, attempts) = attempts(&process);
    let possible: Vec<_> = attempts
        .iter()
        .filter(|it| it["outcome"] != "denied")
        .collect();
    let not_here = |it: &&Value| it["outcome"] == "possible";
    assert!(!possible.iter().any(not_here), "{possible:#?}");
    assert_eq!(code, 0);
    let by = |layer: &str| attempts.iter().filter(|it| it["by"] == layer).count();
    assert!(by("Landlock") >= 12, "{attempts:#?}");
    assert!(by("seccomp") >= 24, "{attempts:#?}");
    let (code, out, _) = ask(&process, &["sandbox-check"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("none of them possible"), "{out}");
    assert!(process.log().contains("what is forbidden is being tried"));
}

/// Everything in a directory, with what a change would change.
fn picture(directory: &Path) -> Vec<(PathBuf, u32, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let facts = path.symlink_metadata().unwrap();
        if facts.is_dir() {
            found.extend(picture(&path));
        }
        found.push((path, facts.mode(), facts.len()));
    }
    found.sort();
    found
}

/// Processes that are started from now on may leave behind what is in their memory, as
/// far as this machine lets them.
fn allow_core_dumps() {
    let maximum = getrlimit(Resource::Core).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Core, all).unwrap();
}

/// How much of its memory a process leaves behind when it crashes.
fn core_limit(process: &Process) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid().as_raw_nonzero()));
    let limits = limits.unwrap();
    let core = limits
        .lines()
        .find_map(|it| it.strip_prefix("Max core file size"))
        .unwrap();
    core.split_whitespace().next().unwrap().to_owned()
}

/// The attempts do no harm where nothing denies them, and are told from those that
/// were denied.
#[test]
fn what_is_possible_is_found_and_does_no_harm() {
    allow_core_dumps();
    let repo = TestRepo::new();
    let process = Process::start(serving(&repo).sandbox("mode = \"off\"\nuser = \"root\"\n"));
    let before = picture(&repo.path());
    let (code, attempts) = attempts(&process);
    assert_eq!(code, 1);
    let outcome = |what: &str| {
        let found = attempts
            .iter()
            .find(|it| it["operation"].as_str().unwrap().starts_with(what));
        found.unwrap_or_else(|| panic!("{what}: {attempts:#?}"))["outcome"].clone()
    };
    for what in [
        "write to",
        "make a directory",
        "remove a directory in",
        "remove a file in",
        "start a program",
        "make memory executable",
        "connect by the first data",
        "open a socket for UDP",
        "make a process in a namespace",
    ] {
        assert_eq!(outcome(what), "possible", "{what}");
    }
    assert_eq!(picture(&repo.path()), before);
    assert_eq!(core_limit(&process), "0");
    assert_eq!(get(&process, "/repo/config"), 200);
    let (code, out, _) = ask(&process, &["sandbox-check"]);
    assert_eq!(code, 1);
    assert!(out.contains("POSSIBLE") && out.contains("fix: "), "{out}");
    assert!(
        process.log().contains("does not confine itself"),
        "{}",
        process.log()
    );
}

/// A directory that was moved away is still open, and Landlock looks where it is
/// now. That shows that the threads which serve are under its rules: without, the
/// file is served.
#[test]
fn threads_that_serve_read_what_is_within_reach_alone() {
    for (mode, expected) in [("off", 200), ("auto", 500)] {
        let (directory, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let www = directory.path().join("in/www");
        fs::create_dir_all(&www).unwrap();
        fs::write(www.join("a.txt"), "a").unwrap();
        let setup = Setup::new().statics("/", &www);
        let process =
            Process::start(setup.sandbox(&format!("mode = \"{mode}\"\nuser = \"root\"\n")));
        assert_eq!(get(&process, "/a.txt"), 200, "{mode}");
        fs::rename(&www, elsewhere.path().join("www")).unwrap();
        let found = get(&process, "/a.txt");
        assert_eq!(found == 200, expected == 200, "{mode}: {found}");
    }
}

#[test]
fn a_reload_is_confined_to_what_is_within_reach() {
    let (repo, beside, elsewhere) = (TestRepo::new(), TestRepo::new(), TestRepo::new());
    let sibling = repo.path().with_file_name("sibling");
    fs::rename(beside.path(), &sibling).unwrap();
    let process = Process::start(serving(&repo));
    let add = |prefix: &str, path: &Path| {
        let repo = format!("[[repo]]\nprefix = {prefix:?}\npath = {path:?}\n");
        process.configure(|text| text + &repo);
        process.hang_up();
    };
    add("/sibling", &sibling);
    assert_eq!(get(&process, "/sibling/config"), 200, "{}", process.log());
    add("/elsewhere", &elsewhere.path());
    let log = process.log();
    assert!(
        log.contains("is out of reach") && log.contains("sandbox.directories"),
        "{log}"
    );
    assert_eq!(get(&process, "/elsewhere/config"), 404);
    assert_eq!(get(&process, "/sibling/config"), 200);
    let (_, status, _) = ask(&process, &["status"]);
    assert!(status.contains("out of reach"), "{status}");
}

#[test]
fn directories_can_be_put_within_reach_beforehand() {
    let (repo, elsewhere) = (TestRepo::new(), TestRepo::new());
    let around = elsewhere.path().parent().unwrap().to_owned();
    let setup = serving(&repo).sandbox(&format!("user = \"root\"\ndirectories = [{around:?}]\n"));
    let process = Process::start(setup);
    let repo = format!(
        "[[repo]]\nprefix = \"/elsewhere\"\npath = {:?}\n",
        elsewhere.path()
    );
    process.configure(|text| text + &repo);
    process.hang_up();
    assert_eq!(get(&process, "/elsewhere/config"), 200, "{}", process.log());
}

/// As when a disk is mounted again: the same names, and to Landlock something else. What
/// to do is in the log, and is neither a mode nor a label.
#[test]
fn a_surrounding_directory_that_was_replaced_needs_a_restart() {
    let (repo, scratch) = (TestRepo::new(), TempDir::new().unwrap());
    let at = |name: &str| scratch.path().join(name);
    let restart = "systemctl restart ostree-serve";
    for is_copied in [false, true] {
        let (around, before) = (at("around"), at("before"));
        _ = fs::remove_dir_all(&around);
        _ = fs::remove_dir_all(&before);
        copy(&repo.path(), &around.join("repo"));
        let process = Process::start(Setup::new().uncached().repo("/repo", &around.join("repo")));
        let path = format!("/repo/{}", repo.find(".dirtree"));
        assert_eq!(get(&process, &path), 200);
        fs::rename(&around, &before).unwrap();
        fs::create_dir(&around).unwrap();
        match is_copied {
            false => fs::rename(before.join("repo"), around.join("repo")).unwrap(),
            true => copy(&before.join("repo"), &around.join("repo")),
        }
        wait_for("what to do", || {
            get(&process, &path);
            process.log().contains(restart).then_some(())
        });
        let log = process.log();
        assert!(!log.contains("chmod"), "{log}");
        process.hang_up();
        let (_, status, _) = ask(&process, &["status"]);
        assert!(status.contains("was mounted or renamed anew"), "{status}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let status = Command::new("cp")
        .args(["-a", "-T"])
        .args([from, to])
        .status();
    assert!(status.unwrap().success());
}

/// The control socket is made by a confined process, with the permissions that it
/// always has, and goes with it.
#[test]
fn a_control_socket_is_moved_and_removed() {
    let repo = TestRepo::new();
    let mut process = Process::start(serving(&repo));
    process.configure(|text| text.replace("\"control.sock\"", "\"other.sock\""));
    process.hang_up();
    let at = |name: &str| process.directory().join(name);
    let other = at("other.sock");
    let mode = fs::metadata(&other).unwrap_or_else(|_| panic!("{}", process.log()));
    assert_eq!(mode.permissions().mode() & 0o777, 0o660);
    assert!(!at("control.sock").exists());
    assert_eq!(ask(&process, &["status"]).0, 0);
    process.signal(Signal::TERM);
    process.wait();
    assert!(!other.exists());
}

/// What was missing at the start keeps nothing from being reloaded, and the log says
/// what to do.
#[test]
fn a_control_socket_whose_directory_came_later_needs_a_restart() {
    let repo = TestRepo::new();
    let process = Process::start(serving(&repo).control("run/control.sock"));
    fs::create_dir(process.directory().join("run")).unwrap();
    process.hang_up();
    let log = process.log();
    assert!(
        log.contains("configuration reloaded: nothing changed"),
        "{log}"
    );
    let line = log
        .lines()
        .find(|it| it.contains("cannot listen for `hold`"));
    assert!(line.is_some_and(|it| it.contains("restart it")), "{log}");
}

/// By a path, as systemd's is, and by an abstract name, as in a container.
#[test]
fn the_service_manager_is_still_told() {
    for is_abstract in [false, true] {
        let repo = TestRepo::new();
        let setup = serving(&repo);
        let path = setup.directory().join("notify");
        let (manager, name) = match is_abstract {
            false => (UnixDatagram::bind(&path), path.display().to_string()),
            true => {
                let name = format!("ostree-serve-test-{}", std::process::id());
                let address = SocketAddr::from_abstract_name(&name).unwrap();
                (UnixDatagram::bind_addr(&address), format!("@{name}"))
            }
        };
        let manager = manager.unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut command = Command::new(PROGRAM);
        command.env("NOTIFY_SOCKET", name);
        let process = Process::start_with(setup, command);
        let told = |what: &str| {
            let mut message = [0; 4096];
            loop {
                let len = manager.recv(&mut message).unwrap_or_else(|error| {
                    panic!("{what}: {error}: {}", process.log());
                });
                if String::from_utf8_lossy(&message[..len]).contains(what) {
                    return;
                }
            }
        };
        told("READY=1");
        process.signal(Signal::HUP);
        told("RELOADING=1");
        told("READY=1");
        process.signal(Signal::TERM);
        told("STOPPING=1");
    }
}

#[test]
fn root_becomes_the_server_s_user() {
    if !geteuid().is_root() {
        // Whoever is not root stays who he is, whatever the user is called.
        let repo = TestRepo::new();
        let process = Process::start(serving(&repo).sandbox("user = \"nobody\"\n"));
        assert_eq!(get(&process, "/repo/config"), 200);
        return;
    }
    let repo = TestRepo::new();
    let open =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(repo.path().parent().unwrap(), 0o755);
    let setup = serving(&repo).sandbox("user = \"nobody\"\n");
    open(setup.directory(), 0o755);
    let key = setup.directory().join("key.pem");
    setup.config();
    let process = Process::start(setup.own_certificate());
    for (key, expected) in [
        ("Uid:", "65534"),
        ("Gid:", "65534"),
        ("CapPrm:", "0000000000000000"),
    ] {
        for line in threads(&process, key) {
            assert!(
                line.split_whitespace().all(|it| it == expected),
                "{key} {line}"
            );
        }
    }
    assert_eq!(get(&process, "/repo/config"), 200);
    // The group of the user that it has become may ask.
    let (code, _, errors) = ask(&process, &["status"]);
    assert_eq!(code, 0, "{errors}");
    process.hang_up();
    assert!(
        process.log().contains("configuration reloaded"),
        "{}",
        process.log()
    );
    // A key that only root may read would fail at the next reload.
    open(&key, 0o600);
    let file = process.directory().join("serve.toml");
    process.configure(|text| text.replace("control.sock", "second.sock"));
    let second = Command::new(PROGRAM)
        .arg("--config")
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(78), "{said}");
    assert!(
        said.contains("the user nobody") && said.contains("chgrp 65534"),
        "{said}"
    );
}

#[test]
fn a_user_that_does_not_exist_is_no_start() {
    if !geteuid().is_root() {
        return;
    }
    let repo = TestRepo::new();
    let setup = serving(&repo).sandbox("user = \"no-such-user\"\n");
    let file = setup.directory().join("serve.toml");
    fs::write(&file, setup.config()).unwrap();
    let output = Command::new(PROGRAM)
        .arg("--config")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("there is no user `no-such-user`"), "{said}");
    assert!(said.contains("systemd-sysusers"), "{said}");
}

/// Content, the certificate and the configuration change under the confined server.
#[test]
fn a_certificate_is_replaced() {
    let repo = TestRepo::new();
    let process = Process::start(serving(&repo));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let put = |name: &str, text: String| {
        let new = process.directory().join(format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, process.directory().join(name)).unwrap();
    };
    put("key.pem", made.signing_key.serialize_pem());
    put("certificate.pem", made.cert.pem());
    wait_for("the new certificate", || {
        process.log().contains("certificate replaced").then_some(())
    });
}
