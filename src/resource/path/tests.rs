//! The grammar as tables, and as properties: what is parsed is written back
//! the same, and what is written is parsed back the same.

use proptest::prelude::*;

use super::*;

const HEX: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
const BASE64: &str = "LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564";

fn object(extension: &str) -> String {
    format!("objects/{}/{}.{extension}", &HEX[..2], &HEX[2..])
}

fn delta(file: &str) -> String {
    format!("deltas/{}/{}/{file}", &BASE64[..2], &BASE64[2..])
}

#[test]
fn every_kind_of_name_is_read() {
    let checksum = Checksum::from_hex(HEX.as_bytes()).unwrap();
    let from_to = format!("deltas/{}/{}-{BASE64}/0", &BASE64[..2], &BASE64[2..]);
    let cases = [
        ("config".to_owned(), Resource::Config),
        ("summary".into(), Resource::Root(RootDocument::Summary)),
        (
            "summary.sig".into(),
            Resource::Root(RootDocument::SummarySignature),
        ),
        (
            "summary.idx".into(),
            Resource::Root(RootDocument::SummaryIndex),
        ),
        (
            "summary.idx.sig".into(),
            Resource::Root(RootDocument::SummaryIndexSignature),
        ),
        (
            object("filez"),
            Resource::Object {
                checksum,
                kind: ObjectKind::FileZ,
            },
        ),
        (
            object("commit-tombstone"),
            Resource::Object {
                checksum,
                kind: ObjectKind::CommitTombstone,
            },
        ),
        (
            delta("superblock"),
            Resource::Delta {
                from: None,
                to: checksum,
                file: DeltaFile::Superblock,
            },
        ),
        (
            delta("4294967295"),
            Resource::Delta {
                from: None,
                to: checksum,
                file: DeltaFile::Part(u32::MAX),
            },
        ),
        (
            from_to,
            Resource::Delta {
                from: Some(checksum),
                to: checksum,
                file: DeltaFile::Part(0),
            },
        ),
        (
            format!("delta-indexes/{}/{}.index", &BASE64[..2], &BASE64[2..]),
            Resource::DeltaIndex { to: checksum },
        ),
        (
            format!("summaries/{HEX}.gz"),
            Resource::SubSummary { digest: checksum },
        ),
        (
            format!("summaries/{HEX}.idx.sig"),
            Resource::IndexSignature { digest: checksum },
        ),
        (
            format!("summaries/{HEX}-{HEX}.delta"),
            Resource::SubSummaryDelta {
                from: checksum,
                to: checksum,
            },
        ),
        (
            "refs/heads/fedora/x86_64/kinoite".into(),
            Resource::Ref(RefName("heads/fedora/x86_64/kinoite")),
        ),
        (
            "refs/mirrors/org.example.Os/stable".into(),
            Resource::Ref(RefName("mirrors/org.example.Os/stable")),
        ),
    ];
    for (path, resource) in cases {
        assert_eq!(parse(&path), Some(resource), "{path}");
        assert_eq!(file_path(&resource), path);
    }
}

#[test]
fn unusual_but_legal_refs_are_read() {
    for name in [
        "a..b",
        "_x",
        "prüfung",
        "u\u{308}",
        "中文/分支",
        "9",
        "a-/b.",
    ] {
        let path = format!("refs/heads/{name}");
        assert!(parse(&path).is_some(), "{path}");
    }
}

#[test]
fn everything_else_is_outside() {
    let long_collection = format!("refs/mirrors/a.{}/x", "b".repeat(254));
    let cases = [
        // What lies in a repository and is nobody's business
        // (client-contract 1.3).
        ".lock",
        "tmp/cache/summaries/fedora",
        "state/x",
        "extensions/x",
        "refs/remotes/fedora/x",
        "transaction",
        "uncompressed-objects-cache/aa/bb",
        "fedora.cookies.txt",
        "fedora.trustedkeys.gpg",
        "deltas/.tmp/aa/superblock",
        // Empty, incomplete, doubled and dotted segments.
        "",
        "/",
        "/summary",
        "summary/",
        "objects",
        "objects/",
        "refs",
        "refs/heads",
        "refs/heads/",
        "refs/heads//a",
        "refs/heads/a/",
        "refs/heads/a//b",
        "refs/heads/.",
        "refs/heads/..",
        "refs/heads/a/../b",
        "refs/heads/.hidden",
        "refs/heads/-x",
        "refs/heads/a b",
        "refs/heads/a:b",
        "refs/heads/a%62",
        "refs/heads/a\0",
        "refs/heads/→",
        "./summary",
        "../summary",
        "Summary",
        "summary.sig.sig",
        "summaries/x.gz",
        // Collection ids.
        "refs/mirrors/org/x",
        "refs/mirrors/org.1x/x",
        "refs/mirrors/org./x",
        "refs/mirrors/org.example",
        "refs/mirrors/org.ex-ample/x",
        &long_collection,
        // Objects.
        &object("file"),
        &object("commitmeta2"),
        &object("payload-link"),
        &object("sizes"),
        &object("filez.x"),
        &object("commit").to_uppercase(),
        &object("commit").replace("2c/", "2C/"),
        &object("commit").replace("2c/", "2c/0"),
        &object("commit").replace("2c/2", "2c2/"),
        // Deltas.
        &delta("meta"),
        &delta("00"),
        &delta("01"),
        &delta("+1"),
        &delta("4294967296"),
        &delta("99999999999"),
        &delta(""),
        &delta("superblock/"),
        &delta("superblock").replace("564/", "565/"),
        &delta("superblock").replace('_', "/"),
        &delta("superblock").replace("/superblock", "-/superblock"),
        &format!("deltas/{BASE64}/superblock"),
        &format!("summaries/{HEX}.delta"),
        &format!("summaries/{HEX}-{HEX}.gz"),
        &format!("summaries/{HEX}-{HEX}-{HEX}.delta"),
    ];
    for case in cases {
        assert_eq!(parse(case), None, "{case:?}");
    }
}

#[test]
fn escapes_are_undone_once() {
    let cases = [
        ("/summary", Some("/summary")),
        ("/a+b", Some("/a+b")),
        ("/a%2Bb%2b", Some("/a+b+")),
        ("/pr%c3%bcfung", Some("/prüfung")),
        ("/%2541", Some("/%41")),
        ("/%2e%2E", Some("/..")),
        ("/%73ummary", Some("/summary")),
        ("/a%2fb", None),
        ("/a%2Fb", None),
        ("/a%00", None),
        ("/%c3", None),
        ("/%ff%fe", None),
        ("/%", None),
        ("/%4", None),
        ("/%4g", None),
        ("/%+1", None),
        ("/%é", None),
    ];
    for (raw, decoded) in cases {
        assert_eq!(decode(raw).as_deref(), decoded, "{raw}");
    }
}

#[test]
fn the_top_level_names_are_those_of_the_grammar() {
    for path in [
        "config".to_owned(),
        object("commit"),
        delta("0"),
        format!("summaries/{HEX}.gz"),
        "refs/heads/a".into(),
    ] {
        let first = path.split('/').next().unwrap();
        assert!(TOP_LEVEL_NAMES.contains(&first), "{first}");
    }
    for document in RootDocument::ALL {
        assert!(TOP_LEVEL_NAMES.contains(&document.name()));
    }
}

fn checksums() -> impl Strategy<Value = Checksum> {
    any::<[u8; 32]>().prop_map(Checksum::from_bytes)
}

fn fixed_resources() -> impl Strategy<Value = Resource<'static>> {
    let delta_file = prop_oneof![
        Just(DeltaFile::Superblock),
        any::<u32>().prop_map(DeltaFile::Part)
    ];
    prop_oneof![
        Just(Resource::Config),
        proptest::sample::select(&RootDocument::ALL[..]).prop_map(Resource::Root),
        (checksums(), proptest::sample::select(&ObjectKind::ALL[..]))
            .prop_map(|(checksum, kind)| Resource::Object { checksum, kind }),
        (proptest::option::of(checksums()), checksums(), delta_file)
            .prop_map(|(from, to, file)| Resource::Delta { from, to, file }),
        checksums().prop_map(|to| Resource::DeltaIndex { to }),
        checksums().prop_map(|digest| Resource::SubSummary { digest }),
        checksums().prop_map(|digest| Resource::IndexSignature { digest }),
        (checksums(), checksums()).prop_map(|(from, to)| Resource::SubSummaryDelta { from, to }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(resource in fixed_resources()) {
        let path = file_path(&resource);
        prop_assert_eq!(parse(&path), Some(resource));
    }

    #[test]
    fn a_ref_is_written_as_it_was_read(name in "(heads|mirrors/a[.]b)(/[a-zß0-9_][-._a-z]{0,5}){1,4}") {
        let path = format!("refs/{name}");
        let resource = parse(&path).expect("a legal ref");
        prop_assert_eq!(file_path(&resource), path);
    }

    /// Text near the grammar: whatever is accepted has one spelling, and stays
    /// below the repository.
    #[test]
    fn what_is_read_is_written_the_same(
        path in "(objects|deltas|refs/heads|refs/mirrors/a[.]b|summaries|delta-indexes|[.]{0,2})?(/[-a-zA-Z0-9_+./ü%]{0,70}){0,3}"
    ) {
        if let Some(resource) = parse(&path) {
            prop_assert_eq!(file_path(&resource), &path[..]);
            for segment in path.split('/') {
                prop_assert!(!segment.is_empty() && !segment.starts_with('.'));
            }
        }
    }

    #[test]
    fn decoding_and_parsing_any_text_ends(path in "\\PC{0,300}") {
        if let Some(decoded) = decode(&path) {
            let _ = parse(&decoded);
        }
    }
}
