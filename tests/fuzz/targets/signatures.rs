//! Signatures, and whether they are of a document: all that can be done with
//! them ends, and nothing is found to be signed.
//!
//! The document is the input itself, so that nobody can have signed it.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ostree_serve::demo::PUBLIC_KEY;
use ostree_serve::format::signatures::Signatures;
use ostree_serve::signature::{Fit, Keys, fit};

fuzz_target!(|data: &[u8]| {
    // Packets are reached sooner without what is around them.
    let bare = Signatures {
        openpgp: vec![data.to_vec()],
        ed25519: vec![data.to_vec()],
        others: vec![],
    };
    let keys = Keys::parse(PUBLIC_KEY, Path::new("demo.gpg")).expect("the demonstration's key");
    for signatures in [Ok(bare), Signatures::parse(data)].into_iter().flatten() {
        let fit = fit(data, &signatures);
        assert!(!signatures.openpgp.is_empty() || fit == Fit::Untellable);
        assert!(keys.verify(data, &signatures).is_err());
    }
});
