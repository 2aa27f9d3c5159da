//! One client, from handshake to goodbye: slots, deadlines, drain. Everything that a
//! client can delay happens in the connection's own task, under a deadline.

pub mod accepting;
pub mod answering;
mod drain;
mod inline;
pub mod rest;
pub mod slots;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::rt::{Read, ReadBuf};
use hyper::server::conn::{http1, http2};
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::answering::{Answerer, Requests};
use self::drain::Drain;
use self::inline::Inline;
use self::rest::{Rests, Woken};
use self::slots::{Slot, Slots};
use crate::config::{Limits, Protocol, ZeroCopy};
use crate::listener::Peer;
use crate::listener::stream::Accepted;
use crate::reactors::Reactors;
use crate::repo::visitor::Visitor;
use crate::tls::kernel::{self, Switched, Traced};
use crate::tls::{self, Acceptor, TlsAcceptor};
use crate::transport::Transport;
use crate::transport::activity::{Activity, Ways};
use crate::transport::outbox::Outbox;
use crate::transport::staging::Staged;
use crate::watchdog::{Deadlines, Verdict, Watchdog};

/// What a listener's clients get.
#[derive(Clone)]
pub struct Purpose {
    /// Whether they speak TLS, and how. The way may be replaced at any time;
    /// each handshake is made as it is when the handshake begins.
    pub tls: Option<Arc<Acceptor>>,
    /// Who answers them.
    pub answerer: Answerer,
    /// Whether the kernel sends files by itself.
    pub zero_copy: ZeroCopy,
}

/// What all connections share.
#[derive(Clone)]
pub struct Shared {
    /// What a client may take; a connection keeps to what was in force when it
    /// began.
    pub limits: Arc<ArcSwap<Limits>>,
    /// One for each connection.
    pub slots: Arc<Slots>,
    /// Becomes true when the server is to end. Each connection holds a
    /// receiver, so the sender sees when the last one has gone.
    pub drain: watch::Receiver<bool>,
    /// Where connections are served.
    pub reactors: Arc<Reactors>,
    /// How content was sent, on all connections.
    pub sent: Arc<Ways>,
    /// Connections whose clients rest.
    pub rests: Arc<Rests>,
}

/// Serves a client where the fewest are.
fn start(accepted: Accepted, peer: Peer, slot: Option<Slot>, purpose: &Purpose, shared: &Shared) {
    let connection = connection(accepted, peer, slot, purpose, shared);
    shared.reactors.spawn(connection);
}

/// Serves this process itself, on the reactor of this number.
fn start_at(reactor: usize, accepted: Accepted, purpose: &Purpose, shared: &Shared) {
    let connection = connection(accepted, Peer::Unix, None, purpose, shared);
    shared.reactors.spawn_at(reactor, connection);
}

fn connection(
    accepted: Accepted,
    peer: Peer,
    slot: Option<Slot>,
    purpose: &Purpose,
    shared: &Shared,
) -> impl Future<Output = ()> + Send + use<> {
    let (purpose, shared) = (purpose.clone(), shared.clone());
    async move {
        let ended = converse(accepted, peer, purpose, shared).await;
        match ended {
            Ok(()) => tracing::trace!(%peer, "connection ended"),
            Err(Ended::Refused(reason)) => {
                tracing::info!(%peer, reason, "a client's certificate was refused");
            }
            Err(reason) => tracing::debug!(%peer, %reason, "connection ended"),
        }
        drop(slot);
    }
}

/// The whole conversation with one client.
async fn converse(
    accepted: Accepted,
    peer: Peer,
    purpose: Purpose,
    shared: Shared,
) -> Result<(), Ended> {
    let stream = accepted.into_stream()?;
    let limits = **shared.limits.load();
    let attendant = Attendant {
        answerer: purpose.answerer,
        visitor: Arc::new(Visitor::new(peer, peer.ip())),
        activity: Arc::new(Activity::new(&shared.sent)),
        limits,
        drain: Drain::new(shared.drain),
        rests: shared.rests,
        answered: u64::MAX,
    };
    let Some(acceptor) = purpose.tls else {
        let transport =
            Transport::plain(stream, Arc::clone(&attendant.activity), purpose.zero_copy);
        return Box::pin(attendant.http1(transport)).await;
    };
    let handshake = acceptor.current();
    let acceptor = TlsAcceptor::from(Arc::clone(&handshake.config));
    let stream = Traced::new(stream, !handshake.kernel.is_none());
    // A box, so that the handshake's state does not outlive it inside the
    // connection's future.
    let accepting = Box::pin(acceptor.accept(stream));
    let stream = timeout(limits.handshake, accepting)
        .await
        .map_err(|_| Ended::Late("handshake"))?
        .map_err(|error| match tls::refused_certificate(&error) {
            Some(reason) => Ended::Refused(reason),
            None => Ended::Failed(Box::new(error)),
        })?;
    let protocol = tls::protocol(&handshake.config, &stream);
    let (stream, activity) = (Box::new(stream), Arc::clone(&attendant.activity));
    match protocol {
        // Boxes: a connection is to take no more than what its protocol needs.
        Some(Protocol::Http2) => {
            let transport = Transport::tls(stream, activity);
            Box::pin(attendant.http2(transport)).await
        }
        Some(Protocol::Http1) => {
            let transport = match kernel::switch(stream, &handshake.kernel)? {
                Switched::Kernel(stream) => Transport::kernel(stream, activity),
                Switched::User(stream, obstacle) => {
                    tracing::trace!(%peer, %obstacle, "TLS is not left to the kernel");
                    Transport::tls(stream, activity)
                }
            };
            Box::pin(attendant.http1(transport)).await
        }
        None => Err(Ended::Failed(
            "the client offers no protocol that is configured".into(),
        )),
    }
}

/// Stays with a connection until it ends.
struct Attendant {
    answerer: Answerer,
    visitor: Arc<Visitor>,
    activity: Arc<Activity>,
    limits: Limits,
    drain: Drain,
    rests: Arc<Rests>,
    /// How many requests the client had whole replies to when it was told that the
    /// server drains; so many as nobody asks until then.
    answered: u64,
}

impl Attendant {
    async fn http1(mut self, mut transport: Transport) -> Result<(), Ended> {
        let mut service = self.service(Some(transport.outbox()));
        let mut watchdog = self.watchdog(Deadlines::http1(&self.limits));
        loop {
            let mut connection = http1::Builder::new()
                // It bounds the request's header and what is read ahead of the socket.
                .max_buf_size(self.limits.header_size)
                // A client that has said all it has to say may still listen.
                .half_close(true)
                .serve_connection(transport, service);
            let attended = self.attend(Pin::new(&mut connection), None, &mut watchdog);
            match attended.await? {
                Attended::ToItsEnd => return Ok(()),
                Attended::UntilItRests => {}
            }
            // What it needs for requests it gets again with the next one.
            let parts = connection.into_parts();
            (transport, service) = (parts.io, parts.service);
            if !parts.read_buf.is_empty() {
                // The beginning of a request, which came together with the one before.
                transport.put_back(parts.read_buf);
                continue;
            }
            // It may be empty and have its memory.
            drop(parts.read_buf);
            tracing::trace!(peer = %self.visitor, "a client rests");
            self.rests.one_more();
            let woken = rest::rest(&mut transport, &mut self.drain, &self.activity, &watchdog);
            match woken.await {
                Woken::ByItsClient => {
                    tracing::trace!(peer = %self.visitor, "a client comes back");
                    watchdog.woken();
                }
                Woken::ForGood => return self.part(transport).await,
            }
        }
    }

    /// Says goodbye to a client that nothing is owed to.
    async fn part(&self, mut transport: Transport) -> Result<(), Ended> {
        let goodbye = poll_fn(|cx| hyper::rt::Write::poll_shutdown(Pin::new(&mut transport), cx));
        match timeout(self.limits.idle, goodbye).await {
            Ok(parted) => Ok(parted?),
            Err(_) => Err(Ended::Late("idle")),
        }
    }

    async fn http2(mut self, transport: Transport) -> Result<(), Ended> {
        let staged = Staged::new(transport);
        let connection = http2::Builder::new(Inline)
            // libostree has 8 requests under way, composefs 40 (client-contract 2.3).
            .max_concurrent_streams(64)
            .max_header_list_size(u32::try_from(self.limits.header_size).unwrap_or(u32::MAX))
            // What a slow client makes this process hold for each stream.
            .max_send_buf_size(32 * 1024)
            .serve_connection(staged.clone(), self.service(None));
        let mut watchdog = self.watchdog(Deadlines::http2(&self.limits));
        let mut connection = pin!(connection);
        loop {
            let attended = self.attend(connection.as_mut(), Some(&staged), &mut watchdog);
            match attended.await? {
                Attended::ToItsEnd if self.activity.counters().started > self.answered => {
                    return linger(staged, self.limits.idle.min(LINGER)).await;
                }
                Attended::ToItsEnd => return Ok(()),
                // It needs for its peer what it has.
                Attended::UntilItRests => {}
            }
        }
    }

    /// How many requests the client has whole replies to. What its kernel has not
    /// confirmed counts as the last one.
    fn answered(&self, staged: Option<&Staged>) -> u64 {
        let under_way = staged.is_some_and(|it| it.unacknowledged() > 0);
        let finished = self.activity.counters().finished;
        finished.saturating_sub(under_way.into())
    }

    fn watchdog(&self, deadlines: Deadlines) -> Watchdog {
        Watchdog::new(deadlines, Arc::clone(&self.activity), Instant::now())
    }

    /// Answers requests, and counts them.
    fn service(&self, outbox: Option<Arc<Outbox>>) -> Requests {
        Requests {
            answerer: self.answerer.clone(),
            visitor: Arc::clone(&self.visitor),
            activity: Arc::clone(&self.activity),
            outbox,
        }
    }

    /// Polls the connection, and the stage that it writes to if there is one.
    async fn attend<C>(
        &mut self,
        mut connection: Pin<&mut C>,
        staged: Option<&Staged>,
        watchdog: &mut Watchdog,
    ) -> Result<Attended, Ended>
    where
        C: GracefulConnection,
        C::Error: std::error::Error + Send + Sync + 'static,
    {
        loop {
            let conversation = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                let polled = polled.map_err(|error| Ended::Failed(Box::new(error)));
                match staged {
                    Some(staged) => staged.polled(polled, cx),
                    None => polled,
                }
            });
            tokio::select! {
                // The connection first: what it does is what the watchdog sees.
                biased;
                result = conversation => return result.map(|()| Attended::ToItsEnd),
                () = self.drain.begins(&self.activity) => {
                    self.answered = self.answered(staged);
                    connection.as_mut().graceful_shutdown();
                }
                verdict = watchdog.wait() => match verdict {
                    Verdict::Fine => {}
                    Verdict::Rest => return Ok(Attended::UntilItRests),
                    Verdict::Finish => connection.as_mut().graceful_shutdown(),
                    Verdict::Abort(deadline) => return Err(Ended::Late(deadline)),
                },
            }
        }
    }
}

/// How long a client may be silent that had a reply under way when the server began to
/// drain: it may be slow to read what it has got. One that stays connected without a
/// reason keeps the server from ending for no longer.
const LINGER: Duration = Duration::from_secs(10);

/// Takes in what a client still says to whom everything was sent, until it ends the
/// connection too, or is silent for so long, or `limits.drain` has passed. As it reads it widens its window; to a
/// socket that is closed already that brings a reset, and the rest of the reply, which
/// may be in this machine's buffers still, is lost (RFC 9112, section 9.6).
async fn linger(mut staged: Staged, patience: Duration) -> Result<(), Ended> {
    let mut space = vec![0; 4096];
    loop {
        let read = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut staged).poll_read(cx, buffer.unfilled()))?;
            Poll::Ready(io::Result::Ok(buffer.filled().len()))
        });
        match timeout(patience, read).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            // As far as anybody can tell it has everything.
            Err(_) => return Ok(()),
        }
    }
}

/// How far a connection was attended.
enum Attended {
    /// It has ended.
    ToItsEnd,
    /// Its client has all that it has asked for, and asks for nothing.
    UntilItRests,
}

/// How a connection ended before its time.
#[derive(Debug)]
enum Ended {
    /// A deadline passed; this names its key in `[limits]`.
    Late(&'static str),
    /// The client showed a certificate that does not count; this says why.
    Refused(String),
    /// The connection failed, by the peer's doing or a body's.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(key) => write!(f, "the deadline `limits.{key}` passed"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Failed(error) => {
                write!(f, "{error}")?;
                match error.source() {
                    Some(source) => write!(f, ": {source}"),
                    None => Ok(()),
                }
            }
        }
    }
}
