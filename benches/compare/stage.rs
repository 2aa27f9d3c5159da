//! Who runs while rows are measured: a server of each kind, started when it is
//! first needed, and others for rows that need a server without a past.

use std::path::{Path, PathBuf};

use tokio::runtime::{Builder, Runtime};

use crate::repository::{self, BULK, KINOITE, Repositories};
use crate::servers::{Peer, Server, Site};

/// The servers, what they serve, and where clients run.
pub struct Stage {
    ours: PathBuf,
    repositories: Repositories,
    site: Site,
    running: Vec<(Peer, Server)>,
    runtime: Runtime,
}

impl Stage {
    pub fn new(ours: &Path, repositories: Repositories) -> Self {
        let counted = repository::COUNTS.map(repository::counted);
        let mut names = vec![KINOITE, BULK];
        names.extend(counted.iter().map(String::as_str));
        Self {
            ours: ours.to_owned(),
            site: Site::new(&repositories.root, &names),
            repositories,
            running: Vec::new(),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    pub fn repositories(&self) -> &Repositories {
        &self.repositories
    }

    /// Where clients run: on this thread.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The server that serves everything, and has for a while.
    pub fn prepare(&mut self, peer: Peer) -> (&Server, &Runtime) {
        let at = self.running.iter().position(|it| it.0 == peer);
        let at = at.unwrap_or_else(|| {
            let server = peer.start(&self.ours, &self.site);
            self.running.push((peer, server));
            self.running.len() - 1
        });
        (&self.running[at].1, &self.runtime)
    }

    /// One that was just started, and serves these.
    pub fn fresh(&self, peer: Peer, repositories: &[&str]) -> Server {
        peer.start(&self.ours, &self.site.with(repositories))
    }

    /// One that is just being started, and is to serve these.
    pub fn starting(&self, peer: Peer, repositories: &[&str]) -> Server {
        peer.spawn(&self.ours, &self.site.with(repositories))
    }
}
