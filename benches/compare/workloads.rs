//! The rows of the table: what is done, what is counted, and what of it we want
//! to need of nginx's share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::load::{Clients, Connection, Load, Protocol, Task, Tls};
use crate::measure;
use crate::repository::{self, BULK, COUNTS, KINOITE, Object, Repositories};
use crate::servers::{Peer, Server};
use crate::special;
use crate::stage::Stage;

use Protocol::{Http1, Http2, Plain};

/// Something that is done in each round, and gives a value for each line.
pub struct Workload {
    pub name: &'static str,
    pub lines: Vec<Line>,
    pub run: Run,
}

/// Does it with one server.
pub type Run = Box<dyn Fn(&mut Stage, Peer) -> Vec<f64>>;

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Line {
    /// What the value is, with its unit.
    pub what: &'static str,
    pub target: Target,
}

/// When a line is good.
#[derive(Clone, Copy)]
pub enum Target {
    /// Ours divided by nginx's is at most this.
    Ratio(f64),
    /// Ours is at most this.
    Value(f64),
    /// It only says something about the other lines.
    None,
}

/// A desktop system's pull has up to eight requests under way.
const AT_ONCE: usize = 8;
const IDLE: usize = 2000;
const STALLED: usize = 200;
const MIB: u64 = 1024 * 1024;

/// All rows; with `quick` each does a fifth.
pub fn all(of: &Repositories, quick: bool) -> Vec<Workload> {
    let scaled = |count: usize| if quick { count.div_ceil(5) } else { count };
    // A part of it would fit into caches that all of it does not fit into.
    let trace = || tasks(&of.trace, of.trace.len());
    let small = |count| tasks(&of.small(), scaled(count));
    let [mib, large] = &of.large;
    vec![
        requests("trace of a pull, h1", lanes(Http1), trace(), 0.65),
        requests("trace of a pull, h2", lanes(Http2), trace(), 0.60),
        requests("small objects, h1", lanes(Http1), small(40_000), 0.65),
        requests("small objects, h2", lanes(Http2), small(60_000), 0.55),
        requests(
            "small objects, plaintext h1",
            lanes(Plain),
            small(40_000),
            0.65,
        ),
        volume("1 MiB, h1", lanes(Http1), mib, scaled(2000)),
        volume("64 MiB, h1", lanes(Http1), large, scaled(40)),
        volume("1 MiB, h2", lanes(Http2), mib, scaled(2000)),
        volume("1 MiB, plaintext h1", lanes(Plain), mib, scaled(4000)),
        volume("64 MiB, plaintext h1", lanes(Plain), large, scaled(80)),
        pull(scaled(50)),
        update_check("update check, full handshake", false, scaled(1500), 0.68),
        update_check("update check, resumed", true, scaled(1500), 0.58),
        not_modified(scaled(40_000)),
        requests(
            "404 probing, h1",
            lanes(Http1),
            absent(scaled(40_000)),
            0.75,
        ),
        idle("idle connections, h1", Http1),
        idle("idle connections, h2", Http2),
        stalled("stalled downloads, h1", Http1, large),
        stalled("stalled downloads, h2", Http2, large),
        start_up(),
        by_number_of_objects(scaled(20_000)),
        by_number_of_connections(small(20_000)),
        latency("latency, h1", Http1, small(10_000)),
        latency("latency, h2", Http2, small(10_000)),
    ]
}

/// As a client with eight requests at a time has them.
fn lanes(protocol: Protocol) -> Load {
    match protocol {
        Http2 => Load {
            protocol,
            connections: 1,
            streams: AT_ONCE,
        },
        Plain | Http1 => Load {
            protocol,
            connections: AT_ONCE,
            streams: 1,
        },
    }
}

/// The objects again and again, until it is so many requests.
fn tasks(objects: &[Object], count: usize) -> Arc<Vec<Task>> {
    Arc::new(objects.iter().cycle().take(count).map(Task::from).collect())
}

/// Objects that are not there, each another one.
fn absent(count: usize) -> Arc<Vec<Task>> {
    let path = |number: usize| {
        format!(
            "/{KINOITE}/objects/{:02x}/{number:062x}.filez",
            number % 256
        )
    };
    let task = |number| Task {
        path: path(number),
        tag: None,
        status: 404,
        len: None,
    };
    Arc::new((0..count).map(task).collect())
}

/// Seconds of the server's CPU time for these requests, over connections that
/// are there already.
fn cost(server: &Server, runtime: &Runtime, load: Load, tasks: &Arc<Vec<Task>>) -> f64 {
    runtime.block_on(async {
        let mut clients = Clients::connect(server, load).await;
        let before = server.cpu_seconds();
        clients.run(tasks).await;
        let cost = server.cpu_seconds() - before;
        clients.close().await;
        cost
    })
}

const MICROS: f64 = 1e6;

fn per_request(server: &Server, runtime: &Runtime, load: Load, tasks: &Arc<Vec<Task>>) -> f64 {
    cost(server, runtime, load, tasks) * MICROS / tasks.len() as f64
}

fn requests(name: &'static str, load: Load, tasks: Arc<Vec<Task>>, target: f64) -> Workload {
    Workload {
        name,
        lines: vec![Line {
            what: "µs/request",
            target: Target::Ratio(target),
        }],
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            vec![per_request(server, runtime, load, &tasks)]
        }),
    }
}

fn volume(name: &'static str, load: Load, object: &Object, count: usize) -> Workload {
    let tasks = tasks(std::slice::from_ref(object), count);
    let load = match object.len > MIB {
        true => Load {
            connections: 2,
            ..load
        },
        false => load,
    };
    let gigabytes = object.len as f64 * count as f64 / 1e9;
    let target = match load.protocol {
        Plain => Target::None,
        Http1 | Http2 => Target::Ratio(0.65),
    };
    Workload {
        name,
        lines: vec![Line {
            what: "CPU s/GB",
            target,
        }],
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            vec![cost(server, runtime, load, &tasks) / gigabytes]
        }),
    }
}

/// The real thing, over HTTP/2: once everything, and then again and again nothing.
fn pull(times: usize) -> Workload {
    let line = |what, target| Line {
        what,
        target: Target::Ratio(target),
    };
    Workload {
        name: "ostree pull",
        lines: vec![
            line("full clone, CPU s", 0.70),
            line("nothing new, µs/pull", 0.65),
        ],
        run: Box::new(move |stage, peer| {
            let (server, _) = stage.prepare(peer);
            let clone = special::Clone::new(server);
            let before = server.cpu_seconds();
            clone.pull(|it| it);
            let cloned = server.cpu_seconds();
            for _ in 0..times {
                clone.pull(|it| it);
            }
            let nothing_new = (server.cpu_seconds() - cloned) * MICROS / times as f64;
            vec![cloned - before, nothing_new]
        }),
    }
}

fn update_check(name: &'static str, resumed: bool, times: usize, target: f64) -> Workload {
    Workload {
        name,
        lines: vec![Line {
            what: "µs",
            target: Target::Ratio(target),
        }],
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            let task = Task {
                path: format!("/{KINOITE}/config"),
                tag: None,
                status: 200,
                len: None,
            };
            runtime.block_on(async {
                let tls = match resumed {
                    true => Tls::resuming(server, Http1),
                    false => Tls::new(server, Http1),
                };
                // Of the first one nobody has a ticket.
                special::come_and_go(server, &tls, &task, 1, false).await;
                let before = server.cpu_seconds();
                special::come_and_go(server, &tls, &task, times, resumed).await;
                measure::settle(server).await;
                vec![(server.cpu_seconds() - before) * MICROS / times as f64]
            })
        }),
    }
}

fn not_modified(count: usize) -> Workload {
    Workload {
        name: "304 of a summary, h1",
        lines: vec![Line {
            what: "µs/request",
            target: Target::None,
        }],
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            let path = format!("/{KINOITE}/summary");
            let tag = runtime.block_on(async {
                let tls = Tls::new(server, Http1);
                let mut connection = Connection::open(server, Http1, &tls).await;
                connection.tag(&path).await
            });
            let task = Task {
                path,
                tag: Some(tag),
                status: 304,
                len: Some(0),
            };
            let tasks = Arc::new(vec![task; count]);
            vec![per_request(server, runtime, lanes(Http1), &tasks)]
        }),
    }
}

fn idle(name: &'static str, protocol: Protocol) -> Workload {
    Workload {
        name,
        lines: vec![Line {
            what: "KiB each",
            target: Target::Ratio(0.9),
        }],
        run: Box::new(move |stage, peer| {
            let server = stage.fresh(peer, &[KINOITE]);
            let task = Task {
                path: format!("/{KINOITE}/config"),
                tag: None,
                status: 200,
                len: None,
            };
            stage.runtime().block_on(async {
                drop(special::idlers(&server, protocol, 1, &task).await);
                let before = server.memory_kib();
                let idlers = special::idlers(&server, protocol, IDLE, &task).await;
                measure::settle(&server).await;
                // What a server tidies up after a while counts in its favour.
                tokio::time::sleep(Duration::from_secs(3)).await;
                let after = server.memory_kib();
                drop(idlers);
                vec![(after - before) / IDLE as f64]
            })
        }),
    }
}

fn stalled(name: &'static str, protocol: Protocol, object: &Object) -> Workload {
    let object = object.clone();
    Workload {
        name,
        lines: vec![Line {
            what: "KiB each",
            target: Target::Ratio(0.25),
        }],
        run: Box::new(move |stage, peer| {
            let server = stage.fresh(peer, &[BULK]);
            stage.runtime().block_on(async {
                drop(special::stall(&server, protocol, 1, &object).await);
                measure::settle(&server).await;
                let before = server.memory_kib();
                let stalled = special::stall(&server, protocol, STALLED, &object).await;
                measure::settle(&server).await;
                let after = server.memory_kib();
                drop(stalled);
                vec![(after - before) / STALLED as f64]
            })
        }),
    }
}

fn start_up() -> Workload {
    let target = Target::Ratio(0.5);
    Workload {
        name: "start with 200,000 objects",
        lines: vec![
            Line {
                what: "ms to an answer",
                target,
            },
            Line {
                what: "MiB",
                target,
            },
        ],
        run: Box::new(|stage, peer| {
            let most = COUNTS[COUNTS.len() - 1];
            let started = Instant::now();
            let server = stage.starting(peer, &[&repository::counted(most)]);
            let object = repository::counted_object(most, 0);
            let took = special::first_answer(&server, &object, started);
            vec![took.as_secs_f64() * 1e3, server.memory_kib() / 1024.0]
        }),
    }
}

fn by_number_of_objects(count: usize) -> Workload {
    /// A prime, so that objects come in an order that is not that of their names.
    const STRIDE: usize = 7_919;
    let what = [
        "500, µs/request",
        "20,000, µs/request",
        "200,000, µs/request",
    ];
    let all = COUNTS.map(|of| {
        let object = |number: usize| repository::counted_object(of, number * STRIDE % of);
        tasks(&(0..count).map(object).collect::<Vec<_>>(), count)
    });
    flat("by number of objects, h1", &what, move |server, runtime| {
        let measure = |tasks| per_request(server, runtime, lanes(Http1), tasks);
        all.iter().map(measure).collect()
    })
}

fn by_number_of_connections(tasks: Arc<Vec<Task>>) -> Workload {
    let what = [
        "1, µs/request",
        "8, µs/request",
        "64, µs/request",
        "512, µs/request",
    ];
    flat(
        "by number of connections, h1",
        &what,
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

/// Costs that should be the same; the last line is the greatest divided by the
/// least.
fn flat(
    name: &'static str,
    what: &[&'static str],
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
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            values.push(most / least);
            values
        }),
    }
}

/// As a client sees it that asks for one thing after the other.
fn latency(name: &'static str, protocol: Protocol, tasks: Arc<Vec<Task>>) -> Workload {
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
