//! The operator's brake: while it is on, nothing newer is published.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::status::Hold;

/// A brake. Its lock is only ever held for a moment, so that it works although a
/// look at the directory hangs.
#[derive(Debug, Default)]
pub struct Brake(Mutex<Option<Hold>>);

impl Brake {
    /// Puts it on, or replaces the reason.
    pub fn put_on(&self, hold: Hold) {
        *self.lock() = Some(hold);
    }

    /// Takes it off; `None` if it was not on.
    pub fn take_off(&self) -> Option<Hold> {
        self.lock().take()
    }

    /// Why it is on, if it is.
    pub fn held(&self) -> Option<Hold> {
        self.lock().clone()
    }

    /// Does something that must not happen while it is on, and not at the moment
    /// in which it is put on. Gives whether it was done.
    pub fn unless_held(&self, publish: impl FnOnce()) -> bool {
        let held = self.lock();
        if held.is_none() {
            publish();
        }
        held.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
