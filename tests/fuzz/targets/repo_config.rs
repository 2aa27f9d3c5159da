//! A repository's configuration: what clients get of it is read back the same,
//! and holds nothing that could be a secret.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::format::repo_config::RepoConfig;

fuzz_target!(|text: &str| {
    let Ok(config) = RepoConfig::parse(text) else {
        return;
    };
    let rendered = config.render();
    assert_eq!(
        RepoConfig::parse(&rendered).as_ref(),
        Ok(&config),
        "{rendered:?}"
    );
    if config.check_servable().is_err() {
        return;
    }
    // There are so few such texts that each of their lines can be written down.
    const LINES: [&str; 8] = [
        "[core]",
        "repo_version=1",
        "mode=archive",
        "mode=archive-z2",
        "indexed-deltas=true",
        "indexed-deltas=false",
        "tombstone-commits=true",
        "tombstone-commits=false",
    ];
    assert!(
        rendered.lines().all(|line| LINES.contains(&line)),
        "{rendered:?}"
    );
});
