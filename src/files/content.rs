//! The bytes of a file, in memory or still in the file.

use std::io::{self, IoSliceMut};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::JoinHandle;

#[cfg(doc)]
use super::Cause;
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
    /// The read's; [`Cause::Shrank`] if the file shrank since it was opened.
    pub async fn of(file: OpenFile, directory: &Path, name: &str) -> Result<Self, Unreadable> {
        if file.identity.size > Self::SMALL {
            return Ok(Self::File(FileContent::new(file, directory.join(name))));
        }
        let len = file.identity.size as usize;
        let read = match read_at(&file, 0, len, Patience::Never) {
            Ok(None) => read_in_pool(Arc::new(file), 0, len)
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error))),
            Ok(Some(bytes)) => Ok(bytes),
            Err(error) => Err(error),
        };
        read.map(Self::Memory)
            .map_err(|error| Unreadable::new(directory, name, error))
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

/// An open file with the length that it had when it was opened.
#[derive(Clone, Debug)]
pub struct FileContent {
    file: Arc<OpenFile>,
    path: PathBuf,
}

impl FileContent {
    /// Takes over an open file; `path` is what errors call it.
    pub fn new(file: OpenFile, path: PathBuf) -> Self {
        Self {
            file: Arc::new(file),
            path,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.file.identity.size
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which file it is, in which state.
    pub fn identity(&self) -> Identity {
        self.file.identity
    }

    /// Reads `len` bytes at `offset` on the calling thread, which may wait.
    ///
    /// # Errors
    /// The read's; [`Cause::Shrank`] if the file ends before.
    pub fn read_blocking(&self, offset: u64, len: usize) -> Result<Bytes, Unreadable> {
        read_waiting(&self.file, offset, len).map_err(|error| self.unreadable(error))
    }

    /// The SHA-256 of all bytes, on the calling thread, which may wait.
    ///
    /// # Errors
    /// As [`FileContent::read_blocking`].
    pub fn digest_blocking(&self) -> Result<Checksum, Unreadable> {
        let mut hasher = Hasher::new();
        let mut offset = 0;
        while offset < self.len() {
            let len = (self.len() - offset).min(Chunks::SIZE as u64) as usize;
            hasher.update(&self.read_blocking(offset, len)?);
            offset += len as u64;
        }
        Ok(hasher.finish())
    }

    /// Puts the file's name to an error.
    pub fn unreadable(&self, error: io::Error) -> Unreadable {
        Unreadable {
            path: self.path.clone(),
            cause: error.into(),
        }
    }
}

/// The bytes of a part of a file, a chunk at a time.
#[derive(Debug)]
pub struct Chunks {
    file: FileContent,
    position: u64,
    end: u64,
    pending: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Chunks {
    /// Bytes of a chunk. Small enough to stay in the processor's cache between
    /// reading and encryption, large enough to make system calls rare.
    pub const SIZE: usize = 64 * 1024;

    /// The bytes from `start` to before `end`.
    pub fn new(file: FileContent, start: u64, end: u64) -> Self {
        Self {
            file,
            position: start,
            end,
            pending: None,
        }
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
            None => match read_at(&self.file.file, self.position, len, Patience::Never) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => {
                    self.pending = Some(read_in_pool(
                        Arc::clone(&self.file.file),
                        self.position,
                        len,
                    ));
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

fn read_in_pool(file: Arc<OpenFile>, offset: u64, len: usize) -> JoinHandle<io::Result<Bytes>> {
    tokio::task::spawn_blocking(move || read_waiting(&file, offset, len))
}

fn read_waiting(file: &OpenFile, offset: u64, len: usize) -> io::Result<Bytes> {
    read_at(file, offset, len, Patience::Wait)?.ok_or_else(|| Errno::AGAIN.into())
}

/// Reads exactly `len` bytes, or nothing (`None`) if that would wait.
fn read_at(
    file: &OpenFile,
    offset: u64,
    len: usize,
    patience: Patience,
) -> io::Result<Option<Bytes>> {
    let mut buffer = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let at = offset + filled as u64;
        let rest = &mut buffer[filled..];
        let read = match patience {
            Patience::Wait => rustix::io::pread(&file.fd, rest, at),
            Patience::Never => {
                let slices = &mut [IoSliceMut::new(rest)];
                rustix::io::preadv2(&file.fd, slices, at, ReadWriteFlags::NOWAIT)
            }
        };
        match read {
            // Linux 5.9 and 5.10 say so in the middle of a file (preadv2(2), BUGS).
            Ok(0) if patience == Patience::Never => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Not in memory, or a kernel or file system that cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
                if patience == Patience::Never =>
            {
                return Ok(None);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Some(buffer.into()))
}

#[cfg(test)]
mod tests;
