//! The promise of reloading, with the real curl and openssl and by real signals:
//! certificates and configuration change all the time, and no transfer notices.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::certificate::Pair;
use common::command::Program;
use common::process::Process;
use common::{Setup, TestRepo, pattern, wait_for};
use rustix::process::Signal;

const ROUNDS: u64 = 30;
const LARGE: u64 = 1 << 30;
const SMALL: usize = 4_000_000;

/// A transfer by curl, which goes on by itself.
struct Transfer {
    curl: Child,
    directory: PathBuf,
    number: usize,
}

impl Transfer {
    /// At so many bytes per second.
    fn begin(server: &Process, directory: &Path, number: usize, path: &str, rate: &str) -> Self {
        let protocol = ["--http2", "--http1.1"][number % 2];
        let file = |kind: &str| directory.join(format!("{number}.{kind}"));
        let (content, write_out) = match number {
            // A gigabyte of zeros is counted, and not kept.
            0 => (PathBuf::from("/dev/null"), "%{size_download}"),
            _ => (file("content"), ""),
        };
        let curl = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--no-buffer",
                protocol,
            ])
            .args([
                "--limit-rate",
                rate,
                "--write-out",
                write_out,
                "--noproxy",
                "*",
            ])
            // The certificate that is there now: connections outlive it.
            .arg("--cacert")
            .arg(directory.join("first.pem"))
            .arg("--dump-header")
            .arg(file("header"))
            .arg("--output")
            .arg(content)
            .arg(format!("https://localhost:{}{path}", server.https().port()))
            .stdin(Stdio::null())
            .stdout(fs::File::create(file("out")).unwrap())
            .stderr(fs::File::create(file("error")).unwrap())
            .spawn()
            .expect("curl runs; tests/run installs it");
        Self {
            curl,
            directory: directory.to_owned(),
            number,
        }
    }

    fn read(&self, kind: &str) -> Vec<u8> {
        fs::read(self.directory.join(format!("{}.{kind}", self.number))).unwrap_or_default()
    }

    fn has_begun(&self) -> bool {
        self.read("header").ends_with(b"\r\n\r\n")
    }

    fn is_under_way(&mut self) -> bool {
        self.curl.try_wait().unwrap().is_none()
    }

    /// Waits for the end; panics unless it is a good one.
    fn end(mut self, content: &[u8]) {
        let status = self.curl.wait().unwrap();
        let error = String::from_utf8(self.read("error")).unwrap();
        assert!(
            status.success(),
            "transfer {}: {status} {error}",
            self.number
        );
        match self.number {
            0 => assert_eq!(self.read("out"), LARGE.to_string().as_bytes()),
            _ => assert!(
                self.read("content") == content,
                "{}: other bytes",
                self.number
            ),
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        _ = self.curl.kill();
        _ = self.curl.wait();
    }
}

/// What the server takes of the machine.
#[derive(Debug)]
struct Usage {
    descriptors: usize,
    memory_kib: u64,
}

impl Usage {
    fn of(server: &Process) -> Self {
        let process = PathBuf::from(format!("/proc/{}", server.pid().as_raw_nonzero()));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = line.unwrap().trim().strip_suffix(" kB").unwrap();
        Self {
            descriptors: fs::read_dir(process.join("fd")).unwrap().count(),
            memory_kib: memory.parse().unwrap(),
        }
    }
}

/// How many of the server's descriptors are inotify's.
fn inotify_instances(server: &Process) -> usize {
    let directory = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    let entries = fs::read_dir(directory).unwrap().flatten();
    let leads_to = entries.filter_map(|it| fs::read_link(it.path()).ok());
    leads_to
        .filter(|it| it.as_os_str() == "anon_inode:inotify")
        .count()
}

/// The serial number of the certificate that the server shows to openssl.
fn serial(server: &Process) -> String {
    let port = server.https().port();
    let client = format!(
        "openssl s_client -connect 127.0.0.1:{port} </dev/null 2>/dev/null |
             openssl x509 -noout -serial"
    );
    let said = Program::new("sh").args(["-euc", &client]).run().stdout;
    said.trim().strip_prefix("serial=").unwrap().to_owned()
}

/// A change of the configuration, and whether it is a good one.
fn change(good: &str, other: &Path, number: u64) -> (String, bool) {
    match number % 6 {
        0 => (good.to_owned(), true),
        1 => {
            let more = format!("[[repo]]\nprefix = \"/other\"\npath = {other:?}\n");
            (format!("{good}{more}"), true)
        }
        2 => (
            good.replace("\nhttp = [", "\nhttp = [\"127.0.0.2:0\", \"unix:a.sock\", "),
            true,
        ),
        3 => (
            good.replace("[limits]\n", "[limits]\nconnections = 60\nidle = \"20s\"\n"),
            true,
        ),
        // The repository goes, and with it what is being sent.
        4 => (
            good.replace("prefix = \"/repo\"", "prefix = \"/moved\""),
            true,
        ),
        _ => (format!("{good}[[repo\n"), false),
    }
}

#[test]
fn no_transfer_notices() {
    let (repo, other) = (TestRepo::new(), TestRepo::new());
    let large = repo.plant_object(1);
    repo.truncate(&large, LARGE);
    let small = repo.plant_object(SMALL);
    let content = pattern(SMALL);
    // What was served stays open for the grace, which is not to last here.
    let setup = Setup::new()
        .repo("/repo", &repo.path())
        .repo_line("grace = \"1s\"\npoll = \"1s\"")
        // A reload is to add a repository that is in no directory of these.
        .sandbox(&format!(
            "user = \"root\"\ndirectories = [{:?}]\n",
            other.path()
        ))
        .own_certificate();
    Pair::new(0x1000).put(setup.directory());
    let server = Process::start(setup);
    let directory = server.directory().to_owned();
    fs::copy(server.certificate(), directory.join("first.pem")).unwrap();
    let good = fs::read_to_string(directory.join("serve.toml")).unwrap();

    wait_for("watches on the repository and the certificate", || {
        (inotify_instances(&server) == 2).then_some(())
    });
    let fresh = Usage::of(&server);
    // What is made once is made before the first measurement.
    let warm_up = |number: usize| {
        let path = format!("/repo/{small}");
        Transfer::begin(&server, &directory, number, &path, "100M")
    };
    let first: Vec<_> = (1..50).map(warm_up).collect();
    first.into_iter().for_each(|it| it.end(&content));
    let idle = wait_for("an idle server", || {
        let usage = Usage::of(&server);
        (usage.descriptors <= fresh.descriptors + 3).then_some(usage)
    });

    let transfer = |number: usize| match number {
        0 => Transfer::begin(&server, &directory, 0, &format!("/repo/{large}"), "50M"),
        _ => {
            _ = fs::remove_file(directory.join(format!("{number}.header")));
            let path = format!("/repo/{small}");
            Transfer::begin(&server, &directory, number, &path, "250K")
        }
    };
    let mut transfers: Vec<_> = (0..50).map(transfer).collect();
    wait_for("the transfers to begin", || {
        transfers.iter().all(Transfer::has_begun).then_some(())
    });

    for number in 1..=ROUNDS {
        Pair::new(0x1000 + number).put(&directory);
        let (text, is_good) = change(&good, other.path().as_path(), number);
        fs::write(directory.join("serve.toml"), text).unwrap();
        let refused = || server.log().matches("is not reloaded").count();
        let before = refused();
        server.hang_up();
        assert_eq!(refused() == before, is_good, "{}", server.log());
        // If the configuration was no good, the certificate comes by itself.
        let expected = format!("{:X}", 0x1000 + number);
        wait_for("the new certificate", || {
            (serial(&server) == expected).then_some(())
        });
    }
    assert!(
        transfers[0].is_under_way(),
        "it ended before the last round"
    );
    for transfer in transfers.drain(..) {
        transfer.end(&content);
    }

    fs::write(directory.join("serve.toml"), &good).unwrap();
    server.hang_up();
    let after = wait_for("an idle server", || {
        let usage = Usage::of(&server);
        (usage.descriptors <= idle.descriptors).then_some(usage)
    });
    let most = idle.memory_kib + 32 * 1024;
    assert!(after.memory_kib < most, "{idle:?}, then {after:?}");
    println!("{idle:?}, then {after:?}");
}

/// A ticket of the time before a rotation is good after it.
#[test]
fn openssl_resumes_a_session_across_a_rotation() {
    let repo = TestRepo::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
        Pair::new(0x1000).put(setup.directory());
        let mut server = Process::start(setup);
        let port = server.https().port();
        let client = format!("openssl s_client -connect 127.0.0.1:{port} {version}");
        let run = |text: &str| {
            let sh = Program::new("sh").args(["-euc", text]);
            sh.current_dir(server.directory()).run().stdout
        };
        run(&format!(
            "printf 'GET /repo/config HTTP/1.0\\r\\n\\r\\n' |
                 {client} -ign_eof -sess_out session 2>&1 | grep 'mode='"
        ));
        Pair::new(0x1001).put(server.directory());
        server.hang_up();
        assert_eq!(serial(&server), "1001");
        let said = run(&format!("{client} -sess_in session </dev/null 2>&1"));
        assert!(said.contains("Reused, "), "{version}: {said}");
        server.signal(Signal::TERM);
        assert!(server.wait().success());
    }
}
