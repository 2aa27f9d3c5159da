//! Whether the certificates of a file lead from one to the next, as clients
//! follow them. The first one is the server's; what it says of itself is no
//! matter of the chain.

use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
use x509_cert::name::Name;

use crate::finding::Finding;

/// What the certificates of a file say of each other, the server's own first.
pub(super) struct Chain(Vec<Result<Link, String>>);

struct Link {
    subject: Name,
    issuer: Name,
    /// Tells authorities of the same name apart.
    key: Option<Vec<u8>>,
    issuer_key: Option<Vec<u8>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Chain {
    pub(super) fn of(certificates: &[CertificateDer<'_>]) -> Self {
        Self(certificates.iter().map(Link::of).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Why clients cannot follow it at the time `now`; `file` is where it is.
    pub(super) fn findings(&self, file: &Path, now: SystemTime) -> Vec<Finding> {
        let reasons = self.0.iter().enumerate().skip(1).filter_map(|(at, link)| {
            let before = self.0.get(at - 1)?.as_ref().ok();
            let reason = match link {
                Err(error) => Some(format!("is malformed: {error}")),
                Ok(link) => link.fault(before, now),
            };
            reason.map(|reason| format!("certificate {} of the chain {reason}", at + 1))
        });
        let finding = |reason| {
            Finding::error(file, reason).remedy(
                "put the whole chain in place: the server's certificate, then the one that \
                 issued it, and so on (certbot calls that fullchain.pem)",
            )
        };
        reasons.map(finding).collect()
    }
}

impl Link {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let it = parsed.tbs_certificate();
        let key = it.get_extension::<SubjectKeyIdentifier>().ok().flatten();
        let issuer_key = it.get_extension::<AuthorityKeyIdentifier>().ok().flatten();
        Ok(Self {
            subject: it.subject().clone(),
            issuer: it.issuer().clone(),
            key: key.map(|(_, it)| it.0.as_bytes().to_vec()),
            issuer_key: issuer_key
                .and_then(|(_, it)| it.key_identifier)
                .map(|it| it.as_bytes().to_vec()),
            not_before: it.validity().not_before.to_system_time(),
            not_after: it.validity().not_after.to_system_time(),
        })
    }

    /// Why it does not vouch for the one before it.
    fn fault(&self, before: Option<&Self>, now: SystemTime) -> Option<String> {
        let date = humantime::format_rfc3339_seconds;
        if let Some(before) = before.filter(|it| !self.has_issued(it)) {
            return Some(format!(
                "({}) has not issued the one before it, whose issuer is {}",
                self.subject, before.issuer
            ));
        }
        if now >= self.not_after {
            return Some(format!("expired on {}", date(self.not_after)));
        }
        let early = now < self.not_before;
        early.then(|| format!("is not valid before {}", date(self.not_before)))
    }

    /// By what both of them say; the signature is the clients' business.
    fn has_issued(&self, other: &Self) -> bool {
        let same_key = match (&self.key, &other.issuer_key) {
            (Some(key), Some(issuer_key)) => key == issuer_key,
            _ => true,
        };
        self.subject == other.issuer && same_key
    }
}

/// Whether a file in PEM form ends in the middle of something: after the last
/// whole part comes the beginning of another one. Text may stand there.
pub(super) fn is_cut_off(pem: &[u8]) -> bool {
    let lines = || pem.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let is_end = |line: &[u8]| {
        line.strip_prefix(b"-----END ")
            .is_some_and(|rest| rest.ends_with(b"-----"))
    };
    let mut rest = lines().rev().take_while(|line| !is_end(line));
    lines().any(is_end) && rest.any(|line| line.starts_with(b"-"))
}
