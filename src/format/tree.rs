//! What a commit and a directory of its tree lead to.
//!
//! The shapes are `OSTREE_COMMIT_GVARIANT_STRING` and
//! `OSTREE_TREE_GVARIANT_STRING` of `src/libostree/ostree-core.h`.

use super::checksum;
use super::gvariant::Value;
use crate::resource::Checksum;

const COMMIT: &str = "(a{sv}aya(say)sstayay)";
const DIRTREE: &str = "(a(say)a(sayay))";

/// A directory: its entries, and its owner, mode and attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Directory {
    /// The `dirtree` object.
    pub tree: Checksum,
    /// The `dirmeta` object.
    pub meta: Checksum,
}

/// The root directory of a commit; `None` if this is no commit.
pub fn root(commit: &[u8]) -> Option<Directory> {
    let commit = Value::new(COMMIT, commit)?;
    Some(Directory {
        tree: checksum(commit.child(6)?)?,
        meta: checksum(commit.child(7)?)?,
    })
}

/// The entries of a `dirtree` object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries<'a> {
    /// The files, as `filez` objects.
    pub files: Vec<Checksum>,
    /// The directories, by name.
    pub directories: Vec<(&'a str, Directory)>,
}

/// Reads a `dirtree` object; `None` if it is none.
pub fn entries(dirtree: &[u8]) -> Option<Entries<'_>> {
    let dirtree = Value::new(DIRTREE, dirtree)?;
    let file = |file: Value<'_>| checksum(file.child(1)?);
    let files = dirtree
        .child(0)?
        .children()
        .map(file)
        .collect::<Option<_>>()?;
    let directories = dirtree.child(1)?.children().map(named_directory);
    Some(Entries {
        files,
        directories: directories.collect::<Option<_>>()?,
    })
}

fn named_directory<'a>(entry: Value<'a>) -> Option<(&'a str, Directory)> {
    let directory = Directory {
        tree: checksum(entry.child(1)?)?,
        meta: checksum(entry.child(2)?)?,
    };
    Some((entry.child(0)?.as_str()?, directory))
}
