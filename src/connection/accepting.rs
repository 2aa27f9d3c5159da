//! Letting clients in. The loop does not go on before there is a slot for whom it
//! accepted, so a full server lets clients wait in the kernel's queue. (To take the
//! slot first would let each idle listener keep one from the busy ones.)

use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::{Purpose, Shared, start, start_at};
use crate::listener::stream::Accepted;
use crate::listener::{self, AcceptError, Listener};

/// A connection from this process to itself, to see whether it serves. To a listener's
/// task it is one that was accepted.
#[derive(Debug)]
pub struct Visit {
    /// The server's end.
    pub end: Accepted,
    /// The number of the reactor that is to serve it.
    pub reactor: usize,
}

impl Visit {
    /// It takes no client's slot: that all are taken is no reason to call the server
    /// dead.
    fn admit(self, purpose: &Purpose, shared: &Shared) {
        start_at(self.reactor, self.end, purpose, shared);
    }
}

/// Accepts and serves until `stop` is ready or the server drains, then until
/// everybody is in who has begun to connect, and returns; the connections go on
/// by themselves. A connection keeps the purpose that the listener had when it
/// was accepted.
///
/// At a socket that the service manager keeps, clients wait for the next process when
/// the server drains.
pub async fn serve(
    listener: Arc<Listener>,
    purpose: Arc<ArcSwap<Purpose>>,
    shared: Shared,
    mut visits: mpsc::Receiver<Visit>,
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
    let draining = accept_until(&listener, &purpose, &shared, &mut visits, stopped).await;
    if listener.is_held() {
        if !draining {
            // They came while it was configured, and nobody else would serve them.
            accept_queued(&listener, &purpose.load(), &shared);
        }
        return;
    }
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
        accept_until(&listener, &purpose, &shared, &mut visits, everybody_is_in).await;
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
    visits: &mut mpsc::Receiver<Visit>,
    end: impl Future<Output = T>,
) -> T {
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            biased;
            end = &mut end => return end,
            Some(visit) = visits.recv() => {
                visit.admit(&purpose.load(), shared);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let purpose = purpose.load_full();
                // Whoever was let in is served, also if the end begins while
                // it waits; the other clients wait in the kernel's queue.
                let mut slot = pin!(shared.slots.take());
                let slot = loop {
                    tokio::select! {
                        biased;
                        slot = &mut slot => break slot,
                        end = &mut end => {
                            start(stream, peer, None, &purpose, shared);
                            return end;
                        }
                        Some(visit) = visits.recv() => visit.admit(&purpose, shared),
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
