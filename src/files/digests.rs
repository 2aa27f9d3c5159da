//! Digests of large files, remembered as long as the files do not change.

use std::sync::Arc;

use quick_cache::sync::Cache;

#[cfg(doc)]
use super::Cause;
use super::{Content, FileContent, Identity, Unreadable};
use crate::resource::Checksum;

/// The digests of files whose names do not tell them.
#[derive(Debug)]
pub struct Digests {
    known: Arc<Cache<Identity, Checksum>>,
}

impl Digests {
    /// How many are remembered, at about 100 bytes each.
    const CAPACITY: usize = 10_000;

    /// Knows none yet.
    pub fn new() -> Self {
        Self {
            known: Arc::new(Cache::new(Self::CAPACITY)),
        }
    }

    /// The SHA-256 of some content; small content is not worth remembering.
    ///
    /// # Errors
    /// As [`Digests::of`].
    pub async fn of_content(&self, content: &Content) -> Result<Checksum, Unreadable> {
        match content {
            Content::Memory(bytes) => Ok(Checksum::of(bytes)),
            Content::File(file) => self.of(file).await,
        }
    }

    /// The SHA-256 of a file's bytes. A file that is not known is read whole.
    ///
    /// # Errors
    /// The read's; [`Cause::Shrank`] if the file ends before its time.
    pub async fn of(&self, file: &FileContent) -> Result<Checksum, Unreadable> {
        let identity = file.identity();
        if let Some(digest) = self.known.get(&identity) {
            return Ok(digest);
        }
        let (known, to_hash) = (Arc::clone(&self.known), file.clone());
        // Remembered by the thread that hashes: who asks may have lost patience
        // with a large file, and is to find the digest when it asks again.
        let work = tokio::task::spawn_blocking(move || {
            let digest = to_hash.digest_blocking()?;
            if identity.is_settled() {
                known.insert(identity, digest);
            }
            Ok(digest)
        });
        work.await.map_err(|error| file.unreadable(error.into()))?
    }
}

impl Default for Digests {
    fn default() -> Self {
        Self::new()
    }
}
