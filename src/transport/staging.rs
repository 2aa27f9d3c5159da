//! Frames of HTTP/2 that leave together.
//!
//! hyper's HTTP/2 writes and flushes each frame by itself, which makes a system call
//! of each. Here what it writes is staged, and a flush is only noted; once hyper has
//! done all it can for now, the connection's task writes the stage and flushes the
//! stream ([`Staged::polled`]). So the frames of all replies that were ready at that
//! moment leave together.
//!
//! Each of hyper's writes stays a TLS record of its own. With frames of several
//! streams in one record, libcurl 7.88 at times leaves the end of a reply in its
//! buffers until a timer of 30 s makes it look there; `tests/real_crowd.rs` saw that.
//!
//! Nothing stays behind: the task says each time that it has polled hyper, and a
//! shutdown writes the stage first.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::Transport;

/// How much is staged before it is written, flushed or not: four TLS records. More
/// saves little, and is kept for a client that does not read.
const STAGE: usize = 64 * 1024;

thread_local! {
    /// The stage of whichever connection is being polled. A connection has one of
    /// its own only while its client does not take what is in it.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A transport with a stage, for hyper. Copies are the same one.
#[derive(Clone, Debug)]
pub struct Staged(Arc<Mutex<Stage>>);

#[derive(Debug)]
struct Stage {
    transport: Transport,
    staged: Vec<u8>,
    /// Where in it each of hyper's writes ends.
    ends: Vec<usize>,
    /// How much of it was written already.
    written: usize,
    /// Whether the stream is to be flushed when the stage is empty.
    flush: bool,
    /// Whether the client has yet to take what is staged.
    blocked: bool,
}

impl Staged {
    /// Puts a stage in front of a transport.
    pub fn new(transport: Transport) -> Self {
        Self(Arc::new(Mutex::new(Stage {
            transport,
            staged: Vec::new(),
            ends: Vec::new(),
            written: 0,
            flush: false,
            blocked: false,
        })))
    }

    /// What came of polling the connection that writes here: the stage is written,
    /// and the stream flushed, if that was asked for.
    pub fn polled<E: From<io::Error>>(
        &self,
        polled: Poll<Result<(), E>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), E>> {
        let mut stage = self.lock();
        // A connection that has ended has written all it had, by its shutdown.
        if polled.is_pending()
            && stage.flush
            // The connection itself would only hear of it when it writes next.
            && let Poll::Ready(Err(error)) = stage.poll_flush(cx)
        {
            return Poll::Ready(Err(error.into()));
        }
        // If the stage has to wait, the socket wakes this task.
        polled
    }

    /// As [`Transport::unacknowledged`].
    pub fn unacknowledged(&self) -> u64 {
        self.lock().transport.unacknowledged()
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        // Only the connection's task ever locks it. After a panic it has ended.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.flush = false;
        Poll::Ready(Ok(()))
    }

    /// Writes what is staged.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.staged.len() {
            let first = self.ends.partition_point(|&end| end <= self.written);
            let ends = &self.ends[first..];
            match self
                .transport
                .poll_send_each(cx, &self.staged, self.written, ends)?
            {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => self.written += count,
                Poll::Pending => {
                    self.block();
                    return Poll::Pending;
                }
            }
        }
        self.ends.clear();
        self.written = 0;
        self.blocked = false;
        let mut empty = std::mem::take(&mut self.staged);
        if empty.capacity() > 0 {
            empty.clear();
            SPARE.set(empty);
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps for a slow client no more than what it has not taken.
    fn block(&mut self) {
        if !self.blocked {
            let written = std::mem::take(&mut self.written);
            self.staged = self.staged.split_off(written);
            self.staged.shrink_to_fit();
            self.ends.retain(|&end| end > written);
            self.ends.iter_mut().for_each(|end| *end -= written);
        }
        self.blocked = true;
    }

    /// Makes room for what hyper writes next.
    fn poll_room(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was begun and not taken is for a slow client, and grows no more. A frame
        // is not to be torn apart.
        if self.blocked || self.staged.len() + len > STAGE {
            ready!(self.poll_empty(cx))?;
        }
        if self.staged.capacity() == 0 {
            self.staged = SPARE.take();
        }
        Poll::Ready(Ok(()))
    }
}

impl Read for Staged {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().transport).poll_read(cx, cursor)
    }
}

impl Write for Staged {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stage = self.lock();
        let len = slices.iter().map(|slice| slice.len()).sum();
        ready!(stage.poll_room(len, cx))?;
        let before = stage.staged.len();
        for slice in slices {
            let left = STAGE - stage.staged.len();
            stage
                .staged
                .extend_from_slice(&slice[..slice.len().min(left)]);
        }
        let end = stage.staged.len();
        stage.ends.push(end);
        Poll::Ready(Ok(end - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Only notes it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().flush = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stage = self.lock();
        ready!(stage.poll_flush(cx))?;
        Pin::new(&mut stage.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
