//! A disk that is slow: who asks for what is in memory does not wait for it.
//!
//! The real strace makes each read that may wait (pread64) take its time. The files
//! are really not in memory, so it is the kernel's word (`RWF_NOWAIT`) that counts.

#![cfg(feature = "real-clients")]

mod common;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{Client, connect};
use common::hyper_client::Sender;
use common::process::Process;
use common::transport::Transport;
use common::{Setup, TestRepo};
use rustix::fs::Advice;

/// What a read takes that may wait.
const DELAY: Duration = Duration::from_millis(300);
/// Far more than it takes to be answered from memory, on a busy machine too, and
/// less than one such read.
const BOUND: Duration = Duration::from_millis(200);

/// Requests for what is in memory.
const HOT: usize = 1_000;
/// Of these so many may take longer: nine of a thousand are beyond the 99th
/// percentile.
const SLOW: usize = HOT / 100 - 1;
/// Clients that ask for what is not.
const COLD_CLIENTS: usize = 6;
/// What they ask for, each file once.
const COLD_FILES: usize = 400;

/// A connection that gets a file, and says how long it is.
type Get = Box<dyn FnMut(&str) -> usize>;

fn open(transport: Transport, server: &Process) -> Get {
    match transport {
        Transport::Http2 => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (address, certificate) = (server.https(), server.certificate());
            let mut sender = runtime.block_on(Sender::connect_to(address, &certificate, "h2"));
            Box::new(move |path| runtime.block_on(sender.download(path)))
        }
        Transport::Http1 => {
            let socket = connect(server.https());
            get_by(Client::tls_over(socket, &server.certificate()))
        }
        Transport::Plaintext => get_by(Client::over(connect(server.http()))),
    }
}

fn get_by(mut client: Client) -> Get {
    Box::new(move |path| {
        let response = client.get(path);
        assert_eq!(response.status, 200, "{path}");
        response.body.len()
    })
}

/// A file, and how long it is.
type Planted = (String, usize);

struct Files {
    repo: TestRepo,
    hot: Vec<Planted>,
    cold: Vec<Planted>,
}

impl Files {
    fn plant() -> Self {
        let repo = TestRepo::on_disk();
        let plant = |len: usize| (format!("/repo/{}", repo.plant_object(len)), len);
        let hot = [900, 5_000, 30_000, 100_000].map(plant).to_vec();
        // Every other one is small, and read before its reply begins.
        let cold = (0..COLD_FILES).map(|number| match number % 2 {
            0 => plant(20_000 + number),
            _ => plant(150_000 + number),
        });
        let cold = cold.collect();
        Self { repo, hot, cold }
    }

    fn path(&self, (path, _): &Planted) -> PathBuf {
        self.repo.file(path.trim_start_matches("/repo/"))
    }

    /// Has the kernel forget what is in the cold ones.
    fn forget(&self) {
        for planted in &self.cold {
            let file = File::open(self.path(planted)).unwrap();
            // What is not written yet cannot be forgotten.
            file.sync_data().unwrap();
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

/// What the clients of the cold files saw.
#[derive(Debug, Default)]
struct Cold {
    next: AtomicUsize,
    enough: AtomicBool,
    /// Files that the disk was waited for.
    waited: AtomicUsize,
}

impl Cold {
    fn ask(&self, files: &[Planted], mut get: Get) {
        while !self.enough.load(Ordering::Relaxed) {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let (path, len) = files.get(next).expect("more cold files");
            let begun = Instant::now();
            assert_eq!(get(path), *len, "{path}");
            if begun.elapsed() >= DELAY {
                self.waited.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn waited(&self) -> usize {
        self.waited.load(Ordering::Relaxed)
    }
}

/// Says it when it is dropped.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for hot files, and gives how long it took where that was too long.
fn ask_for_hot(files: &[Planted], connections: &mut [Get]) -> Vec<Duration> {
    let mut slow = Vec::new();
    for number in 0..HOT {
        let (path, len) = &files[number % files.len()];
        let count = connections.len();
        let begun = Instant::now();
        assert_eq!(connections[number / 2 % count](path), *len, "{path}");
        let took = begun.elapsed();
        if took > BOUND {
            slow.push(took);
        }
        // It is lost, and would take very long.
        if slow.len() > SLOW {
            break;
        }
    }
    slow
}

/// Cold files are read all the time, and hot ones are served meanwhile.
fn hot_files_do_not_wait(transport: Transport) {
    let files = Files::plant();
    for program in [&["taskset", "-c", "0"][..], &[]] {
        let delay = format!("inject=pread64:delay_enter={}", DELAY.as_micros());
        // Only what is traced is slower by that (--seccomp-bpf).
        let strace = ["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
        let arguments = [&strace[..], &["-e", "trace=pread64", "-e", &delay], program];
        let setup = Setup::new().repo("/repo", &files.repo.path());
        let mut server = Process::start_under(setup, "strace", &arguments.concat());
        let mut hot: Vec<_> = (0..4).map(|_| open(transport, &server)).collect();
        for (path, len) in &files.hot {
            assert_eq!(hot[0](path), *len);
        }
        files.forget();

        let cold = Cold::default();
        let slow = thread::scope(|scope| {
            for _ in 0..COLD_CLIENTS {
                scope.spawn(|| cold.ask(&files.cold, open(transport, &server)));
            }
            // Also if this fails: the others would ask until the end.
            let _end = Enough(&cold.enough);
            common::wait_for("the first cold file", || (cold.waited() > 0).then_some(()));
            ask_for_hot(&files.hot, &mut hot)
        });
        assert!(
            slow.len() <= SLOW,
            "{transport:?}, {program:?}: hot files took {slow:?}; {cold:?}"
        );
        assert!(
            cold.waited() >= COLD_CLIENTS,
            "the files were in memory: {cold:?}; is {} on a disk?",
            files.repo.path().display()
        );
        // Nobody runs those of HTTP/2 any more, and they would answer no goodbye.
        drop(hot);
        server.end_child();
    }
}

#[test]
fn hot_files_do_not_wait_in_plaintext() {
    hot_files_do_not_wait(Transport::Plaintext);
}

#[test]
fn hot_files_do_not_wait_over_tls() {
    hot_files_do_not_wait(Transport::Http1);
}

#[test]
fn hot_files_do_not_wait_over_http2() {
    hot_files_do_not_wait(Transport::Http2);
}
