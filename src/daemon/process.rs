//! What the process is given: threads and descriptors.

use std::num::NonZero;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::config::Limits;
use crate::repo::room::Room;
use crate::sandbox::gate::Gate;

/// Raises the limit of open files as far as it goes.
pub(super) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Raises the limit of open files as far as it goes, and lowers the number of
/// connections until each can have a socket and a file, with some to spare. An
/// HTTP/2 connection may have more large files under way; if they use up what
/// there is, replies wait for descriptors.
pub(super) fn fit_into_descriptors(limits: Limits) -> Limits {
    raise_descriptors();
    let Some(available) = getrlimit(Resource::Nofile).current else {
        return limits;
    };
    let for_clients = available.saturating_sub(Room::reserved_descriptors() + SPARE);
    let possible = usize::try_from(for_clients / 2).unwrap_or(usize::MAX);
    if possible >= limits.connections {
        return limits;
    }
    Limits {
        connections: possible.max(1),
        ..limits
    }
}

/// How many open files that takes.
pub(super) fn descriptors(limits: &Limits) -> u64 {
    // Beside the quarter that repositories may use.
    ((limits.connections as u64 * 2 + SPARE) * 4).div_ceil(3)
}

/// Open files for listeners, repositories, the log, and the runtime.
const SPARE: u64 = 100;

/// Runs a future to its end in a [`runtime`] of its own.
///
/// What is still running then is left behind: a thread that waits for a disk
/// which no longer answers must not keep the process from ending.
///
/// # Errors
/// As [`runtime`], and the future's.
pub fn block_on<T, E: From<anyhow::Error>>(
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let runtime = runtime()?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// Runs a future to its end in a runtime of its own, whose threads do nothing before
/// the gate is opened that the future is given; otherwise as [`block_on`].
///
/// # Errors
/// As [`block_on`].
pub fn block_on_behind_gate<T, E, F>(future: impl FnOnce(Gate) -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: From<anyhow::Error>,
{
    let threads = processors().get();
    let gate = Gate::before(threads);
    let waiting = gate.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(threads)
        .on_thread_start(move || waiting.pass())
        .build()
        .map_err(anyhow::Error::from)?;
    let result = runtime.block_on(future(gate));
    runtime.shutdown_background();
    result
}

/// How many processors this process may use. A confined one would not find out how
/// many the control group leaves it.
pub(super) fn processors() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

/// The runtime that everything happens in.
///
/// # Errors
/// If threads or descriptors cannot be had.
pub fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}
