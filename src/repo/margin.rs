//! Room beside a document for what its readers make of it: a document that is asked
//! for again and again need not be thought about each time.

use std::any::Any;
use std::sync::{Arc, OnceLock};

/// Holds one thing, which stays as long as the document. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Margin(Arc<OnceLock<Box<dyn Any + Send + Sync>>>);

impl Margin {
    /// What was written here. If nothing was, it is written now; `None` if it is
    /// something else than is looked for.
    pub fn read_or_write<T: Any + Send + Sync>(&self, write: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(write())).downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_first_stays() {
        let margin = Margin::default();
        let copy = margin.clone();
        assert_eq!(margin.read_or_write(|| 1), Some(&1));
        assert_eq!(copy.read_or_write(|| 2), Some(&1));
        assert_eq!(copy.read_or_write(|| "other"), None);
    }
}
