//! The stream that hyper reads and writes: memory is written, files are sent, and
//! the frames of HTTP/2 leave together.
//!
//! Only here is it known how a file gets to a client without passing through this
//! process ([`outbox`] and `sending`), and only here that hyper's HTTP/2 writes and
//! flushes each frame by itself ([`staging`]).

pub mod activity;
pub mod body;
pub mod outbox;
mod sending;
pub mod staging;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::ZeroCopy;
use crate::listener::stream::{Stream, unacknowledged};
use crate::tls::kernel::{Fresh, KernelStream};
use activity::Activity;
use outbox::Outbox;
use sending::Sender;

/// A connection's stream, for hyper.
#[derive(Debug)]
pub struct Transport {
    stream: Layer,
    /// What was read of it already, and is to be read again.
    ahead: Bytes,
    activity: Arc<Activity>,
    outbox: Arc<Outbox>,
    sender: Sender,
}

#[derive(Debug)]
enum Layer {
    Plain(Stream),
    Tls(Fresh),
    Kernel(KernelStream),
}

impl Layer {
    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.get_ref().as_fd(),
            Self::Kernel(stream) => stream.socket().as_fd(),
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.get_ref().0.get_ref().poll_read_ready(cx),
            Self::Kernel(stream) => stream.socket().poll_read_ready(cx),
        };
        // Whoever reads then meets the error.
        polled.map(drop)
    }
}

impl Transport {
    /// A plaintext connection.
    pub fn plain(stream: Stream, activity: Arc<Activity>, zero_copy: ZeroCopy) -> Self {
        let by_kernel = zero_copy == ZeroCopy::Automatic && matches!(stream, Stream::Tcp(_));
        Self::new(Layer::Plain(stream), activity, by_kernel)
    }

    /// A connection after its TLS handshake.
    pub fn tls(stream: Fresh, activity: Arc<Activity>) -> Self {
        Self::new(Layer::Tls(stream), activity, false)
    }

    /// A connection whose records the kernel does.
    pub fn kernel(stream: KernelStream, activity: Arc<Activity>) -> Self {
        Self::new(Layer::Kernel(stream), activity, true)
    }

    fn new(stream: Layer, activity: Arc<Activity>, by_kernel: bool) -> Self {
        Self {
            stream,
            ahead: Bytes::new(),
            activity,
            outbox: Arc::default(),
            sender: Sender::new(by_kernel),
        }
    }

    /// Where bodies put their files, for HTTP/1. (HTTP/2 copies the beginning of
    /// what it sends, and has to be given memory.)
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Has these bytes read first, by somebody else than who read them.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// Waits until there is something to read, or the connection has ended. Whoever
    /// has read all there was knows what comes next by this, without a buffer for it.
    pub async fn readable(&self) {
        poll_fn(|cx| self.stream.poll_readable(cx)).await;
    }

    /// Bytes that were written and that the peer's kernel has not confirmed.
    pub fn unacknowledged(&self) -> u64 {
        unacknowledged(self.stream.socket())
    }

    /// Passes the result of a write on, and counts its bytes.
    fn counted(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.activity.written(*count);
        }
        if let Layer::Kernel(stream) = &self.stream
            && stream.is_spent()
        {
            self.activity.is_spent_now();
        }
        self.noted(result)
    }

    /// Passes a write's result on. One that has to wait is the moment to look
    /// how much the peer has left unconfirmed; the watchdog's timer wakes this
    /// task, so a write that goes on waiting is polled before it looks.
    fn noted<T>(&self, result: Poll<T>) -> Poll<T> {
        let waits = result.is_pending();
        self.activity.write_waits(waits);
        if waits {
            self.activity.unacknowledged(self.unacknowledged());
        }
        result
    }
}

/// Calls a method of the stream, whichever it is.
macro_rules! forward {
    ($layer:expr, $method:ident $(, $argument:expr)*) => {
        match &mut $layer {
            Layer::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Layer::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
            Layer::Kernel(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}
use forward;

impl hyper::rt::Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: nothing is made uninitialized here. `ReadBuf` writes from the
        // start of the slice and knows how far it is filled and initialized.
        let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
        let again = buffer.remaining().min(self.ahead.len());
        if again > 0 {
            buffer.put_slice(&self.ahead.split_to(again));
        } else {
            ready!(forward!(self.stream, poll_read, cx, &mut buffer))?;
        }
        let count = buffer.filled().len();
        // SAFETY: the first `count` bytes were just filled.
        unsafe { cursor.advance(count) };
        // Again, if they were put back: they belong to no request yet.
        self.activity.read(count);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.poll_send(cx, slices);
        self.counted(result)
    }

    fn is_write_vectored(&self) -> bool {
        // Of each layer; and placeholders pass through hyper in no other way.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = forward!(self.stream, poll_flush, cx);
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A goodbye may have to wait for a slow client as well.
        let result = forward!(self.stream, poll_shutdown, cx);
        self.noted(result)
    }
}
