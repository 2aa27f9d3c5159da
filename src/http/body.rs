//! The body of a reply: in memory, or read from a file while it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::files::{Chunks, Content};

/// The body of a reply. Its length is known from the start.
#[derive(Debug)]
pub struct Body(Source);

#[derive(Debug)]
enum Source {
    Memory(Bytes),
    File(Chunks),
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self(Source::Memory(Bytes::new()))
    }

    /// The bytes of `content` from `start` to before `end`, which is not
    /// beyond its end.
    pub fn part(content: Content, start: u64, end: u64) -> Self {
        match content {
            Content::Memory(bytes) => {
                // They fit: they are within what is in memory.
                Self(Source::Memory(bytes.slice(start as usize..end as usize)))
            }
            Content::File(file) => Self(Source::File(Chunks::new(file, start, end))),
        }
    }

    /// What is still to be read from a file; `None` if all is in memory.
    pub fn file_mut(&mut self) -> Option<&mut Chunks> {
        match &mut self.0 {
            Source::Memory(_) => None,
            Source::File(chunks) => Some(chunks),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Source::Memory(bytes) => bytes.len() as u64,
            Source::File(chunks) => chunks.remaining(),
        }
    }

    /// Whether there is nothing (more) to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self(Source::Memory(Bytes::from_static(text.as_bytes())))
    }
}

/// How much of what is in memory is handed over at a time.
const PIECE: usize = 64 * 1024;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    /// Ends with an error if a file turns out shorter than it was, so that the
    /// transfer is aborted: what was announced is sent, or visibly not.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = match &mut self.0 {
            Source::Memory(bytes) if bytes.is_empty() => None,
            // In pieces, so that what a connection buffers stays bounded.
            Source::Memory(bytes) => Some(bytes.split_to(bytes.len().min(PIECE))),
            Source::File(chunks) => match ready!(chunks.poll_next(context)) {
                None => None,
                Some(Ok(bytes)) => Some(bytes),
                Some(Err(error)) => {
                    tracing::error!(%error, remedy = error.remedy(), "a transfer was aborted");
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
            },
        };
        Poll::Ready(chunk.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}
