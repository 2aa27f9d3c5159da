//! A look at a repository's mutable files: what is there now, as one picture.
//!
//! All of this may wait for the disk, and runs where that does no harm.

mod refs;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use refs::{Refs, Trouble};

use super::generation::{Document, Generation, Named};
use super::judge::{Age, Dangling, Part, Signature};
use crate::files::{Cause, Content, Directory, Identity, Links, OpenFile, Opened, Patience};
use crate::files::{FileContent, Unreadable};
use crate::format::MAX_DOCUMENT_LEN;
use crate::format::repo_config::RepoConfig;
use crate::format::signatures::Signatures;
use crate::format::summary::Summary;
use crate::format::summary_index::SummaryIndex;
use crate::resource::path::file_path;
use crate::resource::{Checksum, ObjectKind, Resource, RootDocument};
use crate::signature::{Fit, Keys, fit};

/// What was seen.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Where.
    pub directory: Arc<Directory>,
    config: Seen,
    documents: [Seen; 4],
    refs: Refs,
    named: HashMap<Resource<'static>, SeenNamed>,
}

/// A file that was looked for.
#[derive(Clone, Debug)]
enum Seen {
    Absent,
    Present(SeenFile),
    Unreadable(Arc<Unreadable>),
}

#[derive(Clone, Debug)]
struct SeenFile {
    identity: Identity,
    /// Whether the identity would have changed with the bytes.
    settled: bool,
    document: Document,
}

#[derive(Clone, Debug)]
struct SeenNamed {
    identity: Identity,
    named: Arc<Named>,
}

/// No client takes a larger one.
const LARGEST_SUMMARY: u64 = MAX_DOCUMENT_LEN as u64;

/// Far more than any number of keys makes.
const LARGEST_SIGNATURE: u64 = 4 * 1024 * 1024;

impl Observation {
    /// Looks. What did not change since `last` is not read again.
    pub fn make(directory: Arc<Directory>, last: Option<&Self>) -> Self {
        let last = last.filter(|last| Arc::ptr_eq(&last.directory, &directory));
        let documents = read_documents(&directory, last);
        let index = documents[RootDocument::SummaryIndex as usize].document();
        let named = index.map_or_else(HashMap::new, |index| read_named(&directory, index, last));
        Self {
            config: Seen::read(
                &directory,
                "config",
                Content::SMALL,
                last.map(|it| &it.config),
            ),
            refs: Refs::read(&directory, last.map(|it| &it.refs)),
            documents,
            named,
            directory,
        }
    }

    /// Whether both saw the same.
    pub fn is_like(&self, other: &Self) -> bool {
        let named = |it: &Self| -> HashSet<_> {
            it.named
                .iter()
                .map(|(name, it)| (*name, it.identity))
                .collect()
        };
        Arc::ptr_eq(&self.directory, &other.directory)
            && self.config.is_like(&other.config)
            && self
                .documents
                .iter()
                .zip(&other.documents)
                .all(|(a, b)| a.is_like(b))
            && self.refs.is_like(&other.refs)
            && named(self) == named(other)
    }

    /// How long ago the last of the files was changed, by their own times.
    pub fn age(&self) -> Duration {
        let now = SystemTime::now();
        let files = self.documents.iter().chain([&self.config]);
        let documents = files.filter_map(Seen::file).map(|it| it.identity);
        let refs = self.refs.tips.values().map(|(seen, _)| seen.identity);
        let named = self.named.values().map(|it| it.identity);
        let ages = documents.chain(refs).chain(named).map(|it| it.age(now));
        ages.min().unwrap_or(Duration::MAX)
    }

    fn seen(&self, document: RootDocument) -> &Seen {
        &self.documents[document as usize]
    }

    /// The root document, if it was there.
    pub fn document(&self, document: RootDocument) -> Option<&Document> {
        self.seen(document).document()
    }

    /// Whether the root document is there and cannot be read.
    pub fn is_unreadable(&self, document: RootDocument) -> bool {
        matches!(self.seen(document), Seen::Unreadable(_))
    }

    /// What the refs that could be read point at.
    pub fn refs(&self) -> BTreeMap<Box<str>, Checksum> {
        let tips = self.refs.tips.iter();
        tips.map(|(name, (_, commit))| (name.clone(), *commit))
            .collect()
    }

    /// The documents in `summaries/` that belong to the index.
    pub fn named(&self) -> HashMap<Resource<'static>, Arc<Named>> {
        let named = self.named.iter();
        named
            .map(|(name, it)| (*name, Arc::clone(&it.named)))
            .collect()
    }

    /// What clients may see of `config`, and what the judge has to know.
    pub fn config(&self) -> (Option<Document>, Part) {
        let document = match self.config.part() {
            (Part::Sound, Some(document)) => document,
            (Part::Absent, _) => {
                return (None, Part::Malformed("there is none".into()));
            }
            (part, _) => return (None, part),
        };
        match RepoConfig::servable(&document.bytes) {
            Ok(config) => (Some(Document::new(config.render().into())), Part::Sound),
            Err(reason) => (None, Part::Malformed(reason)),
        }
    }

    /// The refs, for the judge.
    pub fn refs_part(&self) -> Part {
        match &self.refs.trouble {
            None => Part::Sound,
            Some((name, Trouble::Malformed(reason))) => {
                Part::Malformed(format!("refs/{name}: {reason}"))
            }
            Some((_, Trouble::Unreadable(error))) => {
                Part::Unreadable(error.to_string(), error.remedy())
            }
        }
    }

    /// The summary, parsed, and for the judge.
    pub fn summary(&self) -> (Option<Summary>, Part) {
        let document = match self.seen(RootDocument::Summary).part() {
            (Part::Sound, Some(document)) => document,
            (part, _) => return (None, part),
        };
        match Summary::parse(&document.bytes) {
            Ok(summary) => (Some(summary), Part::Sound),
            Err(reason) => (None, Part::Malformed(reason)),
        }
    }

    /// The index, for the judge, with the names of what it misses.
    pub fn index(&self) -> (Part, Vec<String>) {
        let document = match self.seen(RootDocument::SummaryIndex).part() {
            (Part::Sound, Some(document)) => document,
            (part, _) => return (part, Vec::new()),
        };
        match SummaryIndex::parse(&document.bytes) {
            Ok(index) => {
                let wanted = index
                    .summaries
                    .iter()
                    .map(|it| Resource::SubSummary { digest: it.digest });
                let missing = wanted.filter(|name| !self.named.contains_key(name));
                (Part::Sound, missing.map(|name| file_path(&name)).collect())
            }
            Err(reason) => (Part::Malformed(reason), Vec::new()),
        }
    }

    /// The signature of the summary, for the judge.
    pub fn summary_signature(&self, keys: Option<&Keys>) -> Signature {
        let signed = self.seen(RootDocument::Summary);
        self.seen(RootDocument::SummarySignature)
            .signature_of(signed, keys)
    }

    /// The two signatures of the index, for the judge: the one with its digest
    /// in its name, and the old one.
    pub fn index_signatures(&self, keys: Option<&Keys>) -> (Signature, Signature) {
        let index = self.seen(RootDocument::SummaryIndex);
        let old = self
            .seen(RootDocument::SummaryIndexSignature)
            .signature_of(index, keys);
        let Some(index) = index.file() else {
            return (Signature::Absent, old);
        };
        let name = Resource::IndexSignature {
            digest: index.document.digest,
        };
        let new = match self.named.get(&name) {
            None => Signature::Absent,
            Some(SeenNamed { identity, named }) => match &named.content {
                Content::Memory(bytes) => {
                    let age = age(*identity, index.identity);
                    judge_signature(&index.document.bytes, bytes, age, keys)
                }
                Content::File(_) => Signature::Malformed("it is far too large".into()),
            },
        };
        (new, old)
    }

    /// Which of the commits that refs and summary name are there, and which refs
    /// name others. What `previous` knows of is not looked at again.
    pub fn commits(&self, summary: Option<&Summary>, previous: Option<&Generation>) -> Commits {
        // Another directory may lack what that one has.
        let previous = previous.filter(|it| Arc::ptr_eq(&it.directory, &self.directory));
        let mut commits = Commits::default();
        let refs = self
            .refs
            .tips
            .iter()
            .map(|(name, (_, commit))| (&**name, *commit));
        let named = summary.into_iter().flat_map(|it| &it.refs);
        let named = named.map(|it| (&*it.name, it.commit));
        for (name, commit) in refs.chain(named) {
            if commits.complete.contains(&commit) {
                continue;
            }
            let is_known = previous.is_some_and(|it| it.commits.contains(&commit));
            if is_known || self.is_complete(commit) {
                commits.complete.insert(commit);
                continue;
            }
            commits.dangling.push(Dangling {
                name: name.to_owned(),
                commit: commit.to_string(),
                partial: self.has_commit(commit),
            });
        }
        commits
    }

    fn is_complete(&self, commit: Checksum) -> bool {
        let marker = format!("state/{commit}.commitpartial");
        // Where `state/` may not be looked into there is no marker to heed.
        self.has_commit(commit) && !matches!(self.directory.identify(&marker), Ok(Some(_)))
    }

    fn has_commit(&self, checksum: Checksum) -> bool {
        let kind = ObjectKind::Commit;
        let name = file_path(&Resource::Object { checksum, kind });
        // One that may not be read is there: who asks for it gets an error, and
        // the log the remedy.
        !matches!(self.directory.identify(&name), Ok(None))
    }
}

/// The commits that a state names.
#[derive(Debug, Default)]
pub struct Commits {
    /// Those that are there, whole.
    pub complete: HashSet<Checksum>,
    /// Refs to those that are not.
    pub dangling: Vec<Dangling>,
}

impl Seen {
    fn read(directory: &Directory, name: &str, largest: u64, last: Option<&Self>) -> Self {
        let identity = match directory.identify(name) {
            Ok(Some(identity)) => identity,
            Ok(None) => return Self::Absent,
            Err(error) => return Self::Unreadable(error.into()),
        };
        match last {
            Some(Self::Present(last)) if last.settled && last.identity == identity => {
                return Self::Present(last.clone());
            }
            _ => {}
        }
        match read(directory, name, Links::Refused, largest) {
            Ok(None) => Self::Absent,
            Ok(Some((identity, content))) => Self::Present(SeenFile {
                identity,
                settled: identity.is_settled(),
                document: Document::new(content),
            }),
            Err(error) => Self::Unreadable(error.into()),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (Self::Present(a), Self::Present(b)) => {
                (a.identity, a.document.digest) == (b.identity, b.document.digest)
            }
            (Self::Unreadable(a), Self::Unreadable(b)) => a.to_string() == b.to_string(),
            _ => false,
        }
    }

    fn file(&self) -> Option<&SeenFile> {
        match self {
            Self::Present(file) => Some(file),
            _ => None,
        }
    }

    fn document(&self) -> Option<&Document> {
        self.file().map(|file| &file.document)
    }

    fn part(&self) -> (Part, Option<&Document>) {
        match self {
            Self::Absent => (Part::Absent, None),
            Self::Present(file) => (Part::Sound, Some(&file.document)),
            Self::Unreadable(error) => match error.cause {
                Cause::TooLarge(_) => (Part::Malformed(error.cause.to_string()), None),
                _ => (
                    Part::Unreadable(error.cause.to_string(), error.remedy()),
                    None,
                ),
            },
        }
    }

    /// What this signature is worth for `signed`.
    fn signature_of(&self, signed: &Self, keys: Option<&Keys>) -> Signature {
        let signature = match (self.part(), self) {
            ((Part::Absent, _), _) => return Signature::Absent,
            ((Part::Malformed(reason), _), _) => return Signature::Malformed(reason),
            ((Part::Unreadable(reason, remedy), _), _) => {
                return Signature::Unreadable(reason, remedy);
            }
            (_, Self::Present(file)) => file,
            (_, _) => return Signature::Absent,
        };
        let Some(signed) = signed.file() else {
            return Signature::Wrong("what it signs is not there".into());
        };
        let age = age(signature.identity, signed.identity);
        judge_signature(&signed.document.bytes, &signature.document.bytes, age, keys)
    }
}

fn judge_signature(document: &[u8], signature: &[u8], age: Age, keys: Option<&Keys>) -> Signature {
    let signatures = match Signatures::parse(signature) {
        // What a crash or a full disk leaves, for example.
        Ok(signatures) if signatures.is_empty() => return Signature::Absent,
        Ok(signatures) => signatures,
        Err(reason) => return Signature::Malformed(reason),
    };
    if let Some(keys) = keys {
        return match keys.verify(document, &signatures) {
            Ok(_) => Signature::Fits,
            Err(reason) => Signature::Wrong(reason),
        };
    }
    match fit(document, &signatures) {
        Fit::Fits => Signature::Fits,
        Fit::DoesNotFit => Signature::Wrong("it signs another version of the file".into()),
        Fit::Untellable => Signature::Untellable(age),
    }
}

fn age(signature: Identity, signed: Identity) -> Age {
    match signature.modified().cmp(&signed.modified()) {
        std::cmp::Ordering::Less => Age::Older,
        // Archives and some file systems know whole seconds only, and then it
        // means nothing.
        std::cmp::Ordering::Equal if signed.modified().1 == 0 => Age::Younger,
        std::cmp::Ordering::Equal => Age::Same,
        std::cmp::Ordering::Greater => Age::Younger,
    }
}

/// Reads the root documents until they stand still, so that none is from before
/// a step of a writer and another from after it. A writer that never rests is
/// the judge's problem.
fn read_documents(directory: &Directory, last: Option<&Observation>) -> [Seen; 4] {
    const MOST_TRIES: usize = 5;
    // Against the order of the writers.
    const ORDER: [RootDocument; 4] = [
        RootDocument::SummarySignature,
        RootDocument::Summary,
        RootDocument::SummaryIndexSignature,
        RootDocument::SummaryIndex,
    ];
    let read_all = |last: Option<&[Seen; 4]>| {
        let mut documents = [const { Seen::Absent }; 4];
        for document in ORDER {
            let largest = match document {
                RootDocument::Summary | RootDocument::SummaryIndex => LARGEST_SUMMARY,
                _ => LARGEST_SIGNATURE,
            };
            let last = last.map(|last| &last[document as usize]);
            documents[document as usize] = Seen::read(directory, document.name(), largest, last);
        }
        documents
    };
    let mut documents = read_all(last.map(|it| &it.documents));
    for _ in 0..MOST_TRIES {
        let is_still = RootDocument::ALL.into_iter().all(|document| {
            let now = directory.identify(document.name()).ok().flatten();
            now == documents[document as usize].file().map(|it| it.identity)
        });
        if is_still {
            break;
        }
        documents = read_all(Some(&documents));
    }
    documents
}

/// Opens what an index names, its signature, and the differences that lead to
/// it. What is malformed names nothing.
fn read_named(
    directory: &Directory,
    index: &Document,
    last: Option<&Observation>,
) -> HashMap<Resource<'static>, SeenNamed> {
    let Ok(parsed) = SummaryIndex::parse(&index.bytes) else {
        return HashMap::new();
    };
    let mut names = vec![Resource::IndexSignature {
        digest: index.digest,
    }];
    for summary in &parsed.summaries {
        let to = summary.digest;
        names.push(Resource::SubSummary { digest: to });
        let steps = summary.history.iter();
        names.extend(steps.map(|&from| Resource::SubSummaryDelta { from, to }));
    }
    let read = |name: Resource<'static>| {
        let last = last.and_then(|last| last.named.get(&name));
        Some((name, SeenNamed::read(directory, &name, last)?))
    };
    names.into_iter().filter_map(read).collect()
}

impl SeenNamed {
    /// `None` for what is not there or cannot be read: the judge misses what has
    /// to be there, and says so.
    fn read(directory: &Directory, name: &Resource<'static>, last: Option<&Self>) -> Option<Self> {
        let file_name = file_path(name);
        let identity = directory.identify(&file_name).ok()??;
        if let Some(last) = last.filter(|last| last.identity == identity) {
            return Some(last.clone());
        }
        let file = open(directory, &file_name, Links::Refused).ok()??;
        let identity = file.identity;
        // A gzip file has a header of ten bytes and a trailer of eight.
        if matches!(name, Resource::SubSummary { .. }) && identity.size < 18 {
            return None;
        }
        let content = Content::of_blocking(file, directory.path(), &file_name).ok()?;
        // Sub-summaries are identified by name and size.
        let digest = match name {
            Resource::SubSummary { .. } => None,
            _ => Some(digest(&content).ok()?),
        };
        let named = Arc::new(Named { content, digest });
        Some(Self { identity, named })
    }
}

fn digest(content: &Content) -> Result<Checksum, Unreadable> {
    match content {
        Content::Memory(bytes) => Ok(Checksum::of(bytes)),
        Content::File(file) => file.digest_blocking(),
    }
}

fn open(directory: &Directory, name: &str, links: Links) -> Result<Option<OpenFile>, Unreadable> {
    match directory.open_file(name, links, Patience::Wait)? {
        Opened::File(file) => Ok(Some(file)),
        Opened::Absent => Ok(None),
        Opened::WouldWait => Err(Unreadable::new(
            directory.path(),
            name,
            rustix::io::Errno::AGAIN,
        )),
    }
}

/// A whole file.
fn read(
    directory: &Directory,
    name: &str,
    links: Links,
    largest: u64,
) -> Result<Option<(Identity, bytes::Bytes)>, Unreadable> {
    let Some(file) = open(directory, name, links)? else {
        return Ok(None);
    };
    let identity = file.identity;
    if identity.size > largest {
        return Err(Unreadable::new(
            directory.path(),
            name,
            Cause::TooLarge(largest),
        ));
    }
    let content = FileContent::new(file, directory.path().join(name));
    let bytes = content.read_blocking(0, identity.size as usize)?;
    Ok(Some((identity, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a crash leaves of a file that was being replaced.
    #[test]
    fn an_empty_signature_is_none() {
        let signature = judge_signature(b"a summary", b"", Age::Younger, None);
        assert_eq!(signature, Signature::Absent);
    }
}
