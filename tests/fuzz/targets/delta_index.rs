//! A commit's delta index: no bytes break the reader, and whatever it makes of
//! them leads somewhere.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::summary::parse_delta_index;

fuzz_target!(|data: &[u8]| {
    let Ok(deltas) = parse_delta_index(data) else {
        return;
    };
    // Each of them has at least its name and a digest.
    assert!(deltas.len() * (64 + 32) <= data.len(), "{deltas:?}");
});
