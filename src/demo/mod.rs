//! `ostree-serve demo`: a small real repository, served on this machine with a
//! certificate made for the occasion, and what to paste next.
//!
//! The repository was made by the real ostree (`tests/fixtures/make-demo-repository`).
//! It and everything else lie in a temporary directory that goes at the end.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{CertificateParams, DnType, KeyPair};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Address, Config};
use crate::daemon::{self, Daemon, StartError};
use crate::finding::shell_word;
use crate::logging;

/// The repository: `config`, `objects/`, `refs/` and the rest, as a tar archive.
pub const REPOSITORY: &[u8] = include_bytes!("repository.tar");
/// The public key of its signatures, in binary form.
pub const PUBLIC_KEY: &[u8] = include_bytes!("demo.gpg");
/// Its main ref.
pub const REF: &str = "demo/x86_64/stable";

const HTTPS_PORT: u16 = 8443;
const REDIRECT_PORT: u16 = 8080;

/// Serves the demonstration until a signal.
///
/// # Errors
/// As [`Daemon::start`].
pub fn run() -> Result<(), StartError> {
    logging::start();
    let directory = tempfile::Builder::new()
        .prefix("ostree-serve-demo-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    daemon::block_on(serve(&directory))?;
    // Dropping it would do, but could not say what went wrong.
    directory
        .close()
        .context("cannot remove the temporary directory")?;
    Ok(())
}

async fn serve(directory: &TempDir) -> Result<(), StartError> {
    unpack(directory.path()).context("cannot unpack the demonstration repository")?;
    make_certificate(directory.path()).context("cannot make a certificate")?;
    let daemon = start(directory.path())?;
    let path = directory.path().to_owned();
    let terminated = daemon::termination(move || {
        // Somebody is in a hurry; what remains is in the temporary directory.
        _ = fs::remove_dir_all(path);
    })?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot receive signals")?;

    let ports = daemon
        .addresses()
        .into_iter()
        .filter_map(|address| match address {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        });
    let text = instructions(directory.path(), &ports.collect::<Vec<_>>());
    // A closed standard output is no reason to stop serving.
    _ = io::stdout().write_all(text.as_bytes());
    daemon
        .run(async {
            tokio::select! {
                () = terminated => {}
                // The terminal was closed.
                _ = hangup.recv() => {}
            }
        })
        .await;
    Ok(())
}

/// Starts at ports that are free. Somebody may take one between the look and
/// the start; then others are looked for.
fn start(directory: &Path) -> Result<Daemon, StartError> {
    const ATTEMPTS: usize = 10;
    let is_taken = |error: &anyhow::Error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        kind == Some(io::ErrorKind::AddrInUse)
    };
    let file = directory.join("serve.toml");
    let mut attempts = 0;
    loop {
        attempts += 1;
        let text = configuration(free_port(HTTPS_PORT)?, free_port(REDIRECT_PORT)?);
        fs::write(&file, &text).context("cannot write the configuration")?;
        match Daemon::start(&Config::parse(&text, &file)?) {
            Err(StartError::Runtime(error)) if is_taken(&error) && attempts < ATTEMPTS => {}
            result => return result,
        }
    }
}

fn unpack(directory: &Path) -> io::Result<()> {
    let www = directory.join("www");
    fs::create_dir(&www)?;
    fs::write(www.join("demo.gpg"), PUBLIC_KEY)?;
    fs::write(www.join("index.html"), include_str!("index.html"))?;
    tar::Archive::new(REPOSITORY).unpack(directory.join("repo"))
}

fn make_certificate(directory: &Path) -> anyhow::Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LIFETIME: Duration = DAY.saturating_mul(90);
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    // A client's clock may be behind this one's.
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + LIFETIME).into();
    params
        .distinguished_name
        .push(DnType::CommonName, "ostree-serve demonstration");
    fs::write(
        directory.join("certificate.pem"),
        params.self_signed(&key)?.pem(),
    )?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory.join("key.pem"))?;
    file.write_all(key.serialize_pem().as_bytes())?;
    Ok(())
}

/// `wanted`, or any other port if somebody has that one.
fn free_port(wanted: u16) -> anyhow::Result<u16> {
    /// How far to look for one that is easy to remember.
    const NEXT: u16 = 20;
    (wanted..wanted + NEXT)
        .chain([0])
        .find_map(|port| {
            let socket = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
            socket.local_addr().ok().map(|address| address.port())
        })
        .context("no port is free on 127.0.0.1")
}

fn configuration(https: u16, redirect: u16) -> String {
    format!(
        r#"[listen]
https    = ["127.0.0.1:{https}"]
redirect = ["127.0.0.1:{redirect}"]
admin    = "unix:admin.sock"

[tls]
certificate = "certificate.pem"
private_key = "key.pem"

[[repo]]
prefix = "/repo/demo"
path   = "repo"

[[static]]
prefix = "/"
path   = "www"
"#
    )
}

/// What to do next. `ports` are those of HTTPS and of the redirect.
fn instructions(directory: &Path, ports: &[u16]) -> String {
    let (https, redirect) = (
        ports.first().copied().unwrap_or(0),
        ports.get(1).copied().unwrap_or(0),
    );
    let taken = [(HTTPS_PORT, https), (REDIRECT_PORT, redirect)]
        .into_iter()
        .filter(|(wanted, got)| wanted != got)
        .map(|(wanted, got)| {
            format!("Port {wanted} is taken on this machine; using {got} instead.\n")
        })
        .collect::<String>();
    let word = |name: &str| shell_word(&directory.join(name));
    let (certificate, key, client) = (
        word("certificate.pem"),
        word("www/demo.gpg"),
        word("client"),
    );
    format!(
        "{taken}
Serving a demonstration repository. In another terminal:

  curl --cacert {certificate} https://localhost:{https}/repo/demo/config

  ostree init --repo={client} --mode=bare-user-only
  ostree remote add --repo={client} --set=tls-ca-path={certificate} \\
      --set=gpg-verify-summary=true --gpg-import={key} \\
      demo https://localhost:{https}/repo/demo
  ostree pull --repo={client} demo {REF}
  ostree ls --repo={client} demo:{REF} /usr/share/demo

In a browser (it will warn of the self-made certificate):

  https://localhost:{https}/      http://localhost:{redirect}/ leads there

Press Ctrl-C to stop. Everything is in {} and goes with it.
",
        directory.display()
    )
}

/// A file of the repository, for tests.
#[cfg(test)]
pub(crate) fn file(name: &str) -> Vec<u8> {
    let mut archive = tar::Archive::new(REPOSITORY);
    let is_it = |entry: &tar::Entry<'_, _>| *entry.path_bytes() == *name.as_bytes();
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(is_it).expect(name);
    let mut data = Vec::new();
    io::Read::read_to_end(&mut entry, &mut data).unwrap();
    data
}
