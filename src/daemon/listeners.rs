//! The set of listeners, and how it becomes another one: what stays keeps its
//! socket, what is new is bound before anything is closed.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::config::{Address, Listen};
use crate::connection::accepting::{self, Visit};
use crate::connection::{Purpose, Shared};
use crate::finding::Finding;
use crate::listener::passed::Passed;
use crate::listener::{Listener, Reserved};

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Https,
    Http,
    Redirect,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Https => "HTTPS",
            Self::Http => "HTTP with content",
            Self::Redirect => "HTTP to redirect",
        })
    }
}

/// A bound socket, as the configuration wants it.
#[derive(Clone)]
pub(super) struct Bound {
    kind: Kind,
    /// With port 0, if that is what the configuration says.
    written: Address,
    listener: Arc<Listener>,
}

impl Bound {
    fn address(&self) -> &Address {
        self.listener.address()
    }
}

/// A listener whose clients are being served.
pub(super) struct Serving {
    bound: Bound,
    purpose: Arc<ArcSwap<Purpose>>,
    visits: mpsc::Sender<Visit>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    fn begin(bound: Bound, purpose: Purpose, shared: &Shared) -> Self {
        let purpose = Arc::new(ArcSwap::from_pointee(purpose));
        let (stop, stopped) = oneshot::channel();
        let (visits, visitors) = mpsc::channel(1);
        let task = tokio::spawn(accepting::serve(
            Arc::clone(&bound.listener),
            Arc::clone(&purpose),
            shared.clone(),
            visitors,
            stopped,
        ));
        Self {
            bound,
            purpose,
            visits,
            stop,
            task,
        }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &Address {
        self.bound.address()
    }

    /// Whom it serves.
    pub(super) fn kind(&self) -> Kind {
        self.bound.kind
    }

    /// Where it takes in this process itself.
    pub(super) fn visits(&self) -> mpsc::Sender<Visit> {
        self.visits.clone()
    }

    /// Has it stop listening; who is connected or about to be stays. The socket is
    /// closed when the task has ended.
    fn stop(self) -> JoinHandle<()> {
        // Fails only if the task has ended.
        _ = self.stop.send(());
        self.task
    }
}

/// Stops these listeners, and waits until all of them are closed.
pub(super) async fn end(listeners: Vec<Serving>) {
    let tasks: Vec<_> = listeners.into_iter().map(Serving::stop).collect();
    for task in tasks {
        // Fails only if the task has ended in another way.
        _ = task.await;
    }
}

/// The listeners that a configuration wants, all bound, in its order.
pub(super) struct Plan {
    steps: Vec<Step>,
    passed: Passed,
}

enum Step {
    /// The running one of this number, for this kind of clients.
    Keep(usize, Bound),
    Add(Bound),
}

impl Step {
    fn bound(&self) -> &Bound {
        match self {
            Self::Keep(_, bound) | Self::Add(bound) => bound,
        }
    }
}

/// Why a socket cannot be had.
pub(super) struct BindError {
    address: Address,
    pub(super) reason: anyhow::Error,
    /// What listens already for the sake of the same plan.
    listening: Vec<Listener>,
}

impl BindError {
    fn new(address: &Address, reason: anyhow::Error) -> Self {
        Self {
            address: address.clone(),
            reason,
            listening: Vec::new(),
        }
    }

    /// For the operator, who changed `listen`.
    pub(super) fn finding(&self, listen: &Listen, file: &std::path::Path) -> Finding {
        let place = listen.place(&self.address).cloned();
        Finding::error(
            place.unwrap_or_else(|| file.into()),
            format!("{:#}", self.reason),
        )
        .remedy(
            "free the address or name another one, and reload; if this server itself \
             has it, as part of another address, restart the server",
        )
    }

    /// Ends what listens already, as a running listener is ended. Who has come
    /// there looked for the running one that it overlaps, and gets what that gives.
    pub(super) async fn withdraw(self, running: &[Serving], shared: &Shared) {
        let sought = |listener: &Listener| {
            let overlaps = |it: &&Serving| it.bound.address().overlaps(listener.address());
            running.iter().find(overlaps)
        };
        let begin = |listener: Listener| {
            let sought = sought(&listener)?;
            let bound = Bound {
                kind: sought.bound.kind,
                written: listener.address().clone(),
                listener: Arc::new(listener),
            };
            let purpose = Purpose::clone(&sought.purpose.load());
            Some(Serving::begin(bound, purpose, shared))
        };
        end(self.listening.into_iter().filter_map(begin).collect()).await;
    }
}

/// Adopts what is new in `listen` and was passed, and binds the rest of it, without
/// changing what runs. Dropping the plan closes it again.
///
/// Whoever listens gets clients, and if an address is part of a running one's,
/// the clients of that. So nobody listens before everything is bound.
pub(super) fn plan(
    listen: &Listen,
    running: &[Serving],
    passed: &Passed,
) -> Result<Plan, BindError> {
    let wanted = wanted(listen);
    let running: Vec<&Bound> = running.iter().map(|it| &it.bound).collect();
    let kept = match_up(&wanted, &running);
    let goes = |number: &usize| !kept.contains(&Some(*number));
    let going: Vec<&Bound> = (0..running.len())
        .filter(goes)
        .map(|number| running[number])
        .collect();
    let new = wanted.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
    let (mut adopted, mut reserved) = (Vec::new(), Vec::new());
    for ((_, address), _) in new {
        match passed.adopt(address) {
            Some(listener) => adopted.push(listener.map_err(|it| BindError::new(address, it))?),
            None => reserved.push(reserve(address, &going, passed)?),
        }
    }
    let mut bound = listen_at(reserved, &going)?;
    let mut new = |address: &Address| {
        let is_it = |it: &Listener| it.is_held() && it.address() == address;
        match adopted.iter().position(is_it) {
            Some(at) => Some(adopted.swap_remove(at)),
            // In the order in which they are wanted.
            None if bound.is_empty() => None,
            None => Some(bound.remove(0)),
        }
    };
    let step = |(&(kind, written), kept): (&(Kind, &Address), &Option<usize>)| {
        let bound = |listener| Bound {
            kind,
            written: written.clone(),
            listener,
        };
        match kept {
            Some(number) => {
                let listener = Arc::clone(&running[*number].listener);
                Some(Step::Keep(*number, bound(listener)))
            }
            None => new(written).map(|it| Step::Add(bound(Arc::new(it)))),
        }
    };
    Ok(Plan {
        steps: wanted.iter().zip(&kept).filter_map(step).collect(),
        passed: passed.clone(),
    })
}

fn wanted(listen: &Listen) -> Vec<(Kind, &Address)> {
    let all = [
        (Kind::Https, &listen.https),
        (Kind::Http, &listen.http),
        (Kind::Redirect, &listen.redirect),
    ];
    all.into_iter()
        .flat_map(|(kind, addresses)| addresses.iter().map(move |address| (kind, address)))
        .collect()
}

/// Which running listener has the socket for each that is wanted: one that is
/// written the same way, of the same kind if there is a choice (port 0 may be
/// written many times).
fn match_up(wanted: &[(Kind, &Address)], running: &[&Bound]) -> Vec<Option<usize>> {
    let mut matched = vec![None; wanted.len()];
    for same_kind in [true, false] {
        for (at, (kind, address)) in wanted.iter().enumerate() {
            if matched[at].is_some() {
                continue;
            }
            let fits = |number: &usize| {
                let it = running[*number];
                it.written == **address
                    && (it.kind == *kind || !same_kind)
                    && !matched.contains(&Some(*number))
            };
            matched[at] = (0..running.len()).find(fits);
        }
    }
    matched
}

fn reserve(address: &Address, going: &[&Bound], passed: &Passed) -> Result<Reserved, BindError> {
    let reserved = Reserved::bind_beside(address, &in_the_way(address, going));
    reserved.map_err(|reason| match passed.in_the_way_of(address) {
        None => BindError::new(address, reason),
        Some(held) => {
            let hint = format!(
                "the service manager holds {0} ({1}): write {0} in `listen`, or {address} in its \
                 socket unit",
                held.address, held.name
            );
            BindError::new(address, reason.context(hint))
        }
    })
}

/// Listens at all of them, in this order.
fn listen_at(reserved: Vec<Reserved>, going: &[&Bound]) -> Result<Vec<Listener>, BindError> {
    let mut listening = Vec::new();
    for it in reserved {
        let address = it.address().clone();
        match it.listen(&in_the_way(&address, going)) {
            Ok(listener) => listening.push(listener),
            Err(reason) => {
                return Err(BindError {
                    address,
                    reason,
                    listening,
                });
            }
        }
    }
    Ok(listening)
}

fn in_the_way<'a>(address: &Address, going: &[&'a Bound]) -> Vec<&'a Listener> {
    going
        .iter()
        .filter(|it| it.address().overlaps(address))
        .map(|it| &*it.listener)
        .collect()
}

impl Plan {
    /// Where it listens, with the ports that the kernel chose.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let address = |step: &Step| step.bound().address().clone();
        self.steps.iter().map(address).collect()
    }

    /// The port that redirects lead to: the first one of HTTPS. If there is
    /// none, the configuration has a public name, and the standard port is meant.
    pub(super) fn https_port(&self) -> u16 {
        let https = self
            .steps
            .iter()
            .map(Step::bound)
            .filter(|it| it.kind == Kind::Https);
        https
            .filter_map(|bound| match bound.address() {
                Address::Tcp(address) => Some(address.port()),
                Address::Unix(_) => None,
            })
            .next()
            .unwrap_or(443)
    }

    /// The sockets that it may have listeners from, and so the next plan.
    pub(super) fn passed(&self) -> Passed {
        self.passed.clone()
    }

    /// Logs where it listens that it did not before, and where nobody is served.
    pub(super) fn announce(&self) {
        for step in &self.steps {
            let Step::Add(bound) = step else { continue };
            let (address, kind) = (bound.address(), bound.kind);
            match bound.listener.is_held() {
                true => {
                    tracing::info!(%address, "listening for {kind} at a socket that was passed")
                }
                false => tracing::info!(%address, "listening for {kind}"),
            }
        }
        for held in self.passed.unused(&self.addresses()) {
            tracing::warn!(
                name = held.name,
                remedy = format!(
                    "name {} in `listen`, written like this, or take it out of the socket unit \
                     and restart that; who connects there meanwhile waits in vain",
                    held.address
                ),
                address = %held.address,
                "a socket that was passed is not configured"
            );
        }
    }

    /// Makes it so: the listeners, those that have to be ended now, and what
    /// changed.
    pub(super) fn carry_out(
        self,
        running: Vec<Serving>,
        purposes: impl Fn(Kind) -> Purpose,
        shared: &Shared,
    ) -> Outcome {
        let mut running: Vec<Option<Serving>> = running.into_iter().map(Some).collect();
        let mut outcome = Outcome::default();
        for step in self.steps {
            let (kept, bound) = match step {
                Step::Keep(number, bound) => (running[number].take(), bound),
                Step::Add(bound) => (None, bound),
            };
            let (kind, address) = (bound.kind, bound.address().clone());
            let Some(mut kept) = kept else {
                outcome
                    .changes
                    .push(format!("listener {address} added for {kind}"));
                let serving = Serving::begin(bound, purposes(kind), shared);
                outcome.serving.push(serving);
                continue;
            };
            if kept.bound.kind != kind {
                outcome
                    .changes
                    .push(format!("listener {address} is for {kind} now"));
                accepting::accept_queued(&bound.listener, &kept.purpose.load(), shared);
            }
            kept.purpose.store(Arc::new(purposes(kind)));
            kept.bound = bound;
            outcome.serving.push(kept);
        }
        outcome.ending = running.into_iter().flatten().collect();
        for serving in &outcome.ending {
            let (kind, address) = (serving.bound.kind, serving.bound.address());
            outcome
                .changes
                .push(format!("listener {address} for {kind} removed"));
        }
        outcome
    }
}

/// What came of a [`Plan`].
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) serving: Vec<Serving>,
    pub(super) ending: Vec<Serving>,
    pub(super) changes: Vec<String>,
}

#[cfg(test)]
pub(super) mod tests;
