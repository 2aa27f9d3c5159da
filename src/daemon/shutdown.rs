//! The end: of its own accord, or at once.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::EXIT_RUNTIME;
use super::pulse::while_draining;
use super::running::Running;

/// How the serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every transfer was finished.
    Drained,
    /// The drain deadline passed; this many connections were cut off.
    CutOff(usize),
}

impl Running {
    /// Stops listening, and lets the transfers of all generations finish.
    pub(super) async fn drain(self) -> Outcome {
        let deadline = self.generation.limits.drain;
        tracing::info!(
            deadline = %humantime::format_duration(deadline),
            "shutting down; transfers may finish"
        );
        if let Some(door) = &self.door {
            door.brakes().end();
        }
        let drain = self.drain;
        // Fails if there is nobody left to tell.
        _ = drain.send(true);
        // Connections end with the threads that serve them.
        let reactors = Arc::clone(&self.shared.reactors);
        drop((self.listeners, self.shared));
        let drained = async {
            tokio::select! {
                () = drain.closed() => {}
                () = while_draining(self.manager) => {}
            }
        };
        let outcome = match timeout(deadline, drained).await {
            Ok(()) => Outcome::Drained,
            Err(_) => {
                let count = drain.receiver_count();
                tracing::warn!(
                    connections = count,
                    remedy = "a longer `limits.drain`, with TimeoutStopSec= above it",
                    "the drain deadline passed; connections are cut off"
                );
                Outcome::CutOff(count)
            }
        };
        drop(reactors);
        outcome
    }
}

/// Ends with the first SIGTERM or SIGINT. The second one ends the process at
/// once, after `farewell`.
///
/// # Errors
/// If signals cannot be received.
pub fn termination(
    farewell: impl FnOnce() + Send + 'static,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        // Fails if the server has ended by itself.
        _ = first.send(());
        next().await;
        tracing::warn!("second signal: leaving at once");
        farewell();
        std::process::exit(EXIT_RUNTIME);
    });
    Ok(async move {
        _ = told.await;
    })
}
