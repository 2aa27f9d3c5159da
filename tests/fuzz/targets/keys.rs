//! Files of public keys: each is read or refused with advice, and what is read
//! verifies nothing that was not signed.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::signatures::Signatures;
use ostree_serve::signature::Keys;

/// Both are of this document.
const OPENPGP: &[u8] = include_bytes!("../../fixtures/signatures/several.sig");
const ED25519: &[u8] = include_bytes!("../../fixtures/signatures/ed25519.sig");
const DOCUMENT: &[u8] = include_bytes!("../../fixtures/signatures/document");

fuzz_target!(|data: &[u8]| {
    let keys = match Keys::parse(data, Path::new("keys")) {
        Ok(keys) => keys,
        Err(finding) => {
            assert!(finding.remedy.is_some(), "{finding}");
            return;
        }
    };
    let signatures = Signatures {
        openpgp: vec![OPENPGP.to_vec()],
        ed25519: vec![ED25519.to_vec()],
        others: vec![],
    };
    _ = keys.verify(DOCUMENT, &signatures);
    assert!(keys.verify(b"", &signatures).is_err());
});
