//! How a repository publishes: what the operator wrote, with the keys that it
//! names. A reload may change it while the repository is served.

use std::path::Path;
use std::sync::Arc;

use super::judge::Bounds;
use crate::config::Publishing;
use crate::finding::Finding;
use crate::signature::Keys;

/// Settings that can be put in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the operator wrote.
    pub publishing: Publishing,
    /// The keys of `verify_keys`; `None` if it names none.
    pub keys: Option<Arc<Keys>>,
}

impl Settings {
    /// Reads the keys that the operator named.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(publishing: Publishing) -> Result<Self, Finding> {
        let keys = match &*publishing.verify_keys {
            [] => None,
            files => Some(Arc::new(Keys::load(files).map_err(first)?)),
        };
        Ok(Self { publishing, keys })
    }

    /// Whether both mean the same, whatever the places that they were written at.
    pub fn mean_same(&self, other: &Self) -> bool {
        let keys = match (&self.keys, &other.keys) {
            (Some(keys), Some(others)) => keys.are(others),
            (None, None) => true,
            _ => false,
        };
        keys && self.publishing.means_same(&other.publishing)
    }

    /// How patient the operator is.
    pub(super) fn bounds(&self) -> Bounds {
        let publishing = &self.publishing;
        Bounds {
            // With keys, the operator wants no summary that is not signed.
            unsigned: self.keys.is_none().then_some(publishing.hold_unsigned),
            incomplete: publishing.hold_incomplete,
        }
    }
}

/// A repository has one finding, and this is the first of them.
fn first(findings: Vec<Finding>) -> Finding {
    let none = || Finding::error(Path::new("verify_keys"), "the keys cannot be used");
    findings.into_iter().next().unwrap_or_else(none)
}
