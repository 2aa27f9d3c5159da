//! An open repository: from a resource to its content, and what is known about
//! its bytes.
//!
//! Mutable documents come from a [`generation::Generation`], a state of all of
//! them that was found to belong together; everything else comes from the
//! directory. HTTP is not known here; [`crate::http`] makes validators of these
//! facts.

pub mod brake;
pub mod cache;
pub mod deltas;
pub mod frozen;
pub mod generation;
pub mod grace;
pub mod judge;
pub mod keeper;
pub mod margin;
pub mod observation;
pub mod period;
pub mod room;
pub mod settings;
pub mod status;
mod upkeep;
pub mod visitor;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::{Publishing, Transfer};
use crate::files::{self, Cause, Content, Digests, Directory, FileContent, Links, Unreadable};
use crate::finding::{Finding, shell_word};
use crate::format::repo_config::RepoConfig;
use crate::format::summary::{StaticDelta, parse_delta_index};
use crate::resource::path::file_path;
use crate::resource::{Checksum, DeltaFile, Identity, Resource, RootDocument};
use brake::Brake;
use cache::Cache;
use deltas::{Deltas, Wanted};
use generation::{Generation, Publications};
use grace::{Grace, Until};
use keeper::Keeper;
use margin::Margin;
use period::Period;
use room::Room;
use settings::Settings;
use status::{Hold, Obstacle, Status};
use visitor::{Lineage, Visitor};

/// A repository that is being served.
#[derive(Debug)]
pub struct Repo {
    /// Where objects are. It changes if another directory is put in its place.
    directory: ArcSwap<Directory>,
    /// Where they were before, and until when: clients may be in mid-pull.
    former: Mutex<Option<(Arc<Directory>, Instant)>>,
    digests: Digests,
    settings: ArcSwap<Settings>,
    grace_period: Period,
    lineage: Arc<Lineage>,
    publications: Publications,
    deltas: Deltas,
    grace: Grace,
    cache: Cache,
    brake: Brake,
    /// Locked while it looks, which may take as long as the disk does; what is
    /// wanted at any time is beside it.
    keeper: Mutex<Keeper>,
    obstacles: Mutex<Vec<Obstacle>>,
    newer: AtomicBool,
    /// Whether the objects of the first generation are kept.
    prepared: AtomicBool,
    notice: Mutex<String>,
    task: Mutex<Option<AbortHandle>>,
    /// Asks for a look.
    nudge: Arc<Notify>,
}

/// What was found for a resource.
#[derive(Debug)]
pub struct Found {
    /// The bytes.
    pub content: Content,
    /// The SHA-256 of the bytes, where the resource's name does not tell it
    /// ([`Identity::Bytes`]).
    pub digest: Option<Checksum>,
    /// Where it is kept for others who ask for it; `None` if it is not.
    pub margin: Option<Margin>,
}

impl Found {
    /// Found for this time only.
    pub fn once(content: Content, digest: Option<Checksum>) -> Self {
        Self {
            content,
            digest,
            margin: None,
        }
    }
}

impl Repo {
    /// Opens the repository in the directory `path`, and publishes what is there
    /// unless it is about to change.
    ///
    /// # Errors
    /// Why it cannot be served, and what to do.
    pub fn open(path: &Path, publishing: Publishing) -> Result<Self, Finding> {
        let directory = Directory::open(path).map_err(|error| {
            let remedy = match error.cause {
                Cause::Errno(Errno::NOENT) => {
                    format!(
                        "name its directory in the configuration, or make it: {}",
                        init(path)
                    )
                }
                _ => error.remedy(),
            };
            let reason = format!("the repository cannot be opened: {}", error.cause);
            Finding::error(path, reason).remedy(remedy)
        })?;
        Self::from_directory(directory, publishing)
    }

    /// Takes over an open directory; as [`Repo::open`].
    ///
    /// # Errors
    /// As [`Repo::open`].
    pub fn from_directory(directory: Directory, publishing: Publishing) -> Result<Self, Finding> {
        check_servable(&directory)?;
        let settings = Settings::load(publishing)?;
        let grace = Period::new(settings.publishing.grace);
        let room = Room::share(1, Transfer::default().cache);
        let repo = Self {
            directory: ArcSwap::from_pointee(directory),
            former: Mutex::default(),
            digests: Digests::new(),
            lineage: Arc::new(Lineage),
            publications: Publications::new(grace.clone()),
            deltas: Deltas::new(grace.clone()),
            grace: Grace::new(room, grace.clone()),
            cache: Cache::new(room, grace.clone()),
            grace_period: grace,
            brake: Brake::default(),
            keeper: Mutex::new(Keeper::new(&settings)),
            obstacles: Mutex::default(),
            newer: AtomicBool::new(false),
            prepared: AtomicBool::new(false),
            notice: Mutex::new("not watched".into()),
            task: Mutex::default(),
            nudge: Arc::default(),
            settings: ArcSwap::from_pointee(settings),
        };
        repo.look(Instant::now());
        Ok(repo)
    }

    /// The directory that everything is opened beneath.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// The settings that are in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    fn is_coherent(&self) -> bool {
        self.settings.load().publishing.coherent
    }

    /// Freezes it at the generation that is served now. A second hold replaces
    /// the first one's reason and keeps the frozen generation.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn hold(&self, hold: Hold) -> Result<(), String> {
        if !self.is_coherent() {
            return Err(
                "it has `coherent = false`: its files are served as they lie, \
                        and cannot be frozen"
                    .into(),
            );
        }
        if self.publications.current().is_none() {
            return Err("nothing is published yet".into());
        }
        self.brake.put_on(hold);
        if let Some(held) = self.publications.current() {
            self.prepare_whole(&held, Until::Released);
        }
        Ok(())
    }

    /// Ends a hold, and gives it; `None` if there was none.
    pub fn release(&self) -> Option<Hold> {
        let held = self.brake.take_off();
        self.grace.released();
        self.nudge.notify_one();
        held
    }

    /// The hold and the frozen generation, for [`Repo::restore`]; `None` if it
    /// is not held. May wait for the disk.
    ///
    /// # Errors
    /// If a document cannot be read any more.
    pub fn frozen(&self) -> io::Result<Option<Vec<u8>>> {
        let (Some(hold), Some(generation)) = (self.brake.held(), self.publications.current())
        else {
            return Ok(None);
        };
        frozen::write(&hold, &generation).map(Some)
    }

    /// Goes on with a hold of a process before this one, or of this repository
    /// before a reload.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn restore(&self, frozen: &[u8]) -> Result<(), String> {
        if !self.is_coherent() {
            return Err("it has `coherent = false` now, and cannot be held".into());
        }
        let (hold, generation) = frozen::parse_frozen(frozen, self.directory())?;
        let mut keeper = lock(&self.keeper);
        keeper.publish_frozen(&self.publications, generation);
        self.brake.put_on(hold);
        drop(keeper);
        if let Some(held) = self.publications.current() {
            self.prepare_whole(&held, Until::Released);
        }
        Ok(())
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let current = self.publications.current();
        let published = |it: &Arc<Generation>| humantime::format_rfc3339_seconds(it.published);
        Status {
            path: self.directory().path().to_owned(),
            coherent: self.is_coherent(),
            generation: current.as_ref().map_or(0, |it| it.number),
            published: current
                .as_ref()
                .map_or_else(String::new, |it| published(it).to_string()),
            signed: current.as_ref().is_some_and(|it| it.is_signed()),
            refs: current.as_ref().map_or(0, |it| it.refs.len()),
            notice: lock(&self.notice).clone(),
            newer: self.newer.load(Ordering::Relaxed),
            held: self.brake.held(),
            waiting: lock(&self.obstacles).clone(),
        }
    }

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
        if let (Resource::Config | Resource::Root(_) | Resource::Ref(_), true) =
            (resource, self.is_coherent())
        {
            return self.lookup_document(resource, visitor).await;
        }
        match (*resource, self.is_coherent()) {
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

    /// Has more room for what it remembers from now on, or less.
    pub fn make_room(&self, room: Room) {
        self.grace.make_room(room);
        self.cache.make_room(room);
    }
}

impl Drop for Repo {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a directory holds an archive repository.
fn check_servable(directory: &Directory) -> Result<(), Finding> {
    let path = directory.path();
    let text = match read_config_blocking(directory) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let finding = Finding::error(path, "is no ostree repository: it has no file `config`");
            return Err(finding.remedy(init(path)));
        }
        Err(error) => {
            let reason = error.cause.to_string();
            return Err(Finding::error(&*error.path, reason).remedy(error.remedy()));
        }
    };
    RepoConfig::servable(&text).map(|_| ()).map_err(|reason| {
        let remedy = "serve an archive repository: make one beside it \
                          (ostree init --mode=archive --repo=…), then `ostree pull-local` into it";
        Finding::error(path.join("config"), reason).remedy(remedy)
    })
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

fn read_config_blocking(directory: &Directory) -> Result<Option<Bytes>, Unreadable> {
    let opened = directory.open_file("config", Links::Refused, files::Patience::Wait)?;
    let files::Opened::File(file) = opened else {
        return Ok(None);
    };
    let path: PathBuf = directory.path().join("config");
    let unreadable = |cause| Unreadable::new(directory.path(), "config", cause);
    if file.identity.size > Content::SMALL {
        return Err(unreadable(Cause::TooLarge(Content::SMALL)));
    }
    let len = file.identity.size as usize;
    let content = FileContent::new(file, path);
    content.read_blocking(0, len).map(Some)
}

/// The command that makes a repository.
fn init(path: &Path) -> String {
    format!("ostree init --mode=archive --repo={}", shell_word(path))
}
