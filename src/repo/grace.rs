//! Objects that are still served although their names are gone.
//!
//! `ostree prune` unlinks the objects of an old commit while clients that saw
//! the old summary are in the middle of pulling it, and one missing object fails
//! a whole pull. So the objects that a commit has and its predecessor had not are
//! opened when it is published, as far as the bounds reach: whoever prunes right
//! after an update leaves no time for it later. When the commit is replaced, those
//! that only it has are kept for the grace. (What was served a moment ago is in the
//! [`cache`](super::cache).)

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Found;
use super::period::Period;
use super::room::Room;
use crate::files::{Content, Directory, Links, Opened, Patience};
use crate::format::tree;
use crate::resource::path::file_path;
use crate::resource::{Checksum, ObjectKind, Resource};

/// Objects that were kept, each until its time.
#[derive(Debug)]
pub struct Grace {
    /// What was opened for clients to come; what is served never pushes it out.
    kept: Cache<Object, Kept, Space>,
    /// How many objects are opened for the clients of one publication.
    most: AtomicUsize,
    grace: Period,
}

/// An object's name.
pub type Object = (Checksum, ObjectKind);

#[derive(Clone, Debug)]
struct Kept {
    content: Content,
    digest: Option<Checksum>,
    until: Until,
}

/// For how long an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until then.
    Time(Instant),
    /// For as long as a commit that is published has it; for the grace if its
    /// file is gone before, for somebody may have deleted it because it is bad.
    Retired,
    /// Until the hold ends: who pruned meanwhile did not mean what is held.
    Released,
}

impl Kept {
    fn is_kept_at(&self, now: Instant) -> bool {
        match self.until {
            Until::Time(until) => until > now,
            Until::Retired | Until::Released => true,
        }
    }
}

/// A file whose name is gone still takes its space on the disk. So each object
/// counts as one, and a large one once more for each MiB: what is kept takes no
/// more than 4 GiB of a repository's disk.
#[derive(Clone, Copy, Debug)]
struct Space;

impl Weighter<Object, Kept> for Space {
    fn weight(&self, _: &Object, kept: &Kept) -> u64 {
        1 + kept.content.len() / (1024 * 1024)
    }
}

impl Grace {
    /// Keeps nothing yet.
    pub fn new(room: Room, grace: Period) -> Self {
        let most = room.kept;
        Self {
            kept: Cache::with_weighter(2 * most, 2 * most as u64, Space),
            most: AtomicUsize::new(most),
            grace,
        }
    }

    /// Has more room from now on, or less.
    pub fn make_room(&self, room: Room) {
        self.most.store(room.kept, Ordering::Relaxed);
        self.kept.set_capacity(2 * room.kept as u64);
    }

    /// An object whose name is gone.
    pub fn find(&self, object: Object, now: Instant) -> Option<Found> {
        let kept = self.kept.get(&object).filter(|kept| kept.is_kept_at(now))?;
        if kept.until == Until::Retired {
            let until = Until::Time(now + self.grace.get());
            self.insert(object, kept.content.clone(), kept.digest, until);
        }
        Some(Found::once(kept.content, kept.digest))
    }

    /// Lets go of what has had its time.
    pub fn sweep(&self, now: Instant) {
        self.kept.retain(|_, kept| kept.is_kept_at(now));
    }

    /// Keeps what the commit `old` has and `new` has not, as far as it is there
    /// and the bounds reach. May wait for the disk.
    pub fn retire(
        &self,
        directory: &Directory,
        old: Checksum,
        new: Option<Checksum>,
        now: Instant,
        budget: &mut Budget,
    ) {
        let until = Until::Time(now + self.grace.get());
        self.walk(directory, old, new, until, budget);
    }

    /// Keeps what the published commit `new` has and `old` has not, as far as the
    /// bounds reach. May wait for the disk.
    pub fn prepare(
        &self,
        directory: &Directory,
        new: Checksum,
        old: Option<Checksum>,
        until: Until,
        budget: &mut Budget,
    ) {
        self.walk(directory, new, old, until, budget);
    }

    /// A hold has ended.
    pub fn released(&self) {
        let held = self.kept.iter();
        let held: Vec<_> = held.filter(|(_, it)| it.until == Until::Released).collect();
        for (object, kept) in held {
            self.insert(object, kept.content, kept.digest, Until::Retired);
        }
    }

    fn walk(
        &self,
        directory: &Directory,
        commit: Checksum,
        other: Option<Checksum>,
        until: Until,
        budget: &mut Budget,
    ) {
        let mut walk = Walk {
            grace: self,
            directory,
            until,
            seen: HashSet::new(),
            budget,
        };
        walk.commit(commit, other);
    }

    /// For the commits of one publication together.
    pub fn budget(&self) -> Budget {
        Budget(self.most.load(Ordering::Relaxed))
    }

    fn insert(&self, object: Object, content: Content, digest: Option<Checksum>, until: Until) {
        let kept = Kept {
            content,
            digest,
            until,
        };
        self.kept.insert(object, kept);
    }
}

/// Deeper than any system's tree, and far from the end of a thread's stack.
const DEEPEST: usize = 128;

/// How many objects may still be opened. However much is published at a time, no
/// more is opened than is kept.
#[derive(Debug)]
pub struct Budget(usize);

impl Budget {
    /// Whether nothing more may be opened.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// Where two trees differ, the objects of one of them, which is called the old
/// one here.
struct Walk<'a> {
    grace: &'a Grace,
    directory: &'a Directory,
    until: Until,
    seen: HashSet<Object>,
    budget: &'a mut Budget,
}

impl Walk<'_> {
    fn commit(&mut self, old: Checksum, new: Option<Checksum>) {
        let Some(commit) = self.keep(old, ObjectKind::Commit) else {
            return;
        };
        self.keep(old, ObjectKind::CommitMeta);
        let new = new.and_then(|new| self.read(new, ObjectKind::Commit));
        let new = new.as_deref().and_then(tree::root);
        if let Some(old) = tree::root(&commit) {
            self.tree(old, new, DEEPEST);
        }
    }

    fn tree(&mut self, old: tree::Directory, new: Option<tree::Directory>, deep: usize) {
        if new.is_none_or(|new| new.meta != old.meta) {
            self.keep(old.meta, ObjectKind::DirMeta);
        }
        if new.is_some_and(|new| new.tree == old.tree) {
            return;
        }
        let Some(old) = self.keep(old.tree, ObjectKind::DirTree) else {
            return;
        };
        let new = new.and_then(|new| self.read(new.tree, ObjectKind::DirTree));
        let new = new.as_deref().and_then(tree::entries).unwrap_or_default();
        let old = tree::entries(&old).unwrap_or_default();
        let new_files: HashSet<Checksum> = new.files.iter().copied().collect();
        for file in old.files.into_iter().filter(|it| !new_files.contains(it)) {
            self.keep(file, ObjectKind::FileZ);
        }
        for (name, directory) in old.directories {
            let counterpart = new.directories.iter().find(|(other, _)| *other == name);
            if deep > 0 {
                self.tree(directory, counterpart.map(|(_, it)| *it), deep - 1);
            }
        }
    }

    /// Keeps an object, and gives its bytes if they are few. `None` also if it
    /// was kept in this walk already, or nothing more is to be kept.
    fn keep(&mut self, checksum: Checksum, kind: ObjectKind) -> Option<bytes::Bytes> {
        let object = (checksum, kind);
        if self.budget.0 == 0 || !self.seen.insert(object) {
            return None;
        }
        let content = self.open(checksum, kind)?;
        let bytes = match &content {
            Content::Memory(bytes) => Some(bytes.clone()),
            // A directory with thousands of entries.
            Content::File(file) if kind != ObjectKind::FileZ => {
                file.read_blocking(0, file.len() as usize).ok()
            }
            Content::File(_) => None,
        };
        let digest = match kind {
            ObjectKind::CommitMeta => bytes.as_deref().map(Checksum::of),
            _ => None,
        };
        self.grace.insert(object, content, digest, self.until);
        self.budget.0 -= 1;
        bytes
    }

    fn read(&self, checksum: Checksum, kind: ObjectKind) -> Option<bytes::Bytes> {
        match self.open(checksum, kind)? {
            Content::Memory(bytes) => Some(bytes),
            Content::File(file) => file.read_blocking(0, file.len() as usize).ok(),
        }
    }

    /// What cannot be read cannot be kept, and whoever asks for it is told why.
    fn open(&self, checksum: Checksum, kind: ObjectKind) -> Option<Content> {
        let name = file_path(&Resource::Object { checksum, kind });
        let opened = self
            .directory
            .open_file(&name, Links::Refused, Patience::Wait);
        match opened {
            Ok(Opened::File(file)) => Content::of_blocking(file, self.directory.path(), &name).ok(),
            // It was pruned already.
            _ => Some(self.grace.kept.get(&(checksum, kind))?.content),
        }
    }
}
