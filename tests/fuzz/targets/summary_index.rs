//! Summary indexes: nothing that is read was made up.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::summary_index::{SubSummary, SummaryIndex};

fuzz_target!(|data: &[u8]| {
    let Ok(index) = SummaryIndex::parse(data) else {
        return;
    };
    let least = |it: &SubSummary| it.name.len() + 32 * (1 + it.history.len());
    assert!(index.summaries.iter().map(least).sum::<usize>() <= data.len());
});
