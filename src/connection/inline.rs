//! How the futures of HTTP/2 streams are run.

use std::pin::Pin;
use std::task::{Context, Waker};

/// Runs a future at once as far as it goes, and as a task of its own only if it has
/// to wait. Most replies come from memory and never do; a task for each of them
/// would cost more than the reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inline;

impl<F> hyper::rt::Executor<F> for Inline
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let mut future: Pin<Box<F>> = Box::pin(future);
        // Whoever it waits for is told of the task's waker when the task polls it.
        let mut nobody = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut nobody).is_pending() {
            tokio::spawn(future);
        }
    }
}

#[cfg(test)]
mod tests;
