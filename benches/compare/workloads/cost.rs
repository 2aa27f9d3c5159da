//! Rows about CPU time: what a request, a gigabyte, a pull or a visit costs.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Runtime;

use super::{Line, MIB, Target, Workload, config, lanes, tasks};
use crate::load::Protocol::{Http1, Http2, Plain};
use crate::load::{Clients, Connection, Load, Task, Tls};
use crate::repository::{KINOITE, Object};
use crate::servers::Server;
use crate::{measure, special};

/// Seconds of the server's CPU time for these requests, over connections that
/// are there already.
///
/// Says how busy the server was: one that waits for its clients wakes up for each
/// request, one that does not has several at a time, which is cheaper.
fn cost(server: &Server, runtime: &Runtime, load: Load, tasks: &Arc<Vec<Task>>) -> f64 {
    runtime.block_on(async {
        let mut clients = Clients::connect(server, load).await;
        let (started, before) = (Instant::now(), server.cpu_seconds());
        clients.run(tasks).await;
        let cost = server.cpu_seconds() - before;
        let busy = 100.0 * cost / started.elapsed().as_secs_f64();
        eprintln!("  the server was busy for {busy:.0} % of the time");
        clients.close().await;
        cost
    })
}

/// In a second.
pub const MICROS: f64 = 1e6;

pub fn per_request(server: &Server, runtime: &Runtime, load: Load, tasks: &Arc<Vec<Task>>) -> f64 {
    cost(server, runtime, load, tasks) * MICROS / tasks.len() as f64
}

pub fn requests(name: &'static str, load: Load, tasks: Arc<Vec<Task>>, target: f64) -> Workload {
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

pub fn volume(name: &'static str, load: Load, object: &Object, count: usize) -> Workload {
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
pub fn pull(times: usize) -> Workload {
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
            let (server, runtime) = stage.prepare(peer);
            let cpu_seconds = || {
                runtime.block_on(measure::settle(server));
                server.cpu_seconds()
            };
            let clone = special::Clone::new(server);
            let before = cpu_seconds();
            clone.pull(|it| it);
            let cloned = cpu_seconds();
            for _ in 0..times {
                clone.pull(|it| it);
            }
            let nothing_new = (cpu_seconds() - cloned) * MICROS / times as f64;
            vec![cloned - before, nothing_new]
        }),
    }
}

pub fn update_check(name: &'static str, resumed: bool, times: usize, target: f64) -> Workload {
    Workload {
        name,
        lines: vec![Line {
            what: "µs",
            target: Target::Ratio(target),
        }],
        run: Box::new(move |stage, peer| {
            let (server, runtime) = stage.prepare(peer);
            let task = config();
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

pub fn not_modified(count: usize) -> Workload {
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
