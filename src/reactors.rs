//! The threads that serve connections: one for each processor, each with an event
//! loop of its own.
//!
//! A connection stays where it was put. What it does then needs no lock and wakes no
//! other thread, which costs less than one event loop that all threads share, most of
//! all for HTTP/2 (`benches/PERFORMANCE.md`). It is put where the fewest are, so a client
//! that does much work has as little company as possible.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The threads. They end when this is dropped, with all they have to do.
#[derive(Debug)]
pub struct Reactors(Vec<Reactor>);

/// Threads of all of them together that wait for a disk which does not answer: no
/// more than one event loop would have.
const MOST_BLOCKING: usize = 512;

#[derive(Debug)]
struct Reactor {
    handle: Handle,
    /// How many tasks it was given that have not ended.
    tasks: Arc<AtomicUsize>,
    /// Ends it when dropped.
    _stop: oneshot::Sender<()>,
}

impl Reactors {
    /// Starts this many: one for each processor that this process may use.
    ///
    /// # Errors
    /// If threads or descriptors cannot be had.
    pub fn start(count: NonZero<usize>) -> io::Result<Self> {
        let count = count.get();
        let blocking = (MOST_BLOCKING / count).max(16);
        let reactors = (0..count).map(|_| Reactor::start(blocking));
        reactors.collect::<Result<_, _>>().map(Self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Has a task done by the one that has the fewest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let load = |reactor: &&Reactor| reactor.tasks.load(Ordering::Relaxed);
        if let Some(reactor) = self.0.iter().min_by_key(load) {
            reactor.spawn(task);
        }
    }

    /// Has a task done by the one of this number, from 0. If there is none, the task is
    /// dropped.
    pub fn spawn_at(&self, number: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(reactor) = self.0.get(number) {
            reactor.spawn(task);
        }
    }
}

impl Reactor {
    /// With as many threads beside it that may wait for a disk.
    fn start(blocking: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking)
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("reactor".into())
            .spawn(move || {
                // An error is what it waits for.
                _ = runtime.block_on(stopped);
                // A thread that waits for a disk which no longer answers must not keep
                // the process from ending.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            tasks: Arc::default(),
            _stop: stop,
        })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(&self.tasks);
        self.handle.spawn(async move {
            task.await;
            drop(counted);
        });
    }
}

/// Counts a task for as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(tasks: &Arc<AtomicUsize>) -> Self {
        tasks.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(tasks))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_task_is_done_by_the_one_that_has_the_fewest() {
        let reactors = Reactors(vec![
            Reactor::start(16).unwrap(),
            Reactor::start(16).unwrap(),
        ]);
        let loads = || -> Vec<_> {
            let load = |it: &Reactor| it.tasks.load(Ordering::Relaxed);
            reactors.0.iter().map(load).collect()
        };
        let end = Arc::new(Semaphore::new(0));
        for _ in 0..3 {
            let end = Arc::clone(&end);
            reactors.spawn(async move { end.acquire().await.unwrap().forget() });
        }
        assert_eq!(loads(), [2, 1]);
        // Its place is free again when it has ended, in whatever way.
        let (told, ended) = oneshot::channel();
        reactors.spawn(async move {
            _ = told.send(thread::current().name().map(str::to_owned));
            panic!("a task's fault ends that task");
        });
        assert_eq!(ended.await.unwrap().as_deref(), Some("reactor"));
        end.add_permits(3);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while loads() != [0, 0] {
            assert!(std::time::Instant::now() < deadline, "{:?}", loads());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_unfinished_ends_with_the_threads() {
        let reactors = Reactors(vec![Reactor::start(16).unwrap()]);
        let (kept, dropped) = oneshot::channel::<()>();
        reactors.spawn(async move {
            std::future::pending::<()>().await;
            drop(kept);
        });
        drop(reactors);
        dropped.await.expect_err("nobody keeps it");
    }
}
