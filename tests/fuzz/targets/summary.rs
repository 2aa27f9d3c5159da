//! Summaries: nothing that is read was made up.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::summary::Summary;

fuzz_target!(|data: &[u8]| {
    let Ok(summary) = Summary::parse(data) else {
        return;
    };
    // Each ref has a name and 32 bytes, each delta a name of 64 and 32 bytes.
    let refs: usize = summary.refs.iter().map(|it| it.name.len() + 32).sum();
    assert!(refs + summary.deltas.len() * (64 + 32) <= data.len());
    for it in summary.refs.iter().take(8).filter(|it| !it.name.is_empty()) {
        let name = it.name.as_bytes();
        assert!(data.windows(name.len()).any(|at| at == name));
    }
});
