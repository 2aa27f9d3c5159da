//! Superblocks of static deltas: nothing that is read was made up, and a part is
//! inline only if the superblock names it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::superblock::Superblock;

fuzz_target!(|data: &[u8]| {
    let Ok(superblock) = Superblock::parse(data) else {
        return;
    };
    let commits = 1 + usize::from(superblock.from.is_some());
    assert!(32 * (commits + superblock.parts.len()) <= data.len());
    let name = b"deltas/";
    let is_named = data.windows(name.len()).any(|at| at == name);
    assert!(is_named || superblock.parts.iter().all(|part| !part.is_inline));
});
