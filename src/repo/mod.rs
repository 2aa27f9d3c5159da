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
mod lookup;
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
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::{CacheSize, Publishing};
use crate::files::{self, Cause, Content, Digests, Directory, FileContent, Links, Unreadable};
use crate::finding::{Finding, shell_word};
use crate::format::repo_config::RepoConfig;
use crate::resource::Checksum;
use brake::Brake;
use cache::Cache;
use deltas::Deltas;
use generation::{Generation, Publications};
use grace::{Grace, Until};
use keeper::Keeper;
use margin::Margin;
use period::Period;
use room::Room;
use settings::Settings;
use status::{Hold, Obstacle, Status};
use visitor::Lineage;

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
    /// ([`Identity::Bytes`](crate::resource::Identity::Bytes)).
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
        let room = Room::share(1, CacheSize::Automatic);
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
