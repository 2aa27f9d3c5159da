//! Request paths: what is decoded and parsed is one file's name, spelled in the
//! one way, and stays below the repository.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::resource::path::{TOP_LEVEL_NAMES, decode, file_path, parse};

fuzz_target!(|path: &str| {
    let Some(decoded) = decode(path) else { return };
    let slashes = |text: &str| text.matches('/').count();
    assert_eq!(
        slashes(&decoded),
        slashes(path),
        "an escape made a separator"
    );
    // However much of it is escaped, it is the same path.
    if !decoded.contains('\0') {
        assert_eq!(decode(&escaped(&decoded)).as_deref(), Some(&*decoded));
    }

    let Some(resource) = parse(&decoded) else {
        return;
    };
    assert_eq!(file_path(&resource), *decoded, "two names for one file");
    let mut segments = decoded.split('/');
    let first = segments.next().unwrap_or_default();
    assert!(TOP_LEVEL_NAMES.contains(&first), "{first}");
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    for segment in segments {
        assert!(!segment.is_empty() && !segment.starts_with('.'));
        assert!(!segment.contains(odd), "{segment:?}");
    }
});

/// Every byte escaped but slashes, which are separators only as they are.
fn escaped(path: &str) -> String {
    let escape = |byte: u8| match byte {
        b'/' => "/".to_owned(),
        byte => format!("%{byte:02x}"),
    };
    path.bytes().map(escape).collect()
}
