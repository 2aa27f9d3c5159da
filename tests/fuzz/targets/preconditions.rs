//! Preconditions: what follows from their definitions, whatever the headers say.
//!
//! An input is text, so that the corpus can be read: the size in the resource's
//! tag, if it has one, in the first line, then header lines. In their values `@`
//! stands for the tag.

#![no_main]

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use libfuzzer_sys::fuzz_target;
use ostree_serve::http::conditional::{EntityTag, Verdict, evaluate, permits_range};
use ostree_serve::resource::{Checksum, Identity};

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|&byte| byte == b'\n');
    let tag = tag(lines.next().unwrap_or_default());
    let all: Vec<_> = lines.filter_map(|line| header(line, &tag)).collect();
    let verdict = |names: &[HeaderName]| {
        let chosen = all.iter().filter(|(name, _)| names.contains(name));
        evaluate(&chosen.cloned().collect(), &tag)
    };

    // Each condition decides as it would alone, If-Match goes first, and no
    // other header counts.
    let matched = verdict(&[IF_MATCH]);
    let modified = verdict(&[IF_NONE_MATCH]);
    let headers: HeaderMap = all.iter().cloned().collect();
    let verdict_of_all = evaluate(&headers, &tag);
    assert_ne!(matched, Verdict::NotModified);
    assert_ne!(modified, Verdict::Failed);
    let expected = match matched {
        Verdict::Failed => Verdict::Failed,
        _ => modified,
    };
    assert_eq!(verdict_of_all, expected);

    // Repeating the headers changes nothing.
    let twice = all.iter().chain(&all).cloned().collect();
    assert_eq!(evaluate(&twice, &tag), expected);

    // What a strong comparison finds, a weak one finds as well.
    let renamed = |from: HeaderName, to: HeaderName| -> HeaderMap {
        let values = headers.get_all(from).iter().cloned();
        values.map(|value| (to.clone(), value)).collect()
    };
    if headers.contains_key(IF_MATCH) && matched == Verdict::Proceed {
        let weakly = renamed(IF_MATCH, IF_NONE_MATCH);
        assert_eq!(evaluate(&weakly, &tag), Verdict::NotModified);
    }

    // Nothing is unchanged that the client does not name.
    let ours = tag.header().as_bytes();
    let named = headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        let mut windows = value.as_bytes().windows(ours.len());
        value.as_bytes().contains(&b'*') || windows.any(|window| window == ours)
    });
    assert!(named || modified == Verdict::Proceed);

    // A range is served only of the very bytes that the client has a part of.
    if headers.contains_key(IF_RANGE) && permits_range(&headers, &tag) {
        let strongly = renamed(IF_RANGE, IF_MATCH);
        assert_eq!(evaluate(&strongly, &tag), Verdict::Proceed);
    }
});

fn tag(first_line: &[u8]) -> EntityTag {
    let checksum = Checksum::from_bytes([0xab; 32]);
    let size = std::str::from_utf8(first_line).map(str::parse);
    let tag = match size {
        Ok(Ok(size)) => EntityTag::new(Identity::NameAndSize(checksum), None, size),
        _ => EntityTag::new(Identity::Name(checksum), None, 0),
    };
    tag.expect("the name tells the tag")
}

fn header(line: &[u8], tag: &EntityTag) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let pieces: Vec<&[u8]> = value.split(|&byte| byte == b'@').collect();
    let value = pieces.join(tag.header().as_bytes());
    Some((
        HeaderName::from_bytes(name).ok()?,
        HeaderValue::from_bytes(&value).ok()?,
    ))
}
