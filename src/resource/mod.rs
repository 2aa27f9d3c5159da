//! Everything that an `archive` repository can be asked for, and how long each
//! may be cached.
//!
//! A request path is parsed once into a [`Resource`] ([`path::parse`]); from
//! then on nobody looks at request text again. What may be served is what this
//! enum can express: temporary files, locks, credentials and another remote's
//! caches have no variant, so no request can name them.
//!
//! Nothing here knows a file system, HTTP or async code.

pub mod checksum;
pub mod path;

pub use checksum::Checksum;

/// One file of an `archive` repository that clients may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    /// `config`: the repository's settings, as far as clients read them.
    Config,
    /// A document in the repository's root that names everything else.
    Root(RootDocument),
    /// `refs/heads/…` or `refs/mirrors/…`: the commit that a ref points at.
    Ref(RefName<'a>),
    /// `objects/xx/….kind`
    Object {
        /// What the object's name says that its content hashes to.
        checksum: Checksum,
        /// The kind of object.
        kind: ObjectKind,
    },
    /// `deltas/xx/…/file`: a file of a static delta.
    Delta {
        /// The commit that the client has; `None` if it has nothing.
        from: Option<Checksum>,
        /// The commit that the client wants.
        to: Checksum,
        /// Which of the delta's files.
        file: DeltaFile,
    },
    /// `delta-indexes/xx/….index`: the static deltas that lead to a commit.
    DeltaIndex {
        /// The commit that they lead to.
        to: Checksum,
    },
    /// `summaries/<digest>.gz`: a compressed sub-summary of an indexed summary.
    SubSummary {
        /// SHA-256 of the uncompressed sub-summary.
        digest: Checksum,
    },
    /// `summaries/<from>-<to>.delta`: a difference between two sub-summaries.
    SubSummaryDelta {
        /// SHA-256 of the uncompressed sub-summary that the client has.
        from: Checksum,
        /// SHA-256 of the uncompressed sub-summary that it wants.
        to: Checksum,
    },
    /// `summaries/<digest>.idx.sig`: the signature of a summary index.
    IndexSignature {
        /// SHA-256 of the signed `summary.idx`.
        digest: Checksum,
    },
}

/// A mutable document in the repository's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RootDocument {
    /// `summary`
    Summary,
    /// `summary.sig`
    SummarySignature,
    /// `summary.idx`
    SummaryIndex,
    /// `summary.idx.sig`
    SummaryIndexSignature,
}

impl RootDocument {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Summary,
        Self::SummarySignature,
        Self::SummaryIndex,
        Self::SummaryIndexSignature,
    ];

    /// The document's name in the repository's root.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Summary => "summary",
            Self::SummarySignature => "summary.sig",
            Self::SummaryIndex => "summary.idx",
            Self::SummaryIndexSignature => "summary.idx.sig",
        }
    }
}

/// The kinds of object that clients of an `archive` repository ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A commit: metadata, parent, and the root of its tree.
    Commit,
    /// A commit's detached metadata: its signatures, which may be added later.
    CommitMeta,
    /// What remains of a commit that was deleted.
    CommitTombstone,
    /// A directory's entries.
    DirTree,
    /// A directory's owner, mode and extended attributes.
    DirMeta,
    /// A file: header and deflated content.
    FileZ,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Commit,
        Self::CommitMeta,
        Self::CommitTombstone,
        Self::DirTree,
        Self::DirMeta,
        Self::FileZ,
    ];

    /// The file name extension (`ostree_object_type_to_string`).
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::CommitMeta => "commitmeta",
            Self::CommitTombstone => "commit-tombstone",
            Self::DirTree => "dirtree",
            Self::DirMeta => "dirmeta",
            Self::FileZ => "filez",
        }
    }
}

/// A file in the directory of a static delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeltaFile {
    /// The delta's description, with the target commit inside.
    Superblock,
    /// A part with this number.
    Part(u32),
}

/// The name of a ref below `refs/`, such as `heads/fedora/x86_64/kinoite` or
/// `mirrors/org.example.Collection/app`.
///
/// Only [`path::parse`] makes one, so it is always within the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefName<'a>(&'a str);

impl<'a> RefName<'a> {
    /// The name, beginning with `heads/` or `mirrors/`.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// How the bytes of a resource are told apart from other bytes under the same
/// name, on this server or on a byte-identical mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The name is the SHA-256 of the bytes that are served.
    Name(Checksum),
    /// The name pins the decoded content. Two compressions of it may differ in
    /// bytes, and in all known cases they do in size.
    NameAndSize(Checksum),
    /// The name says nothing about the bytes: hash them.
    Bytes,
}

/// How long an answer may be used without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// What this name stands for never changes.
    Immutable,
    /// It may be replaced, and a short delay in noticing does no harm: the
    /// client has a way around a stale copy.
    Brief,
    /// It may be replaced, and every use must ask whether it was.
    Revalidate,
}

impl Resource<'_> {
    /// The same, if it is one of the documents in `summaries/`, which have
    /// digests for names.
    pub fn in_summaries(&self) -> Option<Resource<'static>> {
        match *self {
            Self::SubSummary { digest } => Some(Resource::SubSummary { digest }),
            Self::SubSummaryDelta { from, to } => Some(Resource::SubSummaryDelta { from, to }),
            Self::IndexSignature { digest } => Some(Resource::IndexSignature { digest }),
            _ => None,
        }
    }

    /// How its bytes are identified.
    pub fn identity(&self) -> Identity {
        match *self {
            Self::Object { checksum, kind } => match kind {
                ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta => {
                    Identity::Name(checksum)
                }
                // Flathub once mixed slices of two valid compressions of one
                // object (flatpak#6822): the name alone does not tell.
                ObjectKind::FileZ => Identity::NameAndSize(checksum),
                ObjectKind::CommitMeta | ObjectKind::CommitTombstone => Identity::Bytes,
            },
            Self::SubSummary { digest } => Identity::NameAndSize(digest),
            Self::Config
            | Self::Root(_)
            | Self::Ref(_)
            | Self::Delta { .. }
            | Self::DeltaIndex { .. }
            | Self::SubSummaryDelta { .. }
            | Self::IndexSignature { .. } => Identity::Bytes,
        }
    }

    /// How long an answer stays good.
    pub fn freshness(&self) -> Freshness {
        match self {
            Self::Object { kind, .. } => match kind {
                ObjectKind::Commit
                | ObjectKind::DirTree
                | ObjectKind::DirMeta
                | ObjectKind::FileZ => Freshness::Immutable,
                ObjectKind::CommitMeta | ObjectKind::CommitTombstone => Freshness::Revalidate,
            },
            Self::SubSummary { .. } => Freshness::Immutable,
            Self::Delta { .. } | Self::SubSummaryDelta { .. } => Freshness::Brief,
            // The name pins the signed index, not the signature: after a change
            // of key the same name holds another signature, and a cache that
            // kept the old one would lock clients out.
            Self::IndexSignature { .. } => Freshness::Revalidate,
            Self::Config | Self::Root(_) | Self::Ref(_) | Self::DeltaIndex { .. } => {
                Freshness::Revalidate
            }
        }
    }
}
