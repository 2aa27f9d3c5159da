//! This server beside nginx, and beside others where they are installed: what
//! the same work costs each of them on the same core.
//!
//! ```text
//! cargo bench --bench compare -- --out benches/RESULTS.md
//! cargo bench --bench compare -- --quick --only trace --only idle
//! ```
//!
//! Servers have the first core, everything else here has the last one. What is
//! compared is the servers' CPU time: on a small machine the client limits how
//! many requests there are in a second, and with other work beside it that number
//! means nothing.
//!
//! The modules in reading order:
//! - [`repository`]: what is served;
//! - [`servers`]: by whom; [`nginx`] and [`others`], how they are set up;
//! - [`stage`]: which of them run;
//! - [`load`]: the client, with [`plain_client`] where HTTP/1.1 is spoken, and
//!   [`special`], what clients do beside downloading;
//! - [`workloads`]: the rows of the table;
//! - [`measure`]: CPU time, memory, medians;
//! - [`limits`]: what the machine could do at best;
//! - [`report`]: the table.
//!
//! Needs ostree and nginx.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../objects/mod.rs"]
mod objects;

mod limits;
mod load;
mod measure;
mod nginx;
mod others;
mod plain_client;
mod reluctant;
mod report;
mod repository;
mod servers;
mod special;
mod stage;
mod workloads;

use std::fs;
use std::path::PathBuf;

use clap::Parser;

use measure::Series;
use servers::Peer;
use stage::Stage;
use workloads::Workload;

/// Compares ostree-serve with other servers.
#[derive(Parser)]
struct Arguments {
    /// The ostree-serve to measure.
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_ostree-serve"))]
    ours: PathBuf,
    /// How often each row is measured with each server.
    #[arg(long, value_name = "COUNT")]
    rounds: Option<usize>,
    /// Only rows whose names contain one of these texts.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// A fifth of the requests, and three rounds.
    #[arg(long)]
    quick: bool,
    /// Only against nginx, whatever else is installed.
    #[arg(long)]
    nginx_only: bool,
    /// Where to write the table as well.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let rounds = arguments
        .rounds
        .unwrap_or(if arguments.quick { 3 } else { 5 });
    measure::use_client_core();
    measure::raise_descriptor_limit();
    nginx::require();

    let repositories = repository::prepare(&arguments.ours);
    let mut stage = Stage::new(&arguments.ours, repositories);
    let mut peers = vec![Peer::Ours, Peer::Nginx];
    if !arguments.nginx_only {
        peers.extend(Peer::others());
    }
    let chosen = |it: &Workload| {
        let names = || {
            it.lines
                .iter()
                .map(|line| format!("{}, {}", it.name, line.what))
        };
        arguments.only.is_empty()
            || names().any(|name| arguments.only.iter().any(|text| name.contains(text)))
    };
    let rows: Vec<Workload> = workloads::all(stage.repositories(), arguments.quick)
        .into_iter()
        .filter(chosen)
        .collect();
    let results: Vec<Vec<Vec<Series>>> = rows
        .iter()
        .map(|row| measure::alternate(&mut stage, &peers, row, rounds))
        .collect();
    drop(stage);

    let limits = limits::measure(arguments.quick);
    let text = report::text(
        &report::Head::new(&arguments.ours, rounds, arguments.quick),
        &peers,
        &rows,
        &results,
        &limits,
    );
    println!("{text}");
    if let Some(file) = arguments.out {
        fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
