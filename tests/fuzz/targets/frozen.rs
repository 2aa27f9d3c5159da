//! A held generation that a process before this one left behind.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use ostree_serve::files::Directory;
use ostree_serve::repo::frozen;

fuzz_target!(|data: &[u8]| {
    let directory = Arc::new(Directory::open(Path::new("/")).unwrap());
    if let Ok((hold, generation)) = frozen::parse_frozen(data, Arc::clone(&directory)) {
        // What was read is written, and read again as it was.
        let written = frozen::write(&hold, &generation).unwrap();
        let (again, generation_again) = frozen::parse_frozen(&written, directory).unwrap();
        assert_eq!(again, hold);
        assert_eq!(generation_again.refs, generation.refs);
    }
});
