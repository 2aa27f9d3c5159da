//! What the kernel can do, found out at the start with keys that protect nothing.
//! On a client's connection it would be too late: once rustls has given its keys
//! away, there is no way back.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use super::material::Material;
use super::socket::{self, Direction};
use super::suite::Suite;

/// What the kernel was seen to do, in both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelTls {
    suites: Vec<Suite>,
}

/// Why there is no kernel TLS, for the operator.
#[derive(Debug)]
pub struct Unavailable {
    step: &'static str,
    error: io::Error,
}

impl KernelTls {
    /// Nothing: rustls does it all.
    pub const NONE: Self = Self { suites: Vec::new() };

    /// Tries everything on connections of this process with itself. Blocks, for
    /// less than a millisecond unless the machine forbids such connections.
    ///
    /// # Errors
    /// If it can do nothing; why.
    pub fn probe() -> Result<Self, Unavailable> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(Unavailable::because("listening on the loopback interface"))?;
        let mut suites = Vec::new();
        let mut refusal = None;
        for suite in Suite::ALL {
            let socket = connect(&listener)?;
            socket::attach(socket.as_fd()).map_err(Unavailable::because(
                "setsockopt(TCP_ULP, \"tls\"), for which the kernel's module has to be loaded \
                 (`modprobe tls`)",
            ))?;
            match try_out(&socket, suite) {
                Ok(()) => suites.push(suite),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(error) if suites.is_empty() => Err(Unavailable::because(
                "setting keys, of whatever cipher,",
            )(error)),
            _ => Ok(Self { suites }),
        }
    }

    /// Whether it does this one.
    pub fn supports(&self, suite: Suite) -> bool {
        self.suites.contains(&suite)
    }

    /// Whether it does nothing at all.
    pub fn is_none(&self) -> bool {
        self.suites.is_empty()
    }
}

/// A connected socket; that is all it has to be, so nobody accepts.
fn connect(listener: &TcpListener) -> Result<TcpStream, Unavailable> {
    /// Only a machine that drops its own packets takes any time.
    const PATIENCE: Duration = Duration::from_millis(500);
    let connected = listener
        .local_addr()
        .and_then(|address| TcpStream::connect_timeout(&address, PATIENCE));
    connected.map_err(Unavailable::because("connecting on the loopback interface"))
}

fn try_out(socket: &TcpStream, suite: Suite) -> io::Result<()> {
    let material = Material::made_up(suite).ok_or(io::ErrorKind::InvalidInput)?;
    socket::install(socket.as_fd(), Direction::Send, &material)?;
    socket::install(socket.as_fd(), Direction::Receive, &material)
}

impl Unavailable {
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
        Ok(())
    }
}
