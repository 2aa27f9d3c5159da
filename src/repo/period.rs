//! A length of time that a reload may change while it is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A length of time, in milliseconds; its copies change together.
#[derive(Clone, Debug)]
pub struct Period(Arc<AtomicU64>);

impl Period {
    /// As long as this.
    pub fn new(length: Duration) -> Self {
        Self(Arc::new(AtomicU64::new(milliseconds(length))))
    }

    /// How long it is now.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// Makes it as long as this.
    pub fn set(&self, length: Duration) {
        self.0.store(milliseconds(length), Ordering::Relaxed);
    }
}

fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
