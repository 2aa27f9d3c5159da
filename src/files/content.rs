//! The bytes of a file, in memory or still in the file.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::JoinHandle;

#[cfg(doc)]
use super::Cause;
use super::reading::{fill, read_at, read_in_pool, read_waiting};
use super::{Identity, OpenFile, Patience, Unreadable};
use crate::resource::checksum::{Checksum, Hasher};

/// What a file holds. Copies share the memory, or the open file.
#[derive(Clone, Debug)]
pub enum Content {
    /// All of it, read already.
    Memory(Bytes),
    /// An open file, to be read while it is sent.
    File(FileContent),
}

impl Content {
    /// Files up to this size are read before the reply's first byte leaves, so
    /// that header and body leave together and the descriptor is closed again.
    pub const SMALL: u64 = 32 * 1024;

    /// Takes over an open file of this name: a small one is read, a large one
    /// kept open.
    ///
    /// # Errors
    /// As [`FileContent::content`].
    pub async fn of(file: OpenFile, directory: &Path, name: &str) -> Result<Self, Unreadable> {
        FileContent::new(file, directory.join(name)).content().await
    }

    /// As [`Content::of`], on a thread that may wait.
    ///
    /// # Errors
    /// As [`Content::of`].
    pub fn of_blocking(file: OpenFile, directory: &Path, name: &str) -> Result<Self, Unreadable> {
        let len = file.identity.size;
        let file = FileContent::new(file, directory.join(name));
        match len <= Self::SMALL {
            true => file.read_blocking(0, len as usize).map(Self::Memory),
            false => Ok(Self::File(file)),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An open file with the length that it had when it was opened. Copies share it.
#[derive(Clone, Debug)]
pub struct FileContent(Arc<NamedFile>);

#[derive(Debug)]
struct NamedFile {
    file: OpenFile,
    path: PathBuf,
}

impl AsFd for FileContent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.fd.as_fd()
    }
}

impl FileContent {
    /// Takes over an open file; `path` is what errors call it.
    pub fn new(file: OpenFile, path: PathBuf) -> Self {
        Self(Arc::new(NamedFile { file, path }))
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.0.file.identity.size
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`FileContent::content`], if that is possible without waiting.
    ///
    /// # Errors
    /// As [`FileContent::content`].
    pub fn content_at_once(&self) -> Result<Option<Content>, Unreadable> {
        if self.len() > Content::SMALL {
            return Ok(Some(Content::File(self.clone())));
        }
        let read = read_at(self, 0, self.len() as usize, Patience::Never);
        let read = read.map_err(|error| self.unreadable(error))?;
        Ok(read.map(Content::Memory))
    }

    /// What is to be sent of it: a small file's bytes, or the file itself. Other
    /// work of this thread does not wait for the disk.
    ///
    /// # Errors
    /// The read's; [`Cause::Shrank`] if the file shrank since it was opened.
    pub async fn content(self) -> Result<Content, Unreadable> {
        if let Some(content) = self.content_at_once()? {
            return Ok(content);
        }
        let read = read_in_pool(self.clone(), 0, self.len() as usize).await;
        read.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map(Content::Memory)
            .map_err(|error| self.unreadable(error))
    }

    /// Fills the buffer with the bytes at `offset`, if they are in memory; says
    /// whether they are.
    ///
    /// # Errors
    /// The read's.
    pub fn fill_cached(&self, offset: u64, buffer: &mut [MaybeUninit<u8>]) -> io::Result<bool> {
        fill(self, offset, buffer, Patience::Never)
    }

    /// Fills the buffer with the bytes at `offset`, on the calling thread, which may
    /// wait.
    ///
    /// # Errors
    /// The read's.
    pub fn fill_waiting(&self, offset: u64, buffer: &mut [MaybeUninit<u8>]) -> io::Result<()> {
        fill(self, offset, buffer, Patience::Wait).map(|_| ())
    }

    /// Reads bytes for nothing but to have them in memory, on a thread that may
    /// wait.
    pub fn warm_in_pool(&self, offset: u64, len: usize) -> JoinHandle<io::Result<()>> {
        let file = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut buffer = Box::new_uninit_slice(len.min(READ));
            for at in (0..len).step_by(READ) {
                let buffer = &mut buffer[..(len - at).min(READ)];
                file.fill_waiting(offset + at as u64, buffer)?;
            }
            Ok(())
        })
    }

    /// Which file it is, in which state.
    pub fn identity(&self) -> Identity {
        self.0.file.identity
    }

    /// Reads `len` bytes at `offset` on the calling thread, which may wait.
    ///
    /// # Errors
    /// The read's; [`Cause::Shrank`] if the file ends before.
    pub fn read_blocking(&self, offset: u64, len: usize) -> Result<Bytes, Unreadable> {
        read_waiting(self, offset, len).map_err(|error| self.unreadable(error))
    }

    /// The SHA-256 of all bytes, on the calling thread, which may wait.
    ///
    /// # Errors
    /// As [`FileContent::read_blocking`].
    pub fn digest_blocking(&self) -> Result<Checksum, Unreadable> {
        let mut hasher = Hasher::new();
        let mut offset = 0;
        while offset < self.len() {
            let len = (self.len() - offset).min(READ as u64) as usize;
            hasher.update(&self.read_blocking(offset, len)?);
            offset += len as u64;
        }
        Ok(hasher.finish())
    }

    /// Puts the file's name to an error.
    pub fn unreadable(&self, error: io::Error) -> Unreadable {
        Unreadable {
            path: self.0.path.clone(),
            cause: error.into(),
        }
    }
}

/// Bytes to read at a time of a file that nobody is sent: as many as stay in the
/// processor's cache.
const READ: usize = 64 * 1024;

/// The bytes of a part of a file, a chunk at a time.
#[derive(Debug)]
pub struct Chunks {
    file: FileContent,
    position: u64,
    end: u64,
    pending: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Chunks {
    /// Bytes of a chunk: two frames of HTTP/2, as large as clients take them unless
    /// they say otherwise. Of each stream as much is kept while its client does not
    /// read.
    pub const SIZE: usize = 32 * 1024;

    /// The bytes from `start` to before `end`.
    pub fn new(file: FileContent, start: u64, end: u64) -> Self {
        Self {
            file,
            position: start,
            end,
            pending: None,
        }
    }

    /// The file.
    pub fn file(&self) -> &FileContent {
        &self.file
    }

    /// Where the next byte is.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Leaves out the next `len` bytes: somebody else sends them.
    pub fn skip(&mut self, len: u64) {
        self.position = self.end.min(self.position + len);
    }

    /// How many bytes are still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    /// The next chunk; `None` at the end. What is not in memory is read by the
    /// blocking pool while this says Pending.
    ///
    /// # Errors
    /// The read's; [`Cause::Shrank`] if the file ends before its time.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Unreadable>>> {
        let len = self.remaining().min(Self::SIZE as u64) as usize;
        if len == 0 {
            return Poll::Ready(None);
        }
        let result = match self.pending.as_mut() {
            Some(pending) => {
                let result = ready!(Pin::new(pending).poll(context));
                self.pending = None;
                result.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match read_at(&self.file, self.position, len, Patience::Never) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => {
                    self.pending = Some(read_in_pool(self.file.clone(), self.position, len));
                    return self.poll_next(context);
                }
                Err(error) => Err(error),
            },
        };
        if let Ok(bytes) = &result {
            self.position += bytes.len() as u64;
        }
        Poll::Ready(Some(result.map_err(|error| self.file.unreadable(error))))
    }
}

#[cfg(test)]
mod tests;
