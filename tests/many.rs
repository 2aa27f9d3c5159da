//! A client that asks for very many objects, as the first pull of an operating system
//! does: what the server remembers of them must not use up its descriptors.

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::client::{Client, connect};
use common::hyper_client::{RequestBody, Sender};
use common::process::Process;
use common::{Setup, TestRepo, pattern};
use http_body_util::BodyExt;
use ostree_serve::files::Content;
use ostree_serve::resource::Checksum;

const OBJECTS: usize = 100_000;
/// One in so many is large: not read at once, so that its file stays open.
const LARGE_EVERY: usize = 10;
const SMALL: usize = 300;
const LARGE: usize = Content::SMALL as usize + 1;

/// Descriptors that the server may have.
const LIMIT: usize = 1024;
/// Connections of HTTP/1.1, half of them in plaintext.
const HTTP1: usize = 4;
/// Requests under way at a time over HTTP/2.
const STREAMS: usize = 64;
/// What it may use: a quarter of the limit for what it remembers, 100 for itself, a
/// socket for each connection, and the files that are under way.
const BOUND: usize = LIMIT / 4 + 100 + 2 * HTTP1 + 1 + STREAMS;

/// What objects hold.
struct Bodies {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Bodies {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            small: pattern(SMALL),
            large: pattern(LARGE),
        })
    }

    fn of(&self, number: usize) -> &[u8] {
        match number % LARGE_EVERY {
            0 => &self.large,
            _ => &self.small,
        }
    }
}

/// Spread over the directories like any others.
fn path_of(number: usize) -> String {
    let checksum = Checksum::of(&number.to_le_bytes()).to_string();
    format!("objects/{}/{}.filez", &checksum[..2], &checksum[2..])
}

/// Puts all objects into the repository, as links to a few files.
fn plant(repo: &TestRepo, bodies: &Bodies) {
    /// Fewer than any file system lets a file have (ext4: 65,000).
    const LINKS: usize = 20_000;
    for first in 0..256 {
        fs::create_dir_all(repo.file(&format!("objects/{first:02x}"))).unwrap();
    }
    for number in 0..OBJECTS {
        let body = bodies.of(number);
        let original = repo.file(&format!("original-{}-{}", number / LINKS, body.len()));
        if !original.exists() {
            fs::write(&original, body).unwrap();
        }
        fs::hard_link(original, repo.file(&path_of(number))).unwrap();
    }
}

/// The most descriptors that a process had at any time until it is asked.
struct Watch {
    ended: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn begin(server: &Process) -> Self {
        let directory = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
        let (ended, most) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (end, max) = (Arc::clone(&ended), Arc::clone(&most));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let count = fs::read_dir(&directory).unwrap().count();
                max.fetch_max(count, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self {
            ended,
            most,
            thread,
        }
    }

    fn end(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

/// Asks for these objects over HTTP/1.1, some requests ahead of the replies.
fn ask_http1(mut client: Client, bodies: &Bodies, numbers: impl Iterator<Item = usize>) {
    const AHEAD: usize = 8;
    let numbers: Vec<_> = numbers.collect();
    for numbers in numbers.chunks(AHEAD) {
        let request = |number: &usize| {
            let path = path_of(*number);
            format!("GET /repo/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        };
        client.send(numbers.iter().map(request).collect::<String>());
        for &number in numbers {
            let response = client.response("GET");
            assert_eq!(response.status, 200, "{number}");
            assert!(response.body == bodies.of(number), "{number}");
        }
    }
}

/// Asks for so many objects over one connection of HTTP/2.
async fn ask_http2(sender: Sender, bodies: &Arc<Bodies>, objects: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (bodies, next) = (Arc::clone(bodies), Arc::clone(&next));
        let mut sender = sender.another();
        streams.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return;
                }
                let request = sender.request("GET", &format!("/repo/{}", path_of(number)));
                let request = request.body(RequestBody::default()).unwrap();
                let reply = sender.send(request).await.unwrap();
                assert_eq!(reply.status(), 200, "{number}");
                let body = reply.into_body().collect().await.unwrap().to_bytes();
                assert!(body == bodies.of(number), "{number}");
            }
        });
    }
    while let Some(stream) = streams.join_next().await {
        stream.unwrap();
    }
}

#[test]
fn descriptors_suffice_for_any_number_of_objects() {
    let repo = TestRepo::new();
    let bodies = Bodies::new();
    plant(&repo, &bodies);
    let limit = format!("ulimit -n {LIMIT}; exec \"$@\"");
    let setup = Setup::new().repo("/repo", &repo.path());
    let server = Process::start_under(setup, "sh", &["-c", &limit, "sh"]);
    let watch = Watch::begin(&server);

    let over_http2 = OBJECTS / 3;
    let (http, https, certificate) = (server.http(), server.https(), server.certificate());
    let http1: Vec<_> = (0..HTTP1)
        .map(|client| {
            let connection = match client % 2 {
                0 => Client::over(connect(http)),
                _ => Client::tls_over(connect(https), &certificate),
            };
            let numbers = (over_http2 + client..OBJECTS).step_by(HTTP1);
            let bodies = Arc::clone(&bodies);
            thread::spawn(move || ask_http1(connection, &bodies, numbers))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let sender = Sender::connect_to(https, &certificate, "h2").await;
        ask_http2(sender, &bodies, over_http2).await;
    });
    for client in http1 {
        client.join().unwrap();
    }

    let most = watch.end();
    assert!(most <= BOUND, "{most} descriptors");
    // And it goes on.
    for object in [0, 1] {
        let encrypted = Client::tls_over(connect(https), &certificate);
        for client in [Client::over(connect(http)), encrypted] {
            ask_http1(client, &bodies, [object].into_iter());
        }
    }
    let log = server.log();
    assert!(!log.contains("ERROR"), "{log}");
}
