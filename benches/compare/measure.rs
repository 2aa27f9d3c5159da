//! CPU time and memory of a server with all of its processes, and how samples
//! are taken: by turns, so that a change of the machine's mood meets everybody.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::servers::{Peer, Server};
use crate::stage::Stage;
use crate::workloads::Workload;

/// The values of one line of the table for one server.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// The middle one; that above the middle of an even number.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// How far apart the least and the greatest are, as a share of the median.
    pub fn spread(&self) -> f64 {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (greatest - least) / self.median()
    }
}

/// One series for each server and line of the row: `[server][line]`.
pub fn alternate(
    stage: &mut Stage,
    peers: &[Peer],
    row: &Workload,
    rounds: usize,
) -> Vec<Vec<Series>> {
    let mut series = vec![vec![Series::default(); row.lines.len()]; peers.len()];
    for round in 0..=rounds {
        for (peer, series) in peers.iter().zip(&mut series) {
            let values = (row.run)(stage, *peer);
            // The first one is for caches and branch predictors alone.
            if round == 0 {
                continue;
            }
            for (series, value) in series.iter_mut().zip(values) {
                series.0.push(value);
            }
        }
    }
    let medians = |of: &Vec<Series>| {
        of.iter()
            .map(|it| format!("{:.2}", it.median()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let all: Vec<_> = peers
        .iter()
        .zip(&series)
        .map(|(peer, of)| format!("{} {}", peer.name(), medians(of)))
        .collect();
    eprintln!("{}: {}", row.name, all.join(" | "));
    series
}

/// Has this thread, and what it starts, run on the last core only.
pub fn use_client_core() {
    let cores = cores();
    if cores.len() < 2 {
        eprintln!(
            "There is only one core: server and client disturb each other, the figures are worthless."
        );
    }
    pin(cores[cores.len() - 1]);
}

/// Runs something on the servers' core; what it starts stays there.
pub fn on_server_core<T>(run: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("an affinity");
    pin(0);
    let result = run();
    sched_setaffinity(None, &before).expect("the affinity of before");
    result
}

/// Those that this process might use when it started: read once, before pinning.
fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("an affinity");
    (0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .collect()
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap_or_else(|error| panic!("core {core}: {error}"));
}

/// Thousands of connections have to stay open.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("the limit of before");
}

/// How many files a process of ours may open.
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// A process and all that come from it.
pub fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        found.extend(parents.iter().filter(|it| it.1 == of).map(|it| it.0));
        at += 1;
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// Seconds of CPU time that these processes have had.
///
/// By the processes' clocks: what is in `/proc/PID/task/*/schedstat` forgets
/// threads that have ended, and is behind for those that run.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| process_clock(pid)).sum()
}

fn process_clock(pid: u32) -> f64 {
    let pid = i32::try_from(pid).expect("a process");
    let mut clock = 0;
    // SAFETY: the call writes one clock's number to where the pointer points, a
    // local variable of that type.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    assert_eq!(error, 0, "process {pid} is gone");
    clock_seconds(clock)
}

/// Seconds of CPU time that this thread has had.
pub fn thread_seconds() -> f64 {
    clock_seconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes a time to where the pointer points, a local variable
    // of that type.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "no such clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Waits until a server has nothing to do any more.
pub async fn settle(server: &Server) {
    const QUIET: f64 = 100e-6;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut before = server.cpu_seconds();
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = server.cpu_seconds();
        if now - before < QUIET {
            return;
        }
        before = now;
    }
}

/// KiB of memory that these processes have, shared pages in equal parts.
pub fn memory_kib(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| proportional_set_size(pid)).sum()
}

fn proportional_set_size(pid: u32) -> f64 {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.unwrap_or_else(|| panic!("{file} has no Pss: {text}"))
}
