//! What passes between the server and the kernel, seen and changed by the real
//! strace: how many writes a reply takes, and what becomes of a system call that
//! fails or does not exist.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;

use common::client::{Client, connect};
use common::command::Program;
use common::process::Process;
use common::{Setup, TIP, TestRepo, wait_for};

fn setup(repo: &TestRepo) -> Setup {
    Setup::new().repo("/repo", &repo.path())
}

/// A server whose system calls go wrong as `fault` says (strace's `inject=`).
fn faulty(setup: Setup, faults: &[&str]) -> Process {
    let mut arguments = vec!["-f", "-qq", "-o", "/dev/null"];
    for fault in faults {
        arguments.extend(["-e", fault]);
    }
    Process::start_under(setup, "strace", &arguments)
}

fn tls_client(server: &Process) -> Client {
    Client::tls_over(connect(server.https()), &server.certificate())
}

/// A pull touches every kind of file, and a ref that is a link.
fn pull(server: &Process) {
    let client = tempfile::TempDir::new().unwrap();
    let script = format!(
        "ostree init --repo=c --mode=bare-user-only
         ostree remote add --repo=c --no-gpg-verify --set=tls-ca-path={} demo https://localhost:{}/repo
         ostree pull --repo=c --disable-static-deltas demo demo/x86_64/latest
         ostree pull --repo=c --depth=-1 demo demo/prüfung demo/x86_64/stable
         ostree fsck --repo=c
         ostree rev-parse --repo=c demo:demo/x86_64/latest",
        server.certificate().display(),
        server.https().port()
    );
    let output = Program::new("sh")
        .args(["-euc", &script])
        .current_dir(client.path())
        .run();
    assert!(output.stdout.contains(TIP), "{output:?}");
}

/// Header and body of a small reply leave in one write: a second one would wait
/// for the client's delayed acknowledgement (client-contract 2.3).
#[test]
fn a_small_reply_is_one_write() {
    let repo = TestRepo::new();
    let object = repo.find(".dirtree");
    let path = format!("/repo/{object}");

    // How many more writes it takes to answer 101 requests instead of one.
    let writes = |name: &str, requests: &dyn Fn(&Process, usize)| {
        let counts = [1, 101].map(|count| {
            let trace = tempfile::NamedTempFile::new().unwrap();
            let file = trace.path().to_str().unwrap();
            let calls = "trace=write,writev,sendto,sendmsg";
            let server = Process::start_under(
                setup(&repo),
                "strace",
                &["-f", "-qq", "-yy", "-o", file, "-e", calls],
            );
            requests(&server, count);
            let mut server = server;
            let port = format!(
                ":{}->",
                if name == "http" {
                    server.http()
                } else {
                    server.https()
                }
                .port()
            );
            server.end_child();
            let trace = fs::read_to_string(trace.path()).unwrap();
            trace
                .lines()
                .filter(|line| line.contains("<TCP:") && line.contains(&port))
                .count()
        });
        // Over HTTP/2 the first reply may leave together with what greets the client,
        // which itself is three writes or five, as the client's answers come.
        let expected = if name == "h2" { 97..=103 } else { 100..=100 };
        assert!(
            expected.contains(&(counts[1] - counts[0])),
            "{name}: {counts:?}"
        );
    };
    let ask = |mut client: Client, count: usize| {
        for _ in 0..count {
            assert_eq!(client.get(&path).status, 200);
        }
    };
    writes("http", &|server, count| {
        ask(Client::over(connect(server.http())), count)
    });
    writes("https", &|server, count| ask(tls_client(server), count));
    // curl asks one after the other over one connection.
    writes("h2", &|server, count| {
        let url = format!("https://localhost:{}{path}", server.https().port());
        Program::new("curl")
            .args(["--silent", "--fail", "--http2", "--cacert"])
            .arg(server.certificate())
            .args(vec![url.as_str(); count])
            .run();
    });
}

/// What the server did to answer one request, as strace saw it, and the body.
fn traced(setup: Setup, fetch: impl FnOnce(&Process) -> Vec<u8>) -> (String, Vec<u8>) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let file = trace.path().to_str().unwrap();
    let calls = "trace=sendfile,sendmsg,writev,preadv2";
    let arguments = ["-f", "-qq", "-yy", "-o", file, "-e", calls];
    let mut server = Process::start_under(setup, "strace", &arguments);
    let body = fetch(&server);
    server.end_child();
    (fs::read_to_string(trace.path()).unwrap(), body)
}

/// In plaintext the kernel sends large files by itself. That rests on how hyper
/// passes on what it is given (`transport::outbox`), so it is to be looked at with
/// each new version of hyper.
#[test]
fn the_kernel_sends_large_files_in_plaintext() {
    const LEN: usize = 5_000_000;
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LEN));
    let plain = |server: &Process| Client::over(connect(server.http())).get(&path).body;
    let over_tls = |server: &Process| tls_client(server).get(&path).body;

    let (trace, body) = traced(setup(&repo), plain);
    assert!(body == common::pattern(LEN), "other bytes");
    assert!(trace.contains("sendfile("), "{trace}");
    assert!(trace.contains("MSG_MORE"), "the head leaves alone: {trace}");

    for (setup, fetch) in [
        (
            setup(&repo).transfer("zero_copy = \"off\""),
            &plain as &dyn Fn(&Process) -> Vec<u8>,
        ),
        (setup(&repo).transfer("zero_copy = \"off\""), &over_tls),
    ] {
        let (trace, body) = traced(setup, fetch);
        assert!(body == common::pattern(LEN), "other bytes");
        assert!(!trace.contains("sendfile("), "{trace}");
    }
}

/// A file system that the kernel cannot send from, or a filter of system calls.
#[test]
fn what_the_kernel_cannot_send_is_read() {
    const LEN: usize = 5_000_000;
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LEN));
    for errno in ["EINVAL", "ENOSYS"] {
        let mut server = faulty(setup(&repo), &[&format!("inject=sendfile:error={errno}")]);
        let mut client = Client::over(connect(server.http()));
        for _ in 0..2 {
            assert!(
                client.get(&path).body == common::pattern(LEN),
                "other bytes"
            );
        }
        server.end_child();
    }
}

/// A transfer that had to wait for the disk once has the pool read for it the next
/// time as well: the thread that serves also serves others meanwhile.
#[test]
fn only_the_pool_waits_for_the_disk() {
    const LEN: usize = 1_000_000;
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LEN));
    let trace = tempfile::NamedTempFile::new().unwrap();
    let file = trace.path().to_str().unwrap();
    let mut server = Process::start_under(
        setup(&repo),
        "strace",
        &[
            "-f",
            "-qq",
            "-yy",
            "--decode-pids=comm",
            "-o",
            file,
            "-e",
            "trace=pread64,preadv2",
            // Every other look finds nothing in memory.
            "-e",
            "inject=preadv2:error=EAGAIN:when=1+2",
        ],
    );
    assert!(
        tls_client(&server).get(&path).body == common::pattern(LEN),
        "other bytes"
    );
    server.end_child();
    let trace = fs::read_to_string(trace.path()).unwrap();
    let object = path.trim_start_matches("/repo/");
    let reads = || {
        let waits = |line: &&str| line.contains("pread64(") && line.contains(object);
        trace.lines().filter(waits)
    };
    assert!(reads().count() > 3, "it had not to wait: {trace}");
    let stalls: Vec<_> = reads().filter(|line| line.contains("<reactor>")).collect();
    assert!(stalls.is_empty(), "{stalls:#?}");
}

#[test]
fn old_kernels_and_system_call_filters_are_no_obstacle() {
    let repo = TestRepo::new();
    let cases: [&[&str]; 5] = [
        // Before Linux 5.6, and what filters answer.
        &["inject=openat2:error=ENOSYS"],
        &["inject=openat2:error=EPERM"],
        // File systems that cannot tell what is in memory.
        &["inject=preadv2:error=EOPNOTSUPP"],
        &["inject=openat2:error=ENOSYS", "inject=preadv2:error=ENOSYS"],
        // Linux 5.9 and 5.10: a false end of file.
        &["inject=preadv2:retval=0"],
    ];
    for faults in cases {
        let mut server = faulty(setup(&repo), faults);
        pull(&server);
        let missing = Client::over(connect(server.http())).get("/repo/refs/heads/none");
        assert_eq!(missing.status, 404, "{faults:?}");
        server.end_child();
    }
}

/// Not 403 and not 404: libostree takes both for "does not exist", and what is
/// signed would silently look unsigned (client-contract 2.2).
#[test]
fn a_failing_disk_is_an_error_with_advice() {
    let repo = TestRepo::new();
    let object = repo.find(".dirtree");
    let cases = [
        ("openat2", "EIO", "Input/output error", "dmesg"),
        // Nothing that a mode says is in the way.
        (
            "openat2",
            "EACCES",
            "Permission denied",
            "systemctl restart",
        ),
        ("openat2", "ESTALE", "Stale file handle", "dmesg"),
        ("preadv2", "EIO", "Input/output error", "dmesg"),
    ];
    for (call, errno, reason, remedy) in cases {
        // Each thread's calls are counted, and the main thread's first ones are
        // those of the start.
        let fault = format!("inject={call}:error={errno}:when=4+");
        let mut server = faulty(setup(&repo).uncached(), &[&fault]);
        let mut client = Client::over(connect(server.http()));
        wait_for("the fault", || {
            let status = client.get(&format!("/repo/{object}")).status;
            assert!([200, 500].contains(&status), "{fault}: {status}");
            (status == 500).then_some(())
        });
        let log = server.log();
        assert!(
            log.contains(&format!("{object}: {reason}")) && log.contains(remedy),
            "{log}"
        );
        server.end_child();
    }
}

/// Clients forgive a delay, and not an error (client-contract 2.2).
#[test]
fn descriptors_that_run_out_for_a_moment_delay_a_reply() {
    let repo = TestRepo::new();
    let object = repo.find(".dirtree");
    // Each thread's calls are counted, and the main thread's first ones are those
    // of the start.
    let mut server = faulty(
        setup(&repo).uncached(),
        &["inject=openat2:error=EMFILE:when=4..6"],
    );
    let mut client = Client::over(connect(server.http()));
    let log = wait_for("the fault", || {
        assert_eq!(client.get(&format!("/repo/{object}")).status, 200);
        Some(server.log()).filter(|log| log.contains("Too many open files"))
    });
    assert!(log.contains("LimitNOFILE="), "{log}");
    server.end_child();
}

#[test]
fn a_disk_that_fails_in_mid_transfer_breaks_that_transfer() {
    let repo = TestRepo::new();
    let object = repo.plant_object(3_000_000);
    let mut server = faulty(setup(&repo), &["inject=preadv2:error=EIO:when=20+"]);
    let mut client = tls_client(&server);
    client.send(format!("GET /repo/{object} HTTP/1.1\r\nHost: h\r\n\r\n"));
    let (bytes, error) = client.read_to_end();
    assert!(bytes.len() < 3_000_000);
    // Without close_notify, so that nobody takes it for the end.
    assert!(error.is_some(), "{}", bytes.len());
    assert!(
        server.log().contains("a transfer was aborted"),
        "{}",
        server.log()
    );
    server.end_child();
}
