//! The grammar: from request path to [`Resource`], and from [`Resource`] to the
//! name of the file that holds it.
//!
//! This is the security boundary. The grammar is closed: what it does not
//! produce does not reach the file system, and every name that is opened is
//! written by [`file_path`] from a typed value. It can be closed because
//! ostree's is (`src/libostree/ostree-core.c`, the `_ostree_get_relative_*`
//! functions):
//!
//! ```text
//! H      = [0-9a-f]
//! B43    = [A-Za-z0-9+_]{42}[AEIMQUYcgkosw048]
//! object = objects/H{2}/H{62}.(commit|commitmeta|commit-tombstone|dirtree|dirmeta|filez)
//! delta  = deltas/b2/b41(-B43)?/(superblock|0|[1-9][0-9]{0,9})
//! dindex = delta-indexes/b2/b41.index
//! sub    = summaries/(H{64}.gz | H{64}.idx.sig | H{64}-H{64}.delta)
//! ref    = refs/heads/REF | refs/mirrors/COLLECTION/REF
//! top    = summary | summary.sig | summary.idx | summary.idx.sig | config
//! ```

use std::borrow::Cow;
use std::fmt::Write;

use super::{Checksum, DeltaFile, ObjectKind, RefName, Resource, RootDocument};

/// Undoes percent-encoding, once.
///
/// `None` for a malformed escape, for text that is not UTF-8, and for an
/// escaped `/` or NUL: a slash that was escaped is no separator (RFC 3986,
/// section 2.2), and no name within a segment can hold one. `+` stays what it
/// is; delta names contain it.
pub fn decode(path: &str) -> Option<Cow<'_, str>> {
    let Some(first) = path.find('%') else {
        return Some(Cow::Borrowed(path));
    };
    let mut decoded = Vec::with_capacity(path.len());
    decoded.extend_from_slice(&path.as_bytes()[..first]);
    let mut rest = &path.as_bytes()[first..];
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            decoded.push(byte);
            rest = tail;
            continue;
        }
        let escape = std::str::from_utf8(tail.get(..2)?).ok()?;
        if !escape.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        match u8::from_str_radix(escape, 16).ok()? {
            b'/' | 0 => return None,
            byte => decoded.push(byte),
        }
        rest = &tail[2..];
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// Reads a decoded path relative to the repository, without a leading slash.
///
/// `None` for everything outside the grammar.
pub fn parse(path: &str) -> Option<Resource<'_>> {
    match path.split_once('/') {
        None => parse_root(path),
        Some(("objects", rest)) => parse_object(rest),
        Some(("deltas", rest)) => parse_delta(rest),
        Some(("delta-indexes", rest)) => parse_delta_index(rest),
        Some(("refs", rest)) => parse_ref(rest),
        Some(("summaries", rest)) => parse_sub_summary(rest),
        Some(_) => None,
    }
}

/// The first segments that the grammar uses.
pub const TOP_LEVEL_NAMES: [&str; 10] = [
    "config",
    "summary",
    "summary.sig",
    "summary.idx",
    "summary.idx.sig",
    "objects",
    "deltas",
    "delta-indexes",
    "refs",
    "summaries",
];

/// The name of the file that holds `resource`, relative to the repository.
///
/// It is also the one request path, decoded, that [`parse`] reads as
/// `resource`.
pub fn file_path(resource: &Resource<'_>) -> String {
    let mut path = String::with_capacity(LONGEST_FIXED_PATH);
    match *resource {
        Resource::Config => path.push_str("config"),
        Resource::Root(document) => path.push_str(document.name()),
        Resource::Ref(name) => push_all(&mut path, &["refs/", name.as_str()]),
        Resource::Object { checksum, kind } => {
            let hex = checksum.hex();
            push_all(&mut path, &["objects/", text(&hex[..2]), "/"]);
            push_all(&mut path, &[text(&hex[2..]), ".", kind.extension()]);
        }
        Resource::Delta { from, to, file } => {
            // Named from-to, or just to: the first name makes the fan-out.
            let first = from.unwrap_or(to).base64();
            push_all(&mut path, &["deltas/", text(&first[..2]), "/"]);
            path.push_str(text(&first[2..]));
            if from.is_some() {
                push_all(&mut path, &["-", text(&to.base64())]);
            }
            match file {
                DeltaFile::Superblock => path.push_str("/superblock"),
                // Writing to a String cannot fail.
                DeltaFile::Part(number) => _ = write!(path, "/{number}"),
            }
        }
        Resource::DeltaIndex { to } => {
            let to = to.base64();
            push_all(&mut path, &["delta-indexes/", text(&to[..2]), "/"]);
            push_all(&mut path, &[text(&to[2..]), ".index"]);
        }
        Resource::SubSummary { digest } => {
            push_all(&mut path, &["summaries/", text(&digest.hex()), ".gz"]);
        }
        Resource::SubSummaryDelta { from, to } => {
            push_all(&mut path, &["summaries/", text(&from.hex()), "-"]);
            push_all(&mut path, &[text(&to.hex()), ".delta"]);
        }
        Resource::IndexSignature { digest } => {
            push_all(&mut path, &["summaries/", text(&digest.hex()), ".idx.sig"]);
        }
    }
    path
}

/// `summaries/<64>-<64>.delta` is the longest name but for refs.
const LONGEST_FIXED_PATH: usize = "summaries/-.delta".len() + 2 * Checksum::HEX_LEN;

fn push_all(path: &mut String, pieces: &[&str]) {
    pieces.iter().for_each(|piece| path.push_str(piece));
}

/// Digits of a checksum as text; they are ASCII.
fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

fn parse_root(name: &str) -> Option<Resource<'_>> {
    if name == "config" {
        return Some(Resource::Config);
    }
    RootDocument::ALL
        .into_iter()
        .find(|document| document.name() == name)
        .map(Resource::Root)
}

fn parse_object(rest: &str) -> Option<Resource<'_>> {
    let (fan_out, rest) = rest.split_once('/')?;
    let (name, extension) = rest.split_once('.')?;
    let checksum = Checksum::from_hex(&joined::<{ Checksum::HEX_LEN }>(fan_out, name)?)?;
    let kind = ObjectKind::ALL
        .into_iter()
        .find(|kind| kind.extension() == extension)?;
    Some(Resource::Object { checksum, kind })
}

fn parse_delta(rest: &str) -> Option<Resource<'_>> {
    let (fan_out, rest) = rest.split_once('/')?;
    let (name, file) = rest.split_once('/')?;
    let (first, second) = match name.split_once('-') {
        Some((first, second)) => (first, Some(second)),
        None => (name, None),
    };
    let first = Checksum::from_base64(&joined::<{ Checksum::BASE64_LEN }>(fan_out, first)?)?;
    let (from, to) = match second {
        Some(second) => (Some(first), Checksum::from_base64(second.as_bytes())?),
        None => (None, first),
    };
    let file = match file {
        "superblock" => DeltaFile::Superblock,
        number => DeltaFile::Part(parse_part_number(number)?),
    };
    Some(Resource::Delta { from, to, file })
}

/// Decimal without sign or leading zeros: one spelling for each part.
fn parse_part_number(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits).then(|| text.parse().ok())?
}

fn parse_delta_index(rest: &str) -> Option<Resource<'_>> {
    let (fan_out, rest) = rest.split_once('/')?;
    let name = rest.strip_suffix(".index")?;
    let to = Checksum::from_base64(&joined::<{ Checksum::BASE64_LEN }>(fan_out, name)?)?;
    Some(Resource::DeltaIndex { to })
}

fn parse_sub_summary(name: &str) -> Option<Resource<'_>> {
    let hex = |text: &str| Checksum::from_hex(text.as_bytes());
    if let Some(digest) = name.strip_suffix(".gz") {
        return Some(Resource::SubSummary {
            digest: hex(digest)?,
        });
    }
    if let Some(digest) = name.strip_suffix(".idx.sig") {
        return Some(Resource::IndexSignature {
            digest: hex(digest)?,
        });
    }
    let (from, to) = name.strip_suffix(".delta")?.split_once('-')?;
    Some(Resource::SubSummaryDelta {
        from: hex(from)?,
        to: hex(to)?,
    })
}

fn parse_ref(name: &str) -> Option<Resource<'_>> {
    let valid = match name.split_once('/')? {
        ("heads", branch) => is_ref(branch),
        ("mirrors", rest) => {
            let (collection, branch) = rest.split_once('/')?;
            is_collection_id(collection) && is_ref(branch)
        }
        _ => false,
    };
    valid.then_some(Resource::Ref(RefName(name)))
}

/// `(FRAGMENT/)*FRAGMENT` (`OSTREE_REF_REGEXP`). Every fragment starts with a
/// word character, so `.`, `..`, empty segments and dotfiles are outside.
fn is_ref(name: &str) -> bool {
    name.split('/').all(|fragment| {
        let mut characters = fragment.chars();
        characters.next().is_some_and(is_word)
            && characters.all(|c| is_word(c) || c == '-' || c == '.')
    })
}

/// `\w` as GLib's regular expressions see it: Unicode letters and digits and
/// `_`, with newer PCRE2 also combining marks and connectors.
fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric() || (!c.is_ascii() && unicode_ident::is_xid_continue(c))
}

/// A D-Bus interface name (`ostree_validate_collection_id`): at least two
/// elements of `[A-Za-z_][A-Za-z0-9_]*` with dots between, 255 bytes at most.
fn is_collection_id(name: &str) -> bool {
    let is_element = |element: &str| {
        !element.starts_with(|c: char| c.is_ascii_digit())
            && !element.is_empty()
            && element
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    name.len() <= 255 && name.contains('.') && name.split('.').all(is_element)
}

/// A name that stands in two segments, the first of two characters (the
/// fan-out directory), as one.
fn joined<const N: usize>(fan_out: &str, rest: &str) -> Option<[u8; N]> {
    if fan_out.len() != 2 || rest.len() != N - 2 {
        return None;
    }
    let mut name = [0; N];
    name[..2].copy_from_slice(fan_out.as_bytes());
    name[2..].copy_from_slice(rest.as_bytes());
    Some(name)
}

#[cfg(test)]
mod tests;
