//! The other direction, for tests and the fuzz target: it writes normal form,
//! and nothing else. It shares no code with the reader.

use super::Value;

/// A value's type and its serialized form.
pub(crate) type Written = (String, Vec<u8>);

/// What the children of `value` are, written anew; `value` was in normal form
/// if and only if this is what it was.
pub(crate) fn rewrite(value: &Value<'_>) -> Vec<u8> {
    if !value.kind().starts_with(['a', 'm', 'v', '(', '{']) {
        return value.data().to_vec();
    }
    let children: Vec<Written> = value
        .children()
        .map(|child| (child.kind().to_owned(), rewrite(&child)))
        .collect();
    match value.kind().as_bytes()[0] {
        b'a' => array(&value.kind()[1..], children).1,
        b'm' => maybe(&value.kind()[1..], children.into_iter().next()).1,
        b'v' => children
            .into_iter()
            .next()
            .map_or(vec![], |child| variant(child).1),
        _ => tuple(children).1,
    }
}

pub(crate) fn string(text: &str) -> Written {
    ("s".into(), [text.as_bytes(), &[0]].concat())
}

pub(crate) fn byte(value: u8) -> Written {
    ("y".into(), vec![value])
}

pub(crate) fn bytes(data: &[u8]) -> Written {
    ("ay".into(), data.to_vec())
}

/// A `u` or `t` as it is in memory.
pub(crate) fn number<const N: usize>(data: [u8; N]) -> Written {
    (if N == 4 { "u" } else { "t" }.into(), data.to_vec())
}

pub(crate) fn variant((kind, data): Written) -> Written {
    ("v".into(), [&data, &[0][..], kind.as_bytes()].concat())
}

pub(crate) fn maybe(kind: &str, value: Option<Written>) -> Written {
    let data = value.map_or(vec![], |(kind, mut data)| {
        data.extend((!is_fixed(&kind)).then_some(0));
        data
    });
    (format!("m{kind}"), data)
}

pub(crate) fn array(kind: &str, elements: impl IntoIterator<Item = Written>) -> Written {
    let (mut body, mut ends) = (vec![], vec![]);
    for (_, data) in elements {
        append(&mut body, kind, &data);
        ends.extend((!is_fixed(kind)).then_some(body.len()));
    }
    (format!("a{kind}"), framed(body, &ends))
}

pub(crate) fn tuple(members: impl IntoIterator<Item = Written>) -> Written {
    let (mut kinds, mut body, mut ends) = (String::new(), vec![], vec![]);
    let mut members = members.into_iter().peekable();
    while let Some((kind, data)) = members.next() {
        append(&mut body, &kind, &data);
        ends.extend((!is_fixed(&kind) && members.peek().is_some()).then_some(body.len()));
        kinds += &kind;
    }
    let kind = format!("({kinds})");
    if is_fixed(&kind) {
        append(&mut body, &kind, &[]);
        body.resize(body.len().max(1), 0);
    }
    ends.reverse();
    (kind, framed(body, &ends))
}

/// A dictionary from strings to variants.
pub(crate) fn dictionary<'a>(entries: impl IntoIterator<Item = (&'a str, Written)>) -> Written {
    let entry = |(key, value)| ("{sv}".into(), tuple([string(key), variant(value)]).1);
    array("{sv}", entries.into_iter().map(entry))
}

fn append(body: &mut Vec<u8>, kind: &str, data: &[u8]) {
    body.resize(body.len().next_multiple_of(alignment(kind)), 0);
    body.extend(data);
}

fn framed(mut body: Vec<u8>, ends: &[usize]) -> Vec<u8> {
    let fits = |width: &u32| {
        let size = body.len() as u128 + ends.len() as u128 * u128::from(*width);
        size < 1 << (8 * width)
    };
    let width = [1, 2, 4, 8].into_iter().find(fits).unwrap_or(8);
    for end in ends {
        body.extend(&end.to_le_bytes()[..width as usize]);
    }
    body
}

/// A container has the alignment of what it may hold.
fn alignment(kind: &str) -> usize {
    let of_letter = |letter| match letter {
        'n' | 'q' => 2,
        'i' | 'u' | 'h' => 4,
        'x' | 't' | 'd' | 'v' => 8,
        _ => 1,
    };
    kind.chars().map(of_letter).max().unwrap_or(1)
}

fn is_fixed(kind: &str) -> bool {
    !kind.contains(['s', 'o', 'g', 'v', 'a', 'm'])
}
