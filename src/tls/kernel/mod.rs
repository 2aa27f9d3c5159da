//! Kernel TLS: after its handshake a connection's records are left to the kernel,
//! so that a file can go from the page cache to the client with `sendfile`
//! (zero-copy 6). For HTTP/1.1 over TCP only.
//!
//! rustls makes the handshake over a [`Traced`] socket. [`switch`] then hands the
//! keys to the kernel, if nothing is left that only rustls could finish, and if
//! the kernel has shown at the start that it can do this version and cipher
//! ([`KernelTls::probe`]). What comes out is a [`KernelStream`].

mod material;
mod probe;
mod socket;
mod stream;
mod suite;
mod trace;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustls::{ExtractedSecrets, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

pub use self::probe::{KernelTls, Unavailable};
pub use self::stream::KernelStream;
pub use self::suite::{Cipher, Suite, Version};
pub use self::trace::Traced;

use self::material::Material;
use self::socket::Direction;
use crate::listener::stream::Stream;

/// A connection after its handshake, before anything else happens on it.
pub type Fresh = Box<TlsStream<Traced<Stream>>>;

/// Who does the records of a connection from now on.
#[derive(Debug)]
pub enum Switched {
    /// The kernel.
    Kernel(KernelStream),
    /// rustls, as if nobody had asked; why.
    User(Fresh, Obstacle),
}

/// Why a connection stays with rustls.
#[derive(Debug)]
pub enum Obstacle {
    /// The kernel was not seen to do this version and cipher.
    Suite,
    /// Only TCP can.
    Unix,
    /// The client has said goodbye, or rustls has an error to report.
    Ending,
    /// A part of a record was read.
    Record,
    /// Something is still to be sent.
    Unsent,
    /// The kernel does not take the socket.
    Refused(io::Error),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suite => f.write_str("the kernel does not do this version and cipher"),
            Self::Unix => f.write_str("it is no TCP connection"),
            Self::Ending => f.write_str("it is ending"),
            Self::Record => f.write_str("a part of a record was read"),
            Self::Unsent => f.write_str("something is still to be sent"),
            Self::Refused(error) => write!(f, "the kernel does not take the socket: {error}"),
        }
    }
}

/// Leaves a connection's records to the kernel, if that can be.
///
/// # Errors
/// If the keys were taken out of rustls and the kernel did not take them: nobody
/// can go on with the connection then.
pub fn switch(mut stream: Fresh, kernel: &KernelTls) -> io::Result<Switched> {
    let (traced, session) = stream.get_mut();
    let suite = match ready(traced, session, kernel) {
        Ok(suite) => suite,
        Err(obstacle) => {
            traced.stop();
            return Ok(Switched::User(stream, obstacle));
        }
    };
    let (traced, mut session) = stream.into_inner();
    let Stream::Tcp(socket) = traced.into_inner() else {
        return Err(io::Error::other("a TCP socket was expected"));
    };
    let mut ahead = Vec::new();
    match session.reader().read_to_end(&mut ahead) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        _ => {}
    }
    let secrets = session
        .dangerous_extract_secrets()
        .map_err(io::Error::other)?;
    let sent = secrets.tx.0;
    install(&socket, suite, secrets).inspect_err(|error| kernel.refused(error))?;
    Ok(Switched::Kernel(KernelStream::new(socket, ahead, sent)))
}

/// Whether a connection can be left to the kernel, and has its socket prepared
/// for it. Until keys are set, that changes nothing for who uses the socket.
fn ready(
    traced: &Traced<Stream>,
    session: &mut ServerConnection,
    kernel: &KernelTls,
) -> Result<Suite, Obstacle> {
    let suite = Suite::of(session)
        .filter(|&it| kernel.supports(it))
        .ok_or(Obstacle::Suite)?;
    let Stream::Tcp(socket) = traced.get_ref() else {
        return Err(Obstacle::Unix);
    };
    match session.process_new_packets() {
        Ok(state) if !state.peer_has_closed() => {}
        _ => return Err(Obstacle::Ending),
    }
    if !traced.at_boundary() {
        return Err(Obstacle::Record);
    }
    // The answer to a client's KeyUpdate, whose keys are in use already, waits
    // for the next thing to be sent, and is not seen otherwise.
    _ = session.writer().write(&[]);
    if session.wants_write() {
        return Err(Obstacle::Unsent);
    }
    socket::attach(socket.as_fd()).map_err(Obstacle::Refused)?;
    Ok(suite)
}

fn install(socket: &TcpStream, suite: Suite, secrets: ExtractedSecrets) -> io::Result<()> {
    let directions = [
        (Direction::Send, secrets.tx),
        (Direction::Receive, secrets.rx),
    ];
    for (direction, (sequence, secrets)) in directions {
        let material = Material::of(suite, sequence, &secrets)
            .ok_or_else(|| io::Error::other("rustls gave keys of another cipher"))?;
        socket::install(socket.as_fd(), direction, &material)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
