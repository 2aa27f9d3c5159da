//! Certificates and keys, and which clients' certificates count. Only this
//! module decides what rustls does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

pub use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::server::TlsStream;

use crate::config::{Placed, Protocol, Tls};
use crate::finding::{Finding, shell_word};

/// A certificate that can be served with.
pub struct Identity {
    /// What the handshake needs.
    pub config: Arc<ServerConfig>,
    /// What is in the certificate.
    pub certificate: CertificateFacts,
}

/// What operators want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The names and addresses that clients may use: the subject's alternative
    /// names, which are the only ones that they look at.
    pub names: Vec<String>,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// Its expiry.
    pub not_after: SystemTime,
}

/// Loads what the configuration names.
///
/// # Errors
/// What is wrong with which file; never empty.
pub fn load(tls: &Tls) -> Result<Identity, Vec<Finding>> {
    let chain = read_certificates(&tls.certificate);
    let key = read_key(&tls.private_key);
    let client_ca = tls.client_ca.as_ref().map(read_certificates).transpose();
    let (chain, key, client_ca) = match (chain, key, client_ca) {
        (Ok(chain), Ok(key), Ok(client_ca)) => (chain, key, client_ca),
        (chain, key, client_ca) => {
            let errors = [chain.err(), key.err(), client_ca.err()];
            return Err(errors.into_iter().flatten().collect());
        }
    };
    build(tls, chain, key, client_ca).map_err(|finding| vec![finding])
}

fn build(
    tls: &Tls,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_ca: Option<Vec<CertificateDer<'static>>>,
) -> Result<Identity, Finding> {
    let file = &tls.certificate.value;
    let facts = facts(&chain[0]).map_err(|reason| {
        Finding::error(&**file, format!("the certificate is malformed: {reason}"))
    })?;
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

fn read_certificates(file: &Placed<PathBuf>) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let path = file.value.as_path();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => {
            Err(no_item(path, "certificate", "-----BEGIN CERTIFICATE-----"))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(pem_finding(file, error, "certificate")),
    }
}

fn read_key(file: &Placed<PathBuf>) -> Result<PrivateKeyDer<'static>, Finding> {
    match PrivateKeyDer::from_pem_file(&file.value) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) => Err(no_item(
            &file.value,
            "unencrypted private key",
            "-----BEGIN PRIVATE KEY-----",
        )),
        Err(error) => Err(pem_finding(file, error, "private key")),
    }
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

fn pem_finding(file: &Placed<PathBuf>, error: PemError, what: &str) -> Finding {
    let path = file.value.as_path();
    match error {
        PemError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            let reason = format!("the {what} `{}` does not exist", path.display());
            Finding::error(file.place.clone(), reason)
                .remedy("name the file in the configuration, or put it in place")
        }
        PemError::Io(error) => Finding::error(path, format!("the {what} cannot be read: {error}")).remedy(format!(
            "let the server's user read it: `chgrp ostree-serve {0} && chmod g+r {0}`; `namei -l {0}` shows the way to it",
            shell_word(path)
        )),
        error => Finding::error(path, format!("the {what} is malformed: {error}")),
    }
}

/// Reads the parts of a certificate that operators ask about.
fn facts(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
    let parsed = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let certificate = parsed.tbs_certificate();
    let validity = certificate.validity();
    let names = certificate
        .get_extension::<SubjectAltName>()
        .map_err(|error| error.to_string())?
        .map_or_else(Vec::new, |(_, names)| {
            names.0.iter().filter_map(name).collect()
        });
    Ok(CertificateFacts {
        names,
        not_before: validity.not_before.to_system_time(),
        not_after: validity.not_after.to_system_time(),
    })
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

impl CertificateFacts {
    /// What operators should know about it at the time `now`; `file` is where
    /// it is.
    pub fn findings(&self, file: &Path, now: SystemTime) -> Vec<Finding> {
        const SOON: Duration = Duration::from_secs(21 * 24 * 3600);
        let mut findings = Vec::new();
        let date = |time| humantime::format_rfc3339_seconds(time).to_string();
        let renew = "renew it, and put the new certificate and key in place";
        if now >= self.not_after {
            let reason = format!(
                "the certificate expired on {}; clients refuse it",
                date(self.not_after)
            );
            findings.push(Finding::error(file, reason).remedy(renew));
        } else if now < self.not_before {
            let reason = format!(
                "the certificate is not valid before {}; clients refuse it",
                date(self.not_before)
            );
            findings.push(
                Finding::error(file, reason).remedy("check this machine's clock: `timedatectl`"),
            );
        } else if now + SOON >= self.not_after {
            let reason = format!("the certificate expires on {}", date(self.not_after));
            findings.push(Finding::warning(file, reason).remedy(renew));
        }
        if self.names.is_empty() {
            findings.push(
                Finding::error(file, "the certificate names no host (subjectAltName); clients refuse it").remedy(
                    "make one with names: `openssl req -x509 … -addext subjectAltName=DNS:repo.example.com`",
                ),
            );
        }
        findings
    }

    /// Whether clients accept it for this host name or address; a wildcard
    /// stands for one label.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        let address = host.parse::<std::net::IpAddr>().ok();
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            None => {
                name.eq_ignore_ascii_case(host)
                    || (address.is_some() && name.parse().ok() == address)
            }
            Some(domain) => host.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && rest.eq_ignore_ascii_case(domain)
            }),
        })
    }
}

/// What to speak after a handshake; `None` if the client offers nothing that is
/// configured. A client without ALPN speaks HTTP/1.1.
pub fn protocol<S>(acceptor: &TlsAcceptor, stream: &TlsStream<S>) -> Option<Protocol> {
    let chosen = stream.get_ref().1.alpn_protocol();
    let name = chosen.unwrap_or(Protocol::Http1.name().as_bytes());
    let configured = &acceptor.config().alpn_protocols;
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
