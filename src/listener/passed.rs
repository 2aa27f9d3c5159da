//! Sockets that the service manager holds and has passed: they listened before this
//! process began, and do when it has ended.
//!
//! Such a socket belongs to both. Nothing is done to it that the next process would
//! notice: its door is never closed, its port never shared, and whoever is in its
//! queue when this process ends is the next one's client.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::{ffi::OsStr, net::SocketAddr};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketType, sockopt};
use tokio::net::UnixListener;

use super::{Listener, Socket, observe};
use crate::config::Address;
use crate::systemd::Inherited;

/// The listening sockets that the process was started with. It keeps them open: a
/// reload may want one that the configuration did not name before.
#[derive(Clone, Debug, Default)]
pub struct Passed(Arc<Vec<Held>>);

/// One of them.
#[derive(Debug)]
pub struct Held {
    /// What the service manager calls it (`FileDescriptorName=`): for people.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    socket: OwnedFd,
}

impl Passed {
    /// Those of the descriptors that listen for streams, and the others.
    pub fn among(inherited: Vec<Inherited>) -> (Self, Vec<Inherited>) {
        let mut held = Vec::new();
        let mut others = Vec::new();
        for it in inherited {
            match address(&it.descriptor) {
                Ok(address) => held.push(Held {
                    name: it.name,
                    address,
                    socket: it.descriptor,
                }),
                Err(_) => others.push(it),
            }
        }
        (Self(Arc::new(held)), others)
    }

    /// A listener with the socket that has exactly this address; `None` if none has.
    /// Needs a runtime around it.
    ///
    /// # Errors
    /// If the process has no descriptor left, or the runtime cannot watch another one.
    pub fn adopt(&self, address: &Address) -> Option<anyhow::Result<Listener>> {
        let held = self.0.iter().find(|it| it.address == *address)?;
        let listener = held.listen();
        Some(listener.with_context(|| format!("cannot listen at {address}, which was passed")))
    }

    /// One that is in the way of whoever wants this address, as `[::]:8443` is in that
    /// of `0.0.0.0:8443`.
    pub fn in_the_way_of(&self, address: &Address) -> Option<&Held> {
        self.0.iter().find(|it| it.address.overlaps(address))
    }

    /// Those that have none of these addresses.
    pub fn unused(&self, addresses: &[Address]) -> impl Iterator<Item = &Held> {
        let is_used = |held: &&Held| addresses.contains(&held.address);
        self.0.iter().filter(move |held| !is_used(held))
    }
}

impl Held {
    fn listen(&self) -> io::Result<Listener> {
        let socket = self.socket.try_clone()?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = match &self.address {
            Address::Tcp(_) => Socket::Tcp(observe(socket)?),
            Address::Unix(_) => Socket::Unix(UnixListener::from_std(socket.into())?),
        };
        Ok(Listener {
            // The name of a Unix socket is the service manager's too.
            name: None,
            socket,
            address: self.address.clone(),
            is_held: true,
        })
    }
}

/// Where a socket listens for streams.
///
/// # Errors
/// That it does not, or what the system says.
fn address(descriptor: impl AsFd) -> Result<Address, Errno> {
    let descriptor = descriptor.as_fd();
    // Both fail for whatever is no socket.
    if !sockopt::socket_acceptconn(descriptor)?
        || sockopt::socket_type(descriptor)? != SocketType::STREAM
    {
        return Err(Errno::INVAL);
    }
    let address = rustix::net::getsockname(descriptor)?;
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Ok(Address::Tcp(address));
    }
    let address = SocketAddrUnix::try_from(address)?;
    let path = address.path().ok_or(Errno::INVAL)?;
    let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
    Ok(Address::Unix(path))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener as StdUnixListener;

    use super::*;

    fn passed(descriptors: Vec<OwnedFd>) -> (Passed, Vec<Inherited>) {
        let inherit = |descriptor| Inherited {
            name: "listen".into(),
            descriptor,
        };
        Passed::among(descriptors.into_iter().map(inherit).collect())
    }

    #[test]
    fn only_what_listens_for_streams_is_taken() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let unix = StdUnixListener::bind(&path).unwrap();
        let expected = [Address::Tcp(tcp.local_addr().unwrap()), Address::Unix(path)];
        let (passed, others) = passed(vec![
            client.into(),
            tcp.into(),
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            unix.into(),
            tempfile::tempfile().unwrap().into(),
        ]);
        assert_eq!(others.len(), 3);
        let found: Vec<_> = passed.0.iter().map(|it| it.address.clone()).collect();
        assert_eq!(found, expected);
        let unused: Vec<_> = passed
            .unused(&expected[..1])
            .map(|it| &it.address)
            .collect();
        assert_eq!(unused, [&expected[1]]);
    }

    /// The next process finds the socket as this one did: with its clients.
    #[tokio::test]
    async fn a_socket_outlives_its_listener() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(tcp.local_addr().unwrap());
        let (passed, _) = passed(vec![tcp.try_clone().unwrap().into()]);
        let listener = passed.adopt(&address).unwrap().unwrap();
        let _first = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        listener.accept().await.unwrap();
        listener.close_door().unwrap();
        drop(listener);
        let second = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let again = passed.adopt(&address).unwrap().unwrap();
        let (_, peer) = again.accept().await.unwrap();
        assert_eq!(peer.ip(), Some(second.local_addr().unwrap().ip()));
    }
}
