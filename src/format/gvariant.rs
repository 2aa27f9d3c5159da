//! Serialized GVariants, the form of all that ostree writes: typed values
//! packed in one run of bytes. A reader, and the check for *normal form*, of
//! which each value has exactly one; what is not in it was damaged or made up.
//!
//! Nothing is copied, and no work is done that the bytes do not pay for. The
//! rules are those of `gvariant-serialiser.c` in GLib, which differs only in
//! permitting longer types and deeper nesting.

mod children;
mod layout;

pub use children::Children;
use layout::{Layout, offset_count};

/// How deep containers may lie in each other; GLib permits 128.
const MAX_DEPTH: usize = 64;
/// How long a type may be, as in D-Bus. Types are read again for each value, so
/// the limit keeps the work in proportion to the data.
const MAX_TYPE_LEN: usize = 255;

/// A value: bytes, and what they are to be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Exactly one complete type.
    kind: &'a str,
    layout: Layout,
    data: &'a [u8],
}

impl<'a> Value<'a> {
    /// The value of the type `kind` (as in GLib, `a{sv}` for example) that
    /// `data` holds, if that is a type and `data` has its size.
    ///
    /// Whether it is a sound value only [`Value::is_normal`] tells. Reading one
    /// that is not may give less than all of its children.
    pub fn new(kind: &'a str, data: &'a [u8]) -> Option<Self> {
        if kind.len() > MAX_TYPE_LEN {
            return None;
        }
        let layout = Layout::of(kind)?;
        let is_one = layout.type_len == kind.len();
        let has_size = layout.fixed_size.is_none_or(|size| size == data.len());
        (is_one && has_size).then_some(Self { kind, layout, data })
    }

    /// Its type.
    pub fn kind(&self) -> &'a str {
        self.kind
    }

    /// Its serialized form. A number's bytes are in the order that the writer
    /// chose, which in ostree's formats is often not that of GVariant.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// A string (`s`, `o` or `g`).
    pub fn as_str(&self) -> Option<&'a str> {
        let (0, text) = self.data.split_last()? else {
            return None;
        };
        matches!(self.kind, "s" | "o" | "g").then_some(())?;
        std::str::from_utf8(text).ok()
    }

    /// An array of bytes (`ay`).
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        (self.kind == "ay").then_some(self.data)
    }

    /// A byte (`y`).
    pub fn as_u8(&self) -> Option<u8> {
        (self.kind == "y").then(|| self.data.first().copied())?
    }

    /// A number of eight bytes (`t`), read as little-endian.
    pub fn as_u64(&self) -> Option<u64> {
        let bytes = (self.kind == "t").then_some(self.data)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    /// A number of eight bytes (`t`), read as big-endian, as ostree writes most.
    pub fn as_u64_be(&self) -> Option<u64> {
        self.as_u64().map(u64::swap_bytes)
    }

    /// What a container holds, in order: an array's elements, a tuple's or
    /// dictionary entry's members, a variant's or maybe's value. Other values
    /// hold nothing.
    pub fn children(&self) -> Children<'a> {
        Children::of(self)
    }

    /// The child `number`, counted from zero; those before it are passed.
    pub fn child(&self, number: usize) -> Option<Self> {
        self.children().nth(number)
    }

    /// The value of `key` in a dictionary from strings, taken out of its
    /// variant; of a key that is there twice the first, as in GLib.
    pub fn get(&self, key: &str) -> Option<Self> {
        self.entries()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The entries of a dictionary from strings (`a{s…}`), the values taken out
    /// of their variants.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        self.children().filter_map(|entry| {
            let mut pair = entry.children();
            let (key, value) = (pair.next()?, pair.next()?);
            let value = match value.kind {
                "v" => value.child(0)?,
                _ => value,
            };
            Some((key.as_str()?, value))
        })
    }

    /// Whether it is in normal form, and so are all values in it.
    pub fn is_normal(&self) -> bool {
        self.is_normal_within(MAX_DEPTH)
    }

    fn is_normal_within(&self, depth: usize) -> bool {
        match self.kind.as_bytes() {
            b"b" => matches!(self.data, [0 | 1]),
            b"s" => self.is_text(|_| true),
            b"o" => self.is_text(is_object_path),
            b"g" => self.is_text(is_signature),
            // Any bytes are; they need not be looked at one by one.
            b"ay" => true,
            [b'a' | b'm' | b'v' | b'(' | b'{', ..] => depth
                .checked_sub(1)
                .is_some_and(|depth| self.has_normal_children(depth)),
            _ => true,
        }
    }

    fn has_normal_children(&self, depth: usize) -> bool {
        let mut children = self.children();
        while let Some((padding, child)) = children.step() {
            if !is_zero(padding) || !child.is_normal_within(depth) {
                return false;
            }
        }
        children.ended_well()
    }

    fn is_text(&self, is_valid: fn(&str) -> bool) -> bool {
        self.as_str()
            .is_some_and(|text| !text.as_bytes().contains(&0) && is_valid(text))
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// `g_variant_is_object_path`.
fn is_object_path(text: &str) -> bool {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        !name.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match text.strip_prefix('/') {
        Some(names) => names.is_empty() || names.split('/').all(is_name),
        None => false,
    }
}

/// `g_variant_is_signature`: complete types in a row.
fn is_signature(text: &str) -> bool {
    text.len() <= MAX_TYPE_LEN && offset_count(text).is_some()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod writer;
