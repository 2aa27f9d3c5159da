//! What the operator wrote (`written`), made into what the program means (the
//! types here).
//!
//! Everything that can be judged from the text alone is judged here, once, and
//! all of it is reported together. Whether a certificate or a repository is any
//! good is found out by those who open it ([`crate::tls`], [`crate::repo`]).
//! `config/serve.toml` documents every key; a test holds it against the
//! defaults in this module.

mod address;
mod control;
mod prefix;
mod written;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::{Address, PublicName};
pub use control::ControlSocket;
pub use prefix::Prefix;

use crate::finding::{Finding, Place};

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_FILE: &str = "/etc/ostree-serve/serve.toml";

/// Where the control socket is unless the configuration says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/ostree-serve/control.sock";

/// A configuration without contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from, and will be read from again.
    pub file: PathBuf,
    /// Where to listen, and for what.
    pub listen: Listen,
    /// The server's certificate; present if anything listens for HTTPS.
    pub tls: Option<Tls>,
    /// What a client may take.
    pub limits: Limits,
    /// How bytes get from files to clients.
    pub transfer: Transfer,
    /// How the process confines itself.
    pub sandbox: Sandbox,
    /// The repositories.
    pub repos: Vec<RepoMount>,
    /// Directories of plain files.
    pub statics: Vec<Mount>,
}

/// The sockets.
#[derive(Clone, Debug)]
pub struct Listen {
    /// TLS, HTTP/2 and HTTP/1.1.
    pub https: Vec<Address>,
    /// Plaintext; every request is redirected to HTTPS.
    pub redirect: Vec<Address>,
    /// Plaintext with content.
    pub http: Vec<Address>,
    /// Reserved for status and metrics.
    pub admin: Address,
    /// A Unix socket for `hold`, `release` and `status`.
    pub control: Placed<PathBuf>,
    /// What redirects name instead of the host that the client used.
    pub public_name: Option<PublicName>,
    /// Every address of the above, and where it was written.
    pub places: Vec<Placed<Address>>,
}

impl Listen {
    /// Where an address was written; the file at least.
    pub fn place(&self, address: &Address) -> Option<&Place> {
        let placed = self.places.iter().find(|it| it.value == *address)?;
        Some(&placed.place)
    }
}

/// The server's identity.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM: the server's certificate, then the intermediate ones.
    pub certificate: Placed<PathBuf>,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub private_key: Placed<PathBuf>,
    /// What to speak, most wanted first; not empty.
    pub protocols: Vec<Protocol>,
    /// PEM: who may have issued a client's certificate.
    pub client_ca: Option<Placed<PathBuf>>,
}

/// An application protocol, chosen in the TLS handshake (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `h2`
    Http2,
    /// `http/1.1`
    Http1,
}

impl Protocol {
    /// Its registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

/// What a client may take before it is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. When all are taken, new ones wait in the
    /// kernel's queue: clients forgive a delay, and not a refusal
    /// (client-contract 2.2).
    pub connections: usize,
    /// Bytes of a request's line and header; hyper reads in steps, and may let up
    /// to twice as much pass.
    pub header_size: usize,
    /// From accepting a connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From a request's first byte, or for a connection's first request from
    /// the end of the handshake, to the end of its header.
    pub header: Duration,
    /// From one request's end to the next one's start.
    pub idle: Duration,
    /// How long a transfer may make no headway worth the name.
    pub stalled_transfer: Duration,
    /// At shutdown, from the signal to the end of transfers.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            header_size: 32 * 1024,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(15),
            // A client that pulls is never idle for long; one that only looked
            // should not keep its slot.
            idle: Duration::from_secs(30),
            // Longer than the 30 s after which libostree itself gives up
            // (client-contract 2.3), so the server is never the stricter one.
            stalled_transfer: Duration::from_secs(60),
            // Below systemd's default TimeoutStopSec of 90 s.
            drain: Duration::from_secs(60),
        }
    }
}

/// How bytes get from files to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whether the kernel sends files by itself.
    pub zero_copy: ZeroCopy,
    /// Memory for the contents of small objects.
    pub cache: CacheSize,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            zero_copy: ZeroCopy::Automatic,
            cache: CacheSize::Automatic,
        }
    }
}

/// How much memory each repository may use for the contents of small objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// What fits to the machine and the number of repositories.
    Automatic,
    /// So many bytes. With 0 each request opens its file; what was open lately is
    /// kept for those whose objects are deleted meanwhile.
    Bytes(u64),
}

/// Whether the kernel sends files by itself, without copying them into this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where it can: in plaintext (sendfile(2)), and over HTTP/1.1 with TLS where
    /// it has TLS too.
    Automatic,
    /// Files are read and written.
    Off,
}

/// How the process confines itself ([`crate::sandbox`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether it does.
    pub mode: Confine,
    /// Whom it becomes if it was started as root.
    pub user: String,
    /// What it may read beside what the configuration names, for reloads to come.
    pub directories: Vec<Placed<PathBuf>>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            mode: Confine::Automatic,
            user: "ostree-serve".into(),
            directories: Vec::new(),
        }
    }
}

impl Sandbox {
    /// Whether the other one means the same, wherever in a file it was written.
    pub fn means_same(&self, other: &Self) -> bool {
        let paths = |it: &Self| -> Vec<PathBuf> {
            it.directories.iter().map(|it| it.value.clone()).collect()
        };
        (self.mode, &self.user, paths(self)) == (other.mode, &other.user, paths(other))
    }
}

/// Whether the process confines itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confine {
    /// As far as the kernel can.
    Automatic,
    /// In full, or there is no start.
    Required,
    /// Not at all. Who was root is not root any more all the same.
    Off,
}

/// A directory and the URL prefix under which it is served.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The beginning of its URLs.
    pub prefix: Prefix,
    /// The directory.
    pub path: Placed<PathBuf>,
}

/// A repository, its prefix, and how it publishes.
#[derive(Clone, Debug)]
pub struct RepoMount {
    /// Where it is, and where it is served.
    pub mount: Mount,
    /// How its publications are judged and noticed.
    pub publishing: Publishing,
}

/// How the publications of a repository are judged and noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publishing {
    /// Whether summaries, signatures and refs are served as whole generations.
    /// If not, files are served as they lie.
    pub coherent: bool,
    /// Public keys that summaries have to be signed with; empty if any
    /// signature that fits is good enough.
    pub verify_keys: Vec<Placed<PathBuf>>,
    /// How long a summary that lost its signature waits for a new one before it
    /// is published without.
    pub hold_unsigned: Duration,
    /// How long refs that name commits which are not there wait for them before
    /// they are published nevertheless.
    pub hold_incomplete: Duration,
    /// How long what was replaced or pruned is still served to clients that
    /// began before.
    pub grace: Duration,
    /// How changes are noticed.
    pub notice: Notice,
    /// Time between two looks for changes that nobody told of.
    pub poll: Duration,
}

impl Default for Publishing {
    fn default() -> Self {
        Self {
            coherent: true,
            verify_keys: Vec::new(),
            // Whoever signs may have to type a passphrase.
            hold_unsigned: Duration::from_secs(60),
            // `ostree pull --mirror` writes the summary first and the objects
            // after it (client-contract 3.1).
            hold_incomplete: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(3600),
            notice: Notice::Automatic,
            poll: Duration::from_secs(5),
        }
    }
}

impl Publishing {
    /// Whether the other one means the same, wherever in a file it was written.
    pub fn means_same(&self, other: &Self) -> bool {
        let keys = |it: &Self| -> Vec<PathBuf> {
            it.verify_keys.iter().map(|key| key.value.clone()).collect()
        };
        let rest = |it: &Self| Self {
            verify_keys: Vec::new(),
            ..it.clone()
        };
        keys(self) == keys(other) && rest(self) == rest(other)
    }
}

/// How changes of a repository are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The kernel tells (inotify), where the file system can; looking now and
    /// then is the safety net.
    Automatic,
    /// By looking now and then alone.
    Poll,
}

/// A value, and where the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub place: Place,
}

impl Config {
    /// Reads and judges a configuration file.
    ///
    /// # Errors
    /// Everything that is wrong with it; never empty.
    pub fn load(file: &Path) -> Result<Self, Vec<Finding>> {
        let text = read(file).map_err(|error| {
            let finding = Finding::error(file, format!("cannot be read: {error}"));
            vec![
                finding
                    .remedy("name another file with --config, or start from the sample serve.toml"),
            ]
        })?;
        Self::parse(&text, file)
    }

    /// Judges the text of a configuration file. `file` is named in findings,
    /// and paths in the text are relative to its directory.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, Vec<Finding>> {
        let written = written::parse(text, file).map_err(|finding| vec![finding])?;
        written::Source { file, text }.judge(written)
    }
}

/// A regular file's text. Nothing else can be read again at a reload.
fn read(file: &Path) -> io::Result<String> {
    let mut opened = File::options()
        .read(true)
        // A FIFO opens at once, and is then found to be no regular file.
        .custom_flags(libc::O_NONBLOCK)
        .open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    opened.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
