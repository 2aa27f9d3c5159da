//! A generation comes back as it was, and nothing else does.

use super::*;
use crate::repo::generation::Listed;
use crate::resource::RootDocument;

fn directory() -> Arc<Directory> {
    Arc::new(Directory::open(std::path::Path::new("/")).unwrap())
}

fn hold() -> Hold {
    Hold {
        reason: "the image of today does not boot".into(),
        by: "root".into(),
        since: "2026-11-24T12:00:00Z".into(),
    }
}

fn document(text: &'static str) -> Document {
    Document::new(Bytes::from_static(text.as_bytes()))
}

fn generation() -> Generation {
    let mut documents = RootDocuments::default();
    documents.set(RootDocument::Summary, Some(document("a summary")));
    documents.set(RootDocument::SummarySignature, Some(document("")));
    let commit = Checksum::of(b"a commit");
    let long = format!("heads/{}", "long/".repeat(60) + "ref");
    let names = [
        "heads/app",
        "mirrors/org.example.Demo/app",
        "heads/prüfung",
        &long,
    ];
    let digest = Checksum::of(b"an index");
    let named = Named {
        content: Content::Memory(Bytes::from_static(b"a signature")),
        digest: Some(Checksum::of(b"a signature")),
    };
    Generation {
        number: 7,
        published: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        directory: directory(),
        config: document("[core]\n"),
        documents,
        refs: names.map(|name| (name.into(), commit)).into(),
        named: HashMap::from([(Resource::IndexSignature { digest }, Arc::new(named))]),
        listed: Listed::default(),
        unreadable: Unreadable::default(),
        commits: HashSet::new(),
    }
}

#[test]
fn a_generation_comes_back_as_it_was() {
    let before = generation();
    let bytes = write(&hold(), &before).unwrap();
    let (hold_after, after) = parse_frozen(&bytes, directory()).unwrap();
    assert_eq!(hold_after, hold());
    assert_eq!(after.published, before.published);
    assert_eq!(after.config.bytes, before.config.bytes);
    assert_eq!(after.refs, before.refs);
    for name in RootDocument::ALL {
        let [before, after] =
            [&before, &after].map(|it| it.documents.get(name).map(|it| &it.bytes));
        assert_eq!(before, after, "{name:?}");
    }
    let texts = |it: &Generation| -> Vec<_> {
        let texts = it
            .named
            .iter()
            .map(|(name, it)| (*name, read(&it.content).unwrap(), it.digest));
        texts.collect()
    };
    assert_eq!(texts(&after), texts(&before));
}

#[test]
fn what_is_cut_or_foreign_is_refused() {
    let bytes = write(&hold(), &generation()).unwrap();
    for len in (0..bytes.len()).step_by(97) {
        // The archive's end is a block of zeros, which nothing needs.
        if let Ok((_, generation)) = parse_frozen(&bytes[..len], directory()) {
            assert_eq!(generation.refs.len(), 4, "{len}");
        }
    }
    for name in ["../passwd", "objects/x", "tmp/x"] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, &b""[..]).unwrap();
        let error = parse_frozen(&archive.into_inner().unwrap(), directory()).unwrap_err();
        assert!(error.contains(name), "{error}");
    }
}
