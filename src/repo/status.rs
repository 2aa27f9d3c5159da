//! How a repository stands, for operators.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a repository stands. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it is served in whole generations.
    pub coherent: bool,
    /// How many generations were published since it was opened.
    pub generation: u64,
    /// When the generation that is served was published.
    pub published: String,
    /// Whether its summary is signed.
    pub signed: bool,
    /// How many refs it has.
    pub refs: usize,
    /// How changes are noticed: `inotify` or `poll`.
    pub notice: String,
    /// Whether a newer state of the directory is ready, and is only kept back by
    /// the brake.
    #[serde(default)]
    pub newer: bool,
    /// The operator's brake, if it is on.
    pub held: Option<Hold>,
    /// What keeps a newer state of the directory from being published; empty if
    /// nothing does.
    pub waiting: Vec<Obstacle>,
}

/// A brake: nothing newer is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why, in the operator's words.
    pub reason: String,
    /// Who asked for it: a user's name or number.
    pub by: String,
    /// Since when.
    pub since: String,
}

/// Something that keeps a newer state from being published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The file, relative to the repository.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// What repairs it.
    pub remedy: String,
    /// Since when.
    pub since: String,
}
