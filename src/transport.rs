//! The stream that hyper reads and writes, and what it notes on the way for
//! the [watchdog](crate::watchdog).
//!
//! The notes are plain counters; nobody looks at a clock while a request is
//! served.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::Body;
use crate::listener::Stream;
use crate::tls::TlsStream;

/// What happens on a connection, counted.
#[derive(Debug, Default)]
pub struct Activity {
    requests_started: AtomicU64,
    requests_finished: AtomicU64,
    /// Bytes of replies that were written, before encryption.
    bytes_written: AtomicU64,
    /// Bytes of requests, and how many of them had come when the last request
    /// was understood.
    bytes_read: AtomicU64,
    bytes_read_at_request: AtomicU64,
    /// What the peer had not confirmed when a write had to wait for the last
    /// time, in bytes.
    unacknowledged: AtomicU64,
    /// Whether the last write has to wait for the peer.
    write_waits: AtomicBool,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that began.
    pub started: u64,
    /// Requests whose replies were taken over completely.
    pub finished: u64,
    /// Bytes that were written and are not known to lie in this machine's
    /// buffers still: in the long run, what the peer has taken.
    ///
    /// What hyper takes from bodies would not do. It takes up to 128 KiB ahead
    /// for each HTTP/2 stream, and then, while a slow client reads that, nothing.
    pub delivered: u64,
    /// Whether bytes have come that belong to no request yet.
    pub partial_request: bool,
    /// Whether something waits in this process until the peer reads. That may
    /// be the end of a reply whose request is finished.
    pub write_waits: bool,
}

impl Activity {
    /// The counters now.
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            started: load(&self.requests_started),
            finished: load(&self.requests_finished),
            delivered: load(&self.bytes_written).saturating_sub(load(&self.unacknowledged)),
            partial_request: load(&self.bytes_read) > load(&self.bytes_read_at_request),
            write_waits: self.write_waits.load(Ordering::Relaxed),
        }
    }

    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// A request from its start until its reply's body is dropped; then, and at the
/// latest when the connection ends, it counts as finished.
#[derive(Debug)]
pub struct Request(Arc<Activity>);

impl Request {
    /// A request begins.
    pub fn start(activity: &Arc<Activity>) -> Self {
        Activity::add(&activity.requests_started, 1);
        let read = activity.bytes_read.load(Ordering::Relaxed);
        activity
            .bytes_read_at_request
            .store(read, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }

    /// Goes on with the reply's body.
    pub fn with_body(self, body: Body) -> Tracked {
        Tracked {
            body,
            _request: self,
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        Activity::add(&self.0.requests_finished, 1);
    }
}

/// The body of a request's reply; the request is finished when it is dropped.
#[derive(Debug)]
pub struct Tracked {
    body: Body,
    _request: Request,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection's stream, for hyper.
#[derive(Debug)]
pub struct Transport {
    stream: Layer,
    activity: Arc<Activity>,
}

#[derive(Debug)]
enum Layer {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Transport {
    /// A plaintext connection.
    pub fn plain(stream: Stream, activity: Arc<Activity>) -> Self {
        Self {
            stream: Layer::Plain(stream),
            activity,
        }
    }

    /// A connection after its TLS handshake.
    pub fn tls(stream: TlsStream<Stream>, activity: Arc<Activity>) -> Self {
        Self {
            stream: Layer::Tls(Box::new(stream)),
            activity,
        }
    }

    /// Passes the result of a write on, and counts its bytes.
    fn counted(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            Activity::add(&self.activity.bytes_written, *count as u64);
        }
        self.noted(result)
    }

    /// Passes a write's result on. One that has to wait is the moment to look
    /// how much the peer has left unconfirmed; the watchdog's timer wakes this
    /// task, so a write that goes on waiting is polled before it looks.
    fn noted<T>(&self, result: Poll<T>) -> Poll<T> {
        let waits = result.is_pending();
        self.activity.write_waits.store(waits, Ordering::Relaxed);
        if waits {
            let stream = match &self.stream {
                Layer::Plain(stream) => stream,
                Layer::Tls(stream) => stream.get_ref().0,
            };
            let count = stream.unacknowledged();
            self.activity.unacknowledged.store(count, Ordering::Relaxed);
        }
        result
    }
}

/// Calls a method of the stream, whichever it is.
macro_rules! forward {
    ($transport:expr, $method:ident $(, $argument:expr)*) => {
        match &mut $transport.stream {
            Layer::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Layer::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl hyper::rt::Read for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: nothing is made uninitialized here. `ReadBuf` writes from the
        // start of the slice and knows how far it is filled and initialized.
        let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(forward!(self, poll_read, cx, &mut buffer))?;
        let count = buffer.filled().len();
        // SAFETY: the first `count` bytes were just filled.
        unsafe { cursor.advance(count) };
        Activity::add(&self.activity.bytes_read, count as u64);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = forward!(self, poll_write, cx, bytes);
        self.counted(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = forward!(self, poll_write_vectored, cx, slices);
        self.counted(result)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Layer::Plain(stream) => stream.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = forward!(self, poll_flush, cx);
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_shutdown, cx)
    }
}
