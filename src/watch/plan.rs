//! Which directories tell of a change of what is watched, and by which names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::Target;

/// What a repository's root holds that clients or the judge of publications
/// read. ostree writes to `.lock` last (client-contract 4.3). All else there,
/// `objects` and `tmp` above all, changes without end and says nothing.
const ROOT: [&str; 8] = [
    "summary",
    "summary.sig",
    "summary.idx",
    "summary.idx.sig",
    "config",
    "refs",
    "summaries",
    ".lock",
];

/// So many symbolic links are followed, as the kernel does.
const LINKS: usize = 40;

/// The directories to watch. Two plans are equal if watches for one are watches
/// for the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// By their paths, which are absolute and without symbolic links.
    pub(super) directories: BTreeMap<PathBuf, Watched>,
    /// Those whose file system must tell of changes: where what is watched is, or
    /// where the way to it ends, if it is yet to come.
    pub(super) homes: Vec<PathBuf>,
}

/// A directory to watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Watched {
    identity: Identity,
    interest: Interest,
    /// Whether there is no noticing changes without it. Of the others, which
    /// only lead to it, the interval notices changes too.
    pub(super) needed: bool,
}

impl Watched {
    /// Whether a change of an entry is of interest.
    fn concerns(&self, name: &OsStr) -> bool {
        match &self.interest {
            Interest::All => true,
            Interest::Names(names) => names.contains(name),
        }
    }
}

/// Which of a directory's entries matter.
#[derive(Debug, PartialEq, Eq)]
enum Interest {
    All,
    Names(BTreeSet<OsString>),
}

/// Which directory it is: device and inode.
#[derive(Debug, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    /// `None` if it is no directory, or not to be reached.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        found.is_dir().then(|| Self(found.dev(), found.ino()))
    }
}

impl Plan {
    /// The plan for what is there now.
    pub(super) fn of(target: &Target) -> Self {
        let mut plan = Self::default();
        match target {
            Target::Repository(path) => plan.repository(path),
            Target::Files(paths) => paths.iter().for_each(|path| plan.file(path)),
        }
        plan
    }

    /// Whether a change of `path` is of interest: of a directory itself, or of an
    /// entry. A directory that is bound to several places is told of by one.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        if self.directories.contains_key(path) {
            return true;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };
        let told = self.directories.get(parent);
        told.is_some_and(|told| {
            let mut same = self.directories.values();
            same.any(|it| it.identity == told.identity && it.concerns(name))
        })
    }

    fn repository(&mut self, path: &Path) {
        let Some(root) = self.follow(path) else {
            return;
        };
        self.names(&root, ROOT.map(OsStr::new), true);
        self.tree(root.join("refs"));
        self.tree(root.join("summaries"));
        self.homes.push(root);
    }

    fn file(&mut self, path: &Path) {
        let end = self.follow(path);
        let Some((directory, name)) = end
            .as_deref()
            .and_then(|it| it.parent().zip(it.file_name()))
        else {
            return;
        };
        self.names(directory, [name], true);
        self.homes.push(directory.to_owned());
    }

    /// Goes to `path` as the kernel does, and watches on the way each symbolic
    /// link, the last name, and the first that is missing. Gives the path
    /// without links if all of it is there.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let mut todo: VecDeque<OsString> = parts(&path).collect();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => _ = at.pop(),
                Some(Component::Normal(name)) => match fs::read_link(at.join(name)) {
                    Ok(target) => {
                        self.names(&at, [name], false);
                        links += 1;
                        if links > LINKS {
                            self.homes.push(at);
                            return None;
                        }
                        parts(&target).rev().for_each(|it| todo.push_front(it));
                    }
                    // It is there, and no link.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        if todo.is_empty() {
                            self.names(&at, [name], false);
                        }
                        at.push(name);
                    }
                    Err(_) => {
                        self.names(&at, [name], false);
                        self.homes.push(at);
                        return None;
                    }
                },
                Some(Component::CurDir | Component::Prefix(_)) | None => {}
            }
        }
        Some(at)
    }

    /// A directory with all below. Links to directories are not followed: an
    /// alias of a ref leads to another ref of the same repository.
    fn tree(&mut self, top: PathBuf) {
        let mut todo = vec![top];
        while let Some(directory) = todo.pop() {
            let Some(identity) = Identity::of(&directory) else {
                continue;
            };
            // Who may not list a directory may not watch it either, and that
            // fails loudly.
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            todo.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()))
                    .map(|entry| entry.path()),
            );
            let watched = Watched {
                identity,
                interest: Interest::All,
                needed: true,
            };
            self.directories.insert(directory, watched);
        }
    }

    /// These names in a directory. If it has just vanished, the directory above
    /// or the next plan tells.
    fn names<'n>(
        &mut self,
        directory: &Path,
        names: impl IntoIterator<Item = &'n OsStr>,
        needed: bool,
    ) {
        let Some(identity) = Identity::of(directory) else {
            return;
        };
        let watched = self
            .directories
            .entry(directory.to_owned())
            .or_insert(Watched {
                identity,
                interest: Interest::Names(BTreeSet::new()),
                needed,
            });
        watched.needed |= needed;
        if let Interest::Names(known) = &mut watched.interest {
            known.extend(names.into_iter().map(OsStr::to_owned));
        }
    }
}

/// The components of a path, to be walked one by one.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().map(|it| it.as_os_str().to_owned())
}
