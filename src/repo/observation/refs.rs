//! The refs of a repository: what each file and each alias below `refs/` points at.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::fs::FileType;

use super::read;
use crate::files::{Cause, Content, Directory, Identity, Links, Unreadable};
use crate::resource::Checksum;
use crate::resource::path::parse;

/// What was seen of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Refs {
    /// By the name below `refs/`.
    pub(super) tips: BTreeMap<Box<str>, (SeenRef, Checksum)>,
    /// While a directory is read that a link led to.
    behind_link: bool,
    /// Why there may be more.
    pub(super) trouble: Option<(String, Trouble)>,
}

#[derive(Clone, Debug)]
pub(super) enum Trouble {
    Unreadable(Arc<Unreadable>),
    Malformed(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SeenRef {
    pub(super) identity: Identity,
    settled: bool,
}

impl Refs {
    /// Deeper than any sensible name, shallower than a loop of links.
    const DEEPEST: usize = 32;

    pub(super) fn read(directory: &Directory, last: Option<&Self>) -> Self {
        let mut refs = Self::default();
        for root in ["heads", "mirrors"] {
            refs.read_directory(directory, root, last, Self::DEEPEST);
        }
        refs
    }

    fn read_directory(
        &mut self,
        directory: &Directory,
        name: &str,
        last: Option<&Self>,
        deep: usize,
    ) {
        let entries = match directory.list(&format!("refs/{name}"), Links::Inside("refs")) {
            Ok(entries) => entries.unwrap_or_default(),
            Err(error) => return self.note(name, Trouble::Unreadable(error.into())),
        };
        for (entry, kind) in entries {
            let name = format!("{name}/{entry}");
            match kind {
                FileType::Directory if deep > 0 => {
                    self.read_directory(directory, &name, last, deep - 1);
                }
                FileType::Directory => {}
                _ => self.read_entry(directory, &name, last, deep),
            }
        }
    }

    /// A file, or a link to a file (an alias) or to a directory.
    fn read_entry(&mut self, directory: &Directory, name: &str, last: Option<&Self>, deep: usize) {
        let path = format!("refs/{name}");
        // What no client can ask for is of no interest: locks, temporary files.
        if parse(&path).is_none() {
            return;
        }
        if let Some((seen, commit)) = last.and_then(|last| last.tips.get(name)) {
            let identity = directory.identify(&path).ok().flatten();
            if seen.settled && identity == Some(seen.identity) {
                self.tips.insert(name.into(), (*seen, *commit));
                return;
            }
        }
        let (identity, text) = match read(directory, &path, Links::Inside("refs"), Content::SMALL) {
            Ok(Some(read)) => read,
            // It was deleted meanwhile, or is an alias that leads nowhere.
            Ok(None) => return,
            Err(error) => match error.cause {
                // Links to directories are followed once on a way: two that lead
                // to their own directory would make 2^32 ways.
                Cause::NotRegular(FileType::Directory) if !self.behind_link => {
                    self.behind_link = true;
                    self.read_directory(directory, name, last, deep);
                    self.behind_link = false;
                    return;
                }
                Cause::NotRegular(FileType::Directory) => return,
                _ => return self.note(name, Trouble::Unreadable(error.into())),
            },
        };
        match Checksum::from_hex(text.trim_ascii_end()) {
            Some(commit) => {
                let settled = identity.is_settled();
                self.tips
                    .insert(name.into(), (SeenRef { identity, settled }, commit));
            }
            None => self.note(
                name,
                Trouble::Malformed("it holds no commit's checksum".into()),
            ),
        }
    }

    fn note(&mut self, name: &str, trouble: Trouble) {
        self.trouble
            .get_or_insert_with(|| (name.to_owned(), trouble));
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        let text = |it: &Self| {
            it.trouble
                .as_ref()
                .map(|(name, it)| format!("{name} {it:?}"))
        };
        let tips = |it: &Self| -> Vec<_> {
            let tips = it.tips.iter();
            tips.map(|(name, (seen, commit))| (name.clone(), seen.identity, *commit))
                .collect()
        };
        tips(self) == tips(other) && text(self) == text(other)
    }
}
