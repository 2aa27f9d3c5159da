//! Who asks: a connection, and what it was told that has to hold together.

use std::fmt;
use std::net::IpAddr;

/// A client's connection, as far as a repository has to tell one from another.
///
/// A client asks for a signature and then, on the same connection, for what is
/// signed (client-contract 1.4); a new generation between the two must not make
/// them differ.
#[derive(Debug)]
pub struct Visitor {
    name: String,
    address: Option<IpAddr>,
}

impl Visitor {
    /// A new connection of this peer.
    pub fn new(name: impl fmt::Display, address: Option<IpAddr>) -> Self {
        Self {
            name: name.to_string(),
            address,
        }
    }

    /// Nobody in particular, as in tests.
    pub fn unknown() -> Self {
        Self::new("unknown", None)
    }

    /// The address, if it has one that means something: who comes by a Unix
    /// socket comes from a proxy.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
