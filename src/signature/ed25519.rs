//! Ed25519 as `ostree sign` uses it: bare keys and signatures of the document.

use std::io::Read;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use pgp::base64::Base64Decoder;

use crate::finding::{Finding, Place};

/// A public key.
#[derive(Debug)]
pub(super) struct PublicKey {
    bytes: Vec<u8>,
    /// In base64.
    name: String,
}

/// Reads one key from each line that is not empty.
pub(super) fn parse(text: &str, file: &Path) -> Result<Vec<PublicKey>, Finding> {
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let key = public_key(line).map_err(|reason| {
            let place = Place {
                file: file.to_owned(),
                position: Some((number, 1)),
            };
            Finding::error(place, reason).remedy(
                "put one ed25519 public key in base64 in each line, or use what `gpg --export` writes",
            )
        })?;
        keys.push(key);
    }
    match keys.is_empty() {
        true => Err(Finding::error(file, "there is no public key in it")
            .remedy("put the keys in it that sign the repository")),
        false => Ok(keys),
    }
}

/// The text is not quoted in errors: it may be a secret.
fn public_key(line: &str) -> Result<PublicKey, &'static str> {
    const LEN: usize = 32;
    // ostree's secret keys are followed by their public ones.
    const SECRET_LEN: usize = 64;
    let mut bytes = Vec::new();
    let decoded = Base64Decoder::new(line.as_bytes()).read_to_end(&mut bytes);
    let is_whole = line.len() == bytes.len().div_ceil(3) * 4;
    match bytes.len() {
        LEN if decoded.is_ok() && is_whole => Ok(PublicKey {
            bytes,
            name: line.to_owned(),
        }),
        SECRET_LEN => Err("it is a secret key, which a server must not have"),
        _ => Err("it is no ed25519 public key in base64"),
    }
}

/// Whether one of the keys made this signature. Gives its name.
pub(super) fn verify(
    keys: &[PublicKey],
    document: &[u8],
    signature: &[u8],
) -> Result<String, String> {
    let signed = |key: &&PublicKey| {
        let public = UnparsedPublicKey::new(&ED25519, &key.bytes);
        public.verify(document, signature).is_ok()
    };
    keys.iter()
        .find(signed)
        .map(|key| format!("ed25519 key {}", key.name))
        .ok_or_else(|| "an ed25519 signature is of another document or by another key".into())
}
