//! From a resource to what is served of it: a mutable document of the generation that
//! a visitor has to see, an object that is remembered, or a file.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustix::fs::FileType;

use super::deltas::{self, Wanted};
use super::generation::Generation;
use super::grace;
use super::visitor::Visitor;
use super::{Found, Repo};
use crate::files::{self, Cause, Content, Directory, FileContent, Links, Unreadable};
use crate::format::repo_config::RepoConfig;
use crate::format::summary::{StaticDelta, parse_delta_index};
use crate::resource::path::file_path;
use crate::resource::{Checksum, DeltaFile, Identity, Resource, RootDocument};

impl Repo {
    /// What is at hand of a resource, for a visitor; `None` if that is not known
    /// without asking the file system. Most of what clients ask for is at hand.
    ///
    /// # Errors
    /// As [`Repo::lookup`].
    pub fn lookup_at_hand(
        &self,
        resource: &Resource<'_>,
        visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        if !self.is_coherent() {
            return Ok(None);
        }
        Ok(match *resource {
            Resource::Config | Resource::Root(_) | Resource::Ref(_) => {
                let current = self.publications.current();
                current.and_then(|it| self.generation_for(resource, visitor, it).find(resource))
            }
            Resource::Object { checksum, kind } => {
                self.cache.trusted((checksum, kind), Instant::now())?
            }
            _ => self.publications.find_named(resource).map(|it| it.found()),
        })
    }

    /// Finds a resource for a visitor; `None` if the repository does not have it.
    ///
    /// # Errors
    /// Why a file that is there cannot be served.
    pub async fn lookup(
        &self,
        resource: &Resource<'_>,
        visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        if let Some(found) = self.lookup_at_hand(resource, visitor)? {
            return Ok(Some(found));
        }
        match (*resource, self.is_coherent()) {
            (Resource::Config | Resource::Root(_) | Resource::Ref(_), true) => {
                self.lookup_document(resource, visitor).await
            }
            (Resource::Delta { from, to, file }, true) => {
                let directory = self.directory();
                let name = (from, to);
                let listed = match file {
                    DeltaFile::Superblock => self.listed_superblock(name, visitor).await?,
                    DeltaFile::Part(_) => None,
                };
                let wanted = Wanted { name, file, listed };
                self.deltas
                    .find(wanted, &directory, &self.digests, visitor)
                    .await
            }
            (Resource::DeltaIndex { to }, true) => self.lookup_delta_index(to, visitor).await,
            (Resource::Object { checksum, kind }, true) => {
                self.lookup_object((checksum, kind)).await
            }
            _ => self.lookup_file(resource).await,
        }
    }

    /// An object; one whose name is gone, for the grace.
    async fn lookup_object(&self, object: grace::Object) -> Result<Option<Found>, Unreadable> {
        let now = Instant::now();
        let (checksum, kind) = object;
        let resource = Resource::Object { checksum, kind };
        let directory = self.directory();
        if let Some(file) = self.open_file(&directory, &resource).await? {
            if let Some(found) = self.cache.confirmed(object, file.identity(), now) {
                return Ok(Some(found));
            }
            let found = self.found(&resource, file.clone()).await?;
            self.cache.remember(object, file, &found, now);
            return Ok(Some(found));
        }
        if let Some(found) = self.grace.find(object, now) {
            return Ok(Some(found));
        }
        if let Some(found) = self.cache.gone(object, now).await? {
            return Ok(Some(found));
        }
        match self.former_directory(now) {
            Some(directory) => self.lookup_file_in(&directory, &resource).await,
            None => Ok(None),
        }
    }

    /// A mutable document, of the generation that this visitor has to see.
    async fn lookup_document(
        &self,
        resource: &Resource<'_>,
        visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        let Some(current) = self.publications.first().await else {
            let reason = "the repository's files have not stood still since the start";
            let cause = Cause::Other(io::Error::other(reason));
            return Err(Unreadable::new(
                self.directory().path(),
                &file_path(resource),
                cause,
            ));
        };
        let generation = self.generation_for(resource, visitor, current);
        match generation.find(resource) {
            // The error that it gives is the answer.
            None if generation.unreadable.may_contain(resource) => self.lookup_file(resource).await,
            found => Ok(found),
        }
    }

    /// The generation that this visitor has to see a document of.
    fn generation_for(
        &self,
        resource: &Resource<'_>,
        visitor: &Visitor,
        current: Arc<Generation>,
    ) -> Arc<Generation> {
        match resource {
            // Clients ask for these first (client-contract 1.4).
            Resource::Root(RootDocument::SummarySignature | RootDocument::SummaryIndex) => {
                visitor.pin(&self.lineage, &current, Instant::now());
                current
            }
            Resource::Root(_) => visitor
                .pinned(&self.lineage, Instant::now())
                .unwrap_or(current),
            _ => current,
        }
    }

    /// A delta index. Clients believe it more than the summary, and ask for it
    /// on another connection: so a visitor who is told of a superblock here gets
    /// that one, and the index of a pruned commit is there for as long as its
    /// delta.
    async fn lookup_delta_index(
        &self,
        to: Checksum,
        visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        let now = Instant::now();
        let found = match self.lookup_file(&Resource::DeltaIndex { to }).await? {
            Some(found) => {
                self.deltas.index_served(to, &found, now);
                found
            }
            None => match self.deltas.past_index(to, now) {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        visitor.told(to, listed_deltas(&found));
        Ok(Some(found))
    }

    /// The superblock that this visitor was told to expect: clients take no
    /// other one, and fail.
    async fn listed_superblock(
        &self,
        name: deltas::Name,
        visitor: &Visitor,
    ) -> Result<Option<Checksum>, Unreadable> {
        if let Some(told) = visitor.told_superblock(name) {
            return Ok(Some(told));
        }
        let generation = self.generation_of(visitor).await;
        let listed = generation.and_then(|it| it.listed.deltas.get(&name).copied());
        if listed.is_some() {
            return Ok(listed);
        }
        let (_, to) = name;
        let index = match self.lookup_file(&Resource::DeltaIndex { to }).await? {
            None => self.deltas.past_index(to, Instant::now()),
            index => index,
        };
        let listed = index.map(|it| listed_deltas(&it)).unwrap_or_default();
        let mut listed = listed.into_iter().filter(|it| (it.from, it.to) == name);
        Ok(listed.next().map(|it| it.superblock))
    }

    /// The generation that this visitor has begun with.
    async fn generation_of(&self, visitor: &Visitor) -> Option<Arc<Generation>> {
        match visitor.pinned(&self.lineage, Instant::now()) {
            Some(pinned) => Some(pinned),
            None => self.publications.first().await,
        }
    }

    /// A file, as it lies in the directory.
    async fn lookup_file(&self, resource: &Resource<'_>) -> Result<Option<Found>, Unreadable> {
        self.lookup_file_in(&self.directory(), resource).await
    }

    async fn lookup_file_in(
        &self,
        directory: &Arc<Directory>,
        resource: &Resource<'_>,
    ) -> Result<Option<Found>, Unreadable> {
        match self.open_file(directory, resource).await? {
            Some(file) => self.found(resource, file).await.map(Some),
            None => Ok(None),
        }
    }

    /// What is served of an open file.
    async fn found(&self, resource: &Resource<'_>, file: FileContent) -> Result<Found, Unreadable> {
        let mut content = file.content().await?;
        if let Resource::Config = resource {
            content = Content::Memory(public_config(&content, &self.directory())?);
        }
        let digest = match resource.identity() {
            Identity::Name(_) | Identity::NameAndSize(_) => None,
            Identity::Bytes => Some(self.digests.of_content(&content).await?),
        };
        Ok(Found::once(content, digest))
    }

    /// Opens the file that holds a resource; `None` if there is none.
    async fn open_file(
        &self,
        directory: &Arc<Directory>,
        resource: &Resource<'_>,
    ) -> Result<Option<FileContent>, Unreadable> {
        let name = file_path(resource);
        let links = match resource {
            // An alias is a link inside refs/ (`ostree refs --alias`).
            Resource::Ref(_) => Links::Inside("refs"),
            _ => Links::Refused,
        };
        match files::open_or(directory, &name, links, || self.cache.close_files()).await {
            // The first half of a ref's name is a directory, and no ref.
            Err(Unreadable {
                cause: Cause::NotRegular(FileType::Directory),
                ..
            }) if matches!(resource, Resource::Ref(_)) => Ok(None),
            opened => Ok(opened?.map(|file| FileContent::new(file, directory.path().join(name)))),
        }
    }
}

/// What a delta index says; nothing if it is none. Of more than
/// [`Content::SMALL`] bytes there is none: it has a hundred for each delta.
fn listed_deltas(index: &Found) -> Vec<StaticDelta> {
    match &index.content {
        Content::Memory(bytes) => parse_delta_index(bytes).unwrap_or_default(),
        Content::File(_) => Vec::new(),
    }
}

/// What clients may see of the file `config`.
fn public_config(content: &Content, directory: &Directory) -> Result<Bytes, Unreadable> {
    let unreadable = |cause| Unreadable::new(directory.path(), "config", cause);
    let Content::Memory(text) = content else {
        return Err(unreadable(Cause::TooLarge(Content::SMALL)));
    };
    let config =
        RepoConfig::servable(text).map_err(|reason| unreadable(Cause::Malformed(reason)))?;
    Ok(config.render().into())
}
