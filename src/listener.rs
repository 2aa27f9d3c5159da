//! Bound sockets, who the peer is, and what to do when accepting fails.

pub mod passed;
pub mod stream;
pub(crate) mod unix;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

use stream::Accepted;

use crate::config::Address;

/// A bound socket, listening.
#[derive(Debug)]
pub struct Listener {
    /// Gone before the socket is closed.
    name: Option<unix::Name>,
    socket: Socket,
    address: Address,
    /// Whether the service manager has the same socket.
    is_held: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(AsyncFd<OwnedFd>),
    Unix(UnixListener),
}

/// Connections that the kernel completes before they are accepted. The kernel
/// lowers it to `net.core.somaxconn`.
pub const BACKLOG: u16 = 4096;

/// A bound socket that nobody can connect to yet. Dropping it gives the address
/// back, and no client notices.
#[derive(Debug)]
pub struct Reserved {
    socket: ReservedSocket,
    address: Address,
}

#[derive(Debug)]
enum ReservedSocket {
    Tcp(OwnedFd),
    Unix(unix::Reserved),
}

impl Reserved {
    /// Binds where these listeners are in the way, as `0.0.0.0:8443` is in that
    /// of `[::]:8443`.
    ///
    /// The kernel lets sockets of one user share a port if all of them say so
    /// while one is bound (`SO_REUSEPORT`, socket(7)).
    ///
    /// # Errors
    /// What the system says, with advice where there is some.
    pub fn bind_beside(address: &Address, others: &[&Listener]) -> anyhow::Result<Self> {
        let reserve = || match address {
            Address::Tcp(address) => bind_tcp(*address, !others.is_empty())
                .map(ReservedSocket::Tcp)
                .map_err(|errno| with_advice(errno, *address)),
            // Who may connect is decided by the directory that it is in.
            Address::Unix(path) => unix::reserve(path, 0o666).map(ReservedSocket::Unix),
        };
        let socket =
            sharing(others, reserve).with_context(|| format!("cannot listen at {address}"))?;
        let address = match &socket {
            ReservedSocket::Tcp(socket) => Address::Tcp(local_address(socket)?),
            ReservedSocket::Unix(_) => address.clone(),
        };
        Ok(Self { socket, address })
    }

    /// Where it is, with the port that the kernel chose for port 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Lets clients connect, beside the same listeners; until those are closed,
    /// who connects may come to either. Needs a runtime around it.
    ///
    /// # Errors
    /// As [`Reserved::bind_beside`]: that a socket is bound does not mean that
    /// nobody else has the port.
    pub fn listen(self, others: &[&Listener]) -> anyhow::Result<Listener> {
        let Self { socket, address } = self;
        let begun = match socket {
            ReservedSocket::Tcp(socket) => listen_tcp(socket, &address, others),
            ReservedSocket::Unix(reserved) => reserved
                .listen()
                .map(|(socket, name)| (Socket::Unix(socket), Some(name))),
        };
        let (socket, name) = begun.with_context(|| format!("cannot listen at {address}"))?;
        let listener = Listener {
            name,
            socket,
            address,
            is_held: false,
        };
        listener.share_port(false)?;
        Ok(listener)
    }
}

fn listen_tcp(
    socket: OwnedFd,
    address: &Address,
    others: &[&Listener],
) -> anyhow::Result<(Socket, Option<unix::Name>)> {
    sharing(others, || {
        let begun = rustix::net::listen(&socket, BACKLOG.into());
        begun.map_err(|errno| match address {
            Address::Tcp(address) => with_advice(errno, *address),
            Address::Unix(_) => io::Error::from(errno).into(),
        })
    })?;
    Ok((Socket::Tcp(observe(socket)?), None))
}

/// Has the runtime tell when somebody connects.
fn observe(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? })
}

/// Why an address cannot be had at the moment.
#[derive(Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Somebody listens there; perhaps this server itself, which runs.
    Taken,
    /// This user may not. The service may, if its unit gives it the capability.
    Forbidden,
    /// Nobody can; why, and what to do if that is known.
    Impossible {
        /// What the system says.
        reason: String,
        /// Empty if there is none.
        advice: String,
    },
}

/// Whether there is something that will keep a server from listening there, found
/// out without listening: no client notices.
///
/// # Errors
/// What it is.
pub fn probe(address: SocketAddr) -> Result<(), Obstacle> {
    match bind_tcp(address, false) {
        Ok(_) => Ok(()),
        Err(Errno::ADDRINUSE) => Err(Obstacle::Taken),
        Err(Errno::ACCESS) => Err(Obstacle::Forbidden),
        Err(errno) => Err(Obstacle::Impossible {
            reason: io::Error::from(errno).to_string(),
            advice: advice(errno, address),
        }),
    }
}

/// Does something while others may have a part in these listeners' ports.
fn sharing<T>(
    listeners: &[&Listener],
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let share = |shared| listeners.iter().try_for_each(|it| it.share_port(shared));
    share(true)?;
    let result = act();
    share(false)?;
    result
}

impl Listener {
    /// Binds and listens. Needs a runtime around it.
    ///
    /// # Errors
    /// As [`Reserved::bind_beside`].
    pub fn bind(address: &Address) -> anyhow::Result<Self> {
        Reserved::bind_beside(address, &[])?.listen(&[])
    }

    fn share_port(&self, shared: bool) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(listener) if !self.is_held => Ok(set_socket_reuseport(listener, shared)?),
            Socket::Tcp(_) | Socket::Unix(_) => Ok(()),
        }
    }

    /// Whether the socket is the service manager's too, and outlives this listener.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Lets nobody begin to connect any more, unless the service manager keeps the
    /// socket. Who has begun still comes in; to close the socket would reset them.
    /// Whoever comes to a port now hears nothing, asks again after a second (RFC 6298),
    /// and then finds who has the port by that time.
    ///
    /// # Errors
    /// If the kernel does not let that be.
    pub fn close_door(&self) -> io::Result<()> {
        match &self.socket {
            // It would be closed to the next process as well.
            _ if self.is_held => Ok(()),
            Socket::Tcp(listener) => drop_syn(listener.as_fd()),
            Socket::Unix(_) => {
                self.name.iter().for_each(unix::Name::remove);
                Ok(())
            }
        }
    }

    /// How long a client may take from its first packet to the last one of TCP's
    /// handshake: far less than it waits for an answer to the first.
    pub fn handshake_time(&self) -> Duration {
        match &self.socket {
            Socket::Tcp(_) => Duration::from_millis(500),
            Socket::Unix(_) => Duration::ZERO,
        }
    }

    /// Where it listens, with the port that the kernel chose for port 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for a connection. Dropping the future loses none.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => loop {
                let mut ready = listener.readable().await?;
                if let Ok(accepted) = ready.try_io(|listener| accept_tcp(listener.as_fd())) {
                    return accepted;
                }
            },
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream.into_std()?.into()), Peer::Unix))
            }
        }
    }

    /// A connection that the kernel's queue holds now; `None` if it is empty.
    /// The kernel is asked itself: the runtime may not have heard yet of who
    /// came last.
    ///
    /// # Errors
    /// As accept(2).
    pub fn accept_queued(&self) -> io::Result<Option<(Accepted, Peer)>> {
        let accepted = match &self.socket {
            Socket::Tcp(listener) => accept_tcp(listener.as_fd()),
            Socket::Unix(listener) => rustix::net::accept_with(listener, ACCEPT_FLAGS)
                .map(|socket| (Accepted::Unix(socket), Peer::Unix))
                .map_err(io::Error::from),
        };
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            accepted => accepted.map(Some),
        }
    }
}

const ACCEPT_FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn accept_tcp(listener: BorrowedFd<'_>) -> io::Result<(Accepted, Peer)> {
    let (socket, address) = rustix::net::acceptfrom_with(listener, ACCEPT_FLAGS)?;
    // Only who is gone again has no address.
    let address = address.and_then(|it| SocketAddr::try_from(it).ok());
    let address = address.ok_or(Errno::CONNABORTED)?;
    // Nothing is to wait for an acknowledgement (client-contract 2.3).
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    Ok((Accepted::Tcp(socket), Peer::Tcp(address)))
}

fn bind_tcp(address: SocketAddr, sharing: bool) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restart need not wait for the last connections to be forgotten.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Dual stack whatever net.ipv6.bindv6only says.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    set_socket_reuseport(&socket, sharing)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// With the port that the kernel chose for port 0.
fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)?;
    Ok(SocketAddr::try_from(address)?)
}

/// Has a listening socket not see the packets that begin a connection (SYN):
/// a classic BPF program (socket(7), SO_ATTACH_FILTER) that runs over segments
/// from the TCP header on, whose flags are in byte 13.
fn drop_syn(listener: BorrowedFd<'_>) -> io::Result<()> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const DROP: u32 = 0;
    const PASS: u32 = u32::MAX;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        // All of them fit (linux/bpf_common.h).
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, DROP),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, PASS),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel reads as many bytes as `filter` has, and as many steps
    // as it names, all of which live until the call returns.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn with_advice(errno: Errno, address: SocketAddr) -> anyhow::Error {
    let error = io::Error::from(errno);
    match advice(errno, address) {
        advice if advice.is_empty() => error.into(),
        // Of the same kind: who may choose another port tries that.
        advice => io::Error::new(error.kind(), format!("{error}; {advice}")).into(),
    }
}

fn advice(errno: Errno, address: SocketAddr) -> String {
    match errno {
        Errno::ADDRINUSE => format!(
            "another process has the port: `ss -ltnp sport = :{}` shows which",
            address.port()
        ),
        Errno::ACCESS => {
            "ports below 1024 need CAP_NET_BIND_SERVICE, under SELinux others may too".into()
        }
        Errno::ADDRNOTAVAIL => "this machine has no such address: `ip address`".into(),
        Errno::AFNOSUPPORT => format!("IPv6 is disabled: listen at 0.0.0.0:{}", address.port()),
        _ => String::new(),
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Tcp(SocketAddr),
    /// Somebody on this machine.
    Unix,
}

impl Peer {
    /// Its address; an IPv4 client of a dual-stack socket is an IPv4 client.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // An IPv4 client of a dual-stack socket is still an IPv4 client.
            Self::Tcp(address) => {
                SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f)
            }
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What an accept error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// The client was gone before it was accepted. Nothing to do.
    Peer,
    /// The machine has run out of something. Wait, and tell the operator.
    Exhaustion(&'static str),
    /// Something unexpected. Wait a little; the listener stays.
    Other,
}

impl AcceptError {
    /// Pause after an error that will not go away by itself at once.
    pub const PAUSE: Duration = Duration::from_millis(250);

    /// What `error` is about (accept(2)).
    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::TIMEDOUT
                | Errno::INTR
                | Errno::INVAL
                | Errno::PERM,
            ) => Self::Peer,
            Some(Errno::MFILE) => Self::Exhaustion(
                "the process has no file descriptor left: raise LimitNOFILE= in the service's unit, \
                 or lower `limits.connections`",
            ),
            Some(Errno::NFILE) => Self::Exhaustion(
                "the machine has no file descriptor left: raise `sysctl fs.file-max`",
            ),
            Some(Errno::NOBUFS | Errno::NOMEM) => Self::Exhaustion(
                "the machine has no memory left for sockets: see `sysctl net.ipv4.tcp_mem` and `free -m`",
            ),
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The demonstration looks for another port then.
    #[tokio::test]
    async fn a_taken_port_is_told_from_other_errors() {
        let first = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.address()).unwrap_err();
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        assert_eq!(kind, Some(io::ErrorKind::AddrInUse), "{error:#}");
    }

    #[test]
    fn accept_errors_are_told_apart() {
        let cases = [
            (Errno::CONNABORTED, "peer"),
            (Errno::MFILE, "exhaustion"),
            (Errno::NFILE, "exhaustion"),
            (Errno::NOMEM, "exhaustion"),
            (Errno::BADF, "other"),
        ];
        for (errno, expected) in cases {
            let class = match AcceptError::of(&errno.into()) {
                AcceptError::Peer => "peer",
                AcceptError::Exhaustion(_) => "exhaustion",
                AcceptError::Other => "other",
            };
            assert_eq!(class, expected, "{errno}");
        }
    }

    #[test]
    fn peers_are_named_as_operators_know_them() {
        let mapped = Peer::Tcp("[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(mapped.to_string(), "192.0.2.1:5");
    }
}
