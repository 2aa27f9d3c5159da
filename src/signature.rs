//! Whether signatures belong to a document: without a key ([`fit`]), and with
//! the keys that the operator named ([`Keys::verify`]).
//!
//! The first tells which of two generations of a document a signature is of,
//! which anybody can fake; the second tells who made it.

mod ed25519;
mod openpgp;
mod packet;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::Placed;
use crate::finding::{Finding, shell_word};
use crate::format::signatures::Signatures;
use crate::resource::Checksum;
use openpgp::Certificate;
use packet::{Digests, packets};

/// How many signatures of a kind are looked at. Each can cost the reading of
/// the whole document; nobody has as many.
const MAX_SIGNATURES: usize = 32;
/// How large a file of keys may be, in bytes.
const MAX_KEY_FILE_LEN: u64 = 16 * 1024 * 1024;

/// Whether signatures seem to be of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// At least one is, or one in 65,536 others that look like it.
    Fits,
    /// Those that tell are of another document.
    DoesNotFit,
    /// None tells: there is none, or none of OpenPGP with a current digest.
    Untellable,
}

/// Compares what signatures tell of the document that they sign with `document`:
/// an OpenPGP signature carries the first 16 bits of its digest.
pub fn fit(document: &[u8], signatures: &Signatures) -> Fit {
    let mut digests = Digests::new(document);
    let mut fit = Fit::Untellable;
    let packets = signatures.openpgp.iter().flat_map(|item| packets(item));
    for packet in packets.take(MAX_SIGNATURES) {
        match digests.fits(&packet) {
            Some(true) => return Fit::Fits,
            Some(false) => fit = Fit::DoesNotFit,
            None => {}
        }
    }
    fit
}

/// Public keys, of which one must have signed.
#[derive(Debug, Default)]
pub struct Keys {
    openpgp: Vec<Certificate>,
    ed25519: Vec<ed25519::PublicKey>,
    /// What the files held that they were read from.
    sources: Vec<Checksum>,
}

impl Keys {
    /// Reads files of public keys: OpenPGP keys, binary or in ASCII armor, as
    /// `gpg --export` writes them; or ed25519 keys in base64, one per line, as
    /// `ostree sign --keys-file` takes them. Each may hold several.
    ///
    /// Keys that have expired or were revoked are read as well; they do not
    /// count when it comes to verifying.
    ///
    /// # Errors
    /// Each file that holds no key, or something else too; never empty.
    pub fn load(files: &[Placed<PathBuf>]) -> Result<Self, Vec<Finding>> {
        let mut keys = Self::default();
        let mut findings = Vec::new();
        for file in files {
            let read = read(file).and_then(|data| Self::parse(&data, &file.value));
            match read {
                Ok(more) => keys.extend(more),
                Err(finding) => findings.push(finding),
            }
        }
        match findings.is_empty() {
            true => Ok(keys),
            false => Err(findings),
        }
    }

    /// Reads what a file of public keys holds; `file` is named if it is wrong.
    ///
    /// # Errors
    /// As [`Keys::load`].
    pub fn parse(data: &[u8], file: &Path) -> Result<Self, Finding> {
        let mut keys = Self::default();
        match std::str::from_utf8(data) {
            Ok(text) if !text.contains(openpgp::ARMOR) => {
                keys.ed25519 = ed25519::parse(text, file)?;
            }
            _ => keys.openpgp = openpgp::parse(data, file)?,
        }
        keys.sources.push(Checksum::of(data));
        Ok(keys)
    }

    fn extend(&mut self, more: Self) {
        self.openpgp.extend(more.openpgp);
        self.ed25519.extend(more.ed25519);
        self.sources.extend(more.sources);
    }

    /// Whether these were read from the same bytes as the others.
    pub fn are(&self, others: &Self) -> bool {
        self.sources == others.sources
    }

    /// Whether one of the keys signed `document`. Gives that key's name, or why
    /// none did; both are for people.
    ///
    /// An OpenPGP signature counts if it is over the document as it is, with a
    /// digest not older than SHA-2, has not expired and was made by a key, or a
    /// subkey that is bound to one, which may sign, is valid now and was not
    /// revoked by itself. Not looked at are who else certified or revoked it,
    /// and how long the key is.
    ///
    /// # Errors
    /// Why no signature counts, as a phrase.
    pub fn verify(&self, document: &[u8], signatures: &Signatures) -> Result<String, String> {
        self.verify_at(document, signatures, SystemTime::now())
    }

    /// As [`Keys::verify`], as if it were `now`.
    ///
    /// # Errors
    /// As [`Keys::verify`].
    pub fn verify_at(
        &self,
        document: &[u8],
        signatures: &Signatures,
        now: SystemTime,
    ) -> Result<String, String> {
        let mut reasons = Vec::new();
        let mut keep = |reason| {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        };
        for signature in signatures.ed25519.iter().take(MAX_SIGNATURES) {
            match ed25519::verify(&self.ed25519, document, signature) {
                Ok(name) => return Ok(name),
                Err(reason) => keep(reason),
            }
        }
        let mut digests = Digests::new(document);
        let packets = signatures.openpgp.iter().flat_map(|item| packets(item));
        for packet in packets.take(MAX_SIGNATURES) {
            let verified = match digests.fits(&packet) {
                Some(true) => openpgp::verify(&self.openpgp, document, &packet, now),
                Some(false) => Err("an OpenPGP signature is of another document".into()),
                None => Err("an OpenPGP signature is of a kind that is not accepted".into()),
            };
            match verified {
                Ok(name) => return Ok(name),
                Err(reason) => keep(reason),
            }
        }
        for kind in signatures.others.iter().take(MAX_SIGNATURES) {
            let kind = kind.escape_debug();
            keep(format!("signatures under `{kind}` are not verified"));
        }
        match reasons.is_empty() {
            true => Err("there is no signature".into()),
            false => Err(reasons.join("; ")),
        }
    }
}

fn read(file: &Placed<PathBuf>) -> Result<Vec<u8>, Finding> {
    let path = file.value.as_path();
    let mut data = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_KEY_FILE_LEN + 1).read_to_end(&mut data));
    match read {
        Ok(len) if len as u64 > MAX_KEY_FILE_LEN => Err(Finding::error(
            path,
            "it is too large for a file of public keys",
        )
        .remedy("name a file with only the keys that sign this repository")),
        Ok(_) => Ok(data),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let reason = format!(
                "the file of public keys `{}` does not exist",
                path.display()
            );
            Err(Finding::error(file.place.clone(), reason)
                .remedy("name the file in the configuration, or put it in place"))
        }
        Err(error) => {
            let reason = format!("the file of public keys cannot be read: {error}");
            Err(Finding::error(path, reason)
                .remedy(format!("let the server's user read it: `chmod a+r {0}`; `namei -l {0}` shows the way to it", shell_word(path))))
        }
    }
}

#[cfg(test)]
mod tests;
