//! The file `superblock` of a static delta: which commits it joins, and of
//! which parts it consists.

use std::collections::HashMap;

use super::gvariant::Value;
use super::{checksum, document, members, typed};
use crate::resource::path::file_path;
use crate::resource::{Checksum, DeltaFile, Resource};

/// `OSTREE_STATIC_DELTA_SUPERBLOCK_FORMAT`
const KIND: &str = "(a{sv}tayay(a{sv}aya(say)sstayay)aya(uayttay)a(yaytt))";
/// Of a part that is in the superblock itself.
const INLINE_PART_KIND: &str = "(yay)";

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The commit that a client needs for the delta; `None` if it needs nothing.
    pub from: Option<Checksum>,
    /// The commit that it leads to.
    pub to: Checksum,
    /// Its parts; the file of each is named by its number, counted from zero.
    pub parts: Vec<Part>,
}

/// A part of a static delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// SHA-256 of the part's file.
    pub checksum: Checksum,
    /// How many bytes the part's file may have; clients take no more.
    pub size: u64,
    /// Whether the part is in the superblock, so that clients ask for no file.
    pub is_inline: bool,
}

impl Superblock {
    /// Reads a superblock.
    ///
    /// # Errors
    /// Why clients could not use it; a phrase of which it is the subject.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let [metadata, _time, from, to, _commit, _needed, headers, _] =
            members(document(KIND, data)?)?;
        let from = match from.data() {
            [] => None,
            _ => Some(checksum(from).ok_or("it begins at no commit")?),
        };
        let to = checksum(to).ok_or("it leads to no commit")?;
        let is_big_endian = is_big_endian(metadata)?;
        let mut parts = Vec::new();
        for (number, header) in (0..).zip(headers.children()) {
            let (checksum, size) = part_header(header, is_big_endian)
                .ok_or_else(|| format!("its part {number} has no checksum"))?;
            parts.push(Part {
                checksum,
                size,
                is_inline: false,
            });
        }
        mark_inline(&mut parts, metadata, from, to)?;
        Ok(Self { from, to, parts })
    }
}

/// In which order the bytes of numbers are. Superblocks that do not say are from
/// before 2016; ostree guesses then, and it was rarely a big-endian machine.
fn is_big_endian(metadata: Value<'_>) -> Result<bool, String> {
    let order = typed(metadata, "ostree.endianness", "y")?;
    match order.and_then(|order| order.as_u8()) {
        None | Some(b'l') => Ok(false),
        Some(b'B') => Ok(true),
        Some(other) => Err(format!("`ostree.endianness` is {other}, not `l` or `B`")),
    }
}

fn part_header(header: Value<'_>, is_big_endian: bool) -> Option<(Checksum, u64)> {
    let mut members = header.children().skip(1);
    let digest = checksum(members.next()?)?;
    let size = members.next()?;
    let size = match is_big_endian {
        true => size.as_u64_be(),
        false => size.as_u64(),
    };
    Some((digest, size?))
}

/// Parts that are in the superblock are named there by the path that their file
/// would have.
fn mark_inline(
    parts: &mut [Part],
    metadata: Value<'_>,
    from: Option<Checksum>,
    to: Checksum,
) -> Result<(), String> {
    // Looking for each part would be slow where both are many.
    let inline: HashMap<&str, Value<'_>> = metadata
        .entries()
        .filter(|(key, _)| key.starts_with("deltas/"))
        .collect();
    for (number, part) in (0..).zip(parts) {
        let file = DeltaFile::Part(number);
        let path = file_path(&Resource::Delta { from, to, file });
        let Some(value) = inline.get(path.as_str()) else {
            continue;
        };
        if value.kind() != INLINE_PART_KIND {
            return Err(format!(
                "its inline part {number} has the type `{}`, not `{INLINE_PART_KIND}`",
                value.kind()
            ));
        }
        part.is_inline = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::gvariant::writer::{
        Written, array, byte, bytes, dictionary, number, string, tuple,
    };
    use super::*;
    use crate::demo;

    const TIP: &str = "b0c15a61bf0c34cca077b2b70c7344f9cac45776b8dff4277c8c608f28ed4068";
    const OLDER: &str = "b134e212a6bc578084552fb4b82a60082b6964fc9ed93a960b951ab79d322f30";

    #[test]
    fn the_demonstration_s_superblocks() {
        let commit = |hex: &str| Checksum::from_hex(hex.as_bytes()).unwrap();
        for from in [None, Some(commit(OLDER))] {
            let to = commit(TIP);
            let file = |file| demo::file(&file_path(&Resource::Delta { from, to, file }));
            let superblock = Superblock::parse(&file(DeltaFile::Superblock)).unwrap();
            let part = file(DeltaFile::Part(0));
            let expected = Superblock {
                from,
                to,
                parts: vec![Part {
                    checksum: Checksum::of(&part),
                    size: part.len() as u64,
                    is_inline: false,
                }],
            };
            assert_eq!(superblock, expected);
        }
    }

    /// A superblock with two parts, of 0x0102 and 0x0304 bytes.
    fn superblock(metadata: Written, from: &[u8], to: &[u8], is_big_endian: bool) -> Vec<u8> {
        let long = |value: u64| match is_big_endian {
            true => number(value.to_be_bytes()),
            false => number(value.to_le_bytes()),
        };
        let header = |size| {
            let version = number([0; 4]);
            tuple([version, bytes(&[9; 32]), long(size), long(7), bytes(&[])])
        };
        let commit = tuple([
            dictionary([]),
            bytes(&[]),
            array("(say)", []),
            string(""),
            string(""),
            number([0; 8]),
            bytes(&[]),
            bytes(&[]),
        ]);
        let (kind, data) = tuple([
            metadata,
            number([0; 8]),
            bytes(from),
            bytes(to),
            commit,
            bytes(&[]),
            array("(uayttay)", [header(0x0102), header(0x0304)]),
            array("(yaytt)", []),
        ]);
        assert_eq!(kind, KIND);
        data
    }

    #[test]
    fn both_orders_of_bytes() {
        let order = |order| dictionary([("ostree.endianness", byte(order))]);
        let cases = [
            (dictionary([]), false),
            (order(b'l'), false),
            (order(b'B'), true),
        ];
        for (metadata, is_big_endian) in cases {
            let data = superblock(metadata, &[], &[1; 32], is_big_endian);
            let superblock = Superblock::parse(&data).unwrap();
            let sizes: Vec<_> = superblock.parts.iter().map(|part| part.size).collect();
            assert_eq!(sizes, [0x0102, 0x0304]);
            assert_eq!(superblock.from, None);
        }
    }

    #[test]
    fn parts_in_the_superblock() {
        let path = |number| {
            file_path(&Resource::Delta {
                from: Some(Checksum::from_bytes([1; 32])),
                to: Checksum::from_bytes([2; 32]),
                file: DeltaFile::Part(number),
            })
        };
        let content = || tuple([byte(0), bytes(b"content")]);
        let (here, beyond) = (path(1), path(2));
        let metadata = dictionary([(here.as_str(), content()), (&beyond, content())]);
        let data = superblock(metadata, &[1; 32], &[2; 32], false);
        let superblock_of = |data: &[u8]| Superblock::parse(data);
        let inline: Vec<_> = superblock_of(&data)
            .unwrap()
            .parts
            .iter()
            .map(|part| part.is_inline)
            .collect();
        assert_eq!(inline, [false, true]);

        let metadata = dictionary([(here.as_str(), bytes(b"content"))]);
        let error = superblock_of(&superblock(metadata, &[1; 32], &[2; 32], false)).unwrap_err();
        assert!(error.contains("inline part 1"), "{error}");
    }

    /// As `ostree static-delta generate --inline` makes it.
    #[test]
    fn ostree_s_own_inline_parts() {
        let data = include_bytes!("../../tests/fuzz/corpus/superblock/inline");
        let superblock = Superblock::parse(data).unwrap();
        assert_eq!(superblock.to.to_string(), OLDER);
        assert_eq!(superblock.parts.len(), 1);
        assert!(superblock.parts[0].is_inline);
    }

    #[test]
    fn what_is_no_superblock() {
        let odd_order = || dictionary([("ostree.endianness", byte(b'x'))]);
        let cases = [
            (
                superblock(dictionary([]), &[1; 31], &[2; 32], false),
                "begins",
            ),
            (superblock(dictionary([]), &[1; 32], &[], false), "leads"),
            (superblock(odd_order(), &[], &[2; 32], false), "endianness"),
            (vec![], "cut short"),
        ];
        for (data, reason) in cases {
            let error = Superblock::parse(&data).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }
}
