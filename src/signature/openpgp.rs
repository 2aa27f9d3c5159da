//! OpenPGP keys, and which of them count. What binds a key to its owner's
//! wishes are signatures too, and each is verified before it is believed.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use pgp::armor::Dearmor;
use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    KeyFlags, Packet, PacketParser, PacketTrait, Signature, SignatureType, SubpacketData,
};
use pgp::types::{KeyDetails, Tag, VerifyingKey};

use super::packet::SignaturePacket;
use crate::finding::{Finding, shell_word};

/// How the ASCII armor of anything from OpenPGP begins.
pub(super) const ARMOR: &str = "-----BEGIN PGP ";

/// A public key with its subkeys and all that was signed of them.
#[derive(Debug)]
pub(super) struct Certificate(SignedPublicKey);

/// Reads binary packets, or the armored ones in a text.
pub(super) fn parse(data: &[u8], file: &Path) -> Result<Vec<Certificate>, Finding> {
    let malformed = |reason: String| {
        Finding::error(file, format!("it holds no OpenPGP public keys: {reason}")).remedy(format!(
            "export the keys anew: `gpg --export KEY > {}`",
            shell_word(file)
        ))
    };
    // Keyboxes are gpg's own and not an exchange format.
    if data.get(8..12) == Some(b"KBXf") {
        let word = shell_word(file);
        return Err(
            Finding::error(file, "it is a keybox of gpg's").remedy(format!(
                "export its keys: `gpg --no-default-keyring --keyring {word} --export > {word}.gpg`"
            )),
        );
    }
    match std::str::from_utf8(data) {
        Ok(text) => armored(text).map_err(malformed),
        Err(_) => binary(data).map_err(malformed),
    }
}

fn armored(text: &str) -> Result<Vec<Certificate>, String> {
    let mut certificates = Vec::new();
    let starts: Vec<usize> = text.match_indices(ARMOR).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    for (&start, end) in starts.iter().zip(ends) {
        let mut packets = Vec::new();
        std::io::Read::read_to_end(
            &mut Dearmor::new(&text.as_bytes()[start..end]),
            &mut packets,
        )
        .map_err(|error| error.to_string())?;
        certificates.extend(binary(&packets)?);
    }
    Ok(certificates)
}

/// At least one key, or an error: what was put in the file is meant to count.
fn binary(data: &[u8]) -> Result<Vec<Certificate>, String> {
    let packets = packets(data).map_err(|error| error.to_string())?;
    let is_secret = |packet: &Packet| matches!(packet.tag(), Tag::SecretKey | Tag::SecretSubkey);
    if packets.iter().any(is_secret) {
        return Err("there is a secret key, which a server must not have".into());
    }
    let mut certificates = Vec::new();
    for key in SignedPublicKey::from_packets(packets.into_iter().map(Ok).peekable()) {
        let certificate = Certificate(key.map_err(|error| error.to_string())?);
        if certificate.bindings(0).is_empty() {
            let name = certificate.name(&certificate.0.primary_key);
            return Err(format!("{name} has no valid signature of its own"));
        }
        certificates.push(certificate);
    }
    match certificates.is_empty() {
        true => Err("there is no key in it".into()),
        false => Ok(certificates),
    }
}

/// Without those that say nothing: old keyrings have gpg's notes on trust
/// between the others.
fn packets(data: &[u8]) -> pgp::errors::Result<Vec<Packet>> {
    let is_note = |tag| matches!(tag, Tag::Trust | Tag::Marker | Tag::Padding);
    PacketParser::new(data)
        .filter(|packet| packet.as_ref().map_or(true, |it| !is_note(it.tag())))
        .collect()
}

/// Whether one of the keys made this signature, which is of `document` as far as
/// it tells, and counts. Gives the key's name.
pub(super) fn verify(
    certificates: &[Certificate],
    document: &[u8],
    packet: &SignaturePacket,
    now: SystemTime,
) -> Result<String, String> {
    let signature = Signature::try_from_reader(packet.header, &packet.body[..])
        .map_err(|error| format!("an OpenPGP signature is malformed: {error}"))?;
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut reason = None;
    for certificate in certificates {
        match certificate.verify(document, &signature, now) {
            Some(Ok(name)) => return Ok(name),
            Some(Err(why)) => reason = Some(why),
            None => {}
        }
    }
    Err(reason.unwrap_or_else(|| unknown_issuer(&signature)))
}

fn unknown_issuer(signature: &Signature) -> String {
    let fingerprints = signature.issuer_fingerprint();
    let ids = signature.issuer_key_id();
    let name = match (fingerprints.first(), ids.first()) {
        (Some(fingerprint), _) => format!("{fingerprint:X}"),
        (None, Some(id)) => id.to_string().to_uppercase(),
        (None, None) => return "an OpenPGP signature does not say by which key it is".into(),
    };
    format!("OpenPGP key {name}, which signed, is not among those named")
}

impl Certificate {
    /// `None` if the signature is by another key.
    fn verify(
        &self,
        document: &[u8],
        signature: &Signature,
        now: u64,
    ) -> Option<Result<String, String>> {
        let primary = &self.0.primary_key;
        if is_by(signature, primary) {
            let usable = self
                .check_primary(now)
                .and_then(|bindings| may_sign(&bindings));
            return Some(self.judge(primary, usable, document, signature, now));
        }
        let subkey = self
            .0
            .public_subkeys
            .iter()
            .find(|it| is_by(signature, &it.key))?;
        let usable = self
            .check_primary(now)
            .and_then(|_| self.check_subkey(subkey, now));
        Some(self.judge(&subkey.key, usable, document, signature, now))
    }

    fn judge(
        &self,
        key: &impl VerifyingKey,
        usable: Result<(), &str>,
        document: &[u8],
        signature: &Signature,
        now: u64,
    ) -> Result<String, String> {
        let name = self.name(key);
        usable.map_err(|reason| format!("{name} {reason}"))?;
        check_signature(signature, key, now)
            .map_err(|reason| format!("the signature of {name} {reason}"))?;
        signature
            .verify(key, document)
            .map_err(|error| format!("the signature of {name} is wrong: {error}"))?;
        Ok(name)
    }

    /// For people.
    fn name(&self, key: &impl KeyDetails) -> String {
        let owner = self.0.details.users.first().map(|user| {
            let id = String::from_utf8_lossy(user.id.id()).into_owned();
            format!(" ({})", id.escape_debug())
        });
        let owner = owner.unwrap_or_default();
        format!("OpenPGP key {:X}{owner}", key.fingerprint())
    }

    /// Whether the primary key counts. Gives its [`Certificate::bindings`].
    fn check_primary(&self, now: u64) -> Result<Vec<&Signature>, &'static str> {
        let key = &self.0.primary_key;
        let mut revocations = self.0.details.revocation_signatures.iter();
        if revocations.any(|it| it.verify_key(key).is_ok()) {
            return Err("was revoked");
        }
        let bindings = self.bindings(now);
        if bindings.is_empty() {
            return Err("has no valid signature of its own");
        }
        check_age(key, &bindings, now).map(|()| bindings)
    }

    /// What its owner last said of the primary key: of the key itself, and of it
    /// under a name.
    fn bindings(&self, now: u64) -> Vec<&Signature> {
        let key = &self.0.primary_key;
        let details = &self.0.details;
        let direct = newest(&details.direct_signatures, now, |it| {
            it.verify_key(key).is_ok()
        });
        let of_users = details.users.iter().filter_map(|user| {
            let newest = newest(&user.signatures, now, |it| {
                it.verify_certification(key, Tag::UserId, &user.id).is_ok()
            })?;
            (newest.typ() != Some(SignatureType::CertRevocation)).then_some(newest)
        });
        let of_users = of_users.max_by_key(|it| it.created());
        direct.into_iter().chain(of_users).collect()
    }

    /// Whether a subkey counts, if the primary key does: that one must have
    /// bound the subkey, and the subkey itself.
    fn check_subkey(&self, subkey: &SignedPublicSubKey, now: u64) -> Result<(), &'static str> {
        let primary = &self.0.primary_key;
        let is_valid = |it: &Signature| it.verify_subkey_binding(primary, &subkey.key).is_ok();
        let is_revocation = |it: &Signature| it.typ() == Some(SignatureType::SubkeyRevocation);
        let mut signatures = subkey.signatures.iter();
        if signatures.any(|it| is_revocation(it) && is_valid(it)) {
            return Err("was revoked");
        }
        let binding =
            newest(&subkey.signatures, now, is_valid).ok_or("is not bound to its primary key")?;
        check_age(&subkey.key, &[binding], now)?;
        may_sign(&[binding])?;
        binding
            .embedded_signature()
            .filter(|it| it.verify_primary_key_binding(&subkey.key, primary).is_ok())
            .map(|_| ())
            .ok_or("did not agree to its primary key")
    }
}

/// Whether a signature says that it is by this key, as all do today.
fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (ids, fingerprints) = (signature.issuer_key_id(), signature.issuer_fingerprint());
    ids.contains(&&key.legacy_key_id()) || fingerprints.contains(&&key.fingerprint())
}

/// The last of the signatures that count. Unlike in signatures of documents SHA-1
/// will do, as it does for gpg: many old keys have no other.
fn newest(
    signatures: &[Signature],
    now: u64,
    is_valid: impl Fn(&Signature) -> bool,
) -> Option<&Signature> {
    signatures
        .iter()
        .filter(|it| it.hash_alg() != Some(HashAlgorithm::Md5))
        .filter(|it| it.created().is_some() && !has_expired(it, now) && is_understood(it))
        .filter(|it| is_valid(it))
        .max_by_key(|it| it.created())
}

fn check_age(key: &impl KeyDetails, bindings: &[&Signature], now: u64) -> Result<(), &'static str> {
    let created = u64::from(key.created_at().as_secs());
    if created > now {
        return Err("is from the future; one of the clocks is wrong");
    }
    let lifetimes = bindings.iter().filter_map(|it| it.key_expiration_time());
    let mut lifetimes = lifetimes.map(|it| u64::from(it.as_secs()));
    // Zero means without end.
    match lifetimes.any(|seconds| seconds != 0 && created + seconds <= now) {
        true => Err("has expired"),
        false => Ok(()),
    }
}

/// A key of which nothing is said may do what its algorithm can.
fn may_sign(bindings: &[&Signature]) -> Result<(), &'static str> {
    let flags = bindings.iter().filter_map(|it| key_flags(it));
    match flags.into_iter().all(KeyFlags::sign) {
        true => Ok(()),
        false => Err("is not for signing"),
    }
}

fn key_flags(signature: &Signature) -> Option<&KeyFlags> {
    let mut subpackets = signature.config()?.hashed_subpackets();
    subpackets.find_map(|it| match &it.data {
        SubpacketData::KeyFlags(flags) => Some(flags),
        _ => None,
    })
}

/// What the mathematics do not tell.
fn check_signature(
    signature: &Signature,
    key: &impl KeyDetails,
    now: u64,
) -> Result<(), &'static str> {
    let Some(created) = signature.created() else {
        return Err("has no date");
    };
    if created < key.created_at() {
        return Err("is older than the key");
    }
    if has_expired(signature, now) {
        return Err("has expired");
    }
    match is_understood(signature) {
        true => Ok(()),
        false => Err("has conditions that are not understood"),
    }
}

fn has_expired(signature: &Signature, now: u64) -> bool {
    let created = signature.created().map_or(0, |it| it.as_secs());
    let lifetime = signature
        .signature_expiration_time()
        .map_or(0, |it| it.as_secs());
    lifetime != 0 && u64::from(created) + u64::from(lifetime) <= now
}

/// Whether nothing in it is critical and unknown (RFC 9580, 5.2.3.7).
fn is_understood(signature: &Signature) -> bool {
    signature.config().is_some_and(|config| {
        config.hashed_subpackets().all(|it| {
            let is_unknown = matches!(
                it.data,
                SubpacketData::Experimental(..)
                    | SubpacketData::Other(..)
                    | SubpacketData::Notation(..)
            );
            !(it.is_critical && is_unknown)
        })
    })
}
