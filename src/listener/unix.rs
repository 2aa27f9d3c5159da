//! Unix sockets and their names: a name is taken over from nobody who lives, and
//! removed only by whom it belongs to.
//!
//! A process that has confined itself ([`crate::sandbox`]) can make a socket and remove
//! its name, and neither make a file, nor change a mode, nor connect. It does without:
//! see [`Lock`], [`bind_with_mode`] and [`touch`].

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use super::BACKLOG;

/// The name of a file of this process, removed when it is dropped if it still leads
/// there. The file has to be open as long: then no other one gets its inode.
#[derive(Debug)]
pub(crate) struct Name {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::to(path, &std::fs::symlink_metadata(path)?))
    }

    fn to(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Whether it leads to that file, and not to nothing or to another's.
    pub(crate) fn leads_here(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|it| (it.dev(), it.ino()) == (self.device, self.inode))
    }

    /// Removes it, if it is still this process's.
    pub(crate) fn remove(&self) {
        if self.leads_here() {
            // Nobody can be told, and the next start removes it as well.
            _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Another process listens at a name.
#[derive(Debug)]
pub(crate) struct Taken;

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another process listens there; stop it first")
    }
}

impl std::error::Error for Taken {}

/// A Unix socket that has its name and does not listen yet.
#[derive(Debug)]
pub(crate) struct Reserved {
    name: Name,
    socket: OwnedFd,
    /// Without it somebody else would take the socket for a dead one.
    _lock: Option<Lock>,
}

/// Gives a Unix socket its name, with these permissions.
///
/// # Errors
/// [`Taken`], or what the system says.
pub(crate) fn reserve(path: &Path, mode: u32) -> anyhow::Result<Reserved> {
    let lock = Lock::beside(path)?;
    if is_dead(path)? {
        std::fs::remove_file(path).context("the old socket cannot be removed")?;
    }
    let (socket, name) = bind_with_mode(path, mode)?;
    Ok(Reserved {
        name,
        socket,
        _lock: lock,
    })
}

/// A bound socket whose name has these permissions. Nobody can connect before it
/// listens, and by then they are right.
fn bind_with_mode(path: &Path, mode: u32) -> anyhow::Result<(OwnedFd, Name)> {
    let (socket, name) = bind_as_it_comes(path)?;
    match std::fs::set_permissions(path, PermissionsExt::from_mode(mode)) {
        Ok(()) => return Ok((socket, name)),
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error.into()),
        Err(_) => drop((name, socket)),
    }
    // The mask counts for the whole process, which, confined, makes nothing but this.
    let others = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
    let bound = bind_as_it_comes(path);
    rustix::process::umask(others);
    bound
}

fn bind_as_it_comes(path: &Path) -> anyhow::Result<(OwnedFd, Name)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?).map_err(io::Error::from)?;
    let name = Name::of(path)?;
    Ok((socket, name))
}

impl Reserved {
    /// Lets clients connect. Needs a runtime around it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn listen(self) -> anyhow::Result<(UnixListener, Name)> {
        rustix::net::listen(&self.socket, BACKLOG.into())?;
        Ok((UnixListener::from_std(self.socket.into())?, self.name))
    }
}

/// Listens at a Unix socket with these permissions. Needs a runtime around it.
///
/// # Errors
/// [`Taken`], or what the system says.
pub(crate) fn bind(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, Name)> {
    reserve(path, mode)?.listen()
}

/// The right to give a socket a name. Who has it is alone with the question whether
/// an old socket is dead, and with its name until the new one listens. The kernel
/// takes it back from a process that is killed.
///
/// Who may make no file goes without. Either it can make no socket either, or it has
/// confined itself and reloads. Should another process begin to use the same name at
/// that very moment, one of them may lose it; the next reload of this one says so.
#[derive(Debug)]
struct Lock {
    name: Name,
    _file: File,
}

impl Lock {
    /// Takes it, unless another one has it.
    fn beside(path: &Path) -> anyhow::Result<Option<Self>> {
        let mut file_name = OsString::from(".");
        file_name.push(path.file_name().unwrap_or_default());
        file_name.push(".lock");
        let path = path.with_file_name(file_name);
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path);
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
                file => file.with_context(|| format!("{} cannot be opened", path.display()))?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // It will listen in a moment. To wait would be to wait for ever, should
                // it be this process itself.
                Err(Errno::WOULDBLOCK) => return Err(Taken.into()),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
            let name = Name::to(&path, &file.metadata()?);
            // Who had the lock before has removed the file, and the next one is to
            // lock the same as this one.
            if name.leads_here() {
                return Ok(Some(Self { name, _file: file }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked.
        self.name.remove();
    }
}

/// Whether there is a socket that a process left behind which was killed. Whatever
/// else has the name is in the way.
fn is_dead(path: &Path) -> anyhow::Result<bool> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        // If it is more than that there is nothing, to bind will say so.
        return Ok(false);
    };
    if !metadata.file_type().is_socket() {
        bail!("what has this name is no socket; remove it, or choose another name");
    }
    match touch(path) {
        Err(Errno::CONNREFUSED) => Ok(true),
        // It is bound, to a socket of another type as a rule.
        Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN) => Err(Taken.into()),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => {
            let reason = "it is not known whether another process listens there";
            Err(anyhow::Error::from(io::Error::from(errno)).context(reason))
        }
    }
}

/// Sends an empty datagram there, without waiting. What listens for connections does
/// not notice: the kernel finds out that somebody has the socket, and then that it is
/// of another type. To connect would do as well, but a confined process cannot.
fn touch(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    rustix::net::sendto(&socket, &[], SendFlags::NOSIGNAL, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener as Other, UnixStream};
    use std::sync::Barrier;

    use tempfile::TempDir;

    use super::*;

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(directory.path()).unwrap();
        let name = |it: io::Result<std::fs::DirEntry>| it.unwrap().file_name();
        entries.map(|it| name(it).into_string().unwrap()).collect()
    }

    /// Of those who start at once, one has the name, and the others know that they
    /// have not; also if a process that was killed had it before.
    #[tokio::test]
    async fn one_of_many_gets_the_name() {
        for round in 0..200 {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("s");
            if round % 2 == 0 {
                drop(Other::bind(&path).unwrap());
            }
            let barrier = Barrier::new(4);
            let runtime = tokio::runtime::Handle::current();
            let results: Vec<_> = std::thread::scope(|scope| {
                let start = || {
                    let _entered = runtime.enter();
                    barrier.wait();
                    bind(&path, 0o600)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            let (bound, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            for error in failed.into_iter().filter_map(Result::err) {
                assert!(error.is::<Taken>(), "{error:#}");
            }
            let [(listener, name)] = &bound.into_iter().flatten().collect::<Vec<_>>()[..] else {
                panic!("round {round}: not one");
            };
            assert!(name.leads_here());
            let client = UnixStream::connect(&path).unwrap();
            listener.accept().await.unwrap();
            drop(client);
            assert_eq!(names(&directory), ["s"]);
        }
    }

    /// Whether somebody has a socket is found out without anybody noticing.
    #[test]
    fn the_dead_are_told_from_the_living() {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        drop(Other::bind(at("dead")).unwrap());
        let listening = Other::bind(at("listening")).unwrap();
        let bound = reserve(&at("bound"), 0o600).unwrap();
        let cases = [
            ("dead", Some(true)),
            ("listening", None),
            ("bound", None),
            ("nothing", Some(false)),
        ];
        for (name, expected) in cases {
            let found = is_dead(&at(name));
            if let Err(error) = &found {
                assert!(error.is::<Taken>(), "{name}: {error:#}");
            }
            assert_eq!(found.ok(), expected, "{name}");
        }
        listening.set_nonblocking(true).unwrap();
        assert!(listening.accept().is_err(), "nobody has connected");
        drop(bound);
    }

    /// Whoever is about to listen is not waited for.
    #[tokio::test]
    async fn the_right_to_a_name_is_not_waited_for() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let lock = Lock::beside(&path).unwrap().unwrap();
        assert!(bind(&path, 0o600).unwrap_err().is::<Taken>());
        drop(lock);
        bind(&path, 0o600).unwrap();
        assert_eq!(names(&directory), [""; 0]);
    }

    #[tokio::test]
    async fn the_mode_is_what_was_asked_for() {
        let directory = TempDir::new().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let path = directory.path().join("s");
            let _bound = bind(&path, mode).unwrap();
            let found = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o7777, mode);
        }
        assert_eq!(names(&directory), [""; 0]);
    }

    #[tokio::test]
    async fn a_name_that_is_anothers_is_left_to_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let bound = bind(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = Other::bind(&path).unwrap();
        assert!(!bound.1.leads_here());
        drop(bound);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&path, 0o600).unwrap_err();
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert_eq!(names(&directory), ["s"]);
    }
}
