//! The rules, one row each.

use super::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

const BOUNDS: Bounds = Bounds {
    unsigned: Some(Duration::from_secs(60)),
    incomplete: Duration::from_secs(900),
};
const WITH_KEYS: Bounds = Bounds {
    unsigned: None,
    incomplete: Duration::from_secs(900),
};

const SIGNED: Option<Previous> = Some(Previous {
    summary: true,
    signature: true,
    index_signature: true,
});
const UNSIGNED: Option<Previous> = Some(Previous {
    summary: true,
    signature: false,
    index_signature: false,
});

/// A signed summary, seen just now; nothing is served yet.
fn signed() -> Facts {
    Facts {
        config: Part::Sound,
        refs: Part::Sound,
        summary: Part::Sound,
        signature: Signature::Fits,
        ..Facts::default()
    }
}

/// A summary without a signature.
fn unsigned() -> Facts {
    Facts {
        signature: Signature::Absent,
        ..signed()
    }
}

fn indexed() -> Facts {
    Facts {
        index: Part::Sound,
        index_signature: Signature::Fits,
        old_index_signature: Signature::Fits,
        ..signed()
    }
}

/// Every problem has been known for so long.
fn all_for(time: Duration) -> HashMap<String, Duration> {
    let files = ["summary", "summary.sig", "ref heads/app"];
    files.map(|file| (file.to_owned(), time)).into()
}

fn wrong() -> Signature {
    Signature::Wrong("it signs another version".into())
}

fn malformed() -> Part {
    Part::Malformed("not in normal form".into())
}

fn dangling_ref(partial: bool) -> Vec<Dangling> {
    vec![Dangling {
        name: "heads/app".into(),
        commit: "ab".repeat(32),
        partial,
    }]
}

/// The verdict in one word, with what is left out and what is told.
fn verdict(facts: &Facts, bounds: &Bounds) -> String {
    let files = |problems: &[Problem]| -> String {
        problems
            .iter()
            .map(|problem| format!(" !{}", problem.file))
            .collect()
    };
    match judge(facts, bounds) {
        Verdict::Publish { omitted, problems } => {
            let omitted = RootDocument::ALL
                .into_iter()
                .filter(|document| omitted.contains(*document))
                .map(|document| format!(" -{}", document.name()));
            format!("publish{}{}", omitted.collect::<String>(), files(&problems))
        }
        Verdict::Wait(time) => format!("wait {}ms", time.as_millis()),
        Verdict::Hold { problems, recheck } => {
            let recheck = recheck.map_or(String::new(), |time| format!(" {}s", time.as_secs()));
            format!("hold{recheck}{}", files(&problems))
        }
    }
}

#[test]
fn the_table() {
    #[rustfmt::skip]
    let rows: Vec<(&str, Facts, &str)> = vec![
        ("a signature that fits is published at once",
            Facts { previous: SIGNED, ..signed() }, "publish"),
        ("also at the start",
            signed(), "publish"),
        ("one that does not fit waits without limit",
            Facts { signature: wrong(), previous: SIGNED, known: all_for(9000 * S), unchanged: 9000 * S, ..signed() },
            "hold !summary.sig"),
        ("at the start it is left out once nobody is at work",
            Facts { signature: wrong(), unchanged: 2 * S, ..signed() }, "publish -summary.sig !summary.sig"),
        ("at the start a writer may be at work",
            Facts { signature: wrong(), unchanged: 500 * MS, ..signed() }, "wait 1500ms"),
        ("a signature without its key is believed by equal times",
            Facts { signature: Signature::Untellable(Age::Same), previous: SIGNED, ..signed() }, "publish"),
        ("or if it is younger and rests",
            Facts { signature: Signature::Untellable(Age::Younger), previous: SIGNED, unchanged: 2 * S, ..signed() }, "publish"),
        ("and waits until it does",
            Facts { signature: Signature::Untellable(Age::Younger), previous: SIGNED, ..signed() }, "wait 2000ms"),
        ("an older one is of the summary before",
            Facts { signature: Signature::Untellable(Age::Older), previous: SIGNED, unchanged: 99 * S, ..signed() }, "hold !summary.sig"),
        ("a malformed signature",
            Facts { signature: Signature::Malformed("x".into()), previous: SIGNED, ..signed() }, "hold !summary.sig"),
        ("an unreadable signature",
            Facts { signature: Signature::Unreadable("x".into(), "y".into()), previous: SIGNED, ..signed() }, "hold !summary.sig"),
        ("who never signed publishes after a writer's step",
            Facts { previous: UNSIGNED, unchanged: 50 * MS, ..unsigned() }, "wait 150ms"),
        ("and no later",
            Facts { previous: UNSIGNED, unchanged: 200 * MS, ..unsigned() }, "publish"),
        ("a first signature",
            Facts { previous: UNSIGNED, ..signed() }, "publish"),
        ("a signature that vanished is waited for",
            Facts { previous: SIGNED, known: all_for(20 * S), unchanged: 20 * S, ..unsigned() }, "hold 40s !summary.sig"),
        ("as long as configured",
            Facts { previous: SIGNED, known: all_for(60 * S), unchanged: 60 * S, ..unsigned() }, "publish !summary.sig"),
        ("a summary that vanished likewise",
            Facts { summary: Part::Absent, signature: Signature::Absent, previous: UNSIGNED, ..signed() }, "hold 60s !summary"),
        ("a signature of nothing",
            Facts { summary: Part::Absent, previous: SIGNED, known: all_for(99 * S), ..signed() }, "hold !summary !summary.sig"),
        ("at the start it is left out",
            Facts { summary: Part::Absent, unchanged: 99 * S, ..signed() }, "publish -summary.sig !summary.sig"),
        ("no summary at all",
            Facts { summary: Part::Absent, ..unsigned() }, "publish"),
        ("a malformed summary",
            Facts { summary: malformed(), previous: SIGNED, known: all_for(9000 * S), ..signed() }, "hold !summary"),
        ("at the start it is left out, with its signature",
            Facts { summary: malformed(), unchanged: 2 * S, ..signed() }, "publish -summary -summary.sig !summary"),
        ("a commit that is not there yet",
            Facts { dangling: dangling_ref(false), previous: SIGNED, known: all_for(300 * S), ..signed() }, "hold 600s !ref heads/app"),
        ("or not whole",
            Facts { dangling: dangling_ref(true), previous: SIGNED, ..signed() }, "hold 900s !ref heads/app"),
        ("is not waited for without end",
            Facts { dangling: dangling_ref(false), previous: SIGNED, known: all_for(900 * S), ..signed() }, "publish !ref heads/app"),
        ("at the start it is told",
            Facts { dangling: dangling_ref(false), unchanged: 2 * S, ..signed() }, "publish !ref heads/app"),
        ("the most patient problem counts",
            Facts { dangling: dangling_ref(false), previous: SIGNED, known: all_for(60 * S), ..unsigned() }, "hold 840s !summary.sig !ref heads/app"),
        ("an index with both signatures",
            Facts { previous: SIGNED, ..indexed() }, "publish"),
        ("an index whose signature is of the index before",
            Facts { index_signature: wrong(), previous: SIGNED, ..indexed() }, "hold !summaries/*.idx.sig"),
        ("at the start it is left out; clients take the summary",
            Facts { index_signature: wrong(), unchanged: 2 * S, ..indexed() }, "publish -summary.idx !summaries/*.idx.sig"),
        ("the old kind of signature comes a step later",
            Facts { old_index_signature: wrong(), previous: SIGNED, ..indexed() }, "hold !summary.idx.sig"),
        ("at the start only it is left out",
            Facts { old_index_signature: wrong(), unchanged: 2 * S, ..indexed() }, "publish -summary.idx.sig !summary.idx.sig"),
        ("either of them is enough",
            Facts { old_index_signature: Signature::Absent, previous: SIGNED, unchanged: S, ..indexed() }, "publish"),
        ("an index that lost both",
            Facts { old_index_signature: Signature::Absent, index_signature: Signature::Absent, previous: SIGNED, ..indexed() },
            "hold 60s !summaries/*.idx.sig !summary.idx.sig"),
        ("an index names what is not there",
            Facts { missing: vec!["summaries/x.gz".into()], previous: SIGNED, ..indexed() }, "hold !summaries/x.gz"),
        ("at the start it is left out whole",
            Facts { missing: vec!["summaries/x.gz".into()], unchanged: 2 * S, ..indexed() },
            "publish -summary.idx !summaries/x.gz"),
        ("a broken config",
            Facts { config: malformed(), previous: SIGNED, ..signed() }, "hold !config"),
        ("an unreadable ref",
            Facts { refs: Part::Unreadable("x".into(), "y".into()), previous: SIGNED, ..signed() }, "hold !refs"),
        ("who never rests is published all the same",
            Facts { previous: UNSIGNED, unsettled: 10 * S, ..unsigned() }, "publish"),
        ("and at the start",
            Facts { signature: wrong(), unsettled: 10 * S, ..signed() }, "publish -summary.sig !summary.sig"),
    ];
    for (story, facts, expected) in rows {
        assert_eq!(verdict(&facts, &BOUNDS), expected, "{story}: {facts:?}");
    }
}

/// With keys, the operator has said that everything is signed.
#[test]
fn the_table_with_keys() {
    #[rustfmt::skip]
    let rows = vec![
        ("a missing signature is waited for without end",
            Facts { previous: SIGNED, known: all_for(9000 * S), unchanged: 9000 * S, ..unsigned() }, "hold !summary.sig"),
        ("also where there was none before",
            Facts { previous: UNSIGNED, known: all_for(9000 * S), unchanged: 9000 * S, ..unsigned() }, "hold !summary.sig"),
        ("at the start what is not signed is not served",
            Facts { unchanged: 9 * S, ..unsigned() }, "publish -summary -summary.sig !summary.sig"),
        ("nor what another key signed",
            Facts { signature: wrong(), unchanged: 9 * S, ..signed() }, "publish -summary -summary.sig !summary.sig"),
        ("what is signed is",
            signed(), "publish"),
        ("no summary is no unsigned summary",
            Facts { summary: Part::Absent, ..unsigned() }, "publish"),
    ];
    for (story, facts, expected) in rows {
        assert_eq!(verdict(&facts, &WITH_KEYS), expected, "{story}: {facts:?}");
    }
}

/// A crossed pair may have been there for hours when somebody repairs it, and the
/// signature is made after the summary.
#[test]
fn to_repair_one_problem_does_not_use_up_the_patience_with_another() {
    let known = HashMap::from([("summary".to_owned(), 9000 * S)]);
    let repairing = Facts {
        previous: SIGNED,
        unchanged: 9000 * S,
        known,
        ..unsigned()
    };
    assert_eq!(verdict(&repairing, &BOUNDS), "hold 60s !summary.sig");
}

/// What a first generation was published with must not keep back the next ones.
#[test]
fn what_is_tolerated_keeps_nothing_back() {
    let stale = Facts {
        missing: vec!["summaries/x.gz".into()],
        unchanged: 9 * S,
        ..indexed()
    };
    let Verdict::Publish { problems, .. } = judge(&stale, &BOUNDS) else {
        panic!("not published");
    };
    let next = Facts {
        previous: SIGNED,
        tolerated: problems,
        ..stale
    };
    let expected = "publish -summary.idx !summaries/x.gz";
    assert_eq!(verdict(&next, &BOUNDS), expected);
    let other = Facts {
        missing: vec!["summaries/y.gz".into()],
        ..next
    };
    assert_eq!(verdict(&other, &BOUNDS), "hold !summaries/y.gz");
}

#[test]
fn many_dangling_refs_are_summed_up() {
    let facts = Facts {
        dangling: (0..100).flat_map(|_| dangling_ref(false)).collect(),
        previous: SIGNED,
        ..signed()
    };
    let Verdict::Hold { problems, .. } = judge(&facts, &BOUNDS) else {
        panic!("published");
    };
    assert_eq!(problems.len(), 6);
    assert_eq!(problems[5].file, "refs");
}
