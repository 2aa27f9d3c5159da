//! What operators are told of a certificate.

use super::super::facts::serial;
use super::*;

#[test]
fn operators_are_told_about_time_and_names() {
    let files = Files::new(&["a"], 90);
    let facts = load(&files.tls).unwrap().certificate;
    let nameless = CertificateFacts {
        names: vec![],
        ..facts.clone()
    };
    let now = SystemTime::now();
    let cases = [
        (&facts, now, ""),
        (&facts, now + 68 * DAY, ""),
        (
            &facts,
            now + 70 * DAY,
            "warning: the certificate expires on",
        ),
        (&facts, now + 91 * DAY, "error: the certificate expired on"),
        (
            &facts,
            now - 2 * DAY,
            "error: the certificate is not valid before",
        ),
        (&nameless, now, "error: the certificate names no host"),
    ];
    for (facts, time, expected) in cases {
        let findings = facts.findings(&files.path("c"), time);
        assert_eq!(
            findings.len(),
            usize::from(!expected.is_empty()),
            "{findings:?}"
        );
        assert!(
            findings.iter().all(|it| it.to_string().contains(expected)),
            "{findings:?}"
        );
    }
}

#[test]
fn names_cover_hosts() {
    let facts = CertificateFacts {
        serial: "01".into(),
        names: [
            "Repo.example.com",
            "*.wild.example",
            "192.0.2.1",
            "2001:db8::1",
        ]
        .map(str::to_owned)
        .to_vec(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
        for_servers: true,
    };
    let cases = [
        ("repo.example.com", true),
        ("repo.example.com.", true),
        ("a.wild.example", true),
        ("a.b.wild.example", false),
        ("wild.example", false),
        (".wild.example", false),
        ("192.0.2.1", true),
        ("192.0.2.2", false),
        ("[2001:db8:0::1]", true),
        ("example.com", false),
    ];
    for (host, covered) in cases {
        assert_eq!(facts.covers(host), covered, "{host}");
    }
}

#[test]
fn serial_numbers_are_written_as_openssl_does() {
    let cases: [(&[u8], &str); 4] = [
        (&[0], "00"),
        (&[1], "01"),
        (&[0, 0xab, 0xcd], "ABCD"),
        (&[0x7f, 0, 1], "7F0001"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(serial(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn a_life_has_stages() {
    let start = SystemTime::UNIX_EPOCH + 1000 * DAY;
    let facts = CertificateFacts {
        serial: "01".into(),
        names: vec!["a".into()],
        not_before: start,
        not_after: start + 90 * DAY,
        for_servers: true,
    };
    let second = Duration::from_secs(1);
    let cases = [
        (start - second, Remaining::NotYetValid),
        (start, Remaining::Plenty),
        (start + 69 * DAY - second, Remaining::Plenty),
        (start + 69 * DAY, Remaining::Weeks),
        (start + 83 * DAY - second, Remaining::Weeks),
        (start + 83 * DAY, Remaining::Days),
        (start + 90 * DAY - second, Remaining::Days),
        (start + 90 * DAY, Remaining::Expired),
        (start + 900 * DAY, Remaining::Expired),
    ];
    for (now, expected) in cases {
        assert_eq!(facts.remaining(now), expected, "{now:?}");
    }
}
