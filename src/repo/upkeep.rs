//! What a repository does by itself: looks, publishes, and keeps what clients in
//! the middle of a pull need.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::generation::Generation;
use super::grace::Until;
use super::judge::Problem;
use super::settings::Settings;
use super::{Repo, check_servable, lock};
use crate::files::Directory;
use crate::resource::Checksum;
use crate::watch::Watch;

impl Repo {
    /// Looks again whenever something may have changed, for as long as the
    /// repository is in use. Needs a runtime around it; a second call does
    /// nothing.
    pub fn keep(self: &Arc<Self>) {
        let mut task = lock(&self.task);
        if task.is_none() {
            *task = Some(self.start_keeping());
        }
    }

    fn start_keeping(self: &Arc<Self>) -> AbortHandle {
        tokio::spawn(keep(Arc::downgrade(self), Arc::clone(&self.nudge))).abort_handle()
    }

    /// Puts other settings in force. What is served, and what clients in the
    /// middle of a pull rely on, stays. Needs a runtime around it.
    pub fn set(self: &Arc<Self>, settings: Settings) {
        self.grace_period.set(settings.publishing.grace);
        let old = self.settings.swap(Arc::new(settings.clone()));
        let (old, new) = (&old.publishing, &settings.publishing);
        if (old.notice, old.poll) != (new.notice, new.poll) {
            let mut task = lock(&self.task);
            if let Some(task) = task.replace(self.start_keeping()) {
                task.abort();
            }
        }
        self.nudge.notify_one();
    }

    /// Looks at the directory, and publishes what may be published. Gives the
    /// time after which to look again although nothing changes.
    pub(super) fn look(&self, now: Instant) -> Option<Duration> {
        let mut keeper = lock(&self.keeper);
        let old = self.publications.current();
        let recheck = match self.directory_in_place() {
            Ok(directory) if self.is_coherent() => keeper.look(
                directory,
                &self.publications,
                &self.brake,
                &self.settings(),
                now,
            ),
            Ok(directory) => {
                self.directory.store(directory);
                None
            }
            Err(problem) => {
                keeper.cannot_look(self.directory().path(), problem, now);
                None
            }
        };
        *lock(&self.obstacles) = keeper.obstacles();
        self.newer.store(keeper.has_newer(), Ordering::Relaxed);
        if let Some(new) = self.publications.current().filter(|_| self.is_coherent()) {
            let replaced = self.directory.swap(Arc::clone(&new.directory));
            if !Arc::ptr_eq(&replaced, &new.directory) {
                // Now, not when this look began.
                self.cache.distrust(Instant::now());
                *lock(&self.former) = Some((replaced, now));
            }
            if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, &new)) {
                self.prepare(&old, &new);
                self.retire(&old, &new, now);
            }
            // Not at the start, which is not to wait for so much.
            if lock(&self.task).is_some() && !self.prepared.swap(true, Ordering::Relaxed) {
                self.prepare_whole(&new, Until::Retired);
            }
        }
        self.grace.sweep(now);
        self.cache.sweep(now);
        self.deltas.sweep(now);
        self.former_directory(now);
        recheck
    }

    /// Keeps what clients of the new generation will ask for, for somebody may
    /// prune it right after the next one.
    fn prepare(&self, old: &Generation, new: &Generation) {
        let is_new =
            |commit: &Checksum| new.commits.contains(commit) && !old.commits.contains(commit);
        let mut budget = self.grace.budget();
        for (name, commit) in new.tips().filter(|(_, commit)| is_new(commit)) {
            let predecessor = old.tip(name);
            self.grace.prepare(
                &new.directory,
                commit,
                predecessor,
                Until::Retired,
                &mut budget,
            );
            if budget.is_spent() {
                break;
            }
        }
    }

    /// Keeps all that a generation names, as far as the bounds reach: of one that
    /// is held, which is served for long, and of the first one.
    pub(super) fn prepare_whole(&self, generation: &Generation, until: Until) {
        let commits: HashSet<_> = generation.tips().map(|(_, commit)| commit).collect();
        let mut budget = self.grace.budget();
        for commit in commits {
            self.grace
                .prepare(&generation.directory, commit, None, until, &mut budget);
            if budget.is_spent() {
                break;
            }
        }
    }

    /// The directory that another one took the place of, during the grace.
    pub(super) fn former_directory(&self, now: Instant) -> Option<Arc<Directory>> {
        let mut former = lock(&self.former);
        let grace = self.grace_period.get();
        former.take_if(|(_, since)| now.saturating_duration_since(*since) >= grace);
        former.as_ref().map(|(directory, _)| Arc::clone(directory))
    }

    /// The directory that is at the repository's path now.
    fn directory_in_place(&self) -> Result<Arc<Directory>, Problem> {
        let old = self.directory();
        if old.is_in_place() {
            return Ok(old);
        }
        let path = old.path();
        let new = Directory::open(path).map_err(|error| {
            let reason = format!("the repository's directory is gone: {}", error.cause);
            Problem::with_directory(reason, "mount it, or put it back in place".into())
        })?;
        check_servable(&new).map_err(|finding| {
            let reason = format!("another directory was put in its place: {}", finding.reason);
            Problem::with_directory(reason, finding.remedy.unwrap_or_default())
        })?;
        Ok(Arc::new(new))
    }

    /// Keeps what clients of the old generation still need, before somebody
    /// prunes it.
    fn retire(&self, old: &Generation, new: &Generation, now: Instant) {
        let is_gone = |commit: &Checksum| !new.commits.contains(commit);
        let tips = old.tips().filter(|(_, commit)| is_gone(commit));
        let tips = tips.map(|(name, commit)| (commit, new.tip(name)));
        let tips: HashMap<_, _> = tips.collect();
        let mut budget = self.grace.budget();
        for commit in old.commits.iter().filter(|commit| is_gone(commit)) {
            let successor = tips.get(commit).copied().flatten();
            self.grace
                .retire(&old.directory, *commit, successor, now, &mut budget);
            if budget.is_spent() {
                tracing::debug!("more objects were replaced than are kept for clients that began");
                break;
            }
        }
    }
}

/// A fault may depend on what is there, which may change.
const AFTER_A_FAULT: Duration = Duration::from_secs(10);

/// The task of [`Repo::keep`]. It holds the repository only while it looks, so
/// that it ends with it.
async fn keep(repo: Weak<Repo>, nudge: Arc<Notify>) {
    let Some(this) = repo.upgrade() else { return };
    // To set watches is to ask a file system, which may take its time.
    let begin = tokio::task::spawn_blocking(move || {
        let path = this.directory().path().to_owned();
        let publishing = &this.settings().publishing;
        Watch::repository(&path, publishing.notice, publishing.poll)
    });
    let Ok(mut watch) = begin.await else { return };
    let mut recheck = Some(Duration::ZERO);
    loop {
        let alarm = async {
            match recheck {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = watch.changed() => {}
            () = nudge.notified() => {}
            () = alarm => {}
        }
        let Some(repo) = repo.upgrade() else { return };
        *lock(&repo.notice) = watch.means().to_string();
        let path = repo.directory().path().to_owned();
        let look = tokio::task::spawn_blocking(move || repo.look(Instant::now()));
        recheck = match look.await {
            Ok(recheck) => recheck,
            Err(error) if error.is_panic() => {
                let repository = path.display();
                tracing::error!(%repository, %error, "looking for changes failed, by a fault in this program");
                Some(AFTER_A_FAULT)
            }
            // The runtime ends.
            Err(_) => return,
        };
    }
}
