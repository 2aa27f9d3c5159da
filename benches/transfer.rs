//! Downloads over loopback, with TLS and without, through the production accept loop, on
//! connections that stay. The client's work is in the figures: compare them with
//! each other, not with a server's.

#[path = "../tests/common/mod.rs"]
mod common;
mod objects;

use std::time::{Duration, Instant};

use common::hyper_client::Sender;
use common::{Setup, TestRepo, TestServer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::task::JoinSet;

fn transfers(criterion: &mut Criterion) {
    let repo = TestRepo::new();
    let paths = |names: &[String]| -> Vec<String> {
        names.iter().map(|name| format!("/repo/{name}")).collect()
    };
    let cases = [
        ("small", paths(&[repo.plant_object(objects::MEDIAN)])),
        ("large", paths(&[repo.plant_object(objects::LARGE)])),
        ("of all sizes", paths(&objects::plant(&repo, 1000))),
    ];
    let setup = || Setup::new().repo("/repo", &repo.path());
    let servers = [
        ("", setup().start()),
        (", nothing remembered", setup().uncached().start()),
    ];
    let runtime = ostree_serve::daemon::runtime().unwrap();

    for (memory, server) in &servers {
        for (protocol, at_once) in [(PLAIN, 1), ("http/1.1", 1), ("h2", 1), ("h2", STREAMS)] {
            let name = match at_once {
                1 => format!("{protocol}{memory}"),
                _ => format!("{protocol}, {at_once} at a time{memory}"),
            };
            let mut group = criterion.benchmark_group(format!("transfer over {name}"));
            for (name, paths) in &cases {
                group.throughput(Throughput::Elements(1));
                group.bench_function(*name, |bencher| {
                    bencher.to_async(&runtime).iter_custom(|count| {
                        let count = usize::try_from(count).expect("a count");
                        download(server, protocol, at_once, paths, count)
                    });
                });
            }
            group.finish();
        }
    }
}

/// HTTP/1.1 without TLS.
const PLAIN: &str = "http/1.1 in plaintext";

/// As many as libostree has under way (client-contract 2.3).
const STREAMS: usize = 8;

/// How long it takes to get this many files over one new connection, without the
/// time to connect.
async fn download(
    server: &TestServer,
    protocol: &str,
    at_once: usize,
    paths: &[String],
    count: usize,
) -> Duration {
    let mut sender = match protocol {
        PLAIN => Sender::plain(server).await,
        _ => Sender::connect(server, protocol).await,
    };
    let mut next = paths.iter().cycle().take(count);
    let started = Instant::now();
    if at_once == 1 {
        for path in next {
            sender.download(path).await;
        }
        return started.elapsed();
    }
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < at_once
            && let Some(path) = next.next()
        {
            let (mut sender, path) = (sender.another(), path.clone());
            under_way.spawn(async move { sender.download(&path).await });
        }
        match under_way.join_next().await {
            Some(result) => _ = result.expect("a download"),
            None => return started.elapsed(),
        }
    }
}

criterion_group!(benches, transfers);
criterion_main!(benches);
