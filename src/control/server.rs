//! The server's end of the control socket.

use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rustix::fs::Access;
use rustix::io::Errno;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::brakes::Brakes;
use super::peer::{Owner, Peer};
use super::{REQUEST_MAX, Refused, Reply, Request};
use crate::config::Placed;
use crate::files::permitted;
use crate::finding::{Finding, Severity, shell_word};
use crate::listener::{AcceptError, unix};

/// How long a client may take to send its request, and as long again to take the
/// reply.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Clients at a time; others wait in the kernel's queue.
pub const CLIENTS: usize = 16;

/// The control socket of a server, which a reload may move.
pub struct Door {
    brakes: Arc<Brakes>,
    /// Where it should be.
    path: PathBuf,
    open: Option<Control>,
}

/// A control socket that is being served, until it is dropped.
#[derive(Debug)]
struct Control {
    name: unix::Name,
    task: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        // As long as the task has the socket.
        self.name.remove();
        self.task.abort();
    }
}

/// A control socket that nobody serves yet.
pub struct Bound {
    path: PathBuf,
    listener: UnixListener,
    name: unix::Name,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} opened", self.path.display())
    }
}

impl Door {
    /// Serves a control socket. Needs a runtime around it.
    ///
    /// If it cannot be had, the log says so, and there is none: that content is
    /// served counts more. [`Door::plan`] tries it again.
    ///
    /// # Errors
    /// If another process listens there, which is then a server that somebody forgot.
    pub fn open(socket: &Placed<PathBuf>, brakes: Arc<Brakes>) -> anyhow::Result<Self> {
        let mut door = Self {
            brakes,
            path: socket.value.clone(),
            open: None,
        };
        match bind(socket) {
            Ok(bound) => door.move_to(bound),
            Err(Closed { finding, taken }) if taken => bail!("{finding}"),
            Err(closed) => log_finding(&closed.finding),
        }
        Ok(door)
    }

    /// What it does, for the log and the service manager.
    pub fn brakes(&self) -> &Brakes {
        &self.brakes
    }

    /// Binds what is missing: a socket at another path, or the one that could not be
    /// had before or has lost its name. Nothing that is there changes by that.
    ///
    /// # Errors
    /// Why it cannot listen at another path. At the old one that is no news, and
    /// only logged.
    pub fn plan(&self, socket: &Placed<PathBuf>) -> Result<Option<Bound>, Finding> {
        let stays = socket.value == self.path;
        if stays && self.open.as_ref().is_some_and(|it| it.name.leads_here()) {
            return Ok(None);
        }
        match bind(socket) {
            Ok(bound) => Ok(Some(bound)),
            Err(closed) if stays => {
                log_finding(&closed.finding);
                Ok(None)
            }
            Err(closed) => Err(Finding {
                severity: Severity::Error,
                ..closed.finding
            }),
        }
    }

    /// Serves there, and no longer where it did. Who has connected is still served.
    pub fn move_to(&mut self, bound: Bound) {
        let Bound {
            path,
            listener,
            name,
        } = bound;
        tracing::info!(path = %path.display(), "listening for control");
        let task = tokio::spawn(serve(listener, Arc::clone(&self.brakes)));
        self.open = Some(Control { name, task });
        self.path = path;
    }
}

/// Why there is no control socket.
struct Closed {
    finding: Finding,
    /// Whether another process listens there.
    taken: bool,
}

fn bind(socket: &Placed<PathBuf>) -> Result<Bound, Closed> {
    let path = &socket.value;
    if let Some(finding) = obstacle(socket) {
        let taken = false;
        return Err(Closed { finding, taken });
    }
    // The members of the group may connect, and `Owner` looks who they are.
    match unix::bind(path, 0o660) {
        Ok((listener, name)) => Ok(Bound {
            path: path.clone(),
            listener,
            name,
        }),
        Err(error) => {
            let taken = error.is::<unix::Taken>();
            let reason = format!(
                "cannot listen for `hold`, `release` and `status` at {} (`listen.control`): {error:#}",
                path.display()
            );
            let finding = Finding::error(socket.place.clone(), reason).remedy(
                "free the path, or name another one as `listen.control`; if its directory was \
                 not there when the server was started, restart it",
            );
            Err(Closed { finding, taken })
        }
    }
}

/// What keeps this user from having a control socket, as far as it can be told
/// without one. The server works without.
pub fn obstacle(socket: &Placed<PathBuf>) -> Option<Finding> {
    let path = &socket.value;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let finding = |what: String, remedy: &str| {
        let reason = format!("{what}: `hold`, `release` and `status` do not work");
        let remedy = format!("{remedy}, or another `listen.control`");
        Some(Finding::warning(socket.place.clone(), reason).remedy(remedy))
    };
    let unit = "RuntimeDirectory=ostree-serve in the service's unit";
    match permitted(directory, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => {}
        Err(Errno::NOENT) => {
            let what = format!(
                "there is no directory {} for the control socket",
                directory.display()
            );
            return finding(what, unit);
        }
        Err(errno) => {
            let what = format!(
                "this user cannot make the control socket in {}: {}",
                directory.display(),
                std::io::Error::from(errno)
            );
            let remedy = format!("{unit}, or chown USER {}", shell_word(directory));
            return finding(what, &remedy);
        }
    }
    let in_the_way = std::fs::symlink_metadata(path).is_ok_and(|it| !it.file_type().is_socket());
    if in_the_way {
        let what = format!("{} is there, and is no socket", path.display());
        return finding(what, &format!("rm {}", shell_word(path)));
    }
    None
}

/// Logs a finding. It is an error whatever the start makes of it: the brake is
/// missing.
fn log_finding(finding: &Finding) {
    let place = &finding.place;
    let remedy = finding.remedy.as_deref();
    tracing::error!(%place, remedy, "{}", finding.reason);
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
    let look = format!(
        "see its log, and how things stand: ostree-serve status{}",
        brakes.way()
    );
    let done = spawn_blocking(move || brakes.carry_out(request, &peer.user())).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a request at the control socket failed");
        Reply::Refused(Refused::new("the server failed while doing it", look))
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
