//! What replaces the pair that is served with, and what does not.

use super::*;

/// An unchanged pair is not loaded again, and what clients would refuse does not
/// replace it.
#[test]
fn only_good_pairs_replace_others() {
    let now = SystemTime::now();
    let mut files = Files::new(&["a"], 90);
    let running = load(&files.tls).unwrap();
    assert!(matches!(
        renew(&files.tls, None, &running, now),
        Ok(Renewal::Same)
    ));
    // Whatever the time: it is what is served with.
    assert!(matches!(
        renew(&files.tls, None, &running, now + 200 * DAY),
        Ok(Renewal::Same)
    ));

    let other = Files::new(&["b"], 90);
    let put = |files: &Files| {
        for name in ["certificate.pem", "key.pem"] {
            files.write(name, &other.read(name));
        }
    };
    put(&files);
    let renewed = |files: &Files, days: i64| {
        let now = match days {
            0.. => now + DAY * days as u32,
            _ => now - DAY * days.unsigned_abs() as u32,
        };
        match renew(&files.tls, None, &running, now) {
            Ok(Renewal::Same) => "same".to_owned(),
            Ok(Renewal::New(identity)) => identity.certificate.names.join(","),
            Ok(Renewal::Shorter(_)) => "shorter".to_owned(),
            Err(findings) => findings.iter().map(|it| format!("{it}\n")).collect(),
        }
    };
    assert_eq!(renewed(&files, 0), "b");
    assert_eq!(renewed(&files, 89), "b");
    assert!(renewed(&files, 91).contains("the certificate expired on"));
    assert!(renewed(&files, -2).contains("is not valid before"));

    let nameless = Files::new(&[], 90);
    files.write("certificate.pem", &nameless.read("certificate.pem"));
    assert!(renewed(&files, 0).contains("the key does not belong"));
    files.write("key.pem", &nameless.read("key.pem"));
    assert!(renewed(&files, 0).contains("names no host"));

    put(&files);
    files.tls.protocols = vec![Protocol::Http1];
    assert_eq!(renewed(&files, 0), "b");
}

/// A new pair that belongs together, is valid, and is for another machine.
#[test]
fn a_certificate_for_another_host_replaces_none() {
    let now = SystemTime::now();
    let files = Files::new(&["repo.example.com", "alias.example.com"], 90);
    let running = load(&files.tls).unwrap();
    let other = issued("mail.example.com", "Authority", 300);
    other.put(&files);
    let came = renewal(&files, Some("repo.example.com:443"), &running, now);
    let said = "the certificate is for mail.example.com, and `listen.public_name` is \
                repo.example.com: clients refuse it";
    assert!(came.contains(said), "{came}");
    assert_eq!(
        renewal(&files, Some("mail.example.com"), &running, now),
        "new"
    );
    // It was for another one from the start.
    assert_eq!(
        renewal(&files, Some("www.example.com"), &running, now),
        "new"
    );
    // Without a public name nobody knows which one clients use.
    assert_eq!(renewal(&files, None, &running, now), "new");

    let names = |names: &[&str]| CertificateFacts {
        names: names.iter().map(|&it| it.to_owned()).collect(),
        ..running.certificate.clone()
    };
    let cases: [(&[&str], &[&str], bool); 6] = [
        (&["a.example"], &["a.example"], false),
        (
            &["a.example", "b.example"],
            &["b.example", "c.example"],
            false,
        ),
        (&["a.example"], &["*.example"], false),
        (&["*.example"], &["*.example"], false),
        (&["a.example"], &["b.example"], true),
        (&["*.example"], &["a.example"], true),
    ];
    for (before, after, surprises) in cases {
        let finding = names(after).other_hosts(&files.path("c"), &names(before));
        assert_eq!(finding.is_some(), surprises, "{before:?} {after:?}");
    }
}

#[test]
fn a_certificate_for_clients_replaces_none() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let cases = [
        (vec![], true),
        (vec![ServerAuth], true),
        (vec![ClientAuth, ServerAuth], true),
        (vec![ClientAuth], false),
        // OpenSSL refuses it as well.
        (vec![Any], false),
    ];
    for (usages, good) in cases {
        let files = Files::new(&["a"], 90);
        let running = load(&files.tls).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
        params.extended_key_usages.clone_from(&usages);
        files.write("certificate.pem", &params.self_signed(&key).unwrap().pem());
        files.write("key.pem", &key.serialize_pem());
        let came = renewal(&files, None, &running, SystemTime::now());
        let expected = if good {
            "new"
        } else {
            "the certificate is not for servers"
        };
        assert!(came.contains(expected), "{usages:?}: {came}");
    }
}
