//! Noticing that a directory's documents changed: those of a repository, and
//! certificates. What changed is not told; the reader reads again and judges.
//!
//! ```text
//! target ─ plan ── which directories tell of it ── watches on these ── events
//!            ^                                                           │
//!            └───── look again, at each event and each interval ─────────┤
//!                                                            changed() <─┘
//! ```
//!
//! A `plan` follows the symbolic links on the way to what is watched, and is
//! made again after every change, so that a directory that was replaced is
//! noticed like one that was written to. `inotify` sets watches for it. Where a
//! `file_system` does not tell of all changes, or watches cannot be set, there
//! is the interval alone.
//!
//! The kernel does not tell of a directory that is mounted over, nor this module
//! of one further up that is renamed, or of a file that is written to before it
//! is closed. So the interval ticks in any case.

mod file_system;
mod inotify;
mod plan;

use std::fmt;
use std::future::pending;
use std::mem;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use crate::config::Notice;
use inotify::Watches;
use plan::Plan;

/// Events are told of when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);

/// So long after the first event they are told of in any case: a busy writer
/// must not delay a publication for ever.
const LATEST: Duration = Duration::from_millis(250);

/// What tells of changes. Dropping it ends the watching.
#[derive(Debug)]
pub struct Watch {
    news: Arc<News>,
    task: JoinHandle<()>,
}

/// Why [`Watch::changed`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The file system told of a change.
    Event,
    /// The interval is over; whether something changed is not known.
    Poll,
}

/// How changes are noticed, for logs and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// The kernel tells of them; the interval is a safety net.
    Inotify,
    /// By looking at every interval.
    Poll {
        /// Why not by inotify: a phrase, with the remedy if there is one.
        why: String,
    },
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inotify => f.write_str("inotify"),
            Self::Poll { why } => write!(f, "poll: {why}"),
        }
    }
}

impl Watch {
    /// Watches the documents of the repository in the directory `path`, which
    /// need not exist yet: those in its root, and all in `refs/` and
    /// `summaries/`. `poll` is the interval.
    ///
    /// Whatever changes after this has returned is told of. It asks the file
    /// system, and so may block; it must be called in a tokio runtime.
    pub fn repository(path: &Path, notice: Notice, poll: Duration) -> Self {
        Self::start(Target::Repository(path.to_owned()), notice, poll)
    }

    /// Watches single files, and every symbolic link on the way to them; as
    /// [`Watch::repository`].
    pub fn files(paths: &[PathBuf], notice: Notice, poll: Duration) -> Self {
        Self::start(Target::Files(paths.to_owned()), notice, poll)
    }

    fn start(target: Target, notice: Notice, poll: Duration) -> Self {
        let news = Arc::new(News::new());
        let mut observer = Observer {
            target,
            notice,
            watches: None,
            unsettled: false,
            news: Arc::clone(&news),
        };
        observer.look();
        let task = tokio::spawn(run(observer, Arc::clone(&news), poll));
        Self { news, task }
    }

    /// Waits until something may have changed. Changes while nobody waits are
    /// told of once, at the next call. A call that is dropped loses nothing.
    pub async fn changed(&mut self) -> Cause {
        tokio::select! {
            biased;
            () = self.news.event.notified() => Cause::Event,
            () = self.news.poll.notified() => Cause::Poll,
        }
    }

    /// How changes are noticed now.
    pub fn means(&self) -> Means {
        Means::clone(&self.news.means.load())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is watched.
#[derive(Debug)]
enum Target {
    Repository(PathBuf),
    Files(Vec<PathBuf>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = match self {
            Self::Repository(path) => slice::from_ref(path),
            Self::Files(paths) => paths,
        };
        f.debug_list().entries(paths).finish()
    }
}

/// What the task tells whoever holds the [`Watch`]. A cause is remembered once
/// if nobody waits for it, however often it is told.
#[derive(Debug)]
struct News {
    event: Notify,
    poll: Notify,
    means: ArcSwap<Means>,
}

impl News {
    fn new() -> Self {
        Self {
            event: Notify::new(),
            poll: Notify::new(),
            means: ArcSwap::from_pointee(Means::Inotify),
        }
    }

    fn tell(&self, cause: Cause) {
        match cause {
            Cause::Event => self.event.notify_one(),
            Cause::Poll => self.poll.notify_one(),
        }
    }
}

/// Looks again at each event and each interval, and only then tells of it: what
/// happens while the reader reads is seen by the new watches.
async fn run(observer: Observer, news: Arc<News>, poll: Duration) {
    let mut observer = Some(observer);
    loop {
        let cause = match &mut observer {
            Some(observer) => observer.wait(poll).await,
            None => {
                sleep(poll).await;
                Cause::Poll
            }
        };
        if let Some(mut looking) = observer.take() {
            let looked = tokio::task::spawn_blocking(move || {
                looking.look();
                looking
            });
            observer = looked
                .await
                .inspect_err(|error| abandoned(&news, error))
                .ok();
        }
        news.tell(cause);
    }
}

/// A look that did not end well takes the watches with it.
fn abandoned(news: &News, error: &JoinError) {
    error!(%error, "watching failed; changes are noticed late, at each interval");
    let why = format!("watching failed: {error}");
    news.means.store(Arc::new(Means::Poll { why }));
}

/// Keeps the watches where the target is.
#[derive(Debug)]
struct Observer {
    target: Target,
    notice: Notice,
    watches: Option<Watches>,
    /// Whether the last look ended before it had watches that fit.
    unsettled: bool,
    news: Arc<News>,
}

impl Observer {
    /// What changes between making a plan and setting its watches is seen by
    /// making one again. Who renames faster than that is looked at later.
    const ROUNDS: usize = 4;

    /// Waits for the end of a burst of events, or that of the interval.
    async fn wait(&mut self, poll: Duration) -> Cause {
        tokio::select! {
            biased;
            () = self.stirred() => {}
            () = sleep(poll) => return Cause::Poll,
        }
        let latest = Instant::now() + LATEST;
        loop {
            let now = Instant::now();
            let quiet = (now + QUIET).min(latest);
            if now >= latest || timeout_at(quiet, self.stirred()).await.is_err() {
                return Cause::Event;
            }
        }
    }

    async fn stirred(&mut self) {
        if mem::take(&mut self.unsettled) {
            return;
        }
        match &self.watches {
            Some(watches) => watches.stirred().await,
            None => pending().await,
        }
    }

    /// Sets watches where the target is now, and says once what is new about it.
    fn look(&mut self) {
        let (means, failed) = match self.watch() {
            Ok(means) => (means, false),
            Err(why) => {
                self.watches = None;
                (Means::Poll { why }, true)
            }
        };
        if **self.news.means.load() == means {
            return;
        }
        let target = &self.target;
        match failed {
            true => warn!(%target, "changes are noticed late, by {means}"),
            false => info!(%target, "changes are noticed by {means}"),
        }
        self.news.means.store(Arc::new(means));
    }

    /// Sets watches anew if the directories are others than those watched. The
    /// old ones end when the new ones are set: no change falls between.
    ///
    /// # Errors
    /// Why they cannot be set.
    fn watch(&mut self) -> Result<Means, String> {
        if self.notice == Notice::Poll {
            let why = "the configuration says so".into();
            return Ok(Means::Poll { why });
        }
        for _ in 0..Self::ROUNDS {
            let plan = Plan::of(&self.target);
            if self.watches.as_ref().is_some_and(|it| it.fit(&plan)) {
                return Ok(Means::Inotify);
            }
            if let Some(why) = plan.homes.iter().find_map(|home| file_system::silent(home)) {
                self.watches = None;
                return Ok(Means::Poll { why });
            }
            self.watches = Some(Watches::set(plan)?);
        }
        self.unsettled = true;
        Ok(Means::Inotify)
    }
}
