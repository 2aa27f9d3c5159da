//! The rows of the table: what is done, what is counted, and what of it we want
//! to need of nginx's share.

mod cost;
mod scaling;
mod standing;

use std::sync::Arc;

use crate::load::Protocol::{Http1, Http2, Plain};
use crate::load::{Load, Protocol, Task};
use crate::repository::{KINOITE, Object, Repositories};
use crate::servers::Peer;
use crate::stage::Stage;

use cost::{not_modified, pull, requests, update_check, volume};
use scaling::{by_number_of_connections, by_number_of_objects, latency};
use standing::{idle, stalled, start_up};

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
        requests("small objects, h2, 8 clients", FLEET, small(60_000), 0.55),
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
        pull(scaled(25)),
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
        by_number_of_objects(of, scaled(20_000)),
        by_number_of_connections(small(20_000)),
        latency("latency, h1", Http1, small(10_000)),
        latency("latency, h2", Http2, small(10_000)),
    ]
}

/// As several such clients at a time: who serves them has always something to do.
const FLEET: Load = Load {
    protocol: Http2,
    connections: AT_ONCE,
    streams: AT_ONCE,
};

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

/// The repository's small file that every pull asks for.
fn config() -> Task {
    Task {
        path: format!("/{KINOITE}/config"),
        tag: None,
        status: 200,
        len: None,
    }
}
