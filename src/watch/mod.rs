//! Noticing that a directory's documents changed: those of a repository, and
//! certificates. What changed is not told; the reader reads again and judges.
//!
//! ```text
//! Target ─ plan: which directories tell of it ─ inotify: watches on these ─┐
//!    ^                                                                     │
//!    └──── look again, after every change and at every interval ── task <──┘── changed()
//! ```
//!
//! A [`plan`] follows the symbolic links on the way to what is watched, and is
//! made again after every change, so that a replaced directory is seen as soon as
//! a change in it. [`inotify`] sets watches for it, and nothing else names
//! `notify`. Where a [`file_system`] does not tell of changes, or watches cannot
//! be set, there is the interval alone.
//!
//! inotify misses some things: an unmounted or covered directory, a renamed
//! directory further up that is no link. So the interval ticks in any case.

mod file_system;
mod inotify;
mod plan;

use std::fmt;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::config::Notice;
use inotify::{Verdict, Watches};
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

/// What threads and tasks tell each other. Each of the signals is remembered
/// once if nobody waits for it, however often it was given.
#[derive(Debug)]
struct News {
    /// From inotify to the task: there were events.
    stir: Notify,
    /// From the task to whoever calls [`Watch::changed`], by cause.
    event: Notify,
    poll: Notify,
    means: ArcSwap<Means>,
}

impl News {
    fn new() -> Self {
        Self {
            stir: Notify::new(),
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

/// Looks again at each change and each interval, and then tells of it: what
/// happens while the reader reads is seen by the new watches.
async fn run(observer: Observer, news: Arc<News>, poll: Duration) {
    let mut observer = Some(observer);
    loop {
        let cause = tokio::select! {
            () = news.stir.notified() => {
                settle(&news.stir).await;
                Cause::Event
            }
            () = sleep(poll) => Cause::Poll,
        };
        if let Some(mut looking) = observer.take() {
            let looked = tokio::task::spawn_blocking(move || {
                looking.look();
                looking
            });
            match looked.await {
                Ok(back) => observer = Some(back),
                Err(error) => {
                    warn!(%error, "watching failed, and changes are only polled for");
                    let why = format!("watching failed: {error}");
                    news.means.store(Arc::new(Means::Poll { why }));
                }
            }
        }
        news.tell(cause);
    }
}

/// Waits for the end of a burst of events.
async fn settle(stir: &Notify) {
    let latest = Instant::now() + LATEST;
    loop {
        let now = Instant::now();
        let quiet = (now + QUIET).min(latest);
        if now >= latest || timeout_at(quiet, stir.notified()).await.is_err() {
            return;
        }
    }
}

/// Keeps the watches where the target is.
#[derive(Debug)]
struct Observer {
    target: Target,
    notice: Notice,
    watches: Option<Watches>,
    news: Arc<News>,
}

impl Observer {
    /// What changes between making a plan and setting its watches is seen by
    /// making one again. Who renames faster than that is looked at later.
    const ROUNDS: usize = 4;

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
            let news = Arc::clone(&self.news);
            let tell = move |verdict| match verdict {
                Verdict::Nothing => {}
                Verdict::Changed | Verdict::Lost => news.stir.notify_one(),
            };
            self.watches = Some(Watches::set(plan, tell)?);
        }
        self.news.stir.notify_one();
        Ok(Means::Inotify)
    }
}
