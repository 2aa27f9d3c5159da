//! Static deltas, each as one unit: a superblock is only served with the parts
//! that it names.
//!
//! ostree replaces a delta file by file, parts first. A client that gets the
//! superblock of one generation and a part of another fails, without a second
//! try (client-contract 2.2, flatpak#5648); one that gets no superblock fetches
//! objects instead. So a superblock is served once all its parts were found to
//! be as it says, and the open files of both stay together from then on,
//! whatever happens to their names.
//!
//! And clients refuse a superblock that is not the one that the summary lists,
//! or the delta's index, which are only written some time after it. So each
//! client gets the one that it was told of, or none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::period::Period;
use super::visitor::Visitor;
use super::{Found, lock};
use crate::files::{self, Content, Digests, Directory, Identity, Links, Unreadable};
use crate::format::MAX_DOCUMENT_LEN;
use crate::format::superblock::Superblock;
use crate::resource::path::file_path;
use crate::resource::{Checksum, DeltaFile, Resource};

/// The deltas that were asked for lately.
#[derive(Debug)]
pub struct Deltas {
    slots: Mutex<HashMap<Name, Slot>>,
    /// The indexes that were asked for lately, by the commit.
    indexes: Mutex<HashMap<Checksum, PastIndex>>,
    grace: Period,
}

/// A file of a delta.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The delta.
    pub name: Name,
    /// Which of its files.
    pub file: DeltaFile,
    /// The superblock that the visitor was told of, if it was.
    pub listed: Option<Checksum>,
}

/// From which commit, to which.
pub type Name = (Option<Checksum>, Checksum);

/// What is known of a delta. The lock lets one client at a time look, so that a
/// new delta is not hashed for each of those who ask.
#[derive(Debug)]
struct Slot {
    state: Arc<tokio::sync::Mutex<State>>,
    used: Instant,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Unit>>,
    /// What was current before, for clients that began with it, and for those
    /// whose summary lists it still. The oldest is first.
    former: Vec<(Arc<Unit>, Instant)>,
    /// A superblock that was found not to fit its parts.
    unfit: Option<Identity>,
    /// Since when the superblock is gone.
    gone: Option<Instant>,
}

#[derive(Debug)]
struct PastIndex {
    content: Content,
    digest: Option<Checksum>,
    served: Instant,
}

/// A superblock with the parts that it names.
#[derive(Debug)]
pub struct Unit {
    identity: Identity,
    superblock: (Content, Checksum),
    /// `None` for a part inside the superblock.
    parts: Vec<Option<(Content, Checksum)>>,
    /// Who got the superblock, for parts are asked for on other connections too.
    seen_by: Mutex<HashMap<IpAddr, Instant>>,
}

/// Of how many deltas the files are kept open.
const MOST_DELTAS: usize = 64;

/// How many replaced units of a delta are kept; each has its files open.
const MOST_FORMER: usize = 4;

/// Of how many clients a delta remembers that they began.
const MOST_CLIENTS: usize = 10_000;

impl Deltas {
    /// Knows none yet.
    pub fn new(grace: Period) -> Self {
        Self {
            slots: Mutex::default(),
            indexes: Mutex::default(),
            grace,
        }
    }

    /// Remembers the index of a commit, which is being served.
    pub fn index_served(&self, to: Checksum, index: &Found, now: Instant) {
        let mut indexes = lock(&self.indexes);
        if indexes.len() >= MOST_DELTAS && !indexes.contains_key(&to) {
            let oldest = indexes.iter().min_by_key(|(_, it)| it.served);
            if let Some(oldest) = oldest.map(|(to, _)| *to) {
                indexes.remove(&oldest);
            }
        }
        let index = PastIndex {
            content: index.content.clone(),
            digest: index.digest,
            served: now,
        };
        indexes.insert(to, index);
    }

    /// An index whose file is gone.
    pub fn past_index(&self, to: Checksum, now: Instant) -> Option<Found> {
        let indexes = lock(&self.indexes);
        let index = indexes.get(&to)?;
        let is_recent = now.saturating_duration_since(index.served) < self.grace.get();
        is_recent.then(|| Found::once(index.content.clone(), index.digest))
    }

    /// A file of a delta; `None` if there is no such delta, or none that fits.
    ///
    /// # Errors
    /// Why a file that is there cannot be read.
    pub async fn find(
        &self,
        wanted: Wanted,
        directory: &Arc<Directory>,
        digests: &Digests,
        visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        let now = Instant::now();
        let Wanted { name, file, .. } = wanted;
        // Whoever has begun need not wait for what a new superblock takes to read.
        if let (DeltaFile::Part(number), Some(unit)) = (file, visitor.unit(name)) {
            return Ok(unit.part(number));
        }
        let slot = self.slot(name, now);
        let mut state = slot.lock().await;
        let found = self
            .find_in(&mut state, wanted, directory, digests, visitor)
            .await;
        if state.is_empty() {
            // Clients ask for many deltas that never were; those that are must
            // not give way to them.
            lock(&self.slots).remove(&name);
        }
        found
    }

    async fn find_in(
        &self,
        state: &mut State,
        wanted: Wanted,
        directory: &Arc<Directory>,
        digests: &Digests,
        visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        let Wanted { name, file, listed } = wanted;
        let now = Instant::now();
        match file {
            DeltaFile::Superblock => {
                self.refresh(state, name, directory, digests, now).await?;
                let Some(unit) = state.listed(listed) else {
                    tracing::debug!(
                        delta = %directory.path().join(superblock_path(name)).display(),
                        "its superblock is not the one that the summary lists"
                    );
                    return Ok(None);
                };
                unit.seen_by(visitor, now);
                visitor.began(name, unit);
                Ok(Some(found(&unit.superblock)))
            }
            DeltaFile::Part(number) => {
                if state.current.is_none() {
                    // The superblock was served before a restart.
                    self.refresh(state, name, directory, digests, now).await?;
                }
                Ok(state.unit_of(visitor).and_then(|unit| unit.part(number)))
            }
        }
    }

    fn slot(&self, name: Name, now: Instant) -> Arc<tokio::sync::Mutex<State>> {
        let mut slots = lock(&self.slots);
        if slots.len() >= MOST_DELTAS && !slots.contains_key(&name) {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.used);
            if let Some(oldest) = oldest.map(|(name, _)| *name) {
                slots.remove(&oldest);
            }
        }
        let slot = slots.entry(name).or_insert_with(|| Slot {
            state: Arc::default(),
            used: now,
        });
        slot.used = now;
        Arc::clone(&slot.state)
    }

    /// Lets go of what has had its time.
    pub fn sweep(&self, now: Instant) {
        let mut slots = lock(&self.slots);
        slots.retain(|_, slot| now.saturating_duration_since(slot.used) < self.grace.get());
        let mut indexes = lock(&self.indexes);
        indexes.retain(|_, it| now.saturating_duration_since(it.served) < self.grace.get());
    }

    /// Looks whether the delta's files are still those that are known.
    async fn refresh(
        &self,
        state: &mut State,
        name: Name,
        directory: &Arc<Directory>,
        digests: &Digests,
        now: Instant,
    ) -> Result<(), Unreadable> {
        let path = superblock_path(name);
        let Some(file) = files::open(directory, &path, Links::Refused).await? else {
            let gone = *state.gone.get_or_insert(now);
            if now.saturating_duration_since(gone) >= self.grace.get() {
                state.current = None;
            }
            return Ok(());
        };
        state.gone = None;
        let identity = file.identity;
        let is_known = |unit: &Arc<Unit>| unit.identity == identity;
        if state.current.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let superblock = Content::of(file, directory.path(), &path).await?;
        let unit = match Unit::load(name, identity, superblock, directory, digests).await {
            Ok(unit) => Arc::new(unit),
            Err(Unfit::Unreadable(error)) => return Err(error),
            Err(Unfit::Reason(reason)) => {
                if state.unfit.replace(identity) != Some(identity) {
                    let outcome = match state.current {
                        Some(_) => "its former files stay served",
                        None => "clients fetch objects instead",
                    };
                    tracing::warn!(
                        delta = %directory.path().join(&path).display(),
                        remedy = "generate it again: `ostree static-delta generate`",
                        "{reason}; {outcome}"
                    );
                }
                return Ok(());
            }
        };
        state.unfit = None;
        let former = state.current.replace(unit);
        state.former.extend(former.map(|former| (former, now)));
        let grace = self.grace.get();
        let is_recent = |(_, since): &(_, Instant)| now.saturating_duration_since(*since) < grace;
        state.former.retain(is_recent);
        let surplus = state.former.len().saturating_sub(MOST_FORMER);
        state.former.drain(..surplus);
        Ok(())
    }
}

/// Why a superblock is not served.
enum Unfit {
    Unreadable(Unreadable),
    Reason(String),
}

impl From<Unreadable> for Unfit {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl State {
    /// Whether nothing is known of the delta, but that it is not there.
    fn is_empty(&self) -> bool {
        self.current.is_none() && self.former.is_empty() && self.unfit.is_none()
    }

    /// The unit with this superblock. If none was listed, the only one there
    /// was: between several it would be a guess, and without a delta clients
    /// fetch objects.
    fn listed(&self, superblock: Option<Checksum>) -> Option<&Arc<Unit>> {
        let former = self.former.iter().rev().map(|(unit, _)| unit);
        let mut units = self.current.iter().chain(former);
        match superblock {
            Some(superblock) => units.find(|unit| unit.superblock.1 == superblock),
            None => self.current.as_ref().filter(|_| self.former.is_empty()),
        }
    }

    /// The unit whose superblock this visitor has seen, on whatever connection.
    fn unit_of(&self, visitor: &Visitor) -> Option<Arc<Unit>> {
        let former = self.former.iter().rev().map(|(unit, _)| unit);
        let units = self.current.iter().chain(former);
        let seen = |unit: &&Arc<Unit>| {
            let address = visitor.address();
            address.is_some_and(|address| lock(&unit.seen_by).contains_key(&address))
        };
        units.clone().find(seen).or(self.current.as_ref()).cloned()
    }
}

impl Unit {
    async fn load(
        name: Name,
        identity: Identity,
        superblock: Content,
        directory: &Arc<Directory>,
        digests: &Digests,
    ) -> Result<Self, Unfit> {
        let bytes = whole(&superblock).await?;
        let parsed = Superblock::parse(&bytes).map_err(Unfit::Reason)?;
        let (from, to) = name;
        if (parsed.from, parsed.to) != name {
            let reason = "the superblock is that of another delta";
            return Err(Unfit::Reason(reason.into()));
        }
        let mut parts = Vec::new();
        for (number, part) in parsed.parts.iter().enumerate() {
            if part.is_inline {
                parts.push(None);
                continue;
            }
            let number = u32::try_from(number).map_err(|error| Unfit::Reason(error.to_string()))?;
            let file = DeltaFile::Part(number);
            let path = file_path(&Resource::Delta { from, to, file });
            let Some(file) = files::open(directory, &path, Links::Refused).await? else {
                return Err(Unfit::Reason(format!("its part {number} is missing")));
            };
            let content = Content::of(file, directory.path(), &path).await?;
            if content.len() != part.size || digests.of_content(&content).await? != part.checksum {
                let reason = format!("its part {number} is not the one that its superblock names");
                return Err(Unfit::Reason(reason));
            }
            parts.push(Some((content, part.checksum)));
        }
        Ok(Self {
            identity,
            superblock: (superblock, Checksum::of(&bytes)),
            parts,
            seen_by: Mutex::default(),
        })
    }

    fn part(&self, number: u32) -> Option<Found> {
        self.parts.get(number as usize)?.as_ref().map(found)
    }

    fn seen_by(&self, visitor: &Visitor, now: Instant) {
        let Some(address) = visitor.address() else {
            return;
        };
        let mut seen_by = lock(&self.seen_by);
        if seen_by.len() >= MOST_CLIENTS {
            seen_by.clear();
        }
        seen_by.insert(address, now);
    }
}

fn superblock_path((from, to): Name) -> String {
    let file = DeltaFile::Superblock;
    file_path(&Resource::Delta { from, to, file })
}

fn found((content, digest): &(Content, Checksum)) -> Found {
    Found::once(content.clone(), Some(*digest))
}

async fn whole(content: &Content) -> Result<bytes::Bytes, Unfit> {
    /// No client takes a larger one.
    const LARGEST: u64 = MAX_DOCUMENT_LEN as u64;
    let file = match content {
        Content::Memory(bytes) => return Ok(bytes.clone()),
        Content::File(file) if file.len() > LARGEST => {
            return Err(Unfit::Reason(
                "the superblock is larger than clients take".into(),
            ));
        }
        Content::File(file) => file.clone(),
    };
    let of_pool = file.clone();
    let read =
        tokio::task::spawn_blocking(move || of_pool.read_blocking(0, of_pool.len() as usize));
    match read.await {
        Ok(bytes) => Ok(bytes?),
        Err(error) => Err(file.unreadable(error.into()).into()),
    }
}
