//! Validators and preconditions, in the order of RFC 9110, section 13.2.2.
//!
//! The only validator is a strong entity tag made from content, so that it is
//! the same on every byte-identical mirror. There is no `Last-Modified`: a
//! file's time differs from mirror to mirror, and says 1970 for much of what is
//! copied (client-contract 4.1). A resource without a modification date has
//! `If-Modified-Since` and `If-Unmodified-Since` ignored (sections 13.1.3 and
//! 13.1.4), so it does no harm that libostree writes that date in a form of its
//! own, ending in `UTC`.

use http::header::{HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE};

use crate::resource::{Checksum, Identity};

/// A strong entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag(HeaderValue);

impl EntityTag {
    /// The tag for `len` bytes that are identified like this. `digest` is their
    /// SHA-256, needed where the identity does not tell it.
    pub fn new(identity: Identity, digest: Option<Checksum>, len: u64) -> Option<Self> {
        match identity {
            Identity::Name(checksum) => Some(Self::quoted(&[&checksum.hex()])),
            Identity::NameAndSize(checksum) => {
                let size = format!("-{len:x}");
                Some(Self::quoted(&[&checksum.hex()[..SHORT], size.as_bytes()]))
            }
            Identity::Bytes => digest.map(Self::of_bytes),
        }
    }

    /// The tag for bytes with this SHA-256.
    pub fn of_bytes(digest: Checksum) -> Self {
        Self::quoted(&[&digest.hex()[..SHORT]])
    }

    fn quoted(pieces: &[&[u8]]) -> Self {
        let mut text = Vec::with_capacity(Checksum::HEX_LEN + 2);
        text.push(b'"');
        pieces
            .iter()
            .for_each(|piece| text.extend_from_slice(piece));
        text.push(b'"');
        // Hexadecimal digits, a hyphen and quotes are always a header value.
        Self(HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
    }

    /// The tag as a header has it, with its quotes.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether it is the tag with this text between the quotes.
    fn is(&self, opaque: &[u8]) -> bool {
        let quoted = self.0.as_bytes();
        quoted.len() == opaque.len() + 2 && &quoted[1..quoted.len() - 1] == opaque
    }
}

/// Digits of a checksum in a tag that is more than the checksum: 128 bits.
const SHORT: usize = 32;

/// What the preconditions of a GET or HEAD request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer it.
    Proceed,
    /// The client has it: 304.
    NotModified,
    /// The client wants something else: 412.
    Failed,
}

/// Judges the preconditions of a GET or HEAD request for an existing resource.
pub fn evaluate(headers: &HeaderMap, tag: &EntityTag) -> Verdict {
    let given = |name| headers.contains_key(&name);
    // Steps 1 and 2: If-Match; If-Unmodified-Since has no date to look at.
    if given(IF_MATCH) && !any_tag(headers.get_all(IF_MATCH), tag, Comparison::Strong) {
        return Verdict::Failed;
    }
    // Steps 3 and 4: If-None-Match; If-Modified-Since has no date to look at.
    if given(IF_NONE_MATCH) && any_tag(headers.get_all(IF_NONE_MATCH), tag, Comparison::Weak) {
        return Verdict::NotModified;
    }
    // Step 5, If-Range, is about the range: see `permits_range`.
    Verdict::Proceed
}

/// Whether `If-Range` lets a range be served (RFC 9110, section 13.1.5): it is
/// absent, or it is this very tag. A date never is.
pub fn permits_range(headers: &HeaderMap, tag: &EntityTag) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => match parse_tag(trim(value.as_bytes())) {
            Some((parsed, rest)) => rest.is_empty() && !parsed.weak && tag.is(parsed.opaque),
            None => false,
        },
        (Some(_), Some(_)) => false,
    }
}

/// RFC 9110, section 8.8.3.2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// Weak tags are equal to nothing.
    Strong,
    /// Only the text counts.
    Weak,
}

/// Whether `*` or an equal tag is in any of the lists. A client that fails over
/// to another mirror repeats its headers, so there may be several.
fn any_tag<'h>(
    lists: impl IntoIterator<Item = &'h HeaderValue>,
    tag: &EntityTag,
    comparison: Comparison,
) -> bool {
    lists
        .into_iter()
        .any(|list| list_has(list.as_bytes(), tag, comparison))
}

/// Reads up to the first malformed element; what follows cannot be told apart.
fn list_has(list: &[u8], tag: &EntityTag, comparison: Comparison) -> bool {
    let mut rest = trim(list);
    if rest == b"*" {
        return true;
    }
    loop {
        // Empty elements are allowed (RFC 9110, section 5.6.1.2).
        while let Some(tail) = rest.strip_prefix(b",") {
            rest = trim(tail);
        }
        let Some((parsed, tail)) = parse_tag(rest) else {
            return false;
        };
        rest = trim(tail);
        if !rest.is_empty() && !rest.starts_with(b",") {
            return false;
        }
        let comparable = comparison == Comparison::Weak || !parsed.weak;
        if comparable && tag.is(parsed.opaque) {
            return true;
        }
    }
}

/// An entity tag in a request.
struct Parsed<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// Reads `[W/]"…"` at the start of `text`; also gives what follows.
fn parse_tag(text: &[u8]) -> Option<(Parsed<'_>, &[u8])> {
    let (weak, text) = match text.strip_prefix(b"W/") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|&byte| byte == b'"')?;
    let opaque = &text[..end];
    // etagc: no controls, no space (RFC 9110, section 8.8.3).
    let valid = opaque.iter().all(|&byte| byte > b' ' && byte != 0x7f);
    valid.then_some((Parsed { weak, opaque }, &text[end + 1..]))
}

/// Without spaces and tabs at both ends.
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |at| at + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests;
