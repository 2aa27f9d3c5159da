//! Values by hand against what GLib makes of them, and what is out of form.

use proptest::prelude::*;
use proptest::sample::Index;

use super::writer::{self, Written};
use super::*;

#[test]
fn what_types_are() {
    let deep = |depth| "a".repeat(depth) + "y";
    let cases: &[(&str, bool)] = &[
        ("y", true),
        ("a{sv}", true),
        ("(a(s(taya{sv}))a{sv})", true),
        ("()", true),
        ("mms", true),
        ("{yv}", true),
        (&deep(MAX_DEPTH), true),
        (&deep(MAX_DEPTH + 1), false),
        (&"(".repeat(60), false),
        // Were it read twice at each level, this would never end.
        (&("{y".repeat(40) + "y" + &"}".repeat(40)), true),
        (&format!("({})", "s".repeat(MAX_TYPE_LEN)), false),
        ("", false),
        ("a", false),
        ("ss", false),
        ("(s", false),
        ("s)", false),
        ("{s}", false),
        ("{sss}", false),
        ("{}", false),
        ("{vs}", false),
        ("{ass}", false),
        ("{", false),
        ("*", false),
        ("r", false),
        ("é", false),
        ("(é)", false),
    ];
    for (kind, is_type) in cases {
        let layout = Layout::of(kind).filter(|layout| layout.type_len == kind.len());
        let size = layout.and_then(|layout| layout.fixed_size).unwrap_or(0);
        let value = Value::new(kind, &vec![0; size][..]).is_some();
        assert_eq!(value, *is_type, "{kind}");
    }
}

#[test]
fn what_normal_form_is() {
    let cases: &[(&str, &[u8], bool)] = &[
        ("b", &[0], true),
        ("b", &[1], true),
        ("b", &[2], false),
        ("ab", &[0, 1, 2], false),
        ("s", b"\0", true),
        ("s", b"text\0", true),
        ("s", b"", false),
        ("s", b"text", false),
        ("s", b"te\0xt\0", false),
        ("s", b"\xff\0", false),
        ("o", b"/\0", true),
        ("o", b"/a/b_1\0", true),
        ("o", b"/a/\0", false),
        ("o", b"a\0", false),
        ("o", b"/a-b\0", false),
        ("g", b"\0", true),
        ("g", b"sa{sv}\0", true),
        ("g", b"a\0", false),
        ("()", &[0], true),
        ("()", &[1], false),
        // A number at its alignment, zeros before it, and nothing behind.
        ("(yu)", &[1, 0, 0, 0, 2, 0, 0, 0], true),
        ("(yu)", &[1, 0, 9, 0, 2, 0, 0, 0], false),
        ("(uy)", &[1, 0, 0, 0, 2, 0, 0, 0], true),
        ("(uy)", &[1, 0, 0, 0, 2, 0, 0, 9], false),
        ("au", &[1, 0, 0, 0, 2, 0, 0, 0], true),
        ("au", &[1, 0, 0, 0, 2, 0, 0], false),
        // Offsets: where strings end.
        ("as", b"", true),
        ("as", b"a\0\0\x02\x03", true),
        ("as", b"a\0\0\x03\x02", false),
        ("as", b"a\0\0\x01\x03", false),
        ("as", b"a\0\0\x02\x04", false),
        ("as", b"\x01", false),
        ("as", b"\x00", false),
        ("as", b"a\0\x09", false),
        ("(ss)", b"a\0b\0\x02", true),
        ("(ss)", b"a\0b\0\x01", false),
        ("(ss)", b"a\0b\0\x09", false),
        ("(ss)", b"", false),
        ("(sy)", b"a\0\x07\x02", true),
        ("(sy)", b"a\0\x07\x07\x02", false),
        ("(say)", b"a\0xyz\x02", true),
        ("{sy}", b"a\0\x07\x02", true),
        ("ms", b"", true),
        ("ms", b"a\0\0", true),
        ("ms", b"a\0\x01", false),
        ("my", b"\x07", true),
        ("my", b"\x07\0", false),
        ("v", b"\x07\0y", true),
        ("v", b"a\0\0s", true),
        ("v", b"", false),
        ("v", b"\0", false),
        ("v", b"y", false),
        ("v", b"\x07\0yy", false),
        ("v", b"\x07\x07\0y", false),
        ("v", b"\x07\0*", false),
        ("v", b"\x02\0b", false),
    ];
    for (kind, data, is_normal) in cases {
        let value = Value::new(kind, data);
        let found = value.is_some_and(|value| value.is_normal());
        assert_eq!(found, *is_normal, "{kind} {data:?}");
    }
}

#[test]
fn offsets_are_no_wider_than_they_must() {
    // 254 bytes and one offset would have fit in 255 bytes.
    let text = [&[b'x'; 253][..], &[0]].concat();
    let narrow = [&text, &[254][..]].concat();
    let wide = [&text, &[254, 0][..]].concat();
    assert!(Value::new("as", &narrow).unwrap().is_normal());
    assert!(!Value::new("as", &wide).unwrap().is_normal());
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth| {
        let innermost = writer::byte(7);
        (0..depth).fold(innermost, |value, _| writer::variant(value))
    };
    for (depth, is_normal) in [(MAX_DEPTH, true), (MAX_DEPTH + 1, false), (100_000, false)] {
        let (kind, data) = nested(depth);
        let value = Value::new(&kind, &data).unwrap();
        assert_eq!(value.is_normal(), is_normal, "{depth}");
    }
}

#[test]
fn a_dictionary_is_looked_up() {
    let (kind, data) = writer::dictionary([
        ("name", writer::string("value")),
        ("number", writer::number(7u64.to_be_bytes())),
        ("name", writer::string("again")),
    ]);
    let value = Value::new(&kind, &data).unwrap();
    assert!(value.is_normal());
    assert_eq!(value.get("name").unwrap().as_str(), Some("value"));
    assert_eq!(value.get("number").unwrap().as_u64_be(), Some(7));
    assert_eq!(value.get("other"), None);
    assert_eq!(value.child(2).unwrap().kind(), "{sv}");
}

/// Any value, in normal form.
fn written() -> impl Strategy<Value = Written> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(|value| ("b".into(), vec![u8::from(value)])),
        any::<[u8; 2]>().prop_map(|value| ("q".into(), value.to_vec())),
        any::<[u8; 4]>().prop_map(writer::number),
        any::<[u8; 8]>().prop_map(writer::number),
        "[a-zäö]{0,90}".prop_map(|text| writer::string(&text)),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(|data| writer::bytes(&data)),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            inner.clone().prop_map(writer::variant),
            inner.clone().prop_map(|value| {
                let kind = value.0.clone();
                writer::maybe(&kind, Some(value))
            }),
            proptest::collection::vec(inner.clone(), 0..6).prop_map(writer::tuple),
            // The elements of an array are of one type, so make them so.
            (inner.clone(), 0..6usize).prop_map(|(value, count)| {
                let kind = value.0.clone();
                writer::array(&kind, vec![value; count])
            }),
            proptest::collection::vec(inner, 0..6)
                .prop_map(|values| { writer::array("v", values.into_iter().map(writer::variant)) }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_normal_and_read_back((kind, data) in written()) {
        if let Some(value) = Value::new(&kind, &data) {
            prop_assert!(value.is_normal(), "{kind}");
            prop_assert_eq!(writer::rewrite(&value), data);
        }
    }

    /// There is one normal form of a value; so what was changed is either
    /// another value in its normal form, or not normal.
    #[test]
    fn nothing_else_is_normal(
        (kind, mut data) in written(),
        changes in proptest::collection::vec((any::<Index>(), 0..3u8), 1..3),
        tail in proptest::collection::vec(0..3u8, 0..3),
    ) {
        for (at, byte) in changes {
            if !data.is_empty() {
                let at = at.index(data.len());
                data[at] = byte;
            }
        }
        data.extend(tail);
        if let Some(value) = Value::new(&kind, &data) {
            let unchanged = writer::rewrite(&value) == data;
            prop_assert!(!value.is_normal() || unchanged, "{kind} {data:?}");
        }
    }
}
