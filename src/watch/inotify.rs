//! Watches on the directories of a [`Plan`].
//!
//! They are set without the crate `notify`, whose version 8 always asks for
//! `OPEN`: then serving files fills the kernel's queue until it overflows, which
//! is told as a change. It also says nothing of a file system that is unmounted.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;

use super::plan::{Plan, Watched};

/// What happens to a directory and the names in it. Not asked for is what
/// reading does: `OPEN`, `ACCESS`, `CLOSE_NOWRITE`.
const NAMES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// What happens to the contents of the files in it.
const CONTENTS: WatchFlags = WatchFlags::MODIFY.union(WatchFlags::CLOSE_WRITE);

/// After these events a watch is gone, or may be.
const LOST: ReadFlags = ReadFlags::IGNORED
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::QUEUE_OVERFLOW);

/// Watches that are set; dropping them removes them.
#[derive(Debug)]
pub(super) struct Watches {
    queue: AsyncFd<OwnedFd>,
    plan: Plan,
    /// By the kernel's number for a watch; a directory that is bound to several
    /// places has one.
    paths: HashMap<i32, Vec<PathBuf>>,
    lost: bool,
}

impl Watches {
    /// Sets them. It blocks, and must be called in a tokio runtime.
    ///
    /// # Errors
    /// Why that is not possible, with a remedy.
    pub(super) fn set(plan: Plan) -> Result<Self, String> {
        let queue = queue().map_err(|error| no_instance(&error))?;
        let mut paths: HashMap<i32, Vec<PathBuf>> = HashMap::new();
        for (path, watched) in &plan.directories {
            let mut flags = NAMES | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
            flags.set(CONTENTS, watched.needed);
            match inotify::add_watch(queue.get_ref(), path, flags) {
                Ok(number) => paths.entry(number).or_default().push(path.clone()),
                // It vanished meanwhile; the next plan is without it.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::ACCESS) if !watched.needed => {
                    debug!(path = %path.display(), "may not be watched, and is only polled");
                }
                Err(Errno::NOSPC) => {
                    return Err("no inotify watches are left: raise the sysctl \
                                fs.inotify.max_user_watches"
                        .into());
                }
                Err(error) => {
                    return Err(format!("{} cannot be watched: {error}", path.display()));
                }
            }
        }
        Ok(Self {
            queue,
            plan,
            paths,
            lost: false,
        })
    }

    /// Whether they are watches for this plan, and none is lost.
    pub(super) fn fit(&self, plan: &Plan) -> bool {
        !self.lost && self.plan == *plan
    }

    /// Waits for an event that is of interest. Cancel-safe.
    pub(super) async fn stirred(&mut self) {
        loop {
            let read = match self.queue.readable().await {
                Ok(mut ready) => ready.try_io(|queue| {
                    let judge = |number, events, name: Option<&OsStr>| {
                        judge(self.paths_of(number), events, name)
                    };
                    read(queue.get_ref(), judge).map_err(io::Error::from)
                }),
                Err(error) => Ok(Err(error)),
            };
            let verdict = match read {
                Ok(Ok(verdict)) => verdict,
                // Another time.
                Err(_) => Verdict::Nothing,
                Ok(Err(error)) => {
                    debug!(%error, "the queue cannot be read");
                    Verdict::Lost
                }
            };
            self.lost |= verdict == Verdict::Lost;
            if verdict != Verdict::Nothing {
                return;
            }
        }
    }

    fn paths_of(&self, number: i32) -> impl Iterator<Item = &Watched> {
        let paths = self.paths.get(&number).into_iter().flatten();
        paths.filter_map(|path| self.plan.directories.get(path))
    }
}

fn queue() -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // SAFETY: an `OwnedFd` is open and the same descriptor until it is dropped,
    // and the `AsyncFd`, which owns it, lends it as shared only.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// What events mean; the worse is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Nothing,
    /// Something of interest changed.
    Changed,
    /// The same, and watches may be gone with it.
    Lost,
}

/// Reads as many events as fit a buffer.
fn read(
    queue: &OwnedFd,
    judge: impl Fn(i32, ReadFlags, Option<&OsStr>) -> Verdict,
) -> Result<Verdict, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(queue, &mut buffer);
    let mut worst = Verdict::Nothing;
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|it| OsStr::from_bytes(it.to_bytes()));
        worst = worst.max(judge(event.wd(), event.events(), name));
        if reader.is_buffer_empty() {
            return Ok(worst);
        }
    }
}

fn judge<'w>(
    mut watched: impl Iterator<Item = &'w Watched>,
    events: ReadFlags,
    name: Option<&OsStr>,
) -> Verdict {
    if events.intersects(LOST) {
        return Verdict::Lost;
    }
    // An event without a name is one of the directory itself.
    match watched.any(|it| name.is_none_or(|name| it.concerns(name))) {
        true => Verdict::Changed,
        false => Verdict::Nothing,
    }
}

fn no_instance(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "no inotify instances are left: raise the sysctl \
                               fs.inotify.max_user_instances, or the limit of open files"
            .into(),
        _ => format!("inotify cannot be used: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::super::Target;
    use super::*;

    fn plan(root: &Path) -> Plan {
        Plan::of(&Target::Repository(root.to_owned()))
    }

    async fn stirred(watches: &mut Watches) -> bool {
        let wait = Duration::from_secs(20);
        tokio::time::timeout(wait, watches.stirred()).await.is_ok()
    }

    /// Nobody reads while more happens than the kernel remembers, and nothing of
    /// it is of interest.
    #[tokio::test]
    async fn a_full_queue_is_a_change() {
        let root = tempfile::tempdir().unwrap();
        let mut watches = Watches::set(plan(root.path())).unwrap();
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let names = ["a", "b"].map(|it| root.path().join(it));
        fs::write(&names[0], "").unwrap();
        // Each time two events; those of one name alone would be merged.
        for turn in 0..limit {
            fs::rename(&names[turn % 2], &names[(turn + 1) % 2]).unwrap();
        }
        assert!(stirred(&mut watches).await);
        assert!(!watches.fit(&plan(root.path())), "watches may be lost");
    }

    /// The number of a removed directory is given to the next one at once, so
    /// that it looks like the old one.
    #[tokio::test]
    async fn a_directory_that_is_made_again_has_no_watch() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("repo");
        fs::create_dir(&root).unwrap();
        let mut watches = Watches::set(plan(&root)).unwrap();
        assert!(watches.fit(&plan(&root)));
        fs::remove_dir(&root).unwrap();
        fs::create_dir(&root).unwrap();
        while watches.fit(&plan(&root)) {
            assert!(stirred(&mut watches).await, "it is noticed");
        }
    }

    #[test]
    fn verdicts() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(root.path());
        let verdict = |path: &Path, events, name: Option<&str>| {
            let watched = plan.directories.get(path);
            judge(watched.into_iter(), events, name.map(OsStr::new))
        };
        let parent = root.path().parent().unwrap();
        let own_name = root.path().file_name().unwrap().to_str();
        for (path, events, name, expected) in [
            (
                root.path(),
                ReadFlags::MOVED_TO,
                Some("summary"),
                Verdict::Changed,
            ),
            (
                root.path(),
                ReadFlags::CLOSE_WRITE,
                Some(".lock"),
                Verdict::Changed,
            ),
            (
                root.path(),
                ReadFlags::CREATE,
                Some("tmp"),
                Verdict::Nothing,
            ),
            (root.path(), ReadFlags::ATTRIB, None, Verdict::Changed),
            (root.path(), ReadFlags::MOVE_SELF, None, Verdict::Changed),
            (root.path(), ReadFlags::UNMOUNT, None, Verdict::Lost),
            (root.path(), ReadFlags::IGNORED, None, Verdict::Lost),
            (parent, ReadFlags::MOVED_FROM, own_name, Verdict::Changed),
            (parent, ReadFlags::CREATE, Some("summary"), Verdict::Nothing),
            // A watch that is not known, as all are to a full queue.
            (
                Path::new("/nowhere"),
                ReadFlags::MODIFY,
                None,
                Verdict::Nothing,
            ),
            (
                Path::new("/nowhere"),
                ReadFlags::QUEUE_OVERFLOW,
                None,
                Verdict::Lost,
            ),
        ] {
            assert_eq!(
                verdict(path, events, name),
                expected,
                "{path:?} {events:?} {name:?}"
            );
        }
    }
}
