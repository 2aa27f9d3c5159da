//! What holds, releases and reports: the repositories, and what the service
//! manager keeps for them. Nothing here knows sockets.

use std::cmp::Reverse;
mod exchange;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::board::Board;
use super::{
    Held, Lasting, Reason, Refused, Released, Reply, Report, Repository, Request, Unserved, Way,
};
use crate::config::Prefix;
use crate::finding::shell_word;
use crate::http::Service;
use crate::repo::Repo;
use crate::repo::status::{Hold, Obstacle, Status};
use crate::sandbox::probe;
use crate::systemd::{self, Inherited, Keeps, Manager, hold_name, hold_prefix, numbered};
use exchange::{Exchange, with_first};

/// Something with a brake: a [`Repo`], or what plays one in tests.
pub trait Brake: Send + Sync {
    /// As [`Repo::hold`].
    ///
    /// # Errors
    /// As there.
    fn hold(&self, hold: Hold) -> Result<(), String>;
    /// As [`Repo::release`].
    fn release(&self) -> Option<Hold>;
    /// As [`Repo::frozen`].
    fn frozen(&self) -> Option<Vec<u8>>;
    /// As [`Repo::restore`].
    ///
    /// # Errors
    /// As there.
    fn restore(&self, frozen: &[u8]) -> Result<(), String>;
    /// As [`Repo::status`].
    fn status(&self) -> Status;
}

impl Brake for Repo {
    fn hold(&self, hold: Hold) -> Result<(), String> {
        self.hold(hold)
    }

    fn release(&self) -> Option<Hold> {
        self.release()
    }

    fn frozen(&self) -> Option<Vec<u8>> {
        self.frozen().unwrap_or_else(|error| {
            tracing::error!(%error, "the frozen generation cannot be read");
            None
        })
    }

    fn restore(&self, frozen: &[u8]) -> Result<(), String> {
        self.restore(frozen)
    }

    fn status(&self) -> Status {
        self.status()
    }
}

/// All that is served now; it may be something else after a reload.
pub trait Served: Send + Sync {
    /// What has a brake, and where it is served.
    fn brakes(&self) -> Vec<(Prefix, Arc<dyn Brake>)>;
}

impl Served for Service {
    fn brakes(&self) -> Vec<(Prefix, Arc<dyn Brake>)> {
        self.routes()
            .repos()
            .map(|(prefix, repo)| (prefix.clone(), Arc::clone(repo) as Arc<dyn Brake>))
            .collect()
    }
}

/// The brakes of everything that is served.
pub struct Brakes {
    served: Arc<dyn Served>,
    manager: Manager,
    /// How the commands that are named find this server.
    way: Way,
    /// One at a time holds or releases, so that the repositories and what is kept
    /// of them agree. Reports do not wait for it: the service manager may be slow.
    turn: Mutex<()>,
    /// What the service manager keeps, by the name of the first hold; locked for a
    /// moment only.
    kept: Mutex<BTreeMap<String, Kept>>,
    started: (SystemTime, Instant),
    board: Board,
    /// What the service manager was told last.
    said: Mutex<String>,
    /// Whether it is too late to hold anything.
    ending: AtomicBool,
}

/// A hold that the service manager keeps.
struct Kept {
    since: String,
    /// The numbers under which it does, lowest first; the last one counts.
    numbers: Vec<u32>,
    /// Why it does not count all the same.
    broken: Option<String>,
}

impl Brakes {
    /// The brakes of what is served, as they were in the process before this one.
    /// `way` is for the commands that it names.
    pub fn restored(
        served: Arc<dyn Served>,
        manager: Manager,
        way: Way,
        inherited: Vec<Inherited>,
    ) -> Self {
        let this = Self {
            served,
            manager,
            way,
            turn: Mutex::default(),
            kept: Mutex::default(),
            started: (SystemTime::now(), Instant::now()),
            board: Board::default(),
            said: Mutex::default(),
            ending: AtomicBool::new(false),
        };
        this.restore(inherited);
        this
    }

    fn restore(&self, mut inherited: Vec<Inherited>) {
        let brakes = self.served.brakes();
        let mut kept = lock(&self.kept);
        // The newest one counts, if it can be read.
        inherited.sort_by_key(|it| Reverse(systemd::split_number(&it.name).1));
        for Inherited { name, descriptor } in inherited {
            if !name.starts_with(systemd::HOLD) {
                tracing::warn!(
                    name,
                    remedy = "of the units in Sockets=, only ListenStream= is of use",
                    "a descriptor that the service manager passed has no use here"
                );
                continue;
            }
            let (first, number) = systemd::split_number(&name);
            let entry = kept.entry(first.to_owned()).or_insert_with(|| Kept {
                since: timestamp(self.started.0),
                numbers: Vec::new(),
                broken: Some(String::new()),
            });
            if !entry.numbers.contains(&number) {
                entry.numbers.insert(0, number);
            }
            if entry.broken.is_none() {
                continue;
            }
            let brake = brakes.iter().find(|(prefix, _)| hold_name(prefix) == first);
            entry.broken = match brake {
                Some((prefix, brake)) => systemd::unseal(descriptor)
                    .and_then(|frozen| brake.restore(&frozen))
                    .map(|()| log_restored(prefix, &brake.status()))
                    .inspect_err(|error| log_broken(prefix, error, &self.way))
                    .err(),
                None => {
                    self.log_orphan(first);
                    None
                }
            };
        }
    }

    /// How the commands that are named find this server.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Where the daemon writes what reports are to show.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The server is about to end: nothing is held any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Does what is asked for, for this user. May wait for disks and for the
    /// service manager.
    pub fn carry_out(&self, request: Request, by: &str) -> Reply {
        let result = match request {
            Request::Hold { prefix, reason } => self.hold(&prefix, &reason, by).map(Reply::Held),
            Request::Release { prefix } => self.release(&prefix, by).map(Reply::Released),
            Request::Status { prefix } => self.report(prefix.as_ref()).map(Reply::Status),
            Request::Sandbox {} => self.probe().map(Reply::Sandbox),
        };
        result.unwrap_or_else(Reply::Refused)
    }

    /// In this thread, which is confined like all others.
    fn probe(&self) -> Result<probe::Report, Refused> {
        let confinement = self.board.confinement().ok_or_else(|| {
            Refused::new(
                "this server has not confined itself yet",
                "ask again when it serves",
            )
        })?;
        tracing::info!("what is forbidden is being tried (sandbox-check)");
        Ok(confinement.probe())
    }

    fn hold(&self, prefix: &Prefix, reason: &Reason, by: &str) -> Result<Held, Refused> {
        let _turn = lock(&self.turn);
        let brake = self.find(prefix)?;
        if self.ending.load(Ordering::Relaxed) {
            // Whether the next process would know of it is not to be foreseen.
            let (prefix, way) = (word(prefix), &self.way);
            return Err(Refused::new(
                "the server is ending; a hold would perhaps end with it",
                format!(
                    "if it is started again, see what clients get then: \
                     ostree-serve status {prefix}{way}, and hold that. To keep what is new from \
                     them until then, do not start it"
                ),
            ));
        }
        let before = brake.status().held;
        let hold = Hold {
            reason: reason.to_string(),
            by: by.to_owned(),
            since: timestamp(SystemTime::now()),
        };
        brake.hold(hold).map_err(|error| {
            Refused::new(
                format!("{prefix} cannot be held: {error}"),
                format!(
                    "see what stands in the way: ostree-serve status {}{}",
                    word(prefix),
                    self.way
                ),
            )
        })?;
        let lasting = self.keep(prefix, &*brake, before.is_some());
        if let Some(kept) = lock(&self.kept).get_mut(&hold_name(prefix)) {
            // It is held now, whatever was lost before.
            kept.broken = None;
        }
        tracing::warn!(
            %prefix, by, %reason, %lasting,
            "held: nothing newer is published until it is released"
        );
        self.announce();
        let repository = self.repository(prefix.clone(), &*brake);
        Ok(Held {
            beside: self.beside(&repository),
            repository,
            before,
            lasting,
        })
    }

    /// Where else its directory is served, and not held.
    fn beside(&self, held: &Repository) -> Vec<Prefix> {
        let mut beside = self.served.brakes();
        beside.retain(|(prefix, brake)| {
            let status = brake.status();
            *prefix != held.prefix && status.path == held.status.path && status.held.is_none()
        });
        let mut prefixes: Vec<_> = beside.into_iter().map(|(prefix, _)| prefix).collect();
        prefixes.sort_by_key(ToString::to_string);
        prefixes
    }

    /// Has the service manager keep a hold. If it was held before, what is kept
    /// already is the same generation.
    fn keep(&self, prefix: &Prefix, brake: &dyn Brake, was_held: bool) -> Lasting {
        let room = match self.manager.keeps() {
            Keeps::Nothing => {
                return Lasting::Process("no service manager keeps it (NOTIFY_SOCKET)".into());
            }
            Keeps::Unsaid => None,
            Keeps::UpTo(room) => Some(room),
        };
        let Some(frozen) = brake.frozen() else {
            return Lasting::Process("the repository does not give its frozen generation".into());
        };
        let first = hold_name(prefix);
        let (counts, kept, others) = self.kept_for(&first);
        let exchange = Exchange::plan(was_held && counts, &kept, others, room);
        let result = self.exchange(&first, &frozen, &exchange);
        let numbers = match result {
            Ok(()) => exchange.outcome(&kept),
            // Any of it may be there; a release has to know.
            Err(_) => kept.into_iter().chain(exchange.store).collect(),
        };
        let count = others + numbers.len();
        self.remember(first, numbers);
        if let Err(error) = result {
            let reason = format!("the service manager cannot be given it: {error}");
            return Lasting::Process(reason);
        }
        match room {
            None => Lasting::Perhaps,
            Some(_) if exchange.fits => Lasting::Restarts,
            Some(room) => Lasting::Process(format!(
                "the service's unit has FileDescriptorStoreMax={room}, and there are {} holds",
                count + 1
            )),
        }
    }

    /// What the service manager keeps from now on under this name.
    fn remember(&self, first: String, numbers: Vec<u32>) {
        let mut kept = lock(&self.kept);
        if numbers.is_empty() {
            kept.remove(&first);
            return;
        }
        let new = Kept {
            since: timestamp(SystemTime::now()),
            numbers,
            broken: None,
        };
        kept.insert(first, new);
    }

    /// What is kept for the repository whose first hold has this name: whether it
    /// counts, under which numbers, and how much there is beside it.
    fn kept_for(&self, first: &str) -> (bool, Vec<u32>, usize) {
        let all = lock(&self.kept);
        let others = all.iter().filter(|(name, _)| *name != first);
        let others = others.map(|(_, it)| it.numbers.len()).sum();
        match all.get(first) {
            Some(kept) => (kept.broken.is_none(), kept.numbers.clone(), others),
            None => (false, Vec::new(), others),
        }
    }

    fn exchange(&self, first: &str, frozen: &[u8], exchange: &Exchange) -> io::Result<()> {
        let forget = |numbers: &[u32]| {
            let mut names = numbers.iter().map(|it| numbered(first, *it));
            names.try_for_each(|name| self.manager.forget(&name))
        };
        forget(&exchange.before)?;
        if let Some(number) = exchange.store {
            self.manager.store(&numbered(first, number), frozen)?;
        }
        forget(&exchange.after)
    }

    fn release(&self, prefix: &Prefix, by: &str) -> Result<Released, Refused> {
        let _turn = lock(&self.turn);
        let name = hold_name(prefix);
        let brake = match self.find(prefix) {
            Ok(brake) => Some(brake),
            Err(_) if lock(&self.kept).contains_key(&name) => None,
            Err(refused) => return Err(refused),
        };
        let before = brake.as_ref().and_then(|it| it.release());
        // What is not known to be kept may be so all the same.
        let exchange = Exchange {
            before: with_first(&self.kept_for(&name).1),
            ..Exchange::default()
        };
        let remains = self
            .exchange(&name, &[], &exchange)
            .err()
            .map(|error| format!("the service manager cannot be told to forget the hold: {error}"));
        if remains.is_none() {
            lock(&self.kept).remove(&name);
        }
        match &before {
            Some(hold) => tracing::warn!(
                %prefix, by, held_by = hold.by, held_because = hold.reason, remains,
                "released: what is new is published again"
            ),
            None => tracing::warn!(%prefix, by, remains, "released, but it was not held"),
        }
        self.announce();
        Ok(Released {
            repository: brake.map(|brake| self.repository(prefix.clone(), &*brake)),
            before,
            remains,
        })
    }

    fn report(&self, only: Option<&Prefix>) -> Result<Report, Refused> {
        let mut obstacles = self.orphans();
        if let Some(prefix) = only {
            let name = hold_name(prefix);
            obstacles.retain(|it| it.obstacle.file == name);
            if obstacles.is_empty() {
                self.find(prefix)?;
            }
        }
        let mut repositories: Vec<_> = self
            .served
            .brakes()
            .into_iter()
            .filter(|(prefix, _)| only.is_none_or(|only| only == prefix))
            .map(|(prefix, brake)| self.repository(prefix, &*brake))
            .collect();
        repositories.sort_by_key(|it| it.prefix.to_string());
        let (started, instant) = self.started;
        Ok(Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: timestamp(started),
            uptime: instant.elapsed().as_secs(),
            news: self.board.read(),
            obstacles,
            repositories,
        })
    }

    fn repository(&self, prefix: Prefix, brake: &dyn Brake) -> Repository {
        let mut status = brake.status();
        let name = hold_name(&prefix);
        if let Some(Kept {
            since,
            broken: Some(reason),
            ..
        }) = lock(&self.kept).get(&name)
        {
            let obstacle = Obstacle {
                reason: lost(reason),
                remedy: recovery(&prefix, &self.way),
                since: since.clone(),
                file: name,
            };
            status.waiting.insert(0, obstacle);
        }
        Repository { prefix, status }
    }

    /// Holds that are kept for what is not served.
    fn orphans(&self) -> Vec<Unserved> {
        let served: Vec<_> = self
            .served
            .brakes()
            .iter()
            .map(|(prefix, _)| hold_name(prefix))
            .collect();
        lock(&self.kept)
            .iter()
            .filter(|(name, _)| !served.contains(name))
            .map(|(name, kept)| Unserved {
                prefix: hold_prefix(name),
                obstacle: Obstacle {
                    file: name.clone(),
                    reason: ORPHAN.to_owned(),
                    remedy: self.orphan_remedy(name),
                    since: kept.since.clone(),
                },
            })
            .collect()
    }

    fn orphan_remedy(&self, name: &str) -> String {
        // One that the name does not tell has to be known by who chose it.
        let prefix = hold_prefix(name).map_or("PREFIX".to_owned(), |it| word(&it));
        format!(
            "serve {prefix} again and restart, or let go of the hold: \
             ostree-serve release {prefix}{}",
            self.way
        )
    }

    fn log_orphan(&self, name: &str) {
        let remedy = self.orphan_remedy(name);
        tracing::error!(name, remedy, "{ORPHAN}");
    }

    fn find(&self, prefix: &Prefix) -> Result<Arc<dyn Brake>, Refused> {
        let brakes = self.served.brakes();
        if let Some((_, brake)) = brakes.iter().find(|(it, _)| it == prefix) {
            return Ok(Arc::clone(brake));
        }
        let mut names: Vec<_> = brakes.iter().map(|(it, _)| it.to_string()).collect();
        names.sort();
        let remedy = match names.is_empty() {
            true => "this server serves no repository at all".to_owned(),
            false => format!("one of these: {}", names.join(", ")),
        };
        let reason = format!("no repository is served at {prefix}");
        Err(Refused::new(reason, remedy))
    }

    /// Tells the service manager how it stands, for `systemctl status`.
    pub fn announce(&self) {
        let line = self.headline();
        self.manager.say(&line);
        *lock(&self.said) = line;
    }

    /// The same, if it stands in another way than it was told.
    pub fn announce_news(&self) {
        if *lock(&self.said) != self.headline() {
            self.announce();
        }
    }

    /// How it stands, in one line.
    fn headline(&self) -> String {
        let all = self.served.brakes();
        let all = all.iter().map(|(prefix, brake)| (prefix, brake.status()));
        let all: Vec<_> = all.collect();
        let mut line = match all.len() {
            1 => "Serving 1 repository".to_owned(),
            count => format!("Serving {count} repositories"),
        };
        // Times in RFC 3339 are in the order of their letters.
        let newest = all.iter().max_by_key(|(_, status)| &status.published);
        // Without generations there is none. Writing to a string does not fail.
        if let Some((prefix, status)) = newest.filter(|(_, it)| !it.published.is_empty()) {
            let (number, published) = (status.generation, &status.published);
            _ = write!(
                line,
                "; newest generation: {number} of {prefix}, published {published}"
            );
        }
        let held = all.iter().filter(|(_, status)| status.held.is_some());
        let held: Vec<_> = held.map(|(prefix, _)| prefix.to_string()).collect();
        if !held.is_empty() {
            _ = write!(line, "; HELD: {}", held.join(", "));
        }
        if let Some(refused) = self.board.read().refused_reload {
            _ = write!(line, "; last reload refused at {}", refused.since);
        }
        line
    }
}

const ORPHAN: &str = "a hold is kept for a repository that is not served any more";
fn lost(reason: &str) -> String {
    format!(
        "IT IS NOT HELD, although it was before the restart: the hold could not be taken over: \
         {reason}"
    )
}

fn recovery(prefix: &Prefix, way: &Way) -> String {
    let prefix = word(prefix);
    format!(
        "look what clients get now, then hold it again: \
         ostree-serve hold {prefix} --reason TEXT{way}; or go without: \
         ostree-serve release {prefix}{way}"
    )
}

fn log_restored(prefix: &Prefix, status: &Status) {
    let hold = status.held.as_ref();
    tracing::warn!(
        %prefix,
        by = hold.map(|it| &it.by),
        since = hold.map(|it| &it.since),
        reason = hold.map(|it| &it.reason),
        "still held, as before the restart"
    );
}

fn log_broken(prefix: &Prefix, reason: &str, way: &Way) {
    tracing::error!(%prefix, remedy = recovery(prefix, way), "{}", lost(reason));
}

/// A prefix as a word of a shell.
fn word(prefix: &Prefix) -> String {
    shell_word(Path::new(&prefix.to_string()))
}

/// A time as reports show it.
pub(super) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change to what is locked is a single call, so it is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
