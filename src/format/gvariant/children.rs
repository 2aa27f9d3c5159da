//! Where the children of a container begin and end. Those of variable size have
//! their ends written down, as *framing offsets* at the container's end.

use super::layout::{Layout, offset_count};
use super::{MAX_TYPE_LEN, Value, is_zero};

/// The children of a container, in order.
#[derive(Clone, Debug, Default)]
pub struct Children<'a> {
    /// The types of the children that are left; of an array, that of each.
    kinds: &'a str,
    /// Of an array: the layout of each child.
    element: Option<Layout>,
    /// The container without its framing offsets.
    body: &'a [u8],
    /// Where in `body` the last child ended.
    at: usize,
    /// The framing offsets that were not used yet: where children of variable
    /// size end. Those of a tuple are in reverse order.
    offsets: &'a [u8],
    /// How many bytes one offset has.
    width: usize,
    /// Whether zeros may follow the last child.
    is_padded: bool,
    /// Whether something did not fit.
    is_broken: bool,
}

impl<'a> Children<'a> {
    pub(super) fn of(container: &Value<'a>) -> Self {
        let kind = container.kind;
        let children = match kind.as_bytes() {
            [b'a', ..] => Self::of_array(&kind[1..], container.data),
            [b'm', ..] => Self::of_maybe(&kind[1..], container.data),
            [b'v', ..] => Self::of_variant(container.data),
            [b'(' | b'{', ..] => Self::of_tuple(&kind[1..kind.len() - 1], container.data),
            _ => Some(Self::default()),
        };
        let broken = Self {
            is_broken: true,
            ..Self::default()
        };
        Self {
            is_padded: container.layout.fixed_size.is_some(),
            ..children.unwrap_or(broken)
        }
    }

    fn of_array(kinds: &'a str, data: &'a [u8]) -> Option<Self> {
        let element = Layout::of(kinds)?;
        let children = Self {
            kinds,
            element: Some(element),
            body: data,
            ..Self::default()
        };
        if element.fixed_size.is_some() || data.is_empty() {
            return Some(children);
        }
        // The last offset is also where the table of offsets begins.
        let width = offset_width(data.len());
        let last = data.len().checked_sub(width)?;
        let body_end = number(&data[last..])?;
        let table_len = data.len().checked_sub(body_end)?;
        (table_len > 0).then_some(())?;
        children.framed(body_end, table_len)
    }

    fn of_tuple(kinds: &'a str, data: &'a [u8]) -> Option<Self> {
        let table_len = offset_count(kinds)? * offset_width(data.len());
        let children = Self {
            kinds,
            body: data,
            ..Self::default()
        };
        children.framed(data.len().checked_sub(table_len)?, table_len)
    }

    /// The value, and if its size varies a zero behind it.
    fn of_maybe(kinds: &'a str, data: &'a [u8]) -> Option<Self> {
        if data.is_empty() {
            return Some(Self::default());
        }
        let varies = Layout::of(kinds)?.fixed_size.is_none();
        let body = match varies {
            true => data.strip_suffix(&[0])?,
            false => data,
        };
        Some(Self {
            kinds,
            body,
            ..Self::default()
        })
    }

    /// The value, a zero, and its type.
    fn of_variant(data: &'a [u8]) -> Option<Self> {
        let tail = &data[data.len().saturating_sub(MAX_TYPE_LEN + 1)..];
        let type_len = tail.iter().rev().position(|&byte| byte == 0)?;
        let (data, kind) = data.split_at(data.len() - type_len);
        let (_, body) = data.split_last()?;
        let value = Value::new(std::str::from_utf8(kind).ok()?, body)?;
        Some(Self {
            kinds: value.kind,
            body,
            ..Self::default()
        })
    }

    /// Divides the body from the framing offsets, which must have the least
    /// width that their number permits.
    fn framed(self, body_end: usize, table_len: usize) -> Option<Self> {
        let (body, offsets) = self.body.split_at(body_end);
        let width = offset_width(self.body.len());
        let count = table_len / width;
        let is_least = width == 1 || offset_width(body_end + count * (width / 2)) == width;
        let sound = table_len == count * width && (count == 0 || is_least);
        sound.then_some(Self {
            body,
            offsets,
            width,
            ..self
        })
    }

    /// The next child, and the padding before it.
    pub(super) fn step(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        if self.is_broken || self.is_at_end() {
            return None;
        }
        let next = self.advance();
        self.is_broken = next.is_none();
        next
    }

    fn is_at_end(&self) -> bool {
        match self.element {
            None => self.kinds.is_empty(),
            Some(element) if element.fixed_size.is_some() => self.at == self.body.len(),
            Some(_) => self.offsets.is_empty(),
        }
    }

    fn advance(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        let layout = match self.element {
            Some(element) => element,
            None => Layout::of(self.kinds)?,
        };
        let (kind, other_kinds) = self.kinds.split_at(layout.type_len);
        let start = self.at.next_multiple_of(layout.alignment);
        let end = match layout.fixed_size {
            Some(size) => start + size,
            // A tuple's last member ends where the offsets begin.
            None if self.element.is_none() && other_kinds.is_empty() => self.body.len(),
            None => self.next_offset()?,
        };
        let data = self.body.get(start..end)?;
        let padding = &self.body[self.at..start];
        self.at = end;
        if self.element.is_none() {
            self.kinds = other_kinds;
        }
        Some((padding, Value { kind, layout, data }))
    }

    fn next_offset(&mut self) -> Option<usize> {
        let (offset, others) = match self.element {
            Some(_) => self.offsets.split_at_checked(self.width)?,
            None => {
                let last = self.offsets.len().checked_sub(self.width)?;
                let (others, offset) = self.offsets.split_at(last);
                (offset, others)
            }
        };
        self.offsets = others;
        number(offset)
    }

    /// Whether all children were there, and nothing after them that has no
    /// meaning. To be asked at the end.
    pub(super) fn ended_well(&self) -> bool {
        let rest = self.body.get(self.at..).unwrap_or_default();
        !self.is_broken && is_zero(rest) && (self.is_padded || rest.is_empty())
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.step().map(|(_, child)| child)
    }
}

/// How many bytes a framing offset has in a container of this size.
fn offset_width(container_len: usize) -> usize {
    match container_len as u64 {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

/// A framing offset.
fn number(bytes: &[u8]) -> Option<usize> {
    let mut long = [0; 8];
    long.get_mut(..bytes.len())?.copy_from_slice(bytes);
    u64::from_le_bytes(long).try_into().ok()
}
