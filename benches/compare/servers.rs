//! The servers: what they are started with, and what is known of them while they
//! run. All have the same certificate, the same files and one core.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::client::try_connect;
use crate::common::wait_for;
use crate::{measure, nginx, others};

/// Longer than any row takes: nobody is to be sent away while measuring.
pub const PATIENCE_SECONDS: u32 = 3600;
/// Connections that each server is to bear.
pub const CONNECTIONS: usize = 4096;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Ours,
    /// Ours with everything in user space.
    OursWithoutZeroCopy,
    Nginx,
    Apache,
    Caddy,
}

impl Peer {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ostree-serve",
            Self::OursWithoutZeroCopy => "ostree-serve, no zero-copy",
            Self::Nginx => "nginx",
            Self::Apache => "Apache",
            Self::Caddy => "Caddy",
        }
    }

    /// Who can be compared beside ours and nginx on this machine.
    pub fn others() -> Vec<Self> {
        let mut others = Vec::new();
        if kernel_has_tls() {
            others.push(Self::OursWithoutZeroCopy);
        }
        others.extend(others::apache().map(|_| Self::Apache));
        others.extend(others::caddy().map(|_| Self::Caddy));
        others
    }

    /// Starts it on the servers' core, and waits until it listens.
    pub fn start(self, ours: &Path, site: &Site) -> Server {
        let mut server = self.spawn(ours, site);
        server.wait_until_listening();
        server
    }

    /// Starts it on the servers' core.
    pub fn spawn(self, ours: &Path, site: &Site) -> Server {
        let directory = TempDir::new().unwrap();
        let ports = [free_port(), free_port()];
        for (name, text) in [
            ("certificate.pem", &site.certificate),
            ("key.pem", &site.key),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mut command = match self {
            Self::Ours => our_command(ours, site, directory.path(), ports, "auto"),
            Self::OursWithoutZeroCopy => our_command(ours, site, directory.path(), ports, "off"),
            Self::Nginx => nginx::command(site, directory.path(), ports),
            Self::Apache => {
                let program = others::apache().expect("Apache, which was there");
                others::apache_command(&program, site, directory.path(), ports)
            }
            Self::Caddy => {
                let program = others::caddy().expect("Caddy, which was there");
                others::caddy_command(&program, site, directory.path(), ports)
            }
        };
        let log = fs::File::create(directory.path().join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = measure::on_server_core(|| command.spawn());
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Server {
            directory,
            ports,
            child,
        }
    }
}

/// Whether the kernel can do TLS by itself.
pub fn kernel_has_tls() -> bool {
    let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    known.split_whitespace().any(|it| it == "tls")
}

/// What is served.
#[derive(Clone)]
pub struct Site {
    /// The directory that the repositories are in.
    pub root: PathBuf,
    /// Their names there, and in front of each path. A server without the notion
    /// of a repository serves all of `root`.
    pub repositories: Vec<String>,
    /// Both in PEM form, P-256.
    certificate: String,
    key: String,
}

impl Site {
    /// The same, but with these repositories.
    pub fn with(&self, repositories: &[&str]) -> Self {
        let repositories = repositories.iter().map(|&it| it.to_owned()).collect();
        Self {
            repositories,
            ..self.clone()
        }
    }

    /// With a certificate of its own.
    pub fn new(root: &Path, repositories: &[&str]) -> Self {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            root: root.to_owned(),
            repositories: repositories.iter().map(|&it| it.to_owned()).collect(),
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }
}

fn our_command(
    program: &Path,
    site: &Site,
    directory: &Path,
    [https, http]: [u16; 2],
    zero_copy: &str,
) -> Command {
    let mut text = format!(
        "[transfer]\nzero_copy = {zero_copy:?}\n[listen]\nhttps = [\"127.0.0.1:{https}\"]\nhttp = [\"127.0.0.1:{http}\"]\n\
         redirect = []\ncontrol = \"control.sock\"\n\
         [tls]\ncertificate = \"certificate.pem\"\nprivate_key = \"key.pem\"\n\
         [limits]\nconnections = {CONNECTIONS}\nheader = \"{PATIENCE_SECONDS}s\"\nidle = \"{PATIENCE_SECONDS}s\"\n\
         stalled_transfer = \"{PATIENCE_SECONDS}s\"\ndrain = \"100ms\"\n"
    );
    for name in &site.repositories {
        let path = site.root.join(name);
        text += &format!("[[repo]]\nprefix = \"/{name}\"\npath = {path:?}\n");
    }
    let file = directory.join("serve.toml");
    fs::write(&file, text).unwrap();
    // It has as many threads as it may use cores.
    let mut command = Command::new(program);
    command.arg("--config").arg(file);
    command
}

/// A running server.
pub struct Server {
    directory: TempDir,
    ports: [u16; 2],
    child: Child,
}

impl Server {
    /// Where it serves TLS.
    pub fn https(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[0]).into()
    }

    /// Where it serves plaintext.
    pub fn http(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[1]).into()
    }

    /// The certificate, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    /// Seconds of CPU time so far, of all processes.
    pub fn cpu_seconds(&self) -> f64 {
        measure::cpu_seconds(&measure::tree(self.child.id()))
    }

    /// KiB of memory, of all processes.
    pub fn memory_kib(&self) -> f64 {
        measure::memory_kib(&measure::tree(self.child.id()))
    }

    fn wait_until_listening(&mut self) {
        for address in [self.https(), self.http()] {
            wait_for("a server to listen", || {
                let ended = self.child.try_wait().unwrap();
                assert_eq!(ended, None, "it ended: {}", self.log());
                try_connect(address).ok()
            });
        }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A master ends its workers; killing it would not.
        _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
