//! One generation of a repository's mutable documents, and the store of the one
//! that is served.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::Notify;

use super::Found;
use super::deltas;
use super::margin::Margin;
use super::period::Period;
use crate::files::{Content, Directory};
use crate::format::summary::{Ref, StaticDelta, Summary};
use crate::resource::{Checksum, RefName, Resource, RootDocument};

/// The mutable documents of a repository as they belong together. It never
/// changes; a newer state is another generation.
#[derive(Debug)]
pub struct Generation {
    /// How many came before it since the repository was opened.
    pub number: u64,
    /// When it was published.
    pub published: SystemTime,
    /// The directory that it was read from.
    pub directory: Arc<Directory>,
    /// What clients see of `config`.
    pub config: Document,
    /// `summary`, its signature, `summary.idx`, its signature.
    pub documents: RootDocuments,
    /// What the summary lists.
    pub listed: Listed,
    /// What each ref points at, by its name below `refs/`.
    pub refs: BTreeMap<Box<str>, Checksum>,
    /// Sub-summaries and signatures of indexes, which have digests for names.
    pub named: HashMap<Resource<'static>, Arc<Named>>,
    /// What is there and cannot be read, in a first generation: it is an error,
    /// and not absent.
    pub unreadable: Unreadable,
    /// The commits that refs and summary name, and that are there.
    pub commits: HashSet<Checksum>,
}

/// What a summary lists.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The commit of each ref, by its name below `refs/`. The refs themselves
    /// may be ahead of it, or behind.
    pub tips: BTreeMap<Box<str>, Checksum>,
    /// The SHA-256 of each delta's superblock.
    pub deltas: HashMap<deltas::Name, Checksum>,
}

/// What is there and cannot be read.
#[derive(Clone, Debug, Default)]
pub struct Unreadable {
    /// These documents.
    pub documents: Vec<RootDocument>,
    /// A ref, or several.
    pub refs: bool,
}

impl Unreadable {
    /// Whether this may be there and unreadable.
    pub fn may_contain(&self, resource: &Resource<'_>) -> bool {
        match resource {
            Resource::Root(document) => self.documents.contains(document),
            Resource::Ref(_) => self.refs,
            _ => false,
        }
    }
}

/// A document in memory.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its bytes.
    pub bytes: Bytes,
    /// Their SHA-256.
    pub digest: Checksum,
    margin: Margin,
}

impl Document {
    /// A document of these bytes.
    pub fn new(bytes: Bytes) -> Self {
        let digest = Checksum::of(&bytes);
        Self {
            bytes,
            digest,
            margin: Margin::default(),
        }
    }

    fn found(&self) -> Found {
        Found {
            content: Content::Memory(self.bytes.clone()),
            digest: Some(self.digest),
            margin: Some(self.margin.clone()),
        }
    }
}

/// The documents in the repository's root, each if it is there.
#[derive(Clone, Debug, Default)]
pub struct RootDocuments([Option<Document>; 4]);

impl RootDocuments {
    /// The document, if there is one.
    pub fn get(&self, document: RootDocument) -> Option<&Document> {
        self.0[document as usize].as_ref()
    }

    /// Those that are there.
    pub fn iter(&self) -> impl Iterator<Item = (RootDocument, &Document)> {
        RootDocument::ALL
            .into_iter()
            .filter_map(|name| Some((name, self.get(name)?)))
    }

    /// What the summary lists; nothing if there is none.
    pub fn listed(&self) -> Listed {
        let summary = self.get(RootDocument::Summary);
        let summary = summary.and_then(|it| Summary::parse(&it.bytes).ok());
        let summary = summary.unwrap_or_default();
        let tip = |it: Ref| (format!("heads/{}", it.name).into(), it.commit);
        let delta = |it: StaticDelta| ((it.from, it.to), it.superblock);
        Listed {
            tips: summary.refs.into_iter().map(tip).collect(),
            deltas: summary.deltas.into_iter().map(delta).collect(),
        }
    }

    /// Puts a document in its place, or takes it away.
    pub fn set(&mut self, name: RootDocument, document: Option<Document>) {
        self.0[name as usize] = document;
    }
}

/// A document whose name has a digest in it. It stays readable when its file is
/// gone: it is in memory, or its file is open.
#[derive(Debug)]
pub struct Named {
    /// Its bytes.
    pub content: Content,
    /// Their SHA-256, if the name and the size do not identify them.
    pub digest: Option<Checksum>,
}

impl Generation {
    /// A mutable document, a ref, or `config`; `None` if it has none of the name.
    pub fn find(&self, resource: &Resource<'_>) -> Option<Found> {
        match resource {
            Resource::Config => Some(self.config.found()),
            Resource::Root(document) => self.documents.get(*document).map(Document::found),
            Resource::Ref(name) => self.find_ref(*name),
            _ => None,
        }
    }

    fn find_ref(&self, name: RefName<'_>) -> Option<Found> {
        let commit = self.refs.get(name.as_str())?;
        Some(Document::new(ref_file(commit)).found())
    }

    /// Whether it says what the other one says.
    pub fn says_what(&self, other: &Self) -> bool {
        let documents = |it: &Self| -> Vec<_> {
            let documents = it.documents.iter();
            documents
                .map(|(name, document)| (name, document.digest))
                .collect()
        };
        self.config.digest == other.config.digest
            && documents(self) == documents(other)
            && self.refs == other.refs
    }

    /// The commits that refs and summary name, each with the ref's name below
    /// `refs/`.
    pub fn tips(&self) -> impl Iterator<Item = (&str, Checksum)> {
        let tips = self.refs.iter().chain(&self.listed.tips);
        tips.map(|(name, commit)| (&**name, *commit))
    }

    /// The commit that a client of this ref gets.
    pub fn tip(&self, name: &str) -> Option<Checksum> {
        let tip = self.listed.tips.get(name).or_else(|| self.refs.get(name));
        tip.copied()
    }

    /// Whether its summary is signed.
    pub fn is_signed(&self) -> bool {
        self.documents.get(RootDocument::SummarySignature).is_some()
    }

    /// Whether its summary index is signed, in one way or the other.
    pub fn is_index_signed(&self) -> bool {
        let signature = self.documents.get(RootDocument::SummaryIndexSignature);
        let is_signature = |name: &Resource<'_>| matches!(name, Resource::IndexSignature { .. });
        signature.is_some() || self.named.keys().any(is_signature)
    }
}

/// What ostree writes into a ref's file (`_ostree_repo_write_ref`).
pub fn ref_file(commit: &Checksum) -> Bytes {
    format!("{commit}\n").into()
}

/// The generation that is served, and the digest-named documents of those
/// before it.
#[derive(Debug)]
pub struct Publications {
    current: ArcSwapOption<Generation>,
    /// Told when the first generation is there.
    first: Notify,
    past: Mutex<HashMap<Resource<'static>, Past>>,
    grace: Period,
}

/// A document that the current generation has no use for.
#[derive(Debug)]
struct Past {
    document: Arc<Named>,
    /// When the last generation that named it was replaced, and by which one.
    replaced: (Instant, u64),
}

impl Publications {
    /// However much was published within the grace, this many documents are kept
    /// at most; each may hold a descriptor.
    const MOST_PAST: usize = 1024;
    /// So many generations back they are kept, even after the grace.
    const LEAST_GENERATIONS: u64 = 3;

    /// Nothing is published yet. `grace` is for how long what was replaced is
    /// kept.
    pub fn new(grace: Period) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            first: Notify::new(),
            past: Mutex::default(),
            grace,
        }
    }

    /// The generation that is served; `None` if it is too early to tell.
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.current.load_full()
    }

    /// The same, after a short wait for the first one: clients forgive a delay.
    pub async fn first(&self) -> Option<Arc<Generation>> {
        const LONGEST: Duration = Duration::from_secs(15);
        if let Some(generation) = self.current() {
            return Some(generation);
        }
        let published = async {
            loop {
                let notified = self.first.notified();
                if let Some(generation) = self.current() {
                    return generation;
                }
                notified.await;
            }
        };
        tokio::time::timeout(LONGEST, published).await.ok()
    }

    /// Replaces the generation that is served.
    pub fn publish(&self, generation: Arc<Generation>, now: Instant) {
        let number = generation.number;
        // Who asks meanwhile finds a document in the old generation, or waits.
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.current.swap(Some(Arc::clone(&generation)));
        self.first.notify_waiters();
        for (name, document) in old.iter().flat_map(|old| &old.named) {
            let document = Arc::clone(document);
            let replaced = (now, number);
            past.insert(*name, Past { document, replaced });
        }
        past.retain(|name, past| {
            let (when, by) = past.replaced;
            let is_recent = now.saturating_duration_since(when) < self.grace.get()
                || number < by + Self::LEAST_GENERATIONS;
            is_recent && !generation.named.contains_key(name)
        });
        if past.len() > Self::MOST_PAST {
            let mut replaced: Vec<_> = past.values().map(|past| past.replaced).collect();
            replaced.sort_unstable();
            let oldest = replaced[past.len() - Self::MOST_PAST];
            past.retain(|_, past| past.replaced >= oldest);
        }
    }

    /// A document with a digest in its name, of this generation or one before.
    pub fn find_named(&self, name: &Resource<'_>) -> Option<Arc<Named>> {
        let name = name.in_summaries()?;
        let current = self.current.load();
        if let Some(document) = current.as_ref().and_then(|it| it.named.get(&name)) {
            return Some(Arc::clone(document));
        }
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.get(&name).map(|past| Arc::clone(&past.document))
    }
}

impl Named {
    /// As something that was found.
    pub fn found(&self) -> Found {
        Found::once(self.content.clone(), self.digest)
    }
}

#[cfg(test)]
mod tests;
