//! Objects that were served lately: the bytes of small ones, of all the open file.
//!
//! An object's name never means anything else, so a hit is served without asking
//! the file system. Now and then ([`TRUSTED`]) it is asked nevertheless, whether
//! the name still leads to the same file: an operator may have deleted an object
//! because it is bad, or put a good one in its place. What is gone is still served
//! for the grace, to clients in the middle of a pull.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::{Cache as Store, DefaultLifecycle};

use super::Found;
use super::grace::Object;
use super::margin::Margin;
use super::period::Period;
use super::room::Room;
use crate::files::{Content, FileContent, Identity, Unreadable};
use crate::resource::{Checksum, ObjectKind};

/// How long an object is served without looking whether its name still leads to it.
pub const TRUSTED: Duration = Duration::from_secs(10);

/// Objects that were served lately.
#[derive(Debug)]
pub struct Cache {
    contents: Store<Object, Small, Memory, ByChecksum>,
    files: Store<Object, (FileContent, Arc<Sighting>), Disk, ByChecksum>,
    /// Whether anything is served without asking.
    trusts: AtomicBool,
    /// What times are counted from.
    start: Instant,
    /// What was seen before this is not trusted, in milliseconds.
    distrusted: AtomicU64,
    grace: Period,
}

/// A small object.
#[derive(Clone, Debug)]
struct Small {
    bytes: Bytes,
    margin: Margin,
    sighting: Arc<Sighting>,
}

impl Small {
    fn found(self) -> Found {
        Found {
            content: Content::Memory(self.bytes),
            digest: self.sighting.digest,
            margin: Some(self.margin),
        }
    }
}

/// What a name was seen to lead to, and when.
#[derive(Debug)]
struct Sighting {
    identity: Identity,
    /// Whether another change of the file would show.
    settled: bool,
    /// Where the name does not tell it.
    digest: Option<Checksum>,
    /// In milliseconds since the cache's start.
    seen: AtomicU64,
}

impl Cache {
    /// Remembers nothing yet. What is gone is found for the grace.
    pub fn new(room: Room, grace: Period) -> Self {
        /// What an object takes on average, as far as it is guessed.
        const AVERAGE: u64 = 4096;
        let contents = (room.memory / AVERAGE) as usize;
        Self {
            contents: Store::with(
                contents,
                room.memory,
                Memory,
                ByChecksum,
                DefaultLifecycle::default(),
            ),
            files: Store::with(
                room.files,
                room.files as u64,
                Disk,
                ByChecksum,
                DefaultLifecycle::default(),
            ),
            trusts: AtomicBool::new(room.memory > 0),
            start: Instant::now(),
            distrusted: AtomicU64::new(0),
            grace,
        }
    }

    /// Has more room from now on, or less.
    pub fn make_room(&self, room: Room) {
        self.trusts.store(room.memory > 0, Ordering::Relaxed);
        self.contents.set_capacity(room.memory);
        self.files.set_capacity(room.files as u64);
    }

    fn trusts(&self) -> bool {
        self.trusts.load(Ordering::Relaxed)
    }

    /// An object that can be served without asking the file system, and without
    /// waiting for the disk.
    ///
    /// # Errors
    /// The read's, of a file that is open.
    pub fn trusted(&self, object: Object, now: Instant) -> Result<Option<Found>, Unreadable> {
        if !self.trusts() || !is_immutable(object) {
            return Ok(None);
        }
        let now = self.milliseconds(now);
        if let Some(small) = self.contents.get(&object) {
            return Ok(self.is_trusted(&small.sighting, now).then(|| small.found()));
        }
        match self.files.get(&object) {
            Some((file, sighting)) if self.is_trusted(&sighting, now) => {
                let Some(content) = file.content_at_once()? else {
                    return Ok(None);
                };
                self.remember_bytes(object, &content, &sighting);
                Ok(Some(found(content, &sighting)))
            }
            _ => Ok(None),
        }
    }

    /// What is remembered of an object whose name was just seen to lead to the
    /// file with this identity; nothing if it was another file.
    pub fn confirmed(&self, object: Object, identity: Identity, now: Instant) -> Option<Found> {
        let confirms = |sighting: &Sighting| {
            let same = sighting.identity == identity && (sighting.settled || is_immutable(object));
            if same {
                sighting
                    .seen
                    .store(self.milliseconds(now), Ordering::Relaxed);
            }
            same
        };
        let small = self.contents.get(&object);
        if let Some(small) = small.filter(|it| confirms(&it.sighting)) {
            return Some(small.found());
        }
        let (file, sighting) = self.files.get(&object).filter(|(_, it)| confirms(it))?;
        // A small one's bytes are wanted, and the caller has a way to them.
        (file.len() > Content::SMALL).then(|| found(Content::File(file), &sighting))
    }

    /// Remembers an object whose name was just seen to lead to this file.
    pub fn remember(&self, object: Object, file: FileContent, as_found: &Found, now: Instant) {
        let sighting = Arc::new(Sighting {
            identity: file.identity(),
            settled: file.identity().is_settled(),
            digest: as_found.digest,
            seen: AtomicU64::new(self.milliseconds(now)),
        });
        // Of another file, perhaps.
        self.contents.remove(&object);
        self.remember_bytes(object, &as_found.content, &sighting);
        self.files.insert(object, (file, sighting));
    }

    fn remember_bytes(&self, object: Object, content: &Content, sighting: &Arc<Sighting>) {
        match content {
            Content::Memory(bytes) if self.trusts() => {
                let small = Small {
                    bytes: bytes.clone(),
                    margin: Margin::default(),
                    sighting: Arc::clone(sighting),
                };
                self.contents.insert(object, small);
            }
            _ => {}
        }
    }

    /// An object whose name is gone, if it was seen within the grace.
    ///
    /// # Errors
    /// The read's, of a file that is open.
    pub async fn gone(&self, object: Object, now: Instant) -> Result<Option<Found>, Unreadable> {
        let now = self.milliseconds(now);
        if let Some(small) = self.contents.get(&object) {
            return Ok(self
                .is_in_grace(&small.sighting, now)
                .then(|| small.found()));
        }
        match self.files.get(&object) {
            Some((file, sighting)) if self.is_in_grace(&sighting, now) => {
                Ok(Some(found(file.content().await?, &sighting)))
            }
            _ => Ok(None),
        }
    }

    /// Asks the file system again before anything is served that was seen before:
    /// another directory may have been put in place.
    pub fn distrust(&self, now: Instant) {
        self.distrusted
            .store(self.milliseconds(now) + 1, Ordering::Relaxed);
    }

    /// Lets go of what was not seen for the grace.
    pub fn sweep(&self, now: Instant) {
        let now = self.milliseconds(now);
        self.contents
            .retain(|_, small| self.is_in_grace(&small.sighting, now));
        self.files
            .retain(|_, (_, sighting)| self.is_in_grace(sighting, now));
    }

    /// Closes all files, for somebody needs descriptors. Memory is kept.
    pub fn close_files(&self) {
        self.files.clear();
    }

    fn is_trusted(&self, sighting: &Sighting, now: u64) -> bool {
        let seen = sighting.seen.load(Ordering::Relaxed);
        now.saturating_sub(seen) < milliseconds(TRUSTED)
            && seen >= self.distrusted.load(Ordering::Relaxed)
    }

    fn is_in_grace(&self, sighting: &Sighting, now: u64) -> bool {
        let seen = sighting.seen.load(Ordering::Relaxed);
        now.saturating_sub(seen) < milliseconds(self.grace.get())
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.start))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn found(content: Content, sighting: &Sighting) -> Found {
    Found::once(content, sighting.digest)
}

/// Detached metadata is what is added to a commit after it was made.
fn is_immutable((_, kind): Object) -> bool {
    match kind {
        ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta | ObjectKind::FileZ => true,
        ObjectKind::CommitMeta | ObjectKind::CommitTombstone => false,
    }
}

/// What bytes in memory take, with what is remembered of them.
#[derive(Clone, Copy, Debug)]
struct Memory;

impl Weighter<Object, Small> for Memory {
    fn weight(&self, _: &Object, small: &Small) -> u64 {
        // The name, the sighting, and a reply's header in the margin.
        const BESIDES: u64 = 1280;
        small.bytes.len() as u64 + BESIDES
    }
}

/// A file whose name is gone still takes its space on the disk. So each file counts
/// as one, and a large one once more for each 256 KiB: 16 Ki files take no more
/// than 4 GiB of a repository's disk.
#[derive(Clone, Copy, Debug)]
struct Disk;

impl Weighter<Object, (FileContent, Arc<Sighting>)> for Disk {
    fn weight(&self, _: &Object, (file, _): &(FileContent, Arc<Sighting>)) -> u64 {
        1 + file.len() / (256 * 1024)
    }
}

/// Takes a part of the checksum for its hash. Only names that exist are remembered,
/// and whoever could choose their checksums could choose worse.
#[derive(Clone, Copy, Debug, Default)]
struct ByChecksum;

#[derive(Debug, Default)]
struct ChecksumHasher(u64);

impl BuildHasher for ByChecksum {
    type Hasher = ChecksumHasher;

    fn build_hasher(&self) -> ChecksumHasher {
        ChecksumHasher::default()
    }
}

impl Hasher for ChecksumHasher {
    fn write(&mut self, bytes: &[u8]) {
        let both = bytes.first_chunk().zip(bytes.last_chunk());
        if let Some((first, last)) = both {
            // Turned, since in names that somebody made up both may count the same.
            self.0 ^= u64::from_ne_bytes(*first).rotate_left(32) ^ u64::from_be_bytes(*last);
        }
    }

    /// The kind of the object.
    fn write_isize(&mut self, kind: isize) {
        self.0 = self.0.rotate_left(kind as u32 * 8 + 1);
    }

    /// The length of a checksum says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        // The golden ratio (Fibonacci hashing): names that somebody made up differ in
        // few places.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests;
