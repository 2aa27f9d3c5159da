//! The file `summary.idx`: which sub-summaries there are, by the name of a part
//! of the repository, such as an architecture. Flatpak writes it.

use super::gvariant::Value;
use super::{checksum, document, members};
use crate::resource::Checksum;

/// `FLATPAK_SUMMARY_INDEX_GVARIANT_STRING`
const KIND: &str = "(a{s(ayaaya{sv})}a{sv})";

/// What a summary index says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SummaryIndex {
    /// The sub-summaries, in the order in which they are listed.
    pub summaries: Vec<SubSummary>,
}

/// A sub-summary. Each digest is SHA-256 of a sub-summary before compression,
/// and names its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubSummary {
    /// What it is the summary of.
    pub name: String,
    /// Today's.
    pub digest: Checksum,
    /// Earlier ones, from which there may be a delta to today's.
    pub history: Vec<Checksum>,
}

impl SummaryIndex {
    /// Reads a summary index.
    ///
    /// # Errors
    /// Why clients could not use it; a phrase of which it is the subject.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let [entries, _metadata] = members(document(KIND, data)?)?;
        let sub_summary = |(name, value): (&str, Value<'_>)| {
            sub_summary(name, value).ok_or_else(|| {
                let name = name.escape_debug();
                format!("its sub-summary `{name}` has a digest that is no SHA-256")
            })
        };
        let summaries = entries.entries().map(sub_summary);
        Ok(Self {
            summaries: summaries.collect::<Result<_, _>>()?,
        })
    }
}

fn sub_summary(name: &str, value: Value<'_>) -> Option<SubSummary> {
    Some(SubSummary {
        name: name.to_owned(),
        digest: checksum(value.child(0)?)?,
        history: value
            .child(1)?
            .children()
            .map(checksum)
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::gvariant::writer::{Written, array, bytes, dictionary, string, tuple};
    use super::*;
    use crate::format::summary::Summary;

    fn index<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8], &'a [u8])>) -> Vec<u8> {
        let entry = |(name, digest, older): (&str, &[u8], &[u8])| -> Written {
            let history = array("ay", [bytes(older), bytes(older)]);
            let value = tuple([bytes(digest), history, dictionary([])]);
            (String::new(), tuple([string(name), value]).1)
        };
        let entries = array("{s(ayaaya{sv})}", entries.into_iter().map(entry));
        let (kind, data) = tuple([entries, dictionary([("xa.x", string("y"))])]);
        assert_eq!(kind, KIND);
        data
    }

    #[test]
    fn digests_by_name() {
        let data = index([
            ("aarch64", &[1; 32][..], &[2; 32][..]),
            ("x86_64", &[3; 32], &[4; 32]),
        ]);
        let entry = |name: &str, digest, older| SubSummary {
            name: name.to_owned(),
            digest: Checksum::from_bytes([digest; 32]),
            history: vec![Checksum::from_bytes([older; 32]); 2],
        };
        assert_eq!(
            SummaryIndex::parse(&data).unwrap().summaries,
            [entry("aarch64", 1, 2), entry("x86_64", 3, 4)]
        );
        for len in 0..data.len() {
            assert!(SummaryIndex::parse(&data[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn flatpak_s_own_index() {
        let index = include_bytes!("../../tests/fuzz/corpus/summary_index/flatpak");
        let sub_summary = include_bytes!("../../tests/fuzz/corpus/summary/sub-summary");
        let index = SummaryIndex::parse(index).unwrap();
        let [of_machine] = &index.summaries[..] else {
            panic!("{index:?}");
        };
        assert_eq!(of_machine.name, "x86_64");
        assert_eq!(of_machine.digest, Checksum::of(sub_summary));
        assert_eq!(of_machine.history.len(), 1);
        assert!(Summary::parse(sub_summary).is_ok());
    }

    #[test]
    fn what_is_no_index() {
        let cases = [
            index([("short", &[1; 31][..], &[2; 32][..])]),
            index([("short", &[1; 32][..], &[2; 33][..])]),
        ];
        for data in cases {
            let error = SummaryIndex::parse(&data).unwrap_err();
            assert!(error.contains("`short`"), "{error}");
        }
    }
}
