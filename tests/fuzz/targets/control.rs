//! Requests at the control socket: what is understood is safe to log and to name,
//! and is sent again as one line that means the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostree_serve::control::Request;
use ostree_serve::systemd::{hold_name, hold_prefix, numbered, split_number};

fuzz_target!(|line: &[u8]| {
    // Names of holds come from the service manager; any may be asked what it tells.
    if let Ok(name) = std::str::from_utf8(line) {
        _ = hold_prefix(split_number(name).0);
    }

    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(reason) => {
            assert!(!reason.is_empty());
            return;
        }
    };
    let sent = serde_json::to_string(&request).expect("requests are texts");
    assert!(!sent.contains('\n'), "{sent:?}");
    assert_eq!(Request::parse(sent.as_bytes()).as_ref(), Ok(&request));

    let prefix = match &request {
        Request::Hold { prefix, reason } => {
            let reason = reason.to_string();
            assert!(!reason.is_empty());
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
            Some(prefix)
        }
        Request::Release { prefix } => Some(prefix),
        Request::Status { prefix } => prefix.as_ref(),
        Request::Sandbox {} => None,
    };
    let Some(prefix) = prefix else { return };
    let text = prefix.to_string();
    assert!(text.starts_with('/'));
    assert!(!text.chars().any(char::is_control), "{text:?}");
    // What systemd takes for a name of a descriptor.
    let first = hold_name(prefix);
    assert!(hold_prefix(&first).is_none_or(|it| it == *prefix));
    let name = numbered(&first, u32::MAX);
    assert_eq!(split_number(&name), (first.as_str(), u32::MAX));
    assert!(name.len() <= 255);
    assert!(
        name.bytes()
            .all(|it| (b' '..127).contains(&it) && it != b':'),
        "{name:?}"
    );
});
