//! Rows about what a request costs where there is much of something, and how long
//! it takes.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::cost::{MICROS, per_request};
use super::{Line, Target, Workload, lanes};
use crate::load::Protocol::Http1;
use crate::load::{Clients, Load, Protocol, Task};
use crate::repository::{self, COUNTS, Repositories};
use crate::servers::Server;

pub fn by_number_of_objects(of: &Repositories, count: usize) -> Workload {
    /// A prime, so that objects come in an order that is not that of their names.
    const STRIDE: usize = 7_919;
    let what = [
        "500, µs/request",
        "20,000, µs/request",
        "200,000, µs/request",
    ];
    let calls = Cell::new(0);
    let root = of.root.clone();
    let run = move |server: &Server, runtime: &Runtime| {
        if calls.get() == 0 {
            // No disk is to be measured.
            let directory = |of| root.join(repository::counted(of)).join("objects");
            COUNTS.iter().for_each(|&of| read_all(&directory(of)));
        }
        // Each time others, so that what is asked for is not what was kept.
        let first = calls.replace(calls.get() + count);
        let measure = |of| {
            let numbers = (first..first + count).map(|it| it * STRIDE % of);
            let object = |number| Task::from(&repository::counted_object(of, number));
            let tasks = Arc::new(numbers.map(object).collect());
            per_request(server, runtime, lanes(Http1), &tasks)
        };
        COUNTS.map(measure).into()
    };
    flat("by number of objects, h1", &what, 0, run)
}

/// Brings a directory's files into the page cache.
fn read_all(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => read_all(&path),
            false => drop(fs::read(path).unwrap()),
        }
    }
}

pub fn by_number_of_connections(tasks: Arc<Vec<Task>>) -> Workload {
    let what = [
        "1, µs/request",
        "8, µs/request",
        "64, µs/request",
        "512, µs/request",
    ];
    flat(
        "by number of connections, h1",
        &what,
        // With a single one the server sleeps after each request, and waking up
        // costs more than the request does.
        1,
        move |server, runtime| {
            let measure = |connections| {
                let load = Load {
                    protocol: Http1,
                    connections,
                    streams: 1,
                };
                per_request(server, runtime, load, &tasks)
            };
            [1, 8, 64, 512].map(measure).into()
        },
    )
}

/// Costs that should be the same, but for some of the first; the last line is the
/// greatest divided by the least.
fn flat(
    name: &'static str,
    what: &[&'static str],
    skipped: usize,
    measure: impl Fn(&Server, &Runtime) -> Vec<f64> + 'static,
) -> Workload {
    let line = |&what| Line {
        what,
        target: Target::None,
    };
    let mut lines: Vec<Line> = what.iter().map(line).collect();
    lines.push(Line {
        what: "most ÷ least",
        target: Target::Value(1.15),
    });
    Workload {
        name,
        lines,
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            let mut values = measure(server, runtime);
            let judged = &values[skipped..];
            let most = judged.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let least = judged.iter().copied().fold(f64::INFINITY, f64::min);
            values.push(most / least);
            values
        }),
    }
}

/// As a client sees it that asks for one thing after the other.
pub fn latency(name: &'static str, protocol: Protocol, tasks: Arc<Vec<Task>>) -> Workload {
    let target = Target::Ratio(1.0);
    Workload {
        name,
        lines: vec![
            Line {
                what: "p50, µs",
                target: Target::None,
            },
            Line {
                what: "p99, µs",
                target,
            },
        ],
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            let load = Load {
                protocol,
                connections: 1,
                streams: 1,
            };
            let mut took = runtime.block_on(async {
                let mut clients = Clients::connect(server, load).await;
                let took = clients.run(&tasks).await;
                clients.close().await;
                took
            });
            took.sort();
            let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * MICROS;
            vec![at(50), at(99)]
        }),
    }
}
