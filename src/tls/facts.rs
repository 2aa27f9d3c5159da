//! What is in a certificate that operators ask about, and what they should know.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

use crate::config::PublicName;
use crate::finding::Finding;

/// What operators want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The serial number in hexadecimal digits, as openssl writes it.
    pub serial: String,
    /// The names and addresses that clients may use: the subject's alternative
    /// names, which are the only ones that they look at.
    pub names: Vec<String>,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// Its expiry.
    pub not_after: SystemTime,
    /// Whether it may be a server's, as far as it says what it is for (the
    /// extended key usage of RFC 5280, 4.2.1.12).
    pub for_servers: bool,
}

/// id-kp-serverAuth of RFC 5280, 4.2.1.12.
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");

/// Reads the parts of a certificate that operators ask about.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
    let parsed = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let certificate = parsed.tbs_certificate();
    let validity = certificate.validity();
    let names = certificate
        .get_extension::<SubjectAltName>()
        .map_err(|error| error.to_string())?
        .map_or_else(Vec::new, |(_, names)| {
            names.0.iter().filter_map(name).collect()
        });
    let usage = certificate
        .get_extension::<ExtendedKeyUsage>()
        .map_err(|error| error.to_string())?;
    Ok(CertificateFacts {
        for_servers: usage.is_none_or(|(_, usage)| usage.0.contains(&SERVER_AUTH)),
        serial: serial(certificate.serial_number().as_bytes()),
        names,
        not_before: validity.not_before.to_system_time(),
        not_after: validity.not_after.to_system_time(),
    })
}

/// The digits of a positive number in DER form, whose first byte may say no more
/// than that it is positive.
pub(super) fn serial(bytes: &[u8]) -> String {
    let digits = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    digits.iter().map(|byte| format!("{byte:02X}")).collect()
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

/// How much of a certificate's life is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// Clients refuse it as long as their clocks say so.
    NotYetValid,
    /// Enough.
    Plenty,
    /// Less than three weeks. Whatever renews certificates has failed a few
    /// times by now.
    Weeks,
    /// Less than a week.
    Days,
    /// Nothing.
    Expired,
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

impl CertificateFacts {
    /// How much of its life is left at the time `now`.
    pub fn remaining(&self, now: SystemTime) -> Remaining {
        if now < self.not_before {
            return Remaining::NotYetValid;
        }
        match self.not_after.duration_since(now) {
            Ok(left) if left > 21 * DAY => Remaining::Plenty,
            Ok(left) if left > 7 * DAY => Remaining::Weeks,
            Ok(left) if left > Duration::ZERO => Remaining::Days,
            _ => Remaining::Expired,
        }
    }

    /// What operators should know about its life at the time `now`; `file` is
    /// where it is.
    pub fn validity(&self, file: &Path, now: SystemTime) -> Option<Finding> {
        let date = |time| humantime::format_rfc3339_seconds(time).to_string();
        let renew = "renew it, and put the new certificate and key in place";
        let soon = |days| {
            let date = date(self.not_after);
            let reason = format!("the certificate expires on {date}, in less than {days} days");
            Finding::warning(file, reason).remedy(renew)
        };
        match self.remaining(now) {
            Remaining::Plenty => None,
            Remaining::Weeks => Some(soon(21)),
            Remaining::Days => Some(soon(7)),
            Remaining::Expired => {
                let date = date(self.not_after);
                let reason = format!("the certificate expired on {date}; clients refuse it");
                Some(Finding::error(file, reason).remedy(renew))
            }
            Remaining::NotYetValid => {
                let date = date(self.not_before);
                let reason =
                    format!("the certificate is not valid before {date}; clients refuse it");
                let finding = Finding::error(file, reason);
                Some(finding.remedy("check this machine's clock: `timedatectl`"))
            }
        }
    }

    /// What operators should know about it at the time `now`; `file` is where
    /// it is.
    pub fn findings(&self, file: &Path, now: SystemTime) -> Vec<Finding> {
        let mut findings: Vec<_> = self.validity(file, now).into_iter().collect();
        if self.names.is_empty() {
            findings.push(
                Finding::error(file, "the certificate names no host (subjectAltName); clients refuse it").remedy(
                    "make one with names: `openssl req -x509 … -addext subjectAltName=DNS:repo.example.com`",
                ),
            );
        }
        if !self.for_servers {
            let reason = "the certificate is not for servers (extendedKeyUsage); clients refuse it";
            findings.push(
                Finding::error(file, reason)
                    .remedy("get one with the extended key usage serverAuth"),
            );
        }
        findings
    }

    /// That clients who know the server by this name refuse it, if that is so.
    pub fn other_host(&self, file: &Path, name: &PublicName) -> Option<Finding> {
        (!self.covers(&name.host)).then(|| {
            let reason = format!(
                "the certificate is for {}, and `listen.public_name` is {}: clients refuse it",
                self.names.join(", "),
                name.host
            );
            Finding::error(file, reason).remedy("make them agree")
        })
    }

    /// That it is for none of the hosts that the one before it was for, if that is
    /// so.
    pub fn other_hosts(&self, file: &Path, before: &Self) -> Option<Finding> {
        let remains = before.names.iter().any(|it| self.covers(it));
        (!remains).then(|| {
            let reason = format!(
                "the certificate is for {}, and the one before it was for {}: clients that know \
                 the server by a name of that refuse it",
                self.names.join(", "),
                before.names.join(", ")
            );
            Finding::warning(file, reason)
                .remedy("if that is a mistake, put the right certificate and key in place")
        })
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
