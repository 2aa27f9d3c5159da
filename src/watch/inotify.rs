//! Watches on the directories of a [`Plan`], set by `notify`.
//!
//! Facts about notify 8 that this stands on: it asks for `OPEN` as well, which
//! our own reading causes; it forgets the watches on a directory, and on all
//! below, when that is moved or removed, even if it comes back; a full queue is
//! told as an event that needs a rescan; it says nothing when a file system is
//! unmounted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Error, ErrorKind, Event, INotifyWatcher, RecursiveMode, Watcher};
use rustix::io::Errno;
use tracing::debug;

use super::plan::Plan;

/// Watches that are set; dropping them removes them.
#[derive(Debug)]
pub(super) struct Watches {
    plan: Arc<Plan>,
    lost: Arc<AtomicBool>,
    _watcher: INotifyWatcher,
}

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing for this plan.
    Nothing,
    /// Something of interest changed.
    Changed,
    /// The same, and watches may be gone with it.
    Lost,
}

impl Watches {
    /// Sets them, and calls `tell` for each event from a thread of its own.
    ///
    /// # Errors
    /// Why that is not possible, with a remedy.
    pub(super) fn set(plan: Plan, tell: impl Fn(Verdict) + Send + 'static) -> Result<Self, String> {
        let plan = Arc::new(plan);
        let lost = Arc::new(AtomicBool::new(false));
        let handler = {
            let (plan, lost) = (Arc::clone(&plan), Arc::clone(&lost));
            move |event: notify::Result<Event>| {
                let verdict = judge(&plan, &event);
                if verdict == Verdict::Lost {
                    lost.store(true, Ordering::Release);
                }
                tell(verdict);
            }
        };
        let mut watcher = INotifyWatcher::new(handler, notify::Config::default())
            .map_err(|error| no_instance(&error))?;
        for (path, watched) in &plan.directories {
            let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) else {
                continue;
            };
            match refusal(&error) {
                Refusal::Gone => {}
                Refusal::Forbidden if !watched.needed => {
                    debug!(path = %path.display(), "may not be watched, and is only polled");
                }
                Refusal::NoWatches => {
                    return Err("no inotify watches are left: raise the sysctl \
                                fs.inotify.max_user_watches"
                        .into());
                }
                Refusal::Forbidden | Refusal::Other => {
                    return Err(format!("{} cannot be watched: {error}", path.display()));
                }
            }
        }
        Ok(Self {
            plan,
            lost,
            _watcher: watcher,
        })
    }

    /// Whether they are watches for this plan, and none is lost.
    pub(super) fn fit(&self, plan: &Plan) -> bool {
        !self.lost.load(Ordering::Acquire) && *self.plan == *plan
    }
}

fn judge(plan: &Plan, event: &notify::Result<Event>) -> Verdict {
    let Ok(event) = event else {
        return Verdict::Lost;
    };
    if event.need_rescan() {
        return Verdict::Lost;
    }
    let moved = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => return Verdict::Nothing,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Other => false,
    };
    let mut paths = event.paths.iter();
    if moved && paths.any(|path| plan.directories.contains_key(path)) {
        return Verdict::Lost;
    }
    match event.paths.iter().any(|path| plan.concerns(path)) {
        true => Verdict::Changed,
        false => Verdict::Nothing,
    }
}

/// Why a watch could not be set.
enum Refusal {
    /// It vanished meanwhile; the next plan is without it.
    Gone,
    Forbidden,
    NoWatches,
    Other,
}

fn refusal(error: &Error) -> Refusal {
    match &error.kind {
        ErrorKind::PathNotFound => Refusal::Gone,
        ErrorKind::MaxFilesWatch => Refusal::NoWatches,
        ErrorKind::Io(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Refusal::Gone,
            io::ErrorKind::PermissionDenied => Refusal::Forbidden,
            _ => Refusal::Other,
        },
        _ => Refusal::Other,
    }
}

fn no_instance(error: &Error) -> String {
    match &error.kind {
        ErrorKind::Io(error) if Errno::from_io_error(error) == Some(Errno::MFILE) => {
            "no inotify instances are left: raise the sysctl fs.inotify.max_user_instances, \
             or the limit of open files"
                .into()
        }
        _ => format!("inotify cannot be used: {error}"),
    }
}
