//! Files beneath a directory: opened so that nothing outside can be reached,
//! and read so that nobody waits for the disk who need not.
//!
//! Nothing here knows what the files mean.

mod content;
mod digests;
mod directory;
mod reading;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat};
use rustix::io::Errno;

pub use content::{Chunks, Content, FileContent};
pub use digests::Digests;
pub use directory::{Directory, Identity, Links, OpenFile, Opened, Resolver};

use crate::finding::shell_word;

/// Whether a call may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It answers from what the kernel has in memory, or says that it cannot.
    Never,
    /// It may block the thread.
    Wait,
}

/// As [`open_or`], with nobody who could make room.
///
/// # Errors
/// As [`Directory::open_file`].
pub async fn open(
    directory: &Arc<Directory>,
    name: &str,
    links: Links,
) -> Result<Option<OpenFile>, Unreadable> {
    open_or(directory, name, links, || {}).await
}

/// Opens a file without making other work of this thread wait for the disk.
///
/// While there is no file descriptor left this waits, up to 5 s: clients forgive
/// a delay, and not an error. `make_room` is told then; perhaps it can close some.
///
/// # Errors
/// As [`Directory::open_file`].
pub async fn open_or(
    directory: &Arc<Directory>,
    name: &str,
    links: Links,
    make_room: impl Fn(),
) -> Result<Option<OpenFile>, Unreadable> {
    const PAUSE: Duration = Duration::from_millis(50);
    const MOST_PAUSES: usize = 100;
    let mut pauses = 0;
    loop {
        match try_open(directory, name, links).await {
            Err(error) if error.is_exhaustion() && pauses < MOST_PAUSES => {
                if pauses == 0 {
                    tracing::error!(%error, remedy = error.remedy(), "a client has to wait");
                }
                pauses += 1;
                make_room();
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn try_open(
    directory: &Arc<Directory>,
    name: &str,
    links: Links,
) -> Result<Option<OpenFile>, Unreadable> {
    let opened = match directory.open_file(name, links, Patience::Never)? {
        Opened::WouldWait => {
            let (directory, name) = (Arc::clone(directory), name.to_owned());
            let open = move || directory.open_file(&name, links, Patience::Wait);
            match tokio::task::spawn_blocking(open).await {
                Ok(opened) => opened?,
                // The runtime is shutting down.
                Err(_) => Opened::WouldWait,
            }
        }
        opened => opened,
    };
    match opened {
        Opened::File(file) => Ok(Some(file)),
        Opened::Absent => Ok(None),
        Opened::WouldWait => Err(Unreadable::new(directory.path(), name, Errno::AGAIN)),
    }
}

/// Why a file that is there cannot be served.
///
/// Its text is for the log: it names the file, the reason and what to do.
#[derive(Debug)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a file.
#[derive(Debug)]
pub enum Cause {
    /// A system call failed.
    Errno(Errno),
    /// It is a directory, FIFO, device or socket.
    NotRegular(FileType),
    /// It became shorter while it was read.
    Shrank,
    /// It is larger than such a file can be; the limit is in bytes.
    TooLarge(u64),
    /// Its text is not what it should be.
    Malformed(String),
    /// Something else.
    Other(io::Error),
}

impl Unreadable {
    /// The file `name` beneath `directory`.
    pub fn new(directory: &Path, name: &str, cause: impl Into<Cause>) -> Self {
        Self {
            path: directory.join(name),
            cause: cause.into(),
        }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> String {
        let path = shell_word(&self.path);
        match self.cause {
            Cause::Errno(Errno::ACCESS) if is_permitted(&self.path) => format!(
                "restart the server (systemctl restart ostree-serve): the mode of {path} lets it read, so it has \
                 confined itself to what is elsewhere by now, as when a directory around was mounted or renamed anew"
            ),
            Cause::Errno(Errno::ACCESS | Errno::PERM) => format!(
                "let the server's user read it: `namei -l {path}` shows which directory or file forbids it, \
                 `chmod a+rx` a directory, `chmod a+r` a file; under SELinux, `restorecon -Rv` the repository"
            ),
            Cause::Errno(Errno::LOOP | Errno::XDEV) => format!(
                "symbolic links are followed only inside refs/: replace it by what it points at \
                 (`ls -l {path}`)"
            ),
            Cause::Errno(Errno::MFILE | Errno::NFILE) => {
                "raise the limit of open files: LimitNOFILE= in the service's unit, or lower `limits.connections`"
                    .into()
            }
            Cause::Errno(Errno::IO | Errno::STALE | Errno::BADMSG) => {
                "check the disk or the mount: `dmesg | tail`, then `ostree fsck`".into()
            }
            Cause::Errno(Errno::NOENT | Errno::NOTDIR) => {
                format!("name a directory that exists in the configuration, or make it: mkdir -p {path}")
            }
            Cause::NotRegular(_) => format!("see what put it there (`ls -ld {path}`) and remove it"),
            Cause::Shrank => {
                "do not change files in place: write a new file, then rename it over the old one".into()
            }
            Cause::TooLarge(_) => "publish fewer refs in one repository, or index the summary".into(),
            Cause::Malformed(_) => format!("compare it with a backup, then repair it: {path}"),
            Cause::Errno(_) | Cause::Other(_) => format!("see whether it can be read: `cat {path} >/dev/null`"),
        }
    }

    /// Whether the machine has run out of file descriptors, which passes.
    pub fn is_exhaustion(&self) -> bool {
        matches!(self.cause, Cause::Errno(Errno::MFILE | Errno::NFILE))
    }
}

/// Whether modes and labels let this process read the file, or a directory and what is
/// in it. Landlock is not asked (landlock(7)).
pub fn is_permitted(path: &Path) -> bool {
    let access = match path.is_dir() {
        true => Access::READ_OK | Access::EXEC_OK,
        false => Access::READ_OK,
    };
    permitted(path, access).is_ok()
}

/// Whether this process may have this access, by modes and labels.
///
/// # Errors
/// Why not, as faccessat(2).
pub fn permitted(path: &Path, access: Access) -> Result<(), Errno> {
    accessat(CWD, path, access, AtFlags::EACCESS)
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for Unreadable {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => errno.fmt(f),
            Self::NotRegular(kind) => write!(f, "is {}, not a regular file", name_of(*kind)),
            Self::Shrank => f.write_str("became shorter while it was being read"),
            Self::TooLarge(limit) => {
                write!(
                    f,
                    "is larger than {limit} bytes, and cannot be what it should"
                )
            }
            Self::Malformed(reason) => f.write_str(reason),
            Self::Other(error) => error.fmt(f),
        }
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile | FileType::Unknown => "something else",
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::Errno(errno),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Shrank,
            None => Self::Other(error),
        }
    }
}
