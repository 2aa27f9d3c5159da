//! Telling the service manager that the server lives, once it has answered requests of
//! its own: at each listener, and on each reactor.
//!
//! Nothing connects for that, which a confined server cannot. The one end of a pair of
//! sockets is given to a listener's task as if it had been accepted, and goes on as
//! every connection does: handshake, hyper, routes, reply. What is asked for needs no
//! disk: a file server that no longer answers is no reason to end what other clients
//! get.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use http::header::HOST;
use http::{Request, StatusCode, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::listeners::{Kind, Serving};
use crate::config::Protocol;
use crate::connection::Shared;
use crate::connection::accepting::Visit;
use crate::listener::AcceptError;
use crate::listener::stream::Accepted;
use crate::routes::Routes;
use crate::systemd::Manager;
use crate::tls::visitor::Visitor;

/// When the service manager is to hear of it again, and how that is found out.
pub(super) struct Pulse {
    manager: Manager,
    /// Present if it wants to hear.
    watch: Option<(Interval, Visitor)>,
    /// Counts the visits, so that in time each listener meets each reactor.
    turn: usize,
}

/// So often is it told in the time after which it gives the server up.
const BEATS: u32 = 3;

impl Pulse {
    /// Needs a runtime around it.
    pub(super) fn new(manager: Manager) -> Self {
        let watch = period(manager).and_then(|period| {
            let visitor = Visitor::new().inspect_err(|error| {
                let remedy = "remove WatchdogSec= from the unit";
                tracing::error!(%error, remedy, "the server cannot watch itself");
            });
            Some((ticks(period), visitor.ok()?))
        });
        let turn = 0;
        Self {
            manager,
            watch,
            turn,
        }
    }

    /// Ends when the next beat is due. Dropping the future loses nothing.
    pub(super) async fn is_due(&mut self) {
        match &mut self.watch {
            Some((interval, _)) => _ = interval.tick().await,
            None => pending().await,
        }
    }

    /// Visits the listeners and the reactors, beside what else is done; if each visit is
    /// answered before the next beat is due, the service manager is told.
    pub(super) fn beat(&mut self, listeners: &[Serving], shared: &Shared, routes: &Routes) {
        let Some((interval, visitor)) = &self.watch else {
            return;
        };
        let (manager, patience) = (self.manager, interval.period());
        let calls = calls(
            self.turn,
            listeners,
            shared.reactors.count(),
            visitor,
            routes,
        );
        self.turn = self.turn.wrapping_add(1);
        tokio::spawn(async move {
            match all_answer(calls, patience).await {
                Ok(()) => manager.alive(),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    remedy = "if this goes on, the service manager ends the server \
                              (WatchdogSec= of its unit); see whether the machine has \
                              processors to spare, else report it with the log",
                    "the server does not answer a request of its own"
                ),
            }
        });
    }
}

/// A call at each listener, and on each reactor; other pairs of these each turn.
fn calls(
    turn: usize,
    listeners: &[Serving],
    reactors: usize,
    visitor: &Visitor,
    routes: &Routes,
) -> Vec<Call> {
    let count = match listeners.len() {
        0 => 0,
        listeners => listeners.max(reactors),
    };
    let call = |number: usize| {
        let listener = &listeners[(turn + number) % listeners.len()];
        Call::at(listener, number % reactors.max(1), visitor, routes)
    };
    (0..count).map(call).collect()
}

/// Makes these calls at the same time.
async fn all_answer(calls: Vec<Call>, patience: Duration) -> anyhow::Result<()> {
    let mut answers = JoinSet::new();
    for call in calls {
        answers.spawn(async move {
            let place = call.place.clone();
            let answer = timeout(patience, call.make()).await;
            let answer = answer.unwrap_or_else(|_| bail!("no answer in {patience:?}"));
            answer.with_context(|| format!("at {place}"))
        });
    }
    while let Some(answer) = answers.join_next().await {
        let status = answer??;
        tracing::trace!(%status, "the server answers itself");
    }
    Ok(())
}

/// Tells the service manager that the server lives, for as long as it drains: nobody
/// is let in then, and the drain's own deadline sees to its end.
pub(super) async fn while_draining(manager: Manager) {
    let Some(period) = period(manager) else {
        return pending().await;
    };
    let mut ticks = ticks(period);
    loop {
        ticks.tick().await;
        manager.alive();
    }
}

fn period(manager: Manager) -> Option<Duration> {
    let period = manager.patience()? / BEATS;
    (!period.is_zero()).then_some(period)
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// A request of this process to itself.
struct Call {
    door: mpsc::Sender<Visit>,
    /// Where that is, for the log.
    place: String,
    reactor: usize,
    /// Present if TLS is spoken there.
    visitor: Option<Visitor>,
    path: String,
}

impl Call {
    fn at(listener: &Serving, reactor: usize, visitor: &Visitor, routes: &Routes) -> Self {
        let (visitor, path) = match listener.kind() {
            Kind::Https => (Some(visitor.clone()), path(routes)),
            Kind::Http => (None, path(routes)),
            Kind::Redirect => (None, "/".to_owned()),
        };
        Self {
            door: listener.visits(),
            place: format!("{} on reactor {reactor}", listener.address()),
            reactor,
            visitor,
            path,
        }
    }

    /// Makes it. Any answer is a sign of life.
    async fn make(self) -> anyhow::Result<StatusCode> {
        let (stream, end) = match pair() {
            // Replies wait for descriptors then, and go on: to be ended for that would
            // cut off all of them.
            Err(error) if is_exhaustion(&error) => return Ok(StatusCode::SERVICE_UNAVAILABLE),
            pair => pair?,
        };
        let visit = Visit {
            end,
            reactor: self.reactor,
        };
        if self.door.send(visit).await.is_err() {
            bail!("the listener's task has ended");
        }
        match self.visitor {
            None => http1(TokioIo::new(stream), &self.path).await,
            Some(visitor) => match visitor.connect(stream).await? {
                (stream, Protocol::Http1) => http1(TokioIo::new(stream), &self.path).await,
                (stream, Protocol::Http2) => http2(TokioIo::new(stream), &self.path).await,
            },
        }
    }
}

/// What is asked for: a document of a repository that is served in generations, and so
/// from memory; else a name that no directory is asked for.
fn path(routes: &Routes) -> String {
    let coherent = routes.repos().filter(|(_, repo)| repo.status().coherent);
    let mut paths = coherent.map(|(prefix, _)| {
        let prefix = prefix.to_string();
        format!("{}/config", prefix.trim_end_matches('/'))
    });
    // Whoever has other characters in all prefixes is asked for nothing.
    let plain = |path: &String| path.bytes().all(|it| it.is_ascii_graphic() && it != b'%');
    paths.find(plain).unwrap_or_else(|| "/.".to_owned())
}

/// Whether there is no descriptor left, for this process or for the machine.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(AcceptError::of(error), AcceptError::Exhaustion(_))
}

/// Both ends of a connection, the server's as if it had been accepted.
fn pair() -> io::Result<(UnixStream, Accepted)> {
    let (stream, end) = std::os::unix::net::UnixStream::pair()?;
    stream.set_nonblocking(true)?;
    end.set_nonblocking(true)?;
    Ok((UnixStream::from_std(stream)?, Accepted::Unix(end.into())))
}

async fn http1<S>(stream: TokioIo<S>, path: &str) -> anyhow::Result<StatusCode>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) = http1::handshake::<_, String>(stream).await?;
    let request = Request::head(path).header(HOST, "localhost");
    let answer = sender.send_request(request.body(String::new())?);
    answered(answer, connection).await
}

async fn http2<S>(stream: TokioIo<S>, path: &str) -> anyhow::Result<StatusCode>
where
    TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake::<_, _, String>(executor, stream).await?;
    let request = Request::head(format!("https://localhost{path}")).version(Version::HTTP_2);
    let answer = sender.send_request(request.body(String::new())?);
    answered(answer, connection).await
}

/// The status of an answer, which comes only while its connection is polled.
async fn answered<B>(
    answer: impl Future<Output = hyper::Result<http::Response<B>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> anyhow::Result<StatusCode> {
    let mut answer = pin!(answer);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer?,
        ended = connection => {
            ended?;
            answer.await?
        }
    };
    Ok(answer.status())
}

#[cfg(test)]
mod tests;
