//! An open repository: from a resource to its content, and what is known about
//! its bytes.
//!
//! HTTP is not known here; [`crate::http`] makes validators of these facts.

pub mod status;
pub mod visitor;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::config::Publishing;
use crate::files::{self, Cause, Content, Digests, Directory, Links, Unreadable};
use crate::finding::{Finding, shell_word};
use crate::format::repo_config::RepoConfig;
use crate::resource::path::file_path;
use crate::resource::{Checksum, Identity, Resource};
use status::{Hold, Status};
use visitor::Visitor;

/// A repository that is being served.
#[derive(Debug)]
pub struct Repo {
    directory: Arc<Directory>,
    digests: Digests,
    publishing: Publishing,
}

/// What was found for a resource.
#[derive(Debug)]
pub struct Found {
    /// The bytes.
    pub content: Content,
    /// The SHA-256 of the bytes, where the resource's name does not tell it
    /// ([`Identity::Bytes`]).
    pub digest: Option<Checksum>,
}

impl Repo {
    /// Opens the repository in the directory `path`.
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
        let path = directory.path().to_owned();
        let repo = Self {
            directory: Arc::new(directory),
            digests: Digests::new(),
            publishing,
        };
        let text = match repo.read_config_blocking() {
            Ok(Some(text)) => text,
            Ok(None) => {
                let finding =
                    Finding::error(&*path, "is no ostree repository: it has no file `config`");
                return Err(finding.remedy(init(&path)));
            }
            Err(error) => {
                let reason = error.cause.to_string();
                return Err(Finding::error(&*error.path, reason).remedy(error.remedy()));
            }
        };
        RepoConfig::parse(&text)
            .and_then(|config| config.check_servable())
            .map_err(|reason| {
                let remedy = "serve an archive repository: make one beside it \
                              (ostree init --mode=archive --repo=…), then `ostree pull-local` into it";
                Finding::error(path.join("config"), reason).remedy(remedy)
            })?;
        Ok(repo)
    }

    /// Freezes it at the generation that is served now. A second hold replaces
    /// the first one's reason and keeps the frozen generation.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn hold(&self, _hold: Hold) -> Result<(), String> {
        Err("not yet".into())
    }

    /// Ends a hold, and gives it; `None` if there was none.
    pub fn release(&self) -> Option<Hold> {
        None
    }

    /// The hold and the frozen generation, for [`Repo::restore`]; `None` if it
    /// is not held.
    pub fn frozen(&self) -> Option<Vec<u8>> {
        None
    }

    /// Goes on with a hold of a process before this one.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn restore(&self, _frozen: &[u8]) -> Result<(), String> {
        Err("not yet".into())
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// How it was configured.
    pub fn publishing(&self) -> &Publishing {
        &self.publishing
    }

    /// The directory that everything is opened beneath.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Finds a resource; `None` if the repository does not have it.
    ///
    /// # Errors
    /// Why a file that is there cannot be served.
    pub async fn lookup(
        &self,
        resource: &Resource<'_>,
        _visitor: &Visitor,
    ) -> Result<Option<Found>, Unreadable> {
        let name = file_path(resource);
        let links = match resource {
            // An alias is a link inside refs/ (`ostree refs --alias`).
            Resource::Ref(_) => Links::Inside("refs"),
            _ => Links::Refused,
        };
        let file = match files::open(&self.directory, &name, links).await {
            // The first half of a ref's name is a directory, and no ref.
            Err(Unreadable {
                cause: Cause::NotRegular(FileType::Directory),
                ..
            }) if matches!(resource, Resource::Ref(_)) => return Ok(None),
            result => result?,
        };
        let Some(file) = file else { return Ok(None) };
        let mut content = Content::of(file, self.directory.path(), &name).await?;
        if let Resource::Config = resource {
            content = Content::Memory(self.public_config(&content)?);
        }
        let digest = match resource.identity() {
            Identity::Name(_) | Identity::NameAndSize(_) => None,
            Identity::Bytes => Some(self.digests.of_content(&content).await?),
        };
        Ok(Some(Found { content, digest }))
    }

    /// What clients may see of the file `config`.
    fn public_config(&self, content: &Content) -> Result<Bytes, Unreadable> {
        let Content::Memory(text) = content else {
            let cause = Cause::TooLarge(Content::SMALL);
            return Err(Unreadable::new(self.directory.path(), "config", cause));
        };
        let config = std::str::from_utf8(text)
            .map_err(|error| error.to_string())
            .and_then(RepoConfig::parse)
            .and_then(|config| config.check_servable().map(|()| config))
            .map_err(|reason| {
                Unreadable::new(self.directory.path(), "config", Cause::Malformed(reason))
            })?;
        Ok(config.render().into())
    }

    fn read_config_blocking(&self) -> Result<Option<String>, Unreadable> {
        let opened = self
            .directory
            .open_file("config", Links::Refused, files::Patience::Wait)?;
        let files::Opened::File(file) = opened else {
            return Ok(None);
        };
        let path: PathBuf = self.directory.path().join("config");
        let len = file.identity.size.min(Content::SMALL) as usize;
        let bytes = files::FileContent::new(file, path).read_blocking(0, len)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// The command that makes a repository.
fn init(path: &Path) -> String {
    format!("ostree init --mode=archive --repo={}", shell_word(path))
}
