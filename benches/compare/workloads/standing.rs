//! Rows about servers that have nothing to do: connections that only stay, clients
//! that do not read, and the way to the first answer.

use std::time::{Duration, Instant};

use super::{Line, Target, Workload, config};
use crate::load::Protocol;
use crate::repository::{self, BULK, COUNTS, KINOITE, Object};
use crate::{measure, special};

const IDLE: usize = 2000;
const STALLED: usize = 200;

pub fn idle(name: &'static str, protocol: Protocol) -> Workload {
    Workload {
        name,
        lines: vec![Line {
            what: "KiB each",
            target: Target::Ratio(0.9),
        }],
        run: Box::new(move |stage, peer| {
            let server = stage.fresh(peer, &[KINOITE]);
            let task = config();
            stage.runtime().block_on(async {
                drop(special::idlers(&server, protocol, 1, &task).await);
                let before = server.memory_kib();
                let idlers = special::idlers(&server, protocol, IDLE, &task).await;
                measure::settle(&server).await;
                // What a server tidies up after a while counts in its favour.
                tokio::time::sleep(Duration::from_secs(8)).await;
                let after = server.memory_kib();
                drop(idlers);
                vec![(after - before) / IDLE as f64]
            })
        }),
    }
}

pub fn stalled(name: &'static str, protocol: Protocol, object: &Object) -> Workload {
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

pub fn start_up() -> Workload {
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
