//! A directory that was opened once, and what can be opened beneath it.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Cause, Patience, Unreadable};

/// A directory, held by a descriptor: whoever renames or replaces it does not
/// change what is opened beneath.
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    resolver: Resolver,
    /// Whether this kernel can be asked for what it has cached (Linux 5.12).
    knows_cached: AtomicBool,
    opens: AtomicU64,
}

/// How names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// By the kernel in one call, `openat2(2)` of Linux 5.6.
    Openat2,
    /// By this program, a component at a time, where that call is missing or
    /// forbidden.
    Walk,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The descriptor.
    pub fd: OwnedFd,
    /// Which file it is, in which state.
    pub identity: Identity,
}

/// A file in a certain state, as far as the file system tells states apart.
///
/// It says when a remembered digest may be used again. It never leaves the
/// machine: another one has other inodes and times for the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.max(0) as u64,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// When its bytes were last changed: seconds and nanoseconds since 1970, as
    /// far as nobody set the time by hand.
    pub fn modified(&self) -> (i64, u64) {
        self.modified
    }

    /// How long ago the inode was last changed, by the clocks of file system and
    /// machine; zero if it is in the future.
    pub fn age(&self, now: SystemTime) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let changed = UNIX_EPOCH + seconds + Duration::from_nanos(nanoseconds);
        now.duration_since(changed).unwrap_or_default()
    }

    /// When it was last changed, in seconds since 1970.
    #[cfg(test)]
    pub(super) fn changed_seconds(&self) -> i64 {
        self.changed.0
    }

    /// Whether its bytes can no longer change without it: no file system's clock
    /// ticks slower than in three seconds (FAT: two).
    pub fn is_settled(&self) -> bool {
        const SECONDS: i64 = 3;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.settled_for(SECONDS, now.map_or(0, |since| since.as_secs() as i64))
    }

    /// Whether the last change is at least `seconds` before `now` (in seconds
    /// since 1970). A younger file may be changed once more within the same
    /// tick of the file system's clock, which its times then do not show. The
    /// time is that of the inode, which nobody can set.
    pub fn settled_for(&self, seconds: i64, now: i64) -> bool {
        self.changed.0 <= now - seconds
    }
}

/// What to do about symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// A link anywhere in a name is an error, ELOOP.
    Refused,
    /// Below this subdirectory links are followed, as long as they stay in
    /// there; names begin with its name.
    Inside(&'static str),
}

/// What came of opening a name.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(OpenFile),
    /// There is nothing of this name.
    Absent,
    /// Nothing in memory tells. Only [`Patience::Never`] gets this answer.
    WouldWait,
}

const FILE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY)
    // A FIFO opens at once, and is then found to be no regular file.
    .union(OFlags::NONBLOCK);

impl Directory {
    /// Opens the directory at `path`. Links on the way to it are the
    /// operator's, and followed.
    ///
    /// # Errors
    /// What the system says, ENOTDIR for what is no directory.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        let directory = Self::open_with(path, Resolver::Openat2)?;
        // EPERM and ENOSYS are what system call filters answer.
        let probe = directory.openat2(
            directory.fd.as_fd(),
            ".",
            OFlags::PATH,
            ResolveFlags::BENEATH,
        );
        match probe {
            Err(Errno::NOSYS | Errno::PERM) => Self::open_with(path, Resolver::Walk),
            _ => Ok(directory),
        }
    }

    /// The same with a certain way to resolve names.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn open_with(path: &Path, resolver: Resolver) -> Result<Self, Unreadable> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Unreadable {
            path: path.to_owned(),
            cause: errno.into(),
        })?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            resolver,
            knows_cached: AtomicBool::new(true),
            opens: AtomicU64::new(0),
        })
    }

    /// The name by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many names it was asked to open.
    pub fn opens(&self) -> u64 {
        self.opens.load(Ordering::Relaxed)
    }

    /// Opens the regular file `name`, a relative name without dotted segments.
    ///
    /// # Errors
    /// Whatever keeps a name that exists from being a readable regular file.
    pub fn open_file(
        &self,
        name: &str,
        links: Links,
        patience: Patience,
    ) -> Result<Opened, Unreadable> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        self.outcome(name, self.open_any(name, links, FILE_FLAGS, patience))
    }

    fn open_any(
        &self,
        name: &str,
        links: Links,
        flags: OFlags,
        patience: Patience,
    ) -> Result<OwnedFd, Errno> {
        match links {
            Links::Refused => self.open_strictly(name, flags | OFlags::NOFOLLOW, patience),
            Links::Inside(root) => match name
                .strip_prefix(root)
                .and_then(|rest| rest.strip_prefix('/'))
            {
                Some(rest) => self.open_alias(root, rest, flags, patience),
                None => Err(Errno::NOENT),
            },
        }
    }

    /// What is in the directory `name`, in no order; `None` if there is no such
    /// directory. Names that are not UTF-8 are left out: nothing that is served
    /// has one. May wait.
    ///
    /// # Errors
    /// Whatever keeps the directory from being read.
    pub fn list(
        &self,
        name: &str,
        links: Links,
    ) -> Result<Option<Vec<(String, FileType)>>, Unreadable> {
        let unreadable = |errno: Errno| Unreadable::new(&self.path, name, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match self.open_any(name, links, flags, Patience::Wait) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(unreadable(errno)),
        };
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => entries.push((name.to_owned(), entry.file_type())),
            }
        }
        Ok(Some(entries))
    }

    /// The state of the regular file `name`, without opening it for reading;
    /// `None` if there is no such file. May wait.
    ///
    /// # Errors
    /// What keeps it from being looked at, or that it is no regular file.
    pub fn identify(&self, name: &str) -> Result<Option<Identity>, Unreadable> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.outcome(name, self.open_strictly(name, flags, Patience::Wait))? {
            Opened::File(file) => Ok(Some(file.identity)),
            Opened::Absent => Ok(None),
            Opened::WouldWait => Err(Unreadable::new(&self.path, name, Errno::AGAIN)),
        }
    }

    /// Whether its path still leads to this directory, and not to another one
    /// that was put in its place, or to none.
    pub fn is_in_place(&self) -> bool {
        let here = rustix::fs::fstat(&self.fd);
        let there = rustix::fs::stat(&self.path);
        matches!((here, there), (Ok(here), Ok(there))
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino))
    }

    fn open_alias(
        &self,
        root: &str,
        name: &str,
        flags: OFlags,
        patience: Patience,
    ) -> Result<OwnedFd, Errno> {
        let root = self.open_strictly(root, DIRECTORY_FLAGS, patience)?;
        match self.resolver {
            Resolver::Openat2 => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                self.openat2_patiently(root.as_fd(), name, flags, resolve, patience)
            }
            Resolver::Walk => walk_links(root, name, flags),
        }
    }

    fn open_strictly(
        &self,
        name: &str,
        flags: OFlags,
        patience: Patience,
    ) -> Result<OwnedFd, Errno> {
        match self.resolver {
            Resolver::Openat2 => {
                let resolve =
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
                self.openat2_patiently(self.fd.as_fd(), name, flags, resolve, patience)
            }
            Resolver::Walk => walk_strictly(self.fd.as_fd(), name, flags),
        }
    }

    fn openat2_patiently(
        &self,
        directory: impl AsFd,
        name: &str,
        flags: OFlags,
        resolve: ResolveFlags,
        patience: Patience,
    ) -> Result<OwnedFd, Errno> {
        let directory = directory.as_fd();
        if patience == Patience::Never && self.knows_cached.load(Ordering::Relaxed) {
            match self.openat2(directory, name, flags, resolve | ResolveFlags::CACHED) {
                Err(Errno::INVAL) => self.knows_cached.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        if patience == Patience::Never {
            return Err(Errno::AGAIN);
        }
        // EAGAIN means that a rename elsewhere made a `..` uncertain; if it stays,
        // somebody has a lease on the file (fcntl(2)).
        for _ in 0..100 {
            match self.openat2(directory, name, flags, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    fn openat2(
        &self,
        directory: impl AsFd,
        name: &str,
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(
            directory,
            name,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }

    fn outcome(&self, name: &str, opened: Result<OwnedFd, Errno>) -> Result<Opened, Unreadable> {
        let unreadable = |cause: Cause| Unreadable::new(&self.path, name, cause);
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::AGAIN) => return Ok(Opened::WouldWait),
            // A file stands where a directory would have to be, or the name is
            // longer than any file's: no such name exists.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(Opened::Absent),
            // What opening a socket gives.
            Err(Errno::NXIO) => return Err(unreadable(Cause::NotRegular(FileType::Socket))),
            Err(errno) => return Err(unreadable(errno.into())),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| unreadable(errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Opened::File(OpenFile {
                fd,
                identity: Identity::of(&stat),
            })),
            other => Err(unreadable(Cause::NotRegular(other))),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Directory").field(&self.path).finish()
    }
}

/// What `openat2` does with BENEATH and NO_SYMLINKS, for names without `..`.
fn walk_strictly(root: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut directory: Option<OwnedFd> = None;
    let mut components = name.split('/').peekable();
    while let Some(component) = components.next() {
        let at = directory.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        if components.peek().is_none() {
            return open_component(at, OsStr::new(component), flags);
        }
        directory = Some(open_component(at, OsStr::new(component), DIRECTORY_FLAGS)?);
    }
    Err(Errno::NOENT)
}

const DIRECTORY_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Opens one component, which is not to be a link: ELOOP if it is.
fn open_component(at: impl AsFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&at, name, flags, Mode::empty()).map_err(|errno| match errno {
        // With O_DIRECTORY a link is first of all no directory.
        Errno::NOTDIR if is_link(&at, name) => Errno::LOOP,
        errno => errno,
    })
}

fn is_link(at: impl AsFd, name: &OsStr) -> bool {
    rustix::fs::readlinkat(at, name, Vec::new()).is_ok()
}

/// What `openat2` does with BENEATH alone: links are followed, `..` leads up
/// to `root` and no further.
fn walk_links(root: OwnedFd, name: &str, last: OFlags) -> Result<OwnedFd, Errno> {
    // As many as the kernel follows (path_resolution(7)).
    const MOST_LINKS: usize = 40;
    let mut links = 0;
    // From the root to where we are; what is still to be walked, last first.
    let mut trail = vec![root];
    let mut ahead: Vec<Vec<u8>> = Vec::new();
    push_components(&mut ahead, name.as_bytes());
    while let Some(component) = ahead.pop() {
        let here = trail.last().ok_or(Errno::XDEV)?;
        match component.as_slice() {
            b"" | b"." => continue,
            b".." => {
                trail.pop();
                if trail.is_empty() {
                    return Err(Errno::XDEV);
                }
                continue;
            }
            _ => {}
        }
        let name = OsStr::from_bytes(&component);
        let flags = if ahead.is_empty() {
            last
        } else {
            DIRECTORY_FLAGS
        };
        match open_component(here, name, flags) {
            Ok(fd) if ahead.is_empty() => return Ok(fd),
            Ok(fd) => trail.push(fd),
            Err(Errno::LOOP) => {
                links += 1;
                let target = rustix::fs::readlinkat(here, name, Vec::new())?;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP);
                }
                if target.as_bytes().starts_with(b"/") {
                    return Err(Errno::XDEV);
                }
                push_components(&mut ahead, target.as_bytes());
            }
            Err(errno) => return Err(errno),
        }
    }
    // The name ended in `.` or `..`.
    Err(Errno::ISDIR)
}

fn push_components(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    ahead.extend(path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
}

#[cfg(test)]
mod tests;
