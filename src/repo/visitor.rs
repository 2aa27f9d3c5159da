//! Who asks: a connection, and what it was told that has to hold together.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::deltas::{self, Unit};
use super::generation::Generation;
use crate::format::summary::StaticDelta;
use crate::resource::Checksum;

/// A client's connection, as far as a repository has to tell one from another.
///
/// A client asks for a signature and then, on the same connection, for what is
/// signed (client-contract 1.4); a new generation between the two must not make
/// them differ.
#[derive(Debug)]
pub struct Visitor {
    name: String,
    address: Option<IpAddr>,
    pins: Mutex<Vec<Pin>>,
    deltas: Mutex<Vec<(deltas::Name, Arc<Unit>)>>,
    /// The deltas to a commit that it was told of last.
    told: Mutex<Vec<(Checksum, Vec<StaticDelta>)>>,
}

/// The generation that a repository's signature was taken from.
#[derive(Debug)]
struct Pin {
    repository: Arc<Lineage>,
    generation: Arc<Generation>,
    until: Instant,
}

/// Tells one repository from another.
#[derive(Debug)]
pub struct Lineage;

/// How long after a signature its client may ask for what is signed.
const PINNED: Duration = Duration::from_secs(60);

/// How many deltas a connection is in the middle of; libostree fetches two
/// parts at a time (client-contract 2.3).
const MOST_DELTAS: usize = 8;

/// Of how many repositories a connection remembers a generation.
const MOST_PINS: usize = 8;

impl Visitor {
    /// A new connection of this peer.
    pub fn new(name: impl fmt::Display, address: Option<IpAddr>) -> Self {
        Self {
            name: name.to_string(),
            address,
            pins: Mutex::default(),
            deltas: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Remembers that a signature, or an index, was taken from this generation.
    pub fn pin(&self, repository: &Arc<Lineage>, generation: &Arc<Generation>, now: Instant) {
        let mut pins = self.pins();
        pins.retain(|pin| pin.until > now && !Arc::ptr_eq(&pin.repository, repository));
        if pins.len() == MOST_PINS {
            pins.remove(0);
        }
        pins.push(Pin {
            repository: Arc::clone(repository),
            generation: Arc::clone(generation),
            until: now + PINNED,
        });
    }

    /// The generation that this connection's last signature was taken from, if
    /// that was a moment ago.
    pub fn pinned(&self, repository: &Arc<Lineage>, now: Instant) -> Option<Arc<Generation>> {
        let pins = self.pins();
        let pin = pins
            .iter()
            .find(|pin| Arc::ptr_eq(&pin.repository, repository) && pin.until > now)?;
        Some(Arc::clone(&pin.generation))
    }

    /// Remembers which deltas to a commit it was told of.
    pub fn told(&self, to: Checksum, deltas: Vec<StaticDelta>) {
        let mut told = lock(&self.told);
        told.retain(|(other, _)| *other != to);
        if told.len() == MOST_DELTAS {
            told.remove(0);
        }
        told.push((to, deltas));
    }

    /// The superblock that it was told of.
    pub fn told_superblock(&self, name: deltas::Name) -> Option<Checksum> {
        let (_, to) = name;
        let told = lock(&self.told);
        let (_, deltas) = told.iter().find(|(other, _)| *other == to)?;
        let delta = deltas.iter().find(|it| (it.from, it.to) == name)?;
        Some(delta.superblock)
    }

    /// Remembers whose superblock it got.
    pub fn began(&self, name: deltas::Name, unit: &Arc<Unit>) {
        let mut deltas = lock(&self.deltas);
        deltas.retain(|(other, _)| *other != name);
        if deltas.len() == MOST_DELTAS {
            deltas.remove(0);
        }
        deltas.push((name, Arc::clone(unit)));
    }

    /// The delta whose superblock it got last, of this name.
    pub fn unit(&self, name: deltas::Name) -> Option<Arc<Unit>> {
        let deltas = lock(&self.deltas);
        let (_, unit) = deltas.iter().find(|(other, _)| *other == name)?;
        Some(Arc::clone(unit))
    }

    fn pins(&self) -> MutexGuard<'_, Vec<Pin>> {
        lock(&self.pins)
    }

    /// Nobody in particular, as in tests.
    pub fn unknown() -> Self {
        Self::new("unknown", None)
    }

    /// The address, if it has one that means something: who comes by a Unix
    /// socket comes from a proxy.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
