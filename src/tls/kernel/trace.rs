//! Where records end in what was read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes everything through, and knows whether what was read ends where a record
/// ends: rustls has then kept nothing that the kernel would need.
#[derive(Debug)]
pub struct Traced<S> {
    stream: S,
    /// Nothing to be traced, or no longer.
    records: Option<Records>,
}

impl<S> Traced<S> {
    /// `wanted` is false where nobody will ask; this costs nothing then.
    pub fn new(stream: S, wanted: bool) -> Self {
        Self {
            stream,
            records: wanted.then(Records::default),
        }
    }

    /// Whether a record ends here. False if nothing was traced.
    pub(super) fn at_boundary(&self) -> bool {
        self.records.as_ref().is_some_and(Records::at_boundary)
    }

    /// Nobody will ask any more.
    pub(super) fn stop(&mut self) {
        self.records = None;
    }

    /// What it passes everything to.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

/// How far a sequence of records has come. A record is a header of five bytes, of
/// which the last two say how many bytes follow (RFC 8446 5.1).
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Bytes of a header that have come; fewer than five.
    header: u8,
    /// What the header says so far; after it, how many bytes are still to come.
    left: u16,
}

impl Records {
    const HEADER: u8 = 5;

    pub(super) fn at_boundary(&self) -> bool {
        self.header == 0 && self.left == 0
    }

    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            if self.header == 0 {
                let count = bytes.len().min(self.left.into());
                // Not more than `left`.
                self.left -= count as u16;
                bytes = &bytes[count..];
            }
            let [first, rest @ ..] = bytes else { return };
            bytes = rest;
            self.left = match self.header {
                3 => u16::from(*first) << 8,
                4 => self.left | u16::from(*first),
                _ => 0,
            };
            self.header = (self.header + 1) % Self::HEADER;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Traced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Some(records) = &mut self.records {
            records.pass(&buffer.filled()[before..]);
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Traced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
