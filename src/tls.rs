//! Certificates and keys, and which clients' certificates count. Only this
//! module decides what rustls does.

mod chain;
mod facts;
pub mod kernel;
pub mod visitor;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

pub use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::server::TlsStream;

pub use self::facts::{CertificateFacts, Remaining};

use self::chain::Chain;
use self::facts::facts;
use self::kernel::KernelTls;
use crate::config::{Placed, Protocol, PublicName, Tls};
use crate::control::peer::Owner;
use crate::finding::{Finding, Severity, shell_word};
use crate::resource::checksum::Checksum;

/// A certificate that can be served with.
pub struct Identity {
    /// What the handshake needs.
    pub config: Arc<ServerConfig>,
    /// What is in the certificate.
    pub certificate: CertificateFacts,
    chain: Chain,
    source: Source,
}

impl Identity {
    /// Why clients cannot follow its chain at the time `now`; `file` is where it
    /// is.
    pub fn chain_findings(&self, file: &Path, now: SystemTime) -> Vec<Finding> {
        self.chain.findings(file, now)
    }

    /// Whether both were made from the same.
    pub fn is_like(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// What an identity was made from; the same makes the same again.
#[derive(PartialEq, Eq)]
struct Source {
    certificate: Checksum,
    private_key: Checksum,
    client_ca: Option<Checksum>,
    protocols: Vec<Protocol>,
}

/// Loads what the configuration names.
///
/// # Errors
/// What is wrong with which file; never empty.
pub fn load(tls: &Tls) -> Result<Identity, Vec<Finding>> {
    Files::read(tls)?.parse(tls)
}

/// What the files that the configuration names hold, beside an identity that is
/// being served with.
pub enum Renewal {
    /// What is being served with.
    Same,
    /// Another identity. Sessions of the one before can be resumed, unless
    /// other clients' certificates count now.
    New(Box<Identity>),
    /// The same with fewer certificates in its chain. Whoever writes the file may
    /// not have come to its end: it is to be used only if it stays so.
    Shorter(Box<Identity>),
}

/// Loads what the configuration names, to replace `running` at the time `now`.
///
/// # Errors
/// Why it cannot replace it: what [`load`] says, or that clients would refuse
/// the certificate at that time. The files may be only half replaced.
pub fn renew(
    tls: &Tls,
    public_name: Option<&PublicName>,
    running: &Identity,
    now: SystemTime,
) -> Result<Renewal, Vec<Finding>> {
    let files = Files::read(tls)?;
    let source = files.source(tls);
    if source == running.source {
        return Ok(Renewal::Same);
    }
    let mut identity = files.parse(tls)?;
    if source.certificate != running.source.certificate {
        let errors = worse(&tls.certificate.value, public_name, &identity, running, now);
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    // A ticket carries that its client's certificate was accepted.
    if source.client_ca == running.source.client_ca {
        let mut config = ServerConfig::clone(&identity.config);
        config.ticketer = Arc::clone(&running.config.ticketer);
        config.session_storage = Arc::clone(&running.config.session_storage);
        identity.config = Arc::new(config);
    }
    let identity = Box::new(identity);
    Ok(match identity.chain.len() < running.chain.len() {
        true => Renewal::Shorter(identity),
        false => Renewal::New(identity),
    })
}

/// Why clients would refuse `new`. What they put up with in `running`, since the
/// operator has begun with it, keeps nothing that is like it out.
fn worse(
    file: &Path,
    public_name: Option<&PublicName>,
    new: &Identity,
    running: &Identity,
    now: SystemTime,
) -> Vec<Finding> {
    let mut findings = new.certificate.findings(file, now);
    if running.chain.findings(file, now).is_empty() {
        findings.extend(new.chain.findings(file, now));
    }
    if let Some(name) = public_name.filter(|it| running.certificate.covers(&it.host)) {
        findings.extend(new.certificate.other_host(file, name));
    }
    findings.retain(|it| it.severity == Severity::Error);
    findings
}

/// Makes handshakes, with an identity that can be replaced: those that begin
/// after that are made with the new one.
pub struct Acceptor(ArcSwap<Handshake>);

/// How one handshake is made.
#[derive(Clone)]
pub struct Handshake {
    /// As whom.
    pub config: Arc<ServerConfig>,
    /// What may be left to the kernel after it.
    pub kernel: KernelTls,
}

impl Handshake {
    fn new(identity: &Identity, kernel: KernelTls) -> Self {
        let mut config = Arc::clone(&identity.config);
        if !kernel.is_none() {
            // The kernel is given the keys.
            Arc::make_mut(&mut config).enable_secret_extraction = true;
        }
        Self { config, kernel }
    }
}

impl Acceptor {
    /// With this identity.
    pub fn new(identity: &Identity, kernel: KernelTls) -> Self {
        Self(ArcSwap::from_pointee(Handshake::new(identity, kernel)))
    }

    /// From now on with this one.
    pub fn replace(&self, identity: &Identity, kernel: KernelTls) {
        self.0.store(Arc::new(Handshake::new(identity, kernel)));
    }

    /// For one handshake.
    pub fn current(&self) -> Arc<Handshake> {
        self.0.load_full()
    }
}

/// The bytes that an identity is made from. They are read once: a file may be
/// replaced at any time.
struct Files {
    certificate: Vec<u8>,
    private_key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(tls: &Tls) -> Result<Self, Vec<Finding>> {
        let certificate = read_file(&tls.certificate, CERTIFICATE);
        let private_key = read_file(&tls.private_key, PRIVATE_KEY);
        let client_ca = tls.client_ca.as_ref();
        let client_ca = client_ca
            .map(|file| read_file(file, CERTIFICATE))
            .transpose();
        let (certificate, private_key, client_ca) = all(certificate, private_key, client_ca)?;
        Ok(Self {
            certificate,
            private_key,
            client_ca,
        })
    }

    fn source(&self, tls: &Tls) -> Source {
        Source {
            certificate: Checksum::of(&self.certificate),
            private_key: Checksum::of(&self.private_key),
            client_ca: self.client_ca.as_deref().map(Checksum::of),
            protocols: tls.protocols.clone(),
        }
    }

    fn parse(&self, tls: &Tls) -> Result<Identity, Vec<Finding>> {
        let chain = parse_certificates(&tls.certificate, &self.certificate);
        let key = parse_key(&tls.private_key, &self.private_key);
        let client_ca = match (&tls.client_ca, &self.client_ca) {
            (Some(file), Some(pem)) => parse_certificates(file, pem).map(Some),
            _ => Ok(None),
        };
        let (chain, key, client_ca) = all(chain, key, client_ca)?;
        build(tls, self.source(tls), chain, key, client_ca).map_err(|finding| vec![finding])
    }
}

/// All three, or everything that is wrong with them.
fn all<A, B, C>(
    a: Result<A, Finding>,
    b: Result<B, Finding>,
    c: Result<C, Finding>,
) -> Result<(A, B, C), Vec<Finding>> {
    match (a, b, c) {
        (Ok(a), Ok(b), Ok(c)) => Ok((a, b, c)),
        (a, b, c) => {
            let errors = [a.err(), b.err(), c.err()];
            Err(errors.into_iter().flatten().collect())
        }
    }
}

fn build(
    tls: &Tls,
    source: Source,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_ca: Option<Vec<CertificateDer<'static>>>,
) -> Result<Identity, Finding> {
    let file = &tls.certificate.value;
    let facts = facts(&chain[0]).map_err(|reason| {
        Finding::error(&**file, format!("the certificate is malformed: {reason}"))
    })?;
    let links = Chain::of(&chain);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => mismatch(tls),
        error => Finding::error(
            &*tls.private_key.value,
            format!("the key cannot be used: {error}"),
        ),
    })?;
    let verifier = match client_ca {
        None => Arc::new(NoClientAuth),
        Some(authorities) => client_verifier(tls, authorities, &provider)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Finding::error(&**file, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = tls.protocols.iter().map(|it| it.name().into()).collect();
    // Stateless tickets resume a session on any thread, and under any number
    // of clients; one is enough for a client that reconnects.
    config.send_tls13_tickets = 1;
    config.ticketer = aws_lc_rs::Ticketer::new()
        .map_err(|error| Finding::error(&**file, format!("no session tickets: {error}")))?;
    Ok(Identity {
        config: Arc::new(config),
        certificate: facts,
        chain: links,
        source,
    })
}

fn mismatch(tls: &Tls) -> Finding {
    let [certificate, key] = [&tls.certificate, &tls.private_key].map(|it| shell_word(&it.value));
    Finding::error(
        &*tls.private_key.value,
        format!("the key does not belong to the certificate {certificate}"),
    )
    .remedy(format!(
        "put the pair in place that belongs together; these two must print the same: \
             `openssl x509 -noout -pubkey -in {certificate}` and `openssl pkey -pubout -in {key}`"
    ))
}

/// A client may present a certificate; if it does, it must be a good one.
fn client_verifier(
    tls: &Tls,
    authorities: Vec<CertificateDer<'static>>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Finding> {
    let file = tls
        .client_ca
        .as_ref()
        .map_or_else(|| Path::new(""), |it| &it.value);
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| {
            Finding::error(
                file,
                format!("a certificate is no certificate authority's: {error}"),
            )
        })?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| Finding::error(file, error.to_string()))
}

/// What findings call a file.
const CERTIFICATE: &str = "certificate";
const PRIVATE_KEY: &str = "private key";

/// A regular file's bytes. Nothing else has bytes that can be looked at again.
fn read_file(file: &Placed<PathBuf>, what: &str) -> Result<Vec<u8>, Finding> {
    /// Many times the authorities of all the world.
    const LONGEST: u64 = 16 * 1024 * 1024;
    let path = file.value.as_path();
    let unreadable = |error| unreadable_file(file, &error, what);
    let opened = File::options()
        .read(true)
        // A FIFO opens at once, and is then found to be no regular file.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unreadable)?;
    if !opened.metadata().map_err(unreadable)?.is_file() {
        return Err(Finding::error(
            path,
            format!("the {what} is no regular file"),
        ));
    }
    let mut bytes = Vec::new();
    opened
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 == LONGEST {
        return Err(Finding::error(path, format!("the {what} is too large")));
    }
    Ok(bytes)
}

fn parse_certificates(
    file: &Placed<PathBuf>,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let path = file.value.as_path();
    if chain::is_cut_off(pem) {
        let reason = format!("the {CERTIFICATE} is malformed: the file is cut off");
        return Err(Finding::error(path, reason).remedy("put the whole file in place again"));
    }
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if chain.is_empty() => {
            Err(no_item(path, CERTIFICATE, "-----BEGIN CERTIFICATE-----"))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(malformed(path, &error, CERTIFICATE)),
    }
}

fn parse_key(file: &Placed<PathBuf>, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Finding> {
    let path = file.value.as_path();
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) => Err(no_item(
            path,
            "unencrypted private key",
            "-----BEGIN PRIVATE KEY-----",
        )),
        Err(error) => Err(malformed(path, &error, PRIVATE_KEY)),
    }
}

fn malformed(path: &Path, error: &PemError, what: &str) -> Finding {
    Finding::error(path, format!("the {what} is malformed: {error}"))
}

fn no_item(path: &Path, what: &str, marker: &str) -> Finding {
    Finding::error(
        path,
        format!("there is no {what} in PEM form, which begins with `{marker}`"),
    )
    .remedy(format!(
        "see what it is: `file {0}; head -1 {0}`",
        shell_word(path)
    ))
}

fn unreadable_file(file: &Placed<PathBuf>, error: &io::Error, what: &str) -> Finding {
    let path = file.value.as_path();
    if error.kind() == io::ErrorKind::NotFound {
        let reason = format!("the {what} `{}` does not exist", path.display());
        return Finding::error(file.place.clone(), reason)
            .remedy("name the file in the configuration, or put it in place");
    }
    let group = Owner::this().group();
    // Only a name can be looked up.
    let group = shell_word(Path::new(group.strip_prefix("gid ").unwrap_or(&group)));
    Finding::error(path, format!("the {what} cannot be read: {error}")).remedy(format!(
        "let the server's group read it: `chgrp {group} {0} && chmod g+r {0}`; `namei -l {0}` shows the way to it",
        shell_word(path)
    ))
}

/// What to speak after a handshake; `None` if the client offers nothing that is
/// configured. A client without ALPN speaks HTTP/1.1.
pub fn protocol<S>(config: &ServerConfig, stream: &TlsStream<S>) -> Option<Protocol> {
    let chosen = stream.get_ref().1.alpn_protocol();
    let name = chosen.unwrap_or(Protocol::Http1.name().as_bytes());
    let configured = &config.alpn_protocols;
    [Protocol::Http2, Protocol::Http1]
        .into_iter()
        .find(|it| it.name().as_bytes() == name && configured.iter().any(|it| it == name))
}

/// Why a client's certificate was refused, if that is why a handshake failed:
/// its owner will ask the operator.
pub fn refused_certificate(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::InvalidCertificate(reason) => Some(reason.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
