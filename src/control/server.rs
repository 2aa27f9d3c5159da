//! The server's end of the control socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::brakes::Brakes;
use super::peer::{Owner, Peer};
use super::{REQUEST_MAX, Refused, Reply, Request};
use crate::listener::{AcceptError, bind_unix};

/// How long a client may take to send its request, and as long again to take the
/// reply.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Clients at a time; others wait in the kernel's queue.
pub const CLIENTS: usize = 16;

/// A control socket that is being served, until it is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody can be told, and the next start removes it as well.
        _ = std::fs::remove_file(&self.path);
    }
}

/// Serves a control socket at this path. Needs a runtime around it.
///
/// If its directory does not exist, there is a warning in the log, and no socket.
///
/// # Errors
/// Why it cannot listen there; among others that another process does.
pub fn start(path: &Path, brakes: Arc<Brakes>) -> anyhow::Result<Option<Control>> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.exists() {
        tracing::warn!(
            directory = %directory.display(),
            remedy = "RuntimeDirectory=ostree-serve in the service's unit, or another \
                      `listen.control`",
            "there is no directory for the control socket: `hold`, `release` and `status` do not work"
        );
        return Ok(None);
    }
    // The members of the group may connect, and `Owner` looks who they are.
    let listener = bind_unix(path, 0o660).with_context(|| {
        format!(
            "cannot listen for `hold`, `release` and `status` at {} (`listen.control`)",
            path.display()
        )
    })?;
    tracing::info!(path = %path.display(), "listening for control");
    Ok(Some(Control {
        path: path.to_owned(),
        task: tokio::spawn(serve(listener, brakes)),
    }))
}

async fn serve(listener: UnixListener, brakes: Arc<Brakes>) {
    let slots = Arc::new(Semaphore::new(CLIENTS));
    // It fails only for a semaphore that was closed, and nobody closes it.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let brakes = Arc::clone(&brakes);
                tokio::spawn(async move {
                    converse(stream, brakes).await;
                    drop(slot);
                });
            }
            Err(error) => {
                if AcceptError::of(&error) != AcceptError::Peer {
                    tracing::error!(%error, "the control socket cannot be accepted from");
                    tokio::time::sleep(AcceptError::PAUSE).await;
                }
            }
        }
    }
}

/// One request and its reply.
async fn converse(mut stream: UnixStream, brakes: Arc<Brakes>) {
    let reply = match hear(&mut stream).await {
        Ok((request, peer)) => carry_out(request, peer, brakes).await,
        Err(refused) => Reply::Refused(refused),
    };
    let line = line(&reply);
    match timeout(PATIENCE, stream.write_all(&line)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a control client left before its reply"),
        Err(_) => tracing::debug!("a control client does not take its reply"),
    }
}

/// What is asked, and by whom.
async fn hear(stream: &mut UnixStream) -> Result<(Request, Peer), Refused> {
    let peer = Peer::of(stream).map_err(|error| Refused {
        reason: format!("the kernel does not say who you are: {error}"),
        remedy: None,
    })?;
    let owner = Owner::this();
    if !owner.admits(&peer) {
        // What a peer can cause is for the log of who looks for it, but this one
        // is on the machine and got past the permissions of the socket.
        tracing::warn!(%peer, "a control client was refused: it is not of the server's group");
        // It may ask a directory service, which may take its time.
        let group = spawn_blocking(move || owner.group()).await;
        let group = group.unwrap_or_else(|_| "the server's".to_owned());
        return Err(Refused::new(
            "only root, the server's user and its group may ask",
            format!("ask as root, or as a member of the group {group}"),
        ));
    }
    let line = match timeout(PATIENCE, read_line(stream)).await {
        Ok(line) => line?,
        Err(_) => {
            let reason = format!("no request came within {} s", PATIENCE.as_secs());
            return Err(malformed(reason));
        }
    };
    let request = Request::parse(&line)
        .map_err(|error| malformed(format!("the request is not understood: {error}")))?;
    Ok((request, peer))
}

/// A line without its line feed.
async fn read_line(stream: &mut UnixStream) -> Result<Vec<u8>, Refused> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(stream.take(REQUEST_MAX as u64));
    limited
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| malformed(format!("the request cannot be read: {error}")))?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ if line.len() + 1 >= REQUEST_MAX => Err(malformed(format!(
            "the request is longer than {REQUEST_MAX} bytes"
        ))),
        _ => Err(malformed("the request has no end".into())),
    }
}

fn malformed(reason: String) -> Refused {
    let remedy = "use the `ostree-serve` of the server's version: one line of JSON, as \
                  {\"status\":{}}";
    tracing::debug!(reason, "a control client was refused");
    Refused::new(reason, remedy)
}

/// Does it to the end, whether or not the client waits for it.
async fn carry_out(request: Request, peer: Peer, brakes: Arc<Brakes>) -> Reply {
    let done = spawn_blocking(move || brakes.carry_out(request, &peer.user())).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a request at the control socket failed");
        Reply::Refused(Refused::new(
            "the server failed while doing it",
            "see its log, and how things stand: ostree-serve status",
        ))
    })
}

fn line(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_else(|error| {
        // A directory whose name is no UTF-8, for one.
        tracing::error!(%error, "a reply cannot be written as JSON");
        br#"{"refused":{"reason":"the reply cannot be written as JSON; see the server's log"}}"#
            .to_vec()
    });
    line.push(b'\n');
    line
}
