//! Which bytes were asked for: a single range by RFC 9110, section 14.

use http::header::{HeaderMap, RANGE};

/// The part of a representation that a reply carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    Whole,
    /// The bytes from `start` to before `end`; never empty, never beyond the
    /// representation.
    Part {
        /// The first byte.
        start: u64,
        /// The byte after the last one.
        end: u64,
    },
    /// What was asked for does not exist: 416.
    Unsatisfiable,
}

/// Selects from a representation of `len` bytes.
///
/// More than one range, another unit or bad syntax is ignored, as the RFC
/// allows; the reply is then the whole.
pub fn select(headers: &HeaderMap, len: u64) -> Selection {
    let mut values = headers.get_all(RANGE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => match parse(value.as_bytes()) {
            Some(wanted) => wanted.within(len),
            None => Selection::Whole,
        },
        _ => Selection::Whole,
    }
}

/// One element of a `Range` header. Numbers that do not fit are as large as can
/// be, which no representation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    From(u64),
    FromTo(u64, u64),
    Last(u64),
}

impl Wanted {
    fn within(self, len: u64) -> Selection {
        let (start, end) = match self {
            Self::From(first) => (first, len),
            Self::FromTo(first, last) => (first, last.saturating_add(1).min(len)),
            // Satisfiable by section 14.1.2, but `Content-Range` cannot say so.
            Self::Last(1..) if len == 0 => return Selection::Whole,
            Self::Last(count) => (len.saturating_sub(count), len),
        };
        match start < end {
            true => Selection::Part { start, end },
            false => Selection::Unsatisfiable,
        }
    }
}

/// Reads `bytes=first-last`, `bytes=first-` or `bytes=-count`.
fn parse(value: &[u8]) -> Option<Wanted> {
    let text = std::str::from_utf8(value).ok()?;
    let (unit, range) = text.split_once('=')?;
    // Range units are case-insensitive (section 14.1).
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
    match (first, last) {
        ("", count) => Some(Wanted::Last(number(count)?)),
        (first, "") => Some(Wanted::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Wanted::FromTo(first, last))
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn selected(range: &str, len: u64) -> Selection {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(range).unwrap());
        select(&headers, len)
    }

    #[test]
    fn ranges() {
        use Selection::{Part, Unsatisfiable, Whole};
        let part = |start, end| Part { start, end };
        let cases = [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=0-", 10, part(0, 10)),
            ("bytes=5-100", 10, part(5, 10)),
            ("bytes=9-", 10, part(9, 10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-11", 10, Unsatisfiable),
            ("bytes=-1", 10, part(9, 10)),
            ("bytes=-10", 10, part(0, 10)),
            ("bytes=-11", 10, part(0, 10)),
            ("bytes=-0", 10, Unsatisfiable),
            ("BYTES=0-1", 10, part(0, 2)),
            ("bytes= 0-1 ", 10, part(0, 2)),
            // Numbers of any size are legal.
            ("bytes=0-18446744073709551615", 10, part(0, 10)),
            ("bytes=1-99999999999999999999999", 10, part(1, 10)),
            ("bytes=18446744073709551615-", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", u64::MAX, Unsatisfiable),
            ("bytes=-99999999999999999999999", 10, part(0, 10)),
            // Nothing to take a part of.
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-0", 0, Unsatisfiable),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
            // Ignored.
            ("bytes=3-2", 10, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1-2x", 10, Whole),
            ("bytes=--1", 10, Whole),
            ("bytes 0-1", 10, Whole),
            ("items=0-1", 10, Whole),
            ("", 10, Whole),
        ];
        for (range, len, expected) in cases {
            assert_eq!(selected(range, len), expected, "{range} of {len}");
        }
    }

    #[test]
    fn two_headers_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(select(&headers, 10), Selection::Whole);
    }

    proptest! {
        /// Against the definition: the byte `at` is in the range if it is not
        /// before the first and not after the last.
        #[test]
        fn a_part_holds_the_bytes_it_should(first in 0u64..20, last in 0u64..20, len in 0u64..20) {
            let wanted = |at: u64| at >= first && at <= last;
            let expected: Vec<u64> = (0..len).filter(|&at| wanted(at)).collect();
            let got = match selected(&format!("bytes={first}-{last}"), len) {
                Selection::Whole => { prop_assert!(first > last); return Ok(()); }
                Selection::Part { start, end } => (start..end).collect(),
                Selection::Unsatisfiable => Vec::new(),
            };
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn any_header_gives_a_part_within(bytes in proptest::collection::vec(32u8..=255, 0..40), len: u64) {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static("")));
            if let Selection::Part { start, end } = select(&headers, len) {
                prop_assert!(start < end && end <= len);
            }
        }
    }
}
