//! Preconditions as a table.

use http::header::{HeaderName, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE};
use proptest::prelude::*;

use super::*;

const DIGEST: [u8; 32] = [0xab; 32];
const OURS: &str = "\"abababababababababababababababab\"";

fn tag() -> EntityTag {
    EntityTag::of_bytes(Checksum::from_bytes(DIGEST))
}

/// Header lines in which `@` stands for our tag.
fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let value = value.replace('@', OURS);
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

#[test]
fn tags_say_what_they_are_made_of() {
    let checksum = Checksum::from_bytes(DIGEST);
    let other = Checksum::from_bytes([1; 32]);
    let text = |tag: Option<EntityTag>| tag.map(|tag| tag.header().to_str().unwrap().to_owned());
    let cases = [
        (
            Identity::Name(checksum),
            None,
            Some(format!("\"{}\"", "ab".repeat(32))),
        ),
        (
            Identity::NameAndSize(checksum),
            None,
            Some(format!("\"{}-1f4\"", "ab".repeat(16))),
        ),
        (
            Identity::Bytes,
            Some(other),
            Some(format!("\"{}\"", "01".repeat(16))),
        ),
        (Identity::Bytes, None, None),
    ];
    for (identity, digest, expected) in cases {
        assert_eq!(
            text(EntityTag::new(identity, digest, 500)),
            expected,
            "{identity:?}"
        );
    }
}

#[test]
fn preconditions() {
    use Verdict::{Failed, NotModified, Proceed};
    let long_ago = "Thu, 01 Jan 1970 00:00:00 GMT";
    let cases: [(Vec<(HeaderName, &str)>, Verdict); 30] = [
        (vec![], Proceed),
        (vec![(IF_NONE_MATCH, "@")], NotModified),
        (vec![(IF_NONE_MATCH, "W/@")], NotModified),
        (vec![(IF_NONE_MATCH, "*")], NotModified),
        (vec![(IF_NONE_MATCH, " * ")], NotModified),
        (vec![(IF_NONE_MATCH, "\"x\"")], Proceed),
        (vec![(IF_NONE_MATCH, "\"x\", @")], NotModified),
        (vec![(IF_NONE_MATCH, "\"x\",W/@ , \"y\"")], NotModified),
        (vec![(IF_NONE_MATCH, " ,, \"a,b\" ,@")], NotModified),
        (
            vec![(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "@")],
            NotModified,
        ),
        // Not lists of tags: they match nothing.
        (vec![(IF_NONE_MATCH, "")], Proceed),
        (vec![(IF_NONE_MATCH, "abab")], Proceed),
        (vec![(IF_NONE_MATCH, "w/@")], Proceed),
        (vec![(IF_NONE_MATCH, "@ @")], Proceed),
        (vec![(IF_NONE_MATCH, "x, @")], Proceed),
        (vec![(IF_NONE_MATCH, "\"abab")], Proceed),
        (vec![(IF_NONE_MATCH, "*, @")], Proceed),
        (vec![(IF_NONE_MATCH, "\"a b\"")], Proceed),
        (vec![(IF_MATCH, "@")], Proceed),
        (vec![(IF_MATCH, "*")], Proceed),
        (vec![(IF_MATCH, "\"x\", @")], Proceed),
        // Only strong tags match for sure.
        (vec![(IF_MATCH, "W/@")], Failed),
        (vec![(IF_MATCH, "\"x\"")], Failed),
        (vec![(IF_MATCH, "")], Failed),
        // If-Match comes first.
        (vec![(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "@")], Failed),
        (vec![(IF_MATCH, "@"), (IF_NONE_MATCH, "@")], NotModified),
        // There are no dates.
        (
            vec![(IF_MODIFIED_SINCE, "Fri, 01 Jan 2100 00:00:00 GMT")],
            Proceed,
        ),
        (vec![(IF_UNMODIFIED_SINCE, long_ago)], Proceed),
        // What libostree sends, with a date that is no HTTP date.
        (
            vec![
                (IF_NONE_MATCH, "@"),
                (IF_MODIFIED_SINCE, "Tue, 24 Nov 2026 08:00:00 UTC"),
            ],
            NotModified,
        ),
        (
            vec![
                (IF_NONE_MATCH, "\"x\""),
                (IF_MODIFIED_SINCE, "Tue, 24 Nov 2026 08:00:00 UTC"),
            ],
            Proceed,
        ),
    ];
    for (lines, verdict) in cases {
        assert_eq!(evaluate(&headers(&lines), &tag()), verdict, "{lines:?}");
    }
}

#[test]
fn if_range() {
    let cases: [(Vec<(HeaderName, &str)>, bool); 7] = [
        (vec![], true),
        (vec![(IF_RANGE, "@")], true),
        (vec![(IF_RANGE, "\"x\"")], false),
        (vec![(IF_RANGE, "W/@")], false),
        (vec![(IF_RANGE, "@, @")], false),
        (vec![(IF_RANGE, "Tue, 24 Nov 2026 08:00:00 GMT")], false),
        (vec![(IF_RANGE, "@"), (IF_RANGE, "@")], false),
    ];
    for (lines, permitted) in cases {
        assert_eq!(
            permits_range(&headers(&lines), &tag()),
            permitted,
            "{lines:?}"
        );
    }
}

proptest! {
    /// However the list around it looks, a tag in a well-formed list is found,
    /// and a list without it matches nothing.
    #[test]
    fn a_tag_in_a_list_is_found(
        before in proptest::collection::vec("(W/)?\"[!#-?A-~]{0,8}\"", 0..4),
        after in proptest::collection::vec("(W/)?\"[!#-?A-~]{0,8}\"", 0..4),
        separator in "[ \t]{0,2},[ \t,]{0,2}",
    ) {
        let with: Vec<_> = before.iter().map(String::as_str).chain([OURS]).chain(after.iter().map(String::as_str)).collect();
        let without: Vec<_> = before.iter().chain(&after).map(String::as_str).collect();
        let verdict = |list: &[&str]| {
            evaluate(&headers(&[(IF_NONE_MATCH, &list.join(&separator))]), &tag())
        };
        prop_assert_eq!(verdict(&with), Verdict::NotModified);
        prop_assert_eq!(verdict(&without), Verdict::Proceed);
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(32u8..=255, 0..60)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            for name in [IF_MATCH, IF_NONE_MATCH, IF_RANGE] {
                headers.insert(name, value.clone());
            }
            evaluate(&headers, &tag());
            permits_range(&headers, &tag());
        }
    }
}
