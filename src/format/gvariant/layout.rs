//! How many bytes the values of a type have, and where they may begin.

use super::MAX_DEPTH;

/// How values of a type lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// How long the type is, in characters.
    pub(super) type_len: usize,
    /// A value begins at a multiple of this many bytes in its container.
    pub(super) alignment: usize,
    /// How many bytes a value has, if all have the same.
    pub(super) fixed_size: Option<usize>,
}

impl Layout {
    /// Of the first complete type in `kinds`, if that begins with one.
    pub(super) fn of(kinds: &str) -> Option<Self> {
        Self::within(kinds.as_bytes(), MAX_DEPTH)
    }

    fn within(kinds: &[u8], depth: usize) -> Option<Self> {
        let (&first, rest) = kinds.split_first()?;
        let basic = |alignment, fixed_size| {
            Some(Self {
                type_len: 1,
                alignment,
                fixed_size,
            })
        };
        match first {
            b'y' | b'b' => basic(1, Some(1)),
            b'n' | b'q' => basic(2, Some(2)),
            b'i' | b'u' | b'h' => basic(4, Some(4)),
            b'x' | b't' | b'd' => basic(8, Some(8)),
            b's' | b'o' | b'g' => basic(1, None),
            b'v' => basic(8, None),
            b'a' | b'm' => {
                let element = Self::within(rest, depth.checked_sub(1)?)?;
                Some(Self {
                    type_len: 1 + element.type_len,
                    fixed_size: None,
                    ..element
                })
            }
            b'(' => {
                let (layout, _) = Self::of_members(rest, b')', depth.checked_sub(1)?)?;
                Some(layout)
            }
            b'{' => {
                let is_basic = b"ybnqiuhxtdsog".contains(rest.first()?);
                let (layout, count) = Self::of_members(rest, b'}', depth.checked_sub(1)?)?;
                (is_basic && count == 2).then_some(layout)
            }
            _ => None,
        }
    }

    /// Of the tuple whose members `kinds` are, up to the byte `close`; and how
    /// many they are.
    fn of_members(kinds: &[u8], close: u8, depth: usize) -> Option<(Self, usize)> {
        let (mut at, mut count) = (0, 0);
        let mut alignment = 1;
        let mut size = Some(0usize);
        while *kinds.get(at)? != close {
            let member = Self::within(&kinds[at..], depth)?;
            at += member.type_len;
            count += 1;
            alignment = alignment.max(member.alignment);
            size = size
                .zip(member.fixed_size)
                .map(|(size, more)| size.next_multiple_of(member.alignment) + more);
        }
        let layout = Self {
            type_len: at + 2,
            alignment,
            // A tuple without members still has a byte.
            fixed_size: size.map(|size| size.next_multiple_of(alignment).max(1)),
        };
        Some((layout, count))
    }
}

/// How many members of a tuple have their ends written down: those of variable
/// size, but for the last.
pub(super) fn offset_count(mut kinds: &str) -> Option<usize> {
    let mut count = 0;
    while !kinds.is_empty() {
        let layout = Layout::of(kinds)?;
        kinds = &kinds[layout.type_len..];
        count += usize::from(layout.fixed_size.is_none() && !kinds.is_empty());
    }
    Some(count)
}
