//! The file `summary` of a repository, and the sub-summaries of an indexed one:
//! which refs there are, and what clients are told before they ask for more.

use super::gvariant::Value;
use super::{checksum, document, members, typed};
use crate::resource::Checksum;

/// `OSTREE_SUMMARY_GVARIANT_STRING`
const KIND: &str = "(a(s(taya{sv}))a{sv})";
/// Of `ostree.summary.collection-map`.
const COLLECTIONS_KIND: &str = "a{sa(s(taya{sv}))}";

/// What a summary says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All refs, in the order in which they are listed.
    pub refs: Vec<Ref>,
    /// The static deltas that it lists; a newer ostree lists them elsewhere.
    pub deltas: Vec<StaticDelta>,
    /// When it was written, in seconds since 1970.
    pub last_modified: Option<u64>,
    /// The repository's mode, in ostree's spelling.
    pub mode: Option<String>,
}

/// A ref, and the commit that it points at. Its names are as they were found:
/// nobody checked that they could be file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// The collection that it belongs to; `None` if the repository has none.
    pub collection: Option<String>,
    /// Its name.
    pub name: String,
    /// The commit.
    pub commit: Checksum,
}

/// A static delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticDelta {
    /// The commit that a client needs for it; `None` if it needs nothing.
    pub from: Option<Checksum>,
    /// The commit that it leads to.
    pub to: Checksum,
    /// SHA-256 of the file `superblock`.
    pub superblock: Checksum,
}

impl Summary {
    /// Reads a summary, which is uncompressed.
    ///
    /// # Errors
    /// Why clients could not use it; a phrase of which it is the subject.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let [own_refs, metadata] = members(document(KIND, data)?)?;
        let collection = string(metadata, "ostree.summary.collection-id")?;
        let mut summary = Self {
            refs: Vec::new(),
            deltas: deltas(metadata)?,
            last_modified: typed(metadata, "ostree.summary.last-modified", "t")?
                .and_then(|value| value.as_u64_be()),
            mode: string(metadata, "ostree.summary.mode")?,
        };
        summary.add_refs(collection.as_deref(), own_refs)?;
        if let Some(map) = typed(metadata, "ostree.summary.collection-map", COLLECTIONS_KIND)? {
            for (collection, refs) in map.entries() {
                summary.add_refs(Some(collection), refs)?;
            }
        }
        Ok(summary)
    }

    fn add_refs(&mut self, collection: Option<&str>, refs: Value<'_>) -> Result<(), String> {
        for entry in refs.children() {
            let [name, target] = members(entry)?;
            let name = name.as_str().unwrap_or_default();
            let commit = target
                .child(1)
                .and_then(checksum)
                .ok_or_else(|| format!("its ref `{}` has no commit", name.escape_debug()))?;
            self.refs.push(Ref {
                collection: collection.map(str::to_owned),
                name: name.to_owned(),
                commit,
            });
        }
        Ok(())
    }
}

/// Reads the file of a commit in `delta-indexes/`: the static deltas to it.
///
/// # Errors
/// Why clients could not use it; a phrase of which it is the subject.
pub fn parse_delta_index(data: &[u8]) -> Result<Vec<StaticDelta>, String> {
    deltas(document("a{sv}", data)?)
}

fn string(metadata: Value<'_>, key: &str) -> Result<Option<String>, String> {
    let value = typed(metadata, key, "s")?;
    Ok(value.and_then(|value| value.as_str()).map(str::to_owned))
}

fn deltas(metadata: Value<'_>) -> Result<Vec<StaticDelta>, String> {
    let Some(deltas) = typed(metadata, "ostree.static-deltas", "a{sv}")? else {
        return Ok(Vec::new());
    };
    deltas
        .entries()
        .map(|(name, superblock)| {
            delta(name, superblock)
                .ok_or_else(|| format!("its static delta `{}` is none", name.escape_debug()))
        })
        .collect()
}

/// Its name is that of the commit that it leads to, after that of the one that
/// it begins at.
fn delta(name: &str, superblock: Value<'_>) -> Option<StaticDelta> {
    let commit = |hex: &str| Checksum::from_hex(hex.as_bytes());
    let (from, to) = match name.split_once('-') {
        Some((from, to)) => (Some(commit(from)?), commit(to)?),
        None => (None, commit(name)?),
    };
    Some(StaticDelta {
        from,
        to,
        superblock: checksum(superblock)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::MAX_DOCUMENT_LEN;
    use super::super::gvariant::writer::{
        Written, array, bytes, dictionary, number, string, tuple,
    };
    use super::*;
    use crate::demo;

    #[test]
    fn the_demonstration_s_summary() {
        let summary = Summary::parse(&demo::file("summary")).unwrap();
        let refs: Vec<_> = summary
            .refs
            .iter()
            .map(|it| (it.name.as_str(), it.commit.to_string()))
            .collect();
        let tip = "b0c15a61bf0c34cca077b2b70c7344f9cac45776b8dff4277c8c608f28ed4068";
        let older = "b134e212a6bc578084552fb4b82a60082b6964fc9ed93a960b951ab79d322f30";
        let unicode = "b5279ee9f38b2abcf17f96385423c01a6941602a58daa7b01e5621b5e04e6288";
        assert_eq!(
            refs,
            [
                ("demo/prüfung", unicode.to_owned()),
                ("demo/x86_64/latest", tip.to_owned()),
                ("demo/x86_64/stable", tip.to_owned()),
            ]
        );
        assert!(summary.refs.iter().all(|it| it.collection.is_none()));
        assert_eq!(summary.mode.as_deref(), Some("archive-z2"));
        // Between the making of the recipe and the end of 32-bit time.
        let written = summary.last_modified.unwrap();
        assert!((1_735_689_600..4_294_967_296).contains(&written));

        let superblocks: Vec<_> = summary
            .deltas
            .iter()
            .map(|it| (it.from.map(|from| from.to_string()), it.to.to_string()))
            .collect();
        assert_eq!(superblocks.len(), 2);
        for from in [None, Some(older.to_owned())] {
            assert!(superblocks.contains(&(from, tip.to_owned())));
        }
    }

    fn target(commit: &[u8]) -> Written {
        tuple([number([0; 8]), bytes(commit), dictionary([])])
    }

    fn refs<'a>(names: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Written {
        let names = names.into_iter();
        let entries = names.map(|(name, commit)| tuple([string(name), target(commit)]));
        array("(s(taya{sv}))", entries)
    }

    #[test]
    fn collections() {
        let entry = |name, refs| {
            let (_, data) = tuple([string(name), refs]);
            (String::new(), data)
        };
        let map = array(
            "{sa(s(taya{sv}))}",
            [
                entry("org.example.A", refs([("one", &[1; 32][..])])),
                entry(
                    "org.example.B",
                    refs([("two", &[2; 32][..]), ("three", &[3; 32])]),
                ),
            ],
        );
        let metadata = dictionary([
            ("ostree.summary.collection-id", string("org.example.Own")),
            ("ostree.summary.collection-map", map),
            ("ostree.summary.last-modified", number(17u64.to_be_bytes())),
        ]);
        let (kind, data) = tuple([refs([("zero", &[0; 32][..])]), metadata]);
        assert_eq!(kind, KIND);
        let summary = Summary::parse(&data).unwrap();
        let expected = [
            ("org.example.Own", "zero", 0),
            ("org.example.A", "one", 1),
            ("org.example.B", "two", 2),
            ("org.example.B", "three", 3),
        ]
        .map(|(collection, name, byte)| Ref {
            collection: Some(collection.to_owned()),
            name: name.to_owned(),
            commit: Checksum::from_bytes([byte; 32]),
        });
        assert_eq!(summary.refs, expected);
        assert_eq!(summary.last_modified, Some(17));
        assert_eq!(summary.mode, None);
    }

    #[test]
    fn delta_indexes() {
        let hex = "ab".repeat(32);
        let deltas = dictionary([(hex.as_str(), bytes(&[7; 32]))]);
        let (_, data) = dictionary([("ostree.static-deltas", deltas)]);
        let expected = StaticDelta {
            from: None,
            to: Checksum::from_bytes([0xab; 32]),
            superblock: Checksum::from_bytes([7; 32]),
        };
        assert_eq!(parse_delta_index(&data).unwrap(), [expected]);
        assert_eq!(parse_delta_index(&dictionary([]).1).unwrap(), []);
        for len in 1..data.len() {
            assert!(parse_delta_index(&data[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn ostree_s_own_collections() {
        let data = include_bytes!("../../tests/fuzz/corpus/summary/collections");
        let refs = Summary::parse(data).unwrap().refs;
        let names: Vec<_> = refs
            .iter()
            .map(|it| (it.collection.as_deref(), it.name.as_str()))
            .collect();
        let (own, other) = (Some("org.example.Demo"), Some("org.example.Other"));
        assert_eq!(
            names,
            [
                (own, "demo/prüfung"),
                (own, "demo/x86_64/latest"),
                (own, "demo/x86_64/stable"),
                // ostree adds this one by itself.
                (own, "ostree-metadata"),
                (other, "demo/other"),
            ]
        );
    }

    #[test]
    fn what_is_no_summary() {
        let whole = demo::file("summary");
        for len in 0..whole.len() {
            assert!(Summary::parse(&whole[..len]).is_err(), "{len}");
        }
        assert!(
            Summary::parse(&vec![0; MAX_DOCUMENT_LEN + 1])
                .is_err_and(|error| error.contains("128 MiB"))
        );

        let nothing = || refs([]);
        let deltas = |name, digest| ("ostree.static-deltas", dictionary([(name, bytes(digest))]));
        let hex = "ab".repeat(32);
        let pair = format!("{hex}-{hex}-");
        let cases = [
            (
                refs([("short", &[1; 31][..])]),
                dictionary([]),
                "ref `short`",
            ),
            (refs([("none", &[][..])]), dictionary([]), "ref `none`"),
            (
                nothing(),
                dictionary([("ostree.summary.mode", bytes(b"archive"))]),
                "`ay`",
            ),
            (
                nothing(),
                dictionary([("ostree.summary.last-modified", number([0; 4]))]),
                "`u`",
            ),
            (
                nothing(),
                dictionary([deltas(&hex, &[0; 31])]),
                "static delta `abab",
            ),
            (nothing(), dictionary([deltas("x\n", &[0; 32])]), r"`x\n`"),
            (nothing(), dictionary([deltas(&pair, &[0; 32])]), "`abab"),
        ];
        for (refs, metadata, reason) in cases {
            let (_, data) = tuple([refs, metadata]);
            let error = Summary::parse(&data).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }
}
