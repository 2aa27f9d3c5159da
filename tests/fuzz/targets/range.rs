//! Ranges: a part lies within the representation and can be asked for by its
//! first and last byte, and whether a header is one depends on nothing else.
//!
//! An input is text, so that the corpus can be read: the representation's
//! length, a space, the header's value.

#![no_main]

use http::header::{HeaderMap, HeaderValue, RANGE};
use libfuzzer_sys::fuzz_target;
use ostree_serve::http::range::{Selection, select};

fuzz_target!(|input: &[u8]| {
    let Some((len, value)) = read(input) else {
        return;
    };
    let of_length = |len| select(&HeaderMap::from_iter([(RANGE, value.clone())]), len);
    let selection = of_length(len);
    if let Selection::Part { start, end } = selection {
        assert!(start < end && end <= len);
        assert_eq!(asked(&format!("bytes={start}-{}", end - 1), len), selection);
        // A longer representation has such bytes as well.
        let longer = of_length(len.saturating_add(1));
        assert!(matches!(longer, Selection::Part { .. }), "{longer:?}");
    }
    // What is ignored is ignored at any length but none: the last bytes of
    // nothing are the whole.
    if len > 0 {
        let ignored = selection == Selection::Whole;
        assert_eq!(ignored, of_length(1) == Selection::Whole);
    }

    let twice = [(RANGE, value.clone()), (RANGE, value.clone())];
    assert_eq!(select(&twice.into_iter().collect(), len), Selection::Whole);
});

fn read(input: &[u8]) -> Option<(u64, HeaderValue)> {
    let space = input.iter().position(|&byte| byte == b' ')?;
    let len = std::str::from_utf8(&input[..space]).ok()?.parse().ok()?;
    let value = HeaderValue::from_bytes(&input[space + 1..]).ok()?;
    Some((len, value))
}

fn asked(range: &str, len: u64) -> Selection {
    let value = HeaderValue::from_str(range).expect("digits are a header value");
    select(&HeaderMap::from_iter([(RANGE, value)]), len)
}
