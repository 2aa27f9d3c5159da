//! `ostree-serve sandbox-check`: what a server must never do is tried by the running
//! server itself, in one of its threads, and each attempt is to be denied.
//!
//! An attempt is harmless if it succeeds: what is opened for writing is not written,
//! what is set is what it was, what is made has a name of its own and is removed,
//! and a call that does anything gets arguments that the kernel refuses after it has
//! found nothing else to say.

mod calls;
pub(super) mod files;
mod layer;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::layer::Judge;
use super::reach::Reach;
use crate::config::Config;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How far the process says that it has confined itself.
    pub confined: String,
    /// The attempts.
    pub attempts: Vec<Attempt>,
}

impl Report {
    /// Those that were not denied.
    pub fn possible(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .iter()
            .filter(|it| it.outcome == Outcome::Possible)
    }
}

/// Something forbidden that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What, as a phrase.
    pub operation: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Who denied it, or why it was not tried.
    pub by: String,
    /// What the system said.
    pub error: Option<String>,
    /// What to do if it was possible.
    pub remedy: Option<String>,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Denied,
    /// As it must not be.
    Possible,
    /// There is nothing here to try it with.
    Untried,
}

/// What the attempts are made at.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Directories that are served.
    served: Vec<PathBuf>,
    /// The configuration and the private key.
    secrets: Vec<PathBuf>,
    reach: Reach,
}

impl Targets {
    /// Those of a configuration.
    pub fn of(config: &Config, reach: &Reach) -> Self {
        let repos = config.repos.iter().map(|it| &it.mount.path.value);
        let statics = config.statics.iter().map(|it| &it.path.value);
        let key = config.tls.iter().map(|it| it.private_key.value.clone());
        Self {
            served: repos.chain(statics).cloned().collect(),
            secrets: std::iter::once(config.file.clone()).chain(key).collect(),
            reach: reach.clone(),
        }
    }

    /// Tries everything, in the calling thread.
    pub fn probe(&self, confined: &str, landlock: Option<u32>) -> Report {
        let judge = Judge::new(landlock.is_some());
        let mut attempts = Vec::new();
        files::try_all(self, &judge, &mut attempts);
        calls::try_all(&judge, &mut attempts);
        Report {
            confined: confined.to_owned(),
            attempts,
        }
    }
}
