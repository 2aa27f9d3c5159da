//! Letting clients in. The loop does not go on before there is a slot for whom it
//! accepted, so a full server lets clients wait in the kernel's queue. (To take the
//! slot first would let each idle listener keep one from the busy ones.)

use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::{Purpose, Shared, start};
use crate::listener::{self, AcceptError, Listener};

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
