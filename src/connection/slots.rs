//! One slot for each connection, of a number that may change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A connection's place; dropping it frees it.
pub type Slot = OwnedSemaphorePermit;

/// The places for connections.
#[derive(Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    /// As many as there should be.
    count: AtomicUsize,
    /// As many of those that are taken as there should not be. They are taken out
    /// of use as they come free, before anybody gets another one.
    surplus: AtomicUsize,
}

impl Slots {
    /// So many, all free.
    pub fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            count: AtomicUsize::new(count),
            surplus: AtomicUsize::new(0),
        }
    }

    /// Makes it so many. If more are taken, those stay until their connections
    /// end, and until then nobody gets one. To be called from one place only.
    pub fn resize(&self, count: usize) {
        let before = self.count.swap(count, Ordering::Relaxed);
        if count < before {
            let fewer = before - count;
            let taken = fewer - self.free.forget_permits(fewer);
            self.surplus.fetch_add(taken, Ordering::Relaxed);
            return;
        }
        let more = count - before;
        let surplus = |it: usize| Some(it.saturating_sub(more));
        let before = self
            .surplus
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, surplus)
            .unwrap_or_else(|unchanged| unchanged);
        self.free.add_permits(more.saturating_sub(before));
    }

    /// Waits for a free one; `None` only if there will be none any more.
    /// Dropping the future loses none.
    pub async fn take(&self) -> Option<Slot> {
        loop {
            let slot = Arc::clone(&self.free).acquire_owned().await.ok()?;
            if let Some(slot) = self.unless_surplus(slot) {
                return Some(slot);
            }
        }
    }

    /// A free one, if there is one.
    pub fn try_take(&self) -> Option<Slot> {
        loop {
            let slot = Arc::clone(&self.free).try_acquire_owned().ok()?;
            if let Some(slot) = self.unless_surplus(slot) {
                return Some(slot);
            }
        }
    }

    fn unless_surplus(&self, slot: Slot) -> Option<Slot> {
        let one_less = |surplus: usize| surplus.checked_sub(1);
        let taken_out = self
            .surplus
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        match taken_out {
            Ok(_) => {
                slot.forget();
                None
            }
            Err(_) => Some(slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Resize(usize),
        Take,
        Free(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..9usize).prop_map(Step::Resize),
            Just(Step::Take),
            Just(Step::Take),
            (0..9usize).prop_map(Step::Free),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// A slot is to be had if fewer are taken than there should be, whatever
        /// happened before.
        #[test]
        fn there_are_as_many_as_there_should_be(steps in steps()) {
            let mut count = 3;
            let slots = Slots::new(count);
            let mut taken = Vec::new();
            for step in steps {
                match step {
                    Step::Resize(to) => {
                        slots.resize(to);
                        count = to;
                    }
                    Step::Take => {
                        let slot = slots.try_take();
                        prop_assert_eq!(slot.is_some(), taken.len() < count);
                        taken.extend(slot);
                    }
                    Step::Free(number) if number < taken.len() => {
                        drop(taken.swap_remove(number));
                    }
                    Step::Free(_) => {}
                }
            }
        }
    }

    /// Somebody who waits already must not overtake a number that became smaller.
    #[tokio::test]
    async fn who_waits_gets_none_that_should_not_be() {
        let slots = Slots::new(2);
        let taken = [slots.try_take(), slots.try_take()];
        let mut waiting = Box::pin(slots.take());
        assert!(ready_now(&mut waiting).is_none());
        slots.resize(1);
        let [one, two] = taken;
        drop(one);
        assert!(ready_now(&mut waiting).is_none(), "one is taken still");
        drop(two);
        assert!(ready_now(&mut waiting).is_some());
    }

    fn ready_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
