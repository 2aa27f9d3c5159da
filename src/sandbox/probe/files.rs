//! Attempts at files: at content, at the configuration and the key, and elsewhere.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::layer::{Judge, Needs, untried};
use super::{Attempt, Targets};

/// Where nothing is ever made.
const ELSEWHERE: [&str; 6] = ["/tmp", "/var/tmp", "/run", "/var/lib", "/etc", "/usr/bin"];

/// What is not to be read, unless the configuration names what is beside it.
const FOREIGN: [&str; 4] = [
    "/etc/shadow",
    "/etc/hostname",
    "/proc/1/environ",
    "/proc/self/mem",
];

/// Directories that are not to be listed.
const LISTINGS: [&str; 4] = ["/", "/root", "/home", "/proc"];

pub(super) fn try_all(targets: &Targets, judge: &Judge, attempts: &mut Vec<Attempt>) {
    for directory in &targets.served {
        changes_inside(directory, judge, attempts);
        match some_file(directory) {
            Some(file) => changes_to(&file, judge, attempts),
            None => {
                let what = format!("change a file in {}", directory.display());
                attempts.push(untried(&what, "there is no file"));
            }
        }
    }
    for file in &targets.secrets {
        attempts.push(open_for_writing(file, judge));
    }
    for directory in ELSEWHERE {
        attempts.push(make_file(Path::new(directory), judge));
    }
    let unnamed = |it: &&&str| !targets.reach.covers(Path::new(it));
    for file in FOREIGN.iter().filter(unnamed) {
        let path = Path::new(file);
        let read = File::open(path).map(drop);
        attempts.push(judge.file(&format!("read {file}"), &needs(path, Access::READ_OK), read));
    }
    for directory in LISTINGS.iter().filter(unnamed) {
        let path = Path::new(directory);
        let list = fs::read_dir(path).map(drop);
        let what = format!("list {directory}");
        attempts.push(judge.file(&what, &needs(path, Access::READ_OK), list));
    }
}

fn needs(path: &Path, access: Access) -> Needs<'_> {
    Needs { path, access }
}

/// A file that is served and not replaced all the time. Of a repository it is
/// `config`; no link.
fn some_file(directory: &Path) -> Option<PathBuf> {
    let is_file = |it: &PathBuf| it.symlink_metadata().is_ok_and(|it| it.is_file());
    let config = Some(directory.join("config")).filter(is_file);
    config.or_else(|| {
        let entries = fs::read_dir(directory).ok()?;
        entries.flatten().map(|it| it.path()).find(is_file)
    })
}

/// A name that nobody else uses.
fn scratch(directory: &Path) -> PathBuf {
    directory.join(format!("tmp-sandbox-check-{}", std::process::id()))
}

/// Does something that makes a name, and removes the name again.
fn made<T>(
    what: &str,
    directory: &Path,
    judge: &Judge,
    make: impl FnOnce(&Path) -> io::Result<T>,
) -> Attempt {
    let path = scratch(directory);
    let result = make(&path).map(drop);
    if result.is_ok() {
        // What was made may be a directory. If it cannot be removed the name says
        // where it comes from.
        _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
    let what = format!("{what} in {}", directory.display());
    judge.file(
        &what,
        &needs(directory, Access::WRITE_OK | Access::EXEC_OK),
        result,
    )
}

fn make_file(directory: &Path, judge: &Judge) -> Attempt {
    made("make a file", directory, judge, |path| {
        OpenOptions::new().write(true).create_new(true).open(path)
    })
}

fn changes_inside(directory: &Path, judge: &Judge, attempts: &mut Vec<Attempt>) {
    attempts.push(make_file(directory, judge));
    let made = |what, make: fn(&Path) -> io::Result<()>| made(what, directory, judge, make);
    attempts.push(made("make a directory", |path| fs::create_dir(path)));
    attempts.push(made("make a symbolic link", |path| {
        std::os::unix::fs::symlink("config", path)
    }));
    attempts.push(made("make a FIFO", |path| {
        let mode = Mode::RUSR;
        Ok(rustix::fs::mknodat(
            CWD,
            path,
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )?)
    }));
    attempts.push(made("make a socket", |path| {
        UnixListener::bind(path).map(drop)
    }));
}

/// With a file that stays what it is.
fn changes_to(file: &Path, judge: &Judge, attempts: &mut Vec<Attempt>) {
    let directory = file.parent().unwrap_or(file);
    let name = file.display();
    let inside = || needs(directory, Access::WRITE_OK | Access::EXEC_OK);
    let itself = || needs(file, Access::WRITE_OK);
    attempts.push(open_for_writing(file, judge));
    let append = OpenOptions::new().append(true).open(file).map(drop);
    attempts.push(judge.file(&format!("append to {name}"), &itself(), append));
    let Ok(facts) = file.symlink_metadata() else {
        attempts.push(untried(&format!("change {name}"), "it is gone"));
        return;
    };
    let truncated = cut(file, facts.len());
    attempts.push(judge.file(&format!("truncate {name}"), &itself(), truncated));
    let mode = fs::set_permissions(file, Permissions::from_mode(facts.mode() & 0o7777));
    attempts.push(judge.file(&format!("change the mode of {name}"), &itself(), mode));
    let (uid, gid) = (Uid::from_raw(facts.uid()), Gid::from_raw(facts.gid()));
    let owner = rustix::fs::chownat(CWD, file, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    let owner = owner.map_err(io::Error::from);
    attempts.push(judge.file(&format!("change the owner of {name}"), &itself(), owner));
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(facts.atime(), facts.atime_nsec()),
        last_modification: time(facts.mtime(), facts.mtime_nsec()),
    };
    let times = rustix::fs::utimensat(CWD, file, &times, AtFlags::SYMLINK_NOFOLLOW);
    let times = times.map_err(io::Error::from);
    attempts.push(judge.file(&format!("change the times of {name}"), &itself(), times));
    let attribute = "user.ostree-serve-check";
    let set = rustix::fs::setxattr(file, attribute, b"x", XattrFlags::CREATE);
    if set.is_ok() {
        _ = rustix::fs::removexattr(file, attribute);
    }
    let set = set.map_err(io::Error::from);
    attempts.push(judge.file(&format!("set an attribute of {name}"), &itself(), set));
    attempts.push(made("make a hard link", directory, judge, |path| {
        fs::hard_link(file, path)
    }));
    // To its own name, which changes nothing: the kernel does not even ask.
    attempts.push(match fs::rename(file, file) {
        Ok(()) => untried(&format!("rename {name}"), "it could not be done harmlessly"),
        renamed => judge.file(&format!("rename {name}"), &inside(), renamed),
    });
    // It is no directory, so this cannot succeed; whoever may not is told that first.
    let removed = match fs::remove_dir(file) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
        removed => removed,
    };
    let what = format!("remove a directory in {}", directory.display());
    attempts.push(judge.file(&what, &inside(), removed));
    attempts.push(remove_a_file(directory, judge));
}

/// Tried with a directory, of which unlink(2) says that it is one to whoever may remove
/// files beside it. In a repository that is `objects`; where there is none, it is the
/// directory itself.
fn remove_a_file(directory: &Path, judge: &Judge) -> Attempt {
    let is_directory = |it: &PathBuf| it.symlink_metadata().is_ok_and(|it| it.is_dir());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let below = entries.map(|it| it.path()).find(is_directory);
    let victim = below.unwrap_or_else(|| directory.to_owned());
    let parent = victim.parent().unwrap_or(directory);
    let removed = rustix::fs::unlink(&victim).map_err(io::Error::from);
    let what = format!("remove a file in {}", parent.display());
    judge.file(
        &what,
        &needs(parent, Access::WRITE_OK | Access::EXEC_OK),
        removed,
    )
}

fn open_for_writing(file: &Path, judge: &Judge) -> Attempt {
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(file)
        .map(drop);
    let what = format!("write to {}", file.display());
    judge.file(&what, &needs(file, Access::WRITE_OK), opened)
}

/// To the length that it has (truncate(2), which rustix lacks).
pub(in crate::sandbox) fn cut(file: &Path, len: u64) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(file.as_os_str().as_bytes())?;
    let len = libc::off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the name is a string that ends with a zero, and lives.
    match unsafe { libc::truncate(name.as_ptr(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
