//! Detached signatures as ostree keeps them, beside what they sign: the files
//! `summary.sig` and `….idx.sig`, and `….commitmeta` of a commit.

use super::gvariant::Value;
use super::{document, typed};

/// Signatures of one document. Nothing says that they are any good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures {
    /// OpenPGP signatures: in each, binary packets.
    pub openpgp: Vec<Vec<u8>>,
    /// Ed25519 signatures, of 64 bytes each.
    pub ed25519: Vec<Vec<u8>>,
    /// Keys under which there are signatures of other kinds, such as
    /// `ostree.sign.spki`.
    pub others: Vec<String>,
}

impl Signatures {
    /// Reads what was found in such a file; other metadata in it is passed over.
    ///
    /// # Errors
    /// Why clients could not use it; a phrase of which it is the subject.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        const OPENPGP: &str = "ostree.gpgsigs";
        const ED25519: &str = "ostree.sign.ed25519";
        let metadata = document("a{sv}", data)?;
        let is_other = |key: &&str| key.starts_with("ostree.sign.") && *key != ED25519;
        Ok(Self {
            openpgp: list(metadata, OPENPGP)?,
            ed25519: list(metadata, ED25519)?,
            others: metadata
                .entries()
                .map(|(key, _)| key)
                .filter(is_other)
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Whether there is no signature at all.
    pub fn is_empty(&self) -> bool {
        self.openpgp.is_empty() && self.ed25519.is_empty() && self.others.is_empty()
    }
}

fn list(metadata: Value<'_>, key: &str) -> Result<Vec<Vec<u8>>, String> {
    let Some(value) = typed(metadata, key, "aay")? else {
        return Ok(Vec::new());
    };
    Ok(value.children().map(|item| item.data().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::gvariant::writer::{array, bytes, dictionary, string};
    use super::*;
    use crate::demo;

    #[test]
    fn the_demonstration_s_signatures() {
        let tip = "objects/b0/c15a61bf0c34cca077b2b70c7344f9cac45776b8dff4277c8c608f28ed4068";
        for name in ["summary.sig".to_owned(), format!("{tip}.commitmeta")] {
            let signatures = Signatures::parse(&demo::file(&name)).unwrap();
            assert_eq!(signatures.openpgp.len(), 1, "{name}");
            assert!(signatures.ed25519.is_empty() && signatures.others.is_empty());
        }
    }

    #[test]
    fn kinds_of_signatures() {
        let (_, data) = dictionary([
            ("ostree.gpgsigs", array("ay", [bytes(b"a"), bytes(b"b")])),
            ("ostree.sign.ed25519", array("ay", [bytes(&[7; 64])])),
            ("ostree.sign.spki", array("ay", [])),
            ("ostree.sign.dummy", string("any")),
            ("xa.data", string("any")),
        ]);
        let signatures = Signatures::parse(&data).unwrap();
        let expected = Signatures {
            openpgp: vec![b"a".into(), b"b".into()],
            ed25519: vec![[7; 64].into()],
            others: vec!["ostree.sign.spki".into(), "ostree.sign.dummy".into()],
        };
        assert_eq!(signatures, expected);
        assert!(!signatures.is_empty());
        // `ostree` writes the like when it removes the last signature.
        assert!(Signatures::parse(b"").unwrap().is_empty());
    }

    #[test]
    fn what_are_no_signatures() {
        let (_, typed) = dictionary([("ostree.gpgsigs", bytes(b"a"))]);
        let cases = [(&typed[..], "`ay`, not `aay`"), (b"x", "cut short")];
        for (data, reason) in cases {
            let error = Signatures::parse(data).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
