//! Reading what ostree wrote, as far as serving needs it, and nothing more.
//!
//! Nothing here knows a file system, HTTP or async code. Each function reads
//! what a stranger wrote, and each has a fuzz target.

pub mod gvariant;
pub mod repo_config;
pub mod signatures;
pub mod summary;
pub mod summary_index;
pub mod superblock;
pub mod tree;

use crate::resource::Checksum;
use gvariant::Value;

/// How large a document may be that is read as a whole, in bytes: as large as
/// clients take it (`OSTREE_MAX_METADATA_SIZE`).
pub const MAX_DOCUMENT_LEN: usize = 128 * 1024 * 1024;

/// A whole document: a value in normal form.
fn document<'a>(kind: &'static str, data: &'a [u8]) -> Result<Value<'a>, String> {
    if data.len() > MAX_DOCUMENT_LEN {
        return Err(format!(
            "it is larger than the {} MiB that clients take",
            MAX_DOCUMENT_LEN >> 20
        ));
    }
    Value::new(kind, data)
        .filter(Value::is_normal)
        .ok_or_else(|| "it is cut short, damaged, or something else".into())
}

/// The value of `key`, which must have the type `kind` if it is there.
fn typed<'a>(dictionary: Value<'a>, key: &str, kind: &str) -> Result<Option<Value<'a>>, String> {
    match dictionary.get(key) {
        Some(value) if value.kind() != kind => Err(format!(
            "`{key}` has the type `{}`, not `{kind}`",
            value.kind()
        )),
        value => Ok(value),
    }
}

/// The checksum that an `ay` is.
fn checksum(value: Value<'_>) -> Option<Checksum> {
    let bytes = value.as_bytes()?.try_into().ok()?;
    Some(Checksum::from_bytes(bytes))
}

/// The `N` members of a tuple.
fn members<const N: usize>(tuple: Value<'_>) -> Result<[Value<'_>; N], String> {
    let members: Vec<_> = tuple.children().take(N).collect();
    members
        .try_into()
        .map_err(|_| "it has fewer members than its type".into())
}
