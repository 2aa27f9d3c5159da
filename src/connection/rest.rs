//! Connections whose clients have all that they asked for, and ask for nothing: they
//! give back the memory that only requests need.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::sleep_until;

use super::drain::Drain;
use crate::transport::Transport;
use crate::transport::activity::Activity;
use crate::watchdog::Watchdog;

/// Why a rest ends.
pub(super) enum Woken {
    /// The client sends something, or is gone.
    ByItsClient,
    /// It has rested for long enough, or the server drains.
    ForGood,
}

/// Waits until the client wants something, or the server wants it to go.
pub(super) async fn rest(
    transport: &mut Transport,
    drain: &mut Drain,
    activity: &Activity,
    watchdog: &Watchdog,
) -> Woken {
    tokio::select! {
        biased;
        () = transport.readable() => Woken::ByItsClient,
        () = drain.begins(activity) => Woken::ForGood,
        () = sleep_until(watchdog.rests_until()) => Woken::ForGood,
    }
}

/// Counts connections that began to rest.
#[derive(Debug, Default)]
pub struct Rests(AtomicUsize);

impl Rests {
    /// After so many, what they gave back is some megabytes, and worth the
    /// milliseconds that it takes to hand it to the kernel.
    const MANY: usize = 512;

    /// One more rests. The allocator keeps what was freed between other things that
    /// are in use; now and then it is told to give that back.
    pub(super) fn one_more(&self) {
        if self.0.fetch_add(1, Ordering::Relaxed) + 1 < Self::MANY {
            return;
        }
        self.0.store(0, Ordering::Relaxed);
        #[cfg(target_env = "gnu")]
        tokio::task::spawn_blocking(|| {
            // SAFETY: it only gives back what nobody uses (malloc_trim(3)), and may be
            // called at any time from any thread.
            unsafe { libc::malloc_trim(0) };
        });
    }
}
