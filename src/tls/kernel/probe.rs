//! What the kernel can do, found out at the start with keys that protect nothing.
//! On a client's connection it would be too late: once rustls has given its keys
//! away, there is no way back.
//!
//! That takes connections of the process with itself. Where it is confined so that
//! it can connect nowhere, the kernel is taken at its module's word instead, until
//! it breaks it.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::material::Material;
use super::socket::{self, Direction};
use super::suite::{Cipher, Suite};

/// The domain of SELinux in which the server may connect nowhere
/// (packaging/selinux).
const DOMAIN: &str = ":ostree_serve_t:";

/// What the kernel was seen to do, in both directions, or what its module promises.
#[derive(Clone, Debug)]
pub struct KernelTls {
    suites: Vec<Suite>,
    /// Present if that is a promise; true when it was broken.
    broken: Option<Arc<AtomicBool>>,
}

/// Why there is no kernel TLS, for the operator.
#[derive(Debug)]
pub struct Unavailable {
    step: &'static str,
    error: io::Error,
}

impl KernelTls {
    /// Nothing: rustls does it all.
    pub const NONE: Self = Self {
        suites: Vec::new(),
        broken: None,
    };

    /// Tries everything on connections of this process with itself, if it may have
    /// such. Blocks, for less than a millisecond unless the machine forbids them.
    ///
    /// # Errors
    /// If it can do nothing; why.
    pub fn probe() -> Result<Self, Unavailable> {
        // To try it in that domain would look like an attack to whoever reads the
        // audit log.
        let confined = fs::read_to_string("/proc/self/attr/current")
            .is_ok_and(|context| context.contains(DOMAIN));
        if confined {
            return Self::promised();
        }
        match Self::try_all() {
            Err(reason) if reason.is_confinement() => Self::promised(),
            result => result,
        }
    }

    /// What the kernel's module promises by being there: it depends on AES-GCM
    /// (net/tls/Kconfig), and does it for both versions since Linux 5.1. Nothing is
    /// connected for that.
    ///
    /// # Errors
    /// If it is not there.
    pub fn promised() -> Result<Self, Unavailable> {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Unavailable::because("making a socket")(errno.into()))?;
        match socket::attach(socket.as_fd()) {
            // The kernel looks for the module first, and only then at the connection.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => return Err(Unavailable::because(ATTACHING)(error)),
            // It is not known to do this.
            Ok(()) => {}
        }
        let is_promised = |suite: &Suite| suite.cipher != Cipher::ChaCha20Poly1305;
        Ok(Self {
            suites: Suite::ALL.into_iter().filter(is_promised).collect(),
            broken: Some(Arc::default()),
        })
    }

    fn try_all() -> Result<Self, Unavailable> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(Unavailable::because("listening on the loopback interface"))?;
        let mut suites = Vec::new();
        let mut refusal = None;
        for suite in Suite::ALL {
            let socket = connect(&listener)?;
            socket::attach(socket.as_fd()).map_err(Unavailable::because(ATTACHING))?;
            match try_out(&socket, suite) {
                Ok(()) => suites.push(suite),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(error) if suites.is_empty() => Err(Unavailable::because(
                "setting keys, of whatever cipher,",
            )(error)),
            _ => Ok(Self {
                suites,
                broken: None,
            }),
        }
    }

    /// Whether it does this one.
    pub fn supports(&self, suite: Suite) -> bool {
        self.suites.contains(&suite) && !self.is_broken()
    }

    /// A client's keys were not taken, though the suite is one of those that it does:
    /// what was only promised is not relied upon again, by any copy of this.
    pub(super) fn refused(&self, error: &io::Error) {
        // For want of memory it refuses what it can do.
        let passing = error.kind() == io::ErrorKind::OutOfMemory;
        let Some(broken) = self.broken.as_ref().filter(|_| !passing) else {
            return;
        };
        if !broken.swap(true, Ordering::Relaxed) {
            tracing::error!(
                %error,
                remedy = "see whether the kernel's modules for AES-GCM are there (modprobe gcm), \
                          then restart the server; or set `[transfer] zero_copy = \"off\"`",
                "the kernel does not take the keys of TLS, and a connection was lost; from now \
                 on TLS is done without it"
            );
        }
    }

    fn is_broken(&self) -> bool {
        let broken = self.broken.as_ref();
        broken.is_some_and(|it| it.load(Ordering::Relaxed))
    }

    /// Whether it does nothing at all.
    pub fn is_none(&self) -> bool {
        self.suites.is_empty()
    }
}

const ATTACHING: &str = "setsockopt(TCP_ULP, \"tls\"), for which the kernel's module has to be \
                         loaded (`modprobe tls`)";

const CONNECTING: &str = "connecting on the loopback interface";

/// A connected socket; that is all it has to be, so nobody accepts.
fn connect(listener: &TcpListener) -> Result<TcpStream, Unavailable> {
    /// Only a machine that drops its own packets takes any time.
    const PATIENCE: Duration = Duration::from_millis(500);
    let connected = listener
        .local_addr()
        .and_then(|address| TcpStream::connect_timeout(&address, PATIENCE));
    connected.map_err(Unavailable::because(CONNECTING))
}

fn try_out(socket: &TcpStream, suite: Suite) -> io::Result<()> {
    let material = Material::made_up(suite).ok_or(io::ErrorKind::InvalidInput)?;
    socket::install(socket.as_fd(), Direction::Send, &material)?;
    socket::install(socket.as_fd(), Direction::Receive, &material)
}

impl Unavailable {
    /// Whether the process may not connect: Landlock and filters of system calls have
    /// these answers, EACCES and EPERM.
    fn is_confinement(&self) -> bool {
        self.step == CONNECTING && self.error.kind() == io::ErrorKind::PermissionDenied
    }

    fn because(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { step, error }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.step, self.error)
    }
}

impl std::error::Error for Unavailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// What it can do, for the log.
impl fmt::Display for KernelTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suites.is_empty() {
            return f.write_str("nothing");
        }
        for (position, suite) in self.suites.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{suite}")?;
        }
        if self.broken.is_some() {
            f.write_str(" (not tried out: it may not connect)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise() -> KernelTls {
        KernelTls {
            suites: Suite::ALL.to_vec(),
            broken: Some(Arc::default()),
        }
    }

    /// Acceptors have copies.
    #[test]
    fn a_promise_is_broken_once_and_for_all() {
        let kernel = promise();
        let copy = kernel.clone();
        kernel.refused(&io::ErrorKind::OutOfMemory.into());
        assert!(copy.supports(Suite::ALL[0]));
        kernel.refused(&io::ErrorKind::NotFound.into());
        assert!(!Suite::ALL.iter().any(|&it| copy.supports(it)));
    }

    #[test]
    fn what_was_seen_stays_seen() {
        let kernel = KernelTls {
            broken: None,
            ..promise()
        };
        kernel.refused(&io::ErrorKind::NotFound.into());
        assert!(kernel.supports(Suite::ALL[0]));
    }

    #[test]
    fn only_who_may_not_connect_takes_a_promise() {
        let reason = |step, kind: io::ErrorKind| Unavailable::because(step)(kind.into());
        assert!(reason(CONNECTING, io::ErrorKind::PermissionDenied).is_confinement());
        assert!(!reason(CONNECTING, io::ErrorKind::TimedOut).is_confinement());
        assert!(!reason(ATTACHING, io::ErrorKind::PermissionDenied).is_confinement());
    }
}
