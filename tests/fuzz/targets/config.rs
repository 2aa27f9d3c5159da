//! Configuration files: a judged configuration has no contradictions, and a
//! refused one is told why.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ostree_serve::config::{Address, Config, ControlSocket};

fuzz_target!(|text: &str| {
    let file = Path::new("/etc/ostree-serve/serve.toml");
    // Found in whatever is there, and the same if all is well.
    let socket = ControlSocket::written_in(text, file);
    let config = match Config::parse(text, file) {
        Ok(config) => config,
        Err(findings) => {
            assert!(!findings.is_empty());
            assert!(findings.iter().all(|it| !it.to_string().is_empty()));
            return;
        }
    };

    let listen = &config.listen;
    assert_eq!(socket.doubt, None);
    assert_eq!(socket.path, listen.control.value);
    assert!(!(listen.https.is_empty() && listen.http.is_empty()));
    assert!(listen.https.is_empty() || config.tls.is_some());
    let addresses: Vec<&Address> = [&listen.https, &listen.redirect, &listen.http]
        .into_iter()
        .flatten()
        .chain([&listen.admin])
        .collect();
    for (number, address) in addresses.iter().enumerate() {
        let others = &addresses[..number];
        assert!(!others.iter().any(|other| other.overlaps(address)));
    }

    let mounts: Vec<_> = config
        .repos
        .iter()
        .map(|it| &it.mount)
        .chain(&config.statics)
        .collect();
    assert!(!mounts.is_empty());
    for (number, mount) in mounts.iter().enumerate() {
        let others = &mounts[..number];
        assert!(!others.iter().any(|other| other.prefix == mount.prefix));
        assert!(mount.path.value.is_absolute());
    }

    assert!(config.limits.connections > 0);
    assert!(config.tls.is_none_or(|tls| !tls.protocols.is_empty()));

    // A comment at the end means nothing.
    let commented = format!("{text}\n# The end.\n");
    assert!(Config::parse(&commented, file).is_ok());
});
