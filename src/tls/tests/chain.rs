//! Certificates after the first one, and files that end before their time.

use super::*;

/// `cp` of a chain over the old one, looked at after each byte: where the file
/// ended in the second certificate's first line, it was taken for a chain of one.
#[test]
fn half_a_file_is_no_certificate() {
    let files = Files::new(&["a"], 90);
    let (old, new) = (issued("a", "Authority", 300), issued("a", "Authority", 300));
    old.put(&files);
    let running = load(&files.tls).unwrap();
    files.write("key.pem", &new.key);
    let whole = new.chain();
    let first = new.one(0).trim_end().len();
    for len in 0..=whole.len() {
        files.write("certificate.pem", &whole[..len]);
        let came = renewal(&files, None, &running, SystemTime::now());
        let rest = whole.get(first..len).unwrap_or("-");
        let expected = match len {
            _ if whole[len..].trim_end().is_empty() => "new",
            // Nothing tells that more is to come.
            _ if rest.trim_end().is_empty() => "shorter",
            _ => "error: ",
        };
        assert!(came.contains(expected), "{len}, {rest:?}: {came}");
    }
}

/// What a client can follow, and what it cannot.
#[test]
fn a_chain_leads_from_one_to_the_next() {
    let (it, other) = (issued("a", "Authority", 300), issued("a", "Authority", 300));
    let third = issued("a", "Another", 300);
    let brief = issued("a", "Brief", 1);
    let now = SystemTime::now();
    let cases = [
        (it.chain(), now, ""),
        // Clients look for the rest themselves.
        (it.one(0).to_owned(), now, ""),
        (
            it.one(0).to_owned() + third.one(1),
            now,
            "certificate 2 of the chain (CN=Another",
        ),
        // Of the same name, with another key.
        (
            it.one(0).to_owned() + other.one(1),
            now,
            "has not issued the one before it",
        ),
        (
            it.one(0).to_owned() + it.one(0),
            now,
            "has not issued the one before it",
        ),
        (it.chain() + it.one(1), now, "certificate 3 of the chain"),
        (brief.chain(), now, ""),
        (
            brief.chain(),
            now + 2 * DAY,
            "certificate 2 of the chain expired on",
        ),
        (
            it.chain(),
            now - 2 * DAY,
            "certificate 2 of the chain is not valid before",
        ),
    ];
    for (pem, time, expected) in cases {
        let files = Files::new(&["a"], 90);
        let key = if pem.contains(brief.one(0)) {
            &brief.key
        } else {
            &it.key
        };
        files.write("certificate.pem", &pem);
        files.write("key.pem", key);
        let identity = load(&files.tls).unwrap();
        let findings = identity.chain_findings(&files.path("certificate.pem"), time);
        let said: String = findings.iter().map(|it| format!("{it}\n")).collect();
        assert_eq!(said.is_empty(), expected.is_empty(), "{said}");
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
}

#[test]
fn a_broken_chain_replaces_none_but_a_broken_one() {
    let now = SystemTime::now();
    let files = Files::new(&["a"], 90);
    let (old, new) = (issued("a", "Authority", 300), issued("a", "Authority", 300));
    old.put(&files);
    let running = load(&files.tls).unwrap();
    let wrong = Issued {
        certificates: vec![new.one(0).to_owned(), old.one(1).to_owned()],
        key: new.key.clone(),
    };
    wrong.put(&files);
    let came = renewal(&files, None, &running, now);
    assert!(came.contains("has not issued the one before it"), "{came}");
    // The operator began with one like it, and clients put up with it.
    let running = load(&files.tls).unwrap();
    files.write("certificate.pem", &(new.one(0).to_owned() + new.one(0)));
    assert_eq!(renewal(&files, None, &running, now), "new");
}
