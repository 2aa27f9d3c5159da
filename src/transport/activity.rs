//! What happens on a connection, counted for the [watchdog](crate::watchdog).
//!
//! The notes are plain counters; nobody looks at a clock while a request is
//! served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What happens on a connection, counted.
#[derive(Debug, Default)]
pub struct Activity {
    requests_started: AtomicU64,
    requests_finished: AtomicU64,
    /// Bytes of replies that were written, before encryption.
    bytes_written: AtomicU64,
    /// Bytes of requests, and how many of them had come when the last request
    /// was understood.
    bytes_read: AtomicU64,
    bytes_read_at_request: AtomicU64,
    /// What the peer had not confirmed when a write had to wait for the last
    /// time, in bytes.
    unacknowledged: AtomicU64,
    /// Whether the last write has to wait for the peer.
    write_waits: AtomicBool,
    /// Whether the connection's key has protected enough.
    spent: AtomicBool,
    ways: Ways,
    /// Where these are reported to.
    total: Arc<Ways>,
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.report();
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that began.
    pub started: u64,
    /// Requests whose replies were taken over completely.
    pub finished: u64,
    /// Bytes that were written and are not known to lie in this machine's
    /// buffers still: in the long run, what the peer has taken.
    ///
    /// What hyper takes from bodies would not do. It takes up to 128 KiB ahead
    /// for each HTTP/2 stream, and then, while a slow client reads that, nothing.
    pub delivered: u64,
    /// Whether bytes have come that belong to no request yet.
    pub partial_request: bool,
    /// Whether something waits in this process until the peer reads. That may
    /// be the end of a reply whose request is finished.
    pub write_waits: bool,
}

impl Activity {
    /// The counters now.
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            started: load(&self.requests_started),
            finished: load(&self.requests_finished),
            delivered: load(&self.bytes_written).saturating_sub(load(&self.unacknowledged)),
            partial_request: load(&self.bytes_read) > load(&self.bytes_read_at_request),
            write_waits: self.write_waits.load(Ordering::Relaxed),
        }
    }

    /// Bytes came from the peer.
    pub(super) fn read(&self, count: usize) {
        add(&self.bytes_read, count as u64);
    }

    /// Bytes of replies were written, before encryption.
    pub(super) fn written(&self, count: usize) {
        add(&self.bytes_written, count as u64);
    }

    /// Whether a write has to wait for the peer.
    pub(super) fn write_waits(&self, waits: bool) {
        self.write_waits.store(waits, Ordering::Relaxed);
    }

    /// So many bytes are not confirmed by the peer.
    pub(super) fn unacknowledged(&self, count: u64) {
        self.unacknowledged.store(count, Ordering::Relaxed);
    }

    /// No further request should come on this connection.
    pub(super) fn is_spent_now(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    /// Whether no further request should come on this connection.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Bytes of a body went this way.
    pub(super) fn went(&self, way: Way, count: usize) {
        self.ways.add(way, count as u64);
    }

    /// Of a connection that has just begun. How its bodies were sent is reported to
    /// what all connections share.
    pub fn new(total: &Arc<Ways>) -> Self {
        let mut activity = Self::default();
        activity.total = Arc::clone(total);
        activity
    }

    /// Reports how bodies were sent since the last time. Not for each request:
    /// processors would take what they share from each other.
    pub fn report(&self) {
        self.ways.pour_into(&self.total);
    }
}

/// A request from its start until its reply's body is dropped; then, and at the
/// latest when the connection ends, it counts as finished.
#[derive(Debug)]
pub struct Request(Arc<Activity>);

impl Request {
    /// A request begins.
    pub fn start(activity: &Arc<Activity>) -> Self {
        add(&activity.requests_started, 1);
        let read = activity.bytes_read.load(Ordering::Relaxed);
        activity
            .bytes_read_at_request
            .store(read, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }

    /// The connection's counters.
    pub fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        add(&self.0.requests_finished, 1);
    }
}

/// How the bytes of a body got from the repository to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They were in this process's memory.
    Memory,
    /// They were read from a file while it was sent.
    Read,
    /// The kernel sent the file in plaintext (sendfile(2)).
    Sendfile,
    /// The kernel sent the file and encrypted it.
    KernelTls,
}

/// How many bytes took which way.
#[derive(Debug, Default)]
pub struct Ways([AtomicU64; 4]);

impl Ways {
    /// So many bytes took this way.
    pub fn get(&self, way: Way) -> u64 {
        self.0[way as usize].load(Ordering::Relaxed)
    }

    fn add(&self, way: Way, count: u64) {
        add(&self.0[way as usize], count);
    }

    /// Moves all counts to another account.
    fn pour_into(&self, other: &Self) {
        for (from, to) in self.0.iter().zip(&other.0) {
            match from.swap(0, Ordering::Relaxed) {
                // What connections share is not to be written for nothing.
                0 => {}
                count => add(to, count),
            }
        }
    }
}
