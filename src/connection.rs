//! One client, from handshake to goodbye: slots, deadlines, drain.
//!
//! The accept loop does not go on before there is a slot for whom it accepted,
//! so a full server lets clients wait in the kernel's queue. (To take the slot
//! first would let each idle listener keep one from the busy ones.) Everything
//! that a client can delay happens in the connection's own task, under a
//! deadline.

mod inline;
pub mod slots;

use std::convert::Infallible;
use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use self::inline::Inline;
use self::slots::{Slot, Slots};
use crate::config::{Limits, Protocol, ZeroCopy};
use crate::http::redirect::Redirect;
use crate::http::{Reply, Service};
use crate::listener::stream::Accepted;
use crate::listener::{self, AcceptError, Listener, Peer};
use crate::reactors::Reactors;
use crate::repo::visitor::Visitor;
use crate::tls::kernel::{self, Switched, Traced};
use crate::tls::{self, Acceptor, TlsAcceptor};
use crate::transport::Transport;
use crate::transport::activity::{Activity, Request, Ways};
use crate::transport::body::Tracked;
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

/// Who answers requests.
#[derive(Clone)]
pub enum Answerer {
    /// With content.
    Content(Arc<Service>),
    /// With a redirect to HTTPS.
    Redirect(Arc<Redirect>),
}

impl Answerer {
    async fn answer(self, head: Parts, visitor: Arc<Visitor>) -> Reply {
        let reply = match self {
            Self::Content(service) => service.answer(&head, &visitor).await,
            Self::Redirect(redirect) => redirect.answer(&head),
        };
        tracing::debug!(
            peer = %visitor,
            method = %head.method,
            path = head.uri.path(),
            status = reply.status().as_u16(),
            "request"
        );
        reply
    }
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
}

/// Accepts and serves until `stop` is ready or the server drains, then until
/// everybody is in who has begun to connect, and returns; the connections go on
/// by themselves. A connection keeps the purpose that the listener had when it
/// was accepted.
pub async fn serve(
    listener: Arc<Listener>,
    purpose: Arc<ArcSwap<Purpose>>,
    shared: Shared,
    stop: oneshot::Receiver<()>,
) {
    let mut drain = shared.drain.clone();
    let mut drain = pin!(drain.wait_for(|&draining| draining));
    let stopped = async {
        tokio::select! {
            _ = &mut drain => true,
            // If nobody is left to say it, it is meant as well.
            _ = stop => false,
        }
    };
    let draining = accept_until(&listener, &purpose, &shared, stopped).await;
    if let Err(error) = listener.close_door() {
        tracing::debug!(%error, "who connects at this moment may be reset");
    }
    if !draining {
        let everybody_is_in = async {
            tokio::select! {
                _ = &mut drain => {}
                () = tokio::time::sleep(listener.handshake_time()) => {}
            }
        };
        accept_until(&listener, &purpose, &shared, everybody_is_in).await;
    }
    accept_queued(&listener, &purpose.load(), &shared);
    // Before the receiver in `shared`: when the last one of these is gone, the
    // server ends, and a Unix socket's name has to be gone by then.
    drop(listener);
}

async fn accept_until<T>(
    listener: &Listener,
    purpose: &ArcSwap<Purpose>,
    shared: &Shared,
    end: impl Future<Output = T>,
) -> T {
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            biased;
            end = &mut end => return end,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let purpose = purpose.load_full();
                // Whoever was let in is served, also if the end begins while
                // it waits; the other clients wait in the kernel's queue.
                let slot = tokio::select! {
                    biased;
                    slot = shared.slots.take() => slot,
                    end = &mut end => {
                        start(stream, peer, None, &purpose, shared);
                        return end;
                    }
                };
                start(stream, peer, slot, &purpose, shared);
            }
            Err(error) => match AcceptError::of(&error) {
                AcceptError::Peer => {
                    tracing::debug!(%error, "a client left before it was accepted");
                }
                AcceptError::Exhaustion(remedy) => {
                    tracing::error!(%error, remedy, "clients have to wait");
                    tokio::time::sleep(AcceptError::PAUSE).await;
                }
                AcceptError::Other => {
                    tracing::error!(%error, listener = %listener.address(), "accepting failed");
                    tokio::time::sleep(AcceptError::PAUSE).await;
                }
            },
        }
    }
}

/// Takes in who is in the kernel's queue already: closing the listener would
/// reset them, and another purpose would surprise them. They are served, and if
/// the server drains they get their first answer, and then the goodbye. At a full
/// server they have waited for that, so they do without a slot if there is none.
/// On a busy server somebody always comes, so the queue's length is the bound.
pub fn accept_queued(listener: &Listener, purpose: &Purpose, shared: &Shared) {
    for _ in 0..listener::BACKLOG {
        match listener.accept_queued() {
            Ok(Some((stream, peer))) => {
                let slot = shared.slots.try_take();
                start(stream, peer, slot, purpose, shared);
            }
            Ok(None) => break,
            Err(error) if AcceptError::of(&error) == AcceptError::Peer => {}
            Err(error) => {
                tracing::error!(%error, "clients in the queue are reset");
                break;
            }
        }
    }
}

fn start(accepted: Accepted, peer: Peer, slot: Option<Slot>, purpose: &Purpose, shared: &Shared) {
    let (purpose, drain) = (purpose.clone(), shared.drain.clone());
    let limits = **shared.limits.load();
    let activity = Arc::new(Activity::new(&shared.sent));
    shared.reactors.spawn(async move {
        let ended = converse(accepted, peer, purpose, activity, limits, drain).await;
        match ended {
            Ok(()) => tracing::trace!(%peer, "connection ended"),
            Err(Ended::Refused(reason)) => {
                tracing::info!(%peer, reason, "a client's certificate was refused");
            }
            Err(reason) => tracing::debug!(%peer, %reason, "connection ended"),
        }
        drop(slot);
    });
}

/// The whole conversation with one client.
async fn converse(
    accepted: Accepted,
    peer: Peer,
    purpose: Purpose,
    activity: Arc<Activity>,
    limits: Limits,
    drain: watch::Receiver<bool>,
) -> Result<(), Ended> {
    let stream = accepted.into_stream()?;
    let attendant = Attendant {
        answerer: purpose.answerer,
        visitor: Arc::new(Visitor::new(peer, peer.ip())),
        activity,
        limits,
        drain: Drain::new(drain),
    };
    let Some(acceptor) = purpose.tls else {
        let transport =
            Transport::plain(stream, Arc::clone(&attendant.activity), purpose.zero_copy);
        return attendant.http1(transport).await;
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
        Some(Protocol::Http2) => attendant.http2(Transport::tls(stream, activity)).await,
        Some(Protocol::Http1) => {
            let transport = match kernel::switch(stream, &handshake.kernel)? {
                Switched::Kernel(stream) => Transport::kernel(stream, activity),
                Switched::User(stream, obstacle) => {
                    tracing::trace!(%peer, %obstacle, "TLS is not left to the kernel");
                    Transport::tls(stream, activity)
                }
            };
            attendant.http1(transport).await
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
}

impl Attendant {
    async fn http1(self, transport: Transport) -> Result<(), Ended> {
        let outbox = Some(transport.outbox());
        let connection = http1::Builder::new()
            // It bounds the request's header and what is read ahead of the socket.
            .max_buf_size(self.limits.header_size)
            // A client that has said all it has to say may still listen.
            .half_close(true)
            .serve_connection(transport, self.service(outbox));
        let deadlines = Deadlines::http1(&self.limits);
        self.attend(connection, None, deadlines).await
    }

    async fn http2(self, transport: Transport) -> Result<(), Ended> {
        let staged = Staged::new(transport);
        let connection = http2::Builder::new(Inline)
            // libostree has 8 requests under way, composefs 40 (client-contract 2.3).
            .max_concurrent_streams(64)
            .max_header_list_size(u32::try_from(self.limits.header_size).unwrap_or(u32::MAX))
            // What a slow client makes this process hold for each stream.
            .max_send_buf_size(64 * 1024)
            .serve_connection(staged.clone(), self.service(None));
        let deadlines = Deadlines::http2(&self.limits);
        self.attend(connection, Some(staged), deadlines).await
    }

    /// Answers requests, and counts them.
    fn service(
        &self,
        outbox: Option<Arc<Outbox>>,
    ) -> impl hyper::service::Service<
        hyper::Request<Incoming>,
        Response = hyper::Response<Tracked>,
        Error = Infallible,
        Future: Send + 'static,
    > + use<> {
        let (answerer, visitor) = (self.answerer.clone(), Arc::clone(&self.visitor));
        let activity = Arc::clone(&self.activity);
        service_fn(move |request: hyper::Request<Incoming>| {
            let tracker = Request::start(&activity);
            let reply = answerer
                .clone()
                .answer(request.into_parts().0, Arc::clone(&visitor));
            let (outbox, activity) = (outbox.clone(), Arc::clone(&activity));
            async move {
                let mut reply = reply.await;
                if activity.is_spent() {
                    let close = HeaderValue::from_static("close");
                    reply.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(reply.map(|body| Tracked::new(body, tracker, outbox)))
            }
        })
    }

    /// Polls the connection, and the stage that it writes to if there is one.
    async fn attend<C>(
        mut self,
        connection: C,
        staged: Option<Staged>,
        deadlines: Deadlines,
    ) -> Result<(), Ended>
    where
        C: GracefulConnection,
        C::Error: std::error::Error + Send + Sync + 'static,
    {
        let mut connection = pin!(connection);
        let activity = self.activity;
        let mut watchdog = Watchdog::new(deadlines, Arc::clone(&activity), Instant::now());
        loop {
            let conversation = poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                let polled = polled.map_err(|error| Ended::Failed(Box::new(error)));
                match &staged {
                    Some(staged) => staged.polled(polled, cx),
                    None => polled,
                }
            });
            tokio::select! {
                // The connection first: what it does is what the watchdog sees.
                biased;
                result = conversation => return result,
                () = self.drain.begins(&activity) => connection.as_mut().graceful_shutdown(),
                verdict = watchdog.wait() => match verdict {
                    Verdict::Fine => {}
                    Verdict::Finish => connection.as_mut().graceful_shutdown(),
                    Verdict::Abort(deadline) => return Err(Ended::Late(deadline)),
                },
            }
        }
    }
}

/// The moment to say goodbye because the server drains; it comes once.
struct Drain {
    receiver: watch::Receiver<bool>,
    state: DrainState,
}

#[derive(Clone, Copy)]
enum DrainState {
    Serving,
    /// The server drains; a first request is waited for until then.
    Waiting(Instant),
    Told,
}

impl Drain {
    /// How long a client that was just let in may take for its first request.
    /// Without an answer to that, its transfer fails; a client that had an
    /// answer on this connection tries again on another.
    const FIRST_REQUEST: Duration = Duration::from_secs(2);

    fn new(receiver: watch::Receiver<bool>) -> Self {
        Self {
            receiver,
            state: DrainState::Serving,
        }
    }

    /// Ends at that moment; after that, never again. It has to be polled by the
    /// task that polls the connection, right after it: only so does it see the
    /// first request, which wakes nobody but that task.
    async fn begins(&mut self, activity: &Activity) {
        if let DrainState::Serving = self.state {
            // An error means that the sender is gone, which ends the server too.
            _ = self.receiver.wait_for(|&draining| draining).await;
            self.state = DrainState::Waiting(Instant::now() + Self::FIRST_REQUEST);
        }
        if let DrainState::Waiting(end) = self.state {
            let asked = poll_fn(|_| match activity.counters().started {
                0 => Poll::Pending,
                _ => Poll::Ready(()),
            });
            // Either way it is time.
            _ = timeout_at(end, asked).await;
            self.state = DrainState::Told;
            return;
        }
        pending().await
    }
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
