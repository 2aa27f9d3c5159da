//! Watches on the directories of a [`Plan`], set by `notify`.
//!
//! Facts about its version 9 that this stands on:
//! - It asks the kernel for what [`EVENTS`] says, and for a directory's own end
//!   and move. It tells of unmounting as of a removal, and of a full queue as an
//!   event that needs a rescan.
//! - It forgets the watches on a directory, and on all below, when that is moved
//!   or removed, even if it comes back.
//! - It names a directory that is bound to several places by one of these.
//! - It reads events in a thread of its own. If that cannot be started it says
//!   nothing of it, and if that has ended, dropping the watcher panics.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{EventKind, ModifyKind};
use notify::{Config, Error, ErrorKind, Event, EventKindMask, INotifyWatcher};
use notify::{RecursiveMode, Watcher};
use rustix::io::Errno;
use tokio::sync::Notify;
use tracing::debug;

use super::plan::{Plan, Watched};

/// What happens to a directory and the names in it, and the end of writing to a
/// file. Not asked for is what reading does, and each single write: that of a log
/// beside a link on the way would only keep us busy.
const EVENTS: EventKindMask = EventKindMask::CREATE
    .union(EventKindMask::REMOVE)
    .union(EventKindMask::MODIFY_NAME)
    .union(EventKindMask::MODIFY_META)
    .union(EventKindMask::ACCESS_CLOSE);

/// Watches that are set; dropping them removes them.
#[derive(Debug)]
pub(super) struct Watches {
    /// Always there, until it is dropped.
    watcher: Option<INotifyWatcher>,
    heard: Arc<Heard>,
}

impl Watches {
    /// Sets them. It blocks.
    ///
    /// # Errors
    /// Why that is not possible, with a remedy.
    pub(super) fn set(plan: Plan) -> Result<Self, String> {
        let mut watches = Self::none(plan, Heard::hear)?;
        watches.add_all()?;
        Ok(watches)
    }

    /// Starts notify's thread, which alone shares what is heard.
    fn none(
        plan: Plan,
        hear: impl Fn(&Heard, notify::Result<Event>) + Send + 'static,
    ) -> Result<Self, String> {
        let heard = Arc::new(Heard {
            plan,
            lost: AtomicBool::new(false),
            stir: Notify::new(),
        });
        let handler = {
            let heard = Arc::clone(&heard);
            move |event| hear(&heard, event)
        };
        let config = Config::default().with_event_kinds(EVENTS);
        let watcher = INotifyWatcher::new(handler, config).map_err(|error| no_instance(&error))?;
        Ok(Self {
            watcher: Some(watcher),
            heard,
        })
    }

    fn add_all(&mut self) -> Result<(), String> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        let mut directories = self.heard.plan.directories.iter();
        directories.try_for_each(|(path, watched)| add(watcher, path, watched))
    }

    /// Whether they are watches for this plan, and none is lost.
    pub(super) fn fit(&self, plan: &Plan) -> bool {
        self.listening() && !self.heard.lost.load(Ordering::Acquire) && self.heard.plan == *plan
    }

    /// Waits for an event that is of interest. Cancel-safe.
    pub(super) async fn stirred(&self) {
        self.heard.stir.notified().await;
    }

    /// Whether notify's thread runs: it shares what is heard.
    fn listening(&self) -> bool {
        Arc::strong_count(&self.heard) > 1
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        let watcher = self.watcher.take();
        if !self.listening() {
            // It would panic. What leaks is a descriptor that wakes nobody.
            std::mem::forget(watcher);
        }
    }
}

fn add(watcher: &mut INotifyWatcher, path: &Path, watched: &Watched) -> Result<(), String> {
    let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) else {
        return Ok(());
    };
    match &error.kind {
        // It vanished meanwhile; the next plan is without it.
        ErrorKind::PathNotFound => Ok(()),
        ErrorKind::Io(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
        ErrorKind::Io(error)
            if error.kind() == io::ErrorKind::PermissionDenied && !watched.needed =>
        {
            debug!(path = %path.display(), "may not be watched, and is only polled");
            Ok(())
        }
        ErrorKind::MaxFilesWatch => Err("no inotify watches are left: raise the sysctl \
                                         fs.inotify.max_user_watches"
            .into()),
        ErrorKind::Io(error) => Err(format!("{} cannot be watched: {error}", path.display())),
        _ => Err(format!("{} cannot be watched: {error}", path.display())),
    }
}

/// What notify's thread leaves for the task: however many events there were, that
/// there were some.
#[derive(Debug)]
struct Heard {
    plan: Plan,
    lost: AtomicBool,
    stir: Notify,
}

impl Heard {
    fn hear(&self, event: notify::Result<Event>) {
        match judge(&self.plan, &event) {
            Verdict::Nothing => return,
            Verdict::Changed => {}
            Verdict::Lost => self.lost.store(true, Ordering::Release),
        }
        self.stir.notify_one();
    }
}

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    /// Something of interest changed.
    Changed,
    /// The same, and watches may be gone with it.
    Lost,
}

fn judge(plan: &Plan, event: &notify::Result<Event>) -> Verdict {
    let Ok(event) = event else {
        return Verdict::Lost;
    };
    let ends = matches!(
        event.kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
    );
    let mut paths = event.paths.iter();
    if event.need_rescan() || ends && paths.any(|it| plan.directories.contains_key(it)) {
        return Verdict::Lost;
    }
    match event.paths.iter().any(|it| plan.concerns(it)) {
        true => Verdict::Changed,
        false => Verdict::Nothing,
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use notify::event::{AccessKind, AccessMode, CreateKind, Flag, MetadataKind};
    use notify::event::{RemoveKind, RenameMode};

    use super::super::Target;
    use super::*;

    fn plan(root: &Path) -> Plan {
        Plan::of(&Target::Repository(root.to_owned()))
    }

    async fn stirred(watches: &Watches) -> bool {
        let wait = Duration::from_secs(20);
        tokio::time::timeout(wait, watches.stirred()).await.is_ok()
    }

    /// Nobody reads while more happens than the kernel remembers, and nothing of
    /// it is of interest.
    #[tokio::test]
    async fn a_full_queue_is_a_change() {
        let root = tempfile::tempdir().unwrap();
        let gate = Arc::new(Mutex::new(()));
        let hear = {
            let gate = Arc::clone(&gate);
            move |heard: &Heard, event| {
                drop(gate.lock());
                heard.hear(event);
            }
        };
        let mut watches = Watches::none(plan(root.path()), hear).unwrap();
        watches.add_all().unwrap();
        // Not before they are set: the same thread sets them.
        let closed = gate.lock().unwrap();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let names = ["a", "b"].map(|it| root.path().join(it));
        fs::write(&names[0], "").unwrap();
        // Each time two events; those of one name alone would be merged.
        for turn in 0..limit {
            fs::rename(&names[turn % 2], &names[(turn + 1) % 2]).unwrap();
        }
        drop(closed);
        assert!(stirred(&watches).await);
        assert!(!watches.fit(&plan(root.path())), "watches may be lost");
    }

    /// The number of a removed directory is given to the next one at once, so
    /// that it looks like the old one.
    #[tokio::test]
    async fn a_directory_that_is_made_again_has_no_watch() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("repo");
        fs::create_dir(&root).unwrap();
        let watches = Watches::set(plan(&root)).unwrap();
        assert!(watches.fit(&plan(&root)));
        fs::remove_dir(&root).unwrap();
        fs::create_dir(&root).unwrap();
        while watches.fit(&plan(&root)) {
            assert!(stirred(&watches).await, "it is noticed");
        }
    }

    /// As it is where no thread can be started.
    #[test]
    fn without_its_thread_nothing_fits_and_nothing_panics() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("repo");
        fs::create_dir(&root).unwrap();
        let hear = |_: &Heard, _| panic!("this ends the thread, and is meant to");
        let mut watches = Watches::none(plan(&root), hear).unwrap();
        watches.add_all().unwrap();
        fs::write(root.join("summary"), "").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while watches.fit(&plan(&root)) {
            assert!(Instant::now() < deadline, "the thread does not end");
            std::thread::yield_now();
        }
        let why = watches.add_all().unwrap_err();
        assert!(why.contains("cannot be watched"), "{why}");
        drop(watches);
    }

    #[test]
    fn verdicts() {
        const WRITTEN: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
        const MADE: EventKind = EventKind::Create(CreateKind::Any);
        const GONE: EventKind = EventKind::Remove(RemoveKind::Any);
        const META: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        const FROM: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("repo");
        fs::create_dir(&root).unwrap();
        let plan = plan(&root);
        for (path, kind, expected) in [
            (root.join("summary"), TO, Verdict::Changed),
            (root.join("summary"), GONE, Verdict::Changed),
            (root.join(".lock"), WRITTEN, Verdict::Changed),
            (root.join("refs"), MADE, Verdict::Changed),
            (root.join("tmp"), MADE, Verdict::Nothing),
            (root.join("tmp"), FROM, Verdict::Nothing),
            (root.clone(), META, Verdict::Changed),
            // Moved, removed or unmounted.
            (root.clone(), FROM, Verdict::Lost),
            (root.clone(), GONE, Verdict::Lost),
            (parent.path().join("beside"), GONE, Verdict::Nothing),
            (parent.path().join("summary"), MADE, Verdict::Nothing),
            (PathBuf::from("/nowhere/summary"), MADE, Verdict::Nothing),
        ] {
            let event = Event::new(kind).add_path(path);
            assert_eq!(judge(&plan, &Ok(event.clone())), expected, "{event:?}");
        }
        let full = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(judge(&plan, &Ok(full)), Verdict::Lost);
        assert_eq!(judge(&plan, &Err(Error::generic(""))), Verdict::Lost);
    }
}
