//! Commits and directories, of which a few fields are read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::tree;

fuzz_target!(|data: &[u8]| {
    let _ = tree::root(data);
    if let Some(entries) = tree::entries(data) {
        // Each has a checksum of its own in the data.
        let found = entries.files.len() + 2 * entries.directories.len();
        assert!(found * 32 <= data.len());
    }
});
