//! Where the threads of a runtime wait until the process is confined.
//!
//! A runtime of tokio starts its threads when it is built, and sockets can be
//! registered with nothing else. So its threads are there before everything is open;
//! what Landlock and most of [`super::privileges`] do counts for one thread alone.
//! Each of them therefore begins at the gate. When it opens, each confines itself,
//! and none goes on before all have. Who comes later was started by one of these,
//! and is confined from birth. So no other thread may be started before it opens: not
//! by hand, nor to block.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::bail;

/// What each thread does to be confined.
pub type Step = Arc<dyn Fn() -> anyhow::Result<()> + Send + Sync>;

/// A gate, closed until [`Gate::open`].
#[derive(Clone)]
pub struct Gate {
    state: Arc<(Mutex<State>, Condvar)>,
    threads: usize,
}

#[derive(Default)]
struct State {
    /// Threads that wait.
    arrived: usize,
    /// Present when all have arrived.
    step: Option<Step>,
    /// Threads that have done it, in whatever way it ended.
    done: usize,
    failed: Option<anyhow::Error>,
    /// Whether all are confined.
    open: bool,
}

impl Gate {
    /// A gate for this many threads, beside the one that opens it.
    pub fn before(threads: usize) -> Self {
        Self {
            state: Arc::default(),
            threads,
        }
    }

    /// How many threads it is for.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What each thread does first.
    pub fn pass(&self) {
        let mut state = self.lock();
        if state.open {
            return;
        }
        state.arrived += 1;
        self.changed();
        let step = loop {
            match &state.step {
                Some(step) => break Arc::clone(step),
                None => state = self.wait(state),
            }
        };
        drop(state);
        let result = step();
        state = self.lock();
        state.done += 1;
        if let Err(error) = result {
            state.failed = Some(error);
        }
        self.changed();
        // For ever, if one of them failed: the process is about to end then.
        while !state.open {
            state = self.wait(state);
        }
    }

    /// Waits until all threads are here, has each of them and this one do `step`,
    /// then does `last` in this one alone, and lets them go on.
    ///
    /// # Errors
    /// What went wrong. Then they never go on.
    pub fn open(
        &self,
        step: Step,
        last: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut state = self.lock();
        while state.arrived < self.threads {
            state = self.wait(state);
        }
        if state.step.is_some() {
            bail!("the process is confined already");
        }
        state.step = Some(Arc::clone(&step));
        self.changed();
        drop(state);
        step()?;
        state = self.lock();
        while state.done < self.threads {
            state = self.wait(state);
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        drop(state);
        last()?;
        self.lock().open = true;
        self.changed();
        Ok(())
    }

    fn changed(&self) {
        self.state.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single assignment, so it is whole at any time.
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, state: MutexGuard<'g, State>) -> MutexGuard<'g, State> {
        let waited = self.state.1.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn nobody_goes_on_before_all_are_confined() {
        let gate = Gate::before(3);
        let (confined, ready) = (Arc::new(Mutex::new(HashSet::new())), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    gate.pass();
                    assert_eq!(confined.lock().unwrap().len(), 4, "one went on too soon");
                    assert_eq!(ready.load(Ordering::SeqCst), 1);
                });
            }
            let told = Arc::clone(&confined);
            let step: Step = Arc::new(move || {
                told.lock().unwrap().insert(thread::current().id());
                Ok(())
            });
            let last = || {
                ready.store(1, Ordering::SeqCst);
                Ok(())
            };
            gate.open(step, last).unwrap();
        });
        // Who comes later was born confined.
        gate.pass();
        assert_eq!(confined.lock().unwrap().len(), 4);
    }

    #[test]
    fn one_that_fails_keeps_it_closed() {
        let gate = Gate::before(1);
        let waiting = gate.clone();
        // It waits for ever, and ends with this process.
        let thread = thread::spawn(move || waiting.pass());
        let opener = thread::current().id();
        let step: Step = Arc::new(move || match thread::current().id() == opener {
            true => Ok(()),
            false => bail!("no"),
        });
        let error = gate.open(step, || panic!("not when one failed"));
        assert_eq!(error.unwrap_err().to_string(), "no");
        assert!(!gate.lock().open && !thread.is_finished());
    }
}
