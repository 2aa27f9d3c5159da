//! When a connection is told that the server drains.

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::transport::activity::Activity;

/// The moment to say goodbye because the server drains; it comes once.
pub(super) struct Drain {
    receiver: watch::Receiver<bool>,
    state: DrainState,
}

#[derive(Clone, Copy)]
enum DrainState {
    Serving,
    /// The server drains; a first request is waited for until then.
    Waiting(Instant),
    Told,
}

impl Drain {
    /// How long a client that was just let in may take for its first request.
    /// Without an answer to that, its transfer fails; a client that had an
    /// answer on this connection tries again on another.
    const FIRST_REQUEST: Duration = Duration::from_secs(2);

    pub(super) fn new(receiver: watch::Receiver<bool>) -> Self {
        Self {
            receiver,
            state: DrainState::Serving,
        }
    }

    /// Ends at that moment; after that, never again. It has to be polled by the
    /// task that polls the connection, right after it: only so does it see the
    /// first request, which wakes nobody but that task.
    pub(super) async fn begins(&mut self, activity: &Activity) {
        if let DrainState::Serving = self.state {
            // An error means that the sender is gone, which ends the server too.
            _ = self.receiver.wait_for(|&draining| draining).await;
            self.state = DrainState::Waiting(Instant::now() + Self::FIRST_REQUEST);
        }
        if let DrainState::Waiting(end) = self.state {
            let asked = poll_fn(|_| match activity.counters().started {
                0 => Poll::Pending,
                _ => Poll::Ready(()),
            });
            // Either way it is time.
            _ = timeout_at(end, asked).await;
            self.state = DrainState::Told;
            return;
        }
        pending().await
    }
}
