//! Good and bad pairs. What openssl makes of the server is tested with the real
//! openssl (`tests/real_tls.rs`).

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose};
use rcgen::{IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use std::time::Duration;

use super::facts::{DAY, serial};
use super::*;

struct Files {
    directory: TempDir,
    tls: Tls,
}

impl Files {
    /// A certificate with its key, valid from yesterday for `days`.
    fn new(names: &[&str], days: u32) -> Self {
        let directory = TempDir::new().unwrap();
        let placed = |name: &str| Placed {
            value: directory.path().join(name),
            place: PathBuf::from("/etc/serve.toml").into(),
        };
        let tls = Tls {
            certificate: placed("certificate.pem"),
            private_key: placed("key.pem"),
            protocols: vec![Protocol::Http2, Protocol::Http1],
            client_ca: None,
        };
        let files = Self { directory, tls };
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY * days).into();
        files.write("certificate.pem", &params.self_signed(&key).unwrap().pem());
        files.write("key.pem", &key.serialize_pem());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn complaint(&self) -> String {
        match load(&self.tls) {
            Ok(_) => panic!("it loads"),
            Err(findings) => findings
                .iter()
                .map(|finding| format!("{finding}\n"))
                .collect(),
        }
    }
}

#[test]
fn a_good_pair_loads() {
    let files = Files::new(&["repo.example.com", "192.0.2.1", "2001:db8::1"], 90);
    let identity = load(&files.tls).unwrap();
    let facts = identity.certificate;
    assert_eq!(
        facts.names,
        ["repo.example.com", "192.0.2.1", "2001:db8::1"]
    );
    assert_eq!(
        identity.config.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
    assert_eq!(facts.findings(&files.path("x"), SystemTime::now()), []);
}

#[test]
fn one_file_may_hold_both() {
    let mut files = Files::new(&["a"], 90);
    let both = files.read("key.pem") + &files.read("certificate.pem");
    files.write("both.pem", &both);
    files.tls.certificate.value = files.path("both.pem");
    files.tls.private_key.value = files.path("both.pem");
    assert!(load(&files.tls).is_ok());
}

#[test]
fn bad_files_are_explained() {
    let other = Files::new(&["b"], 90);
    type Spoil = Box<dyn Fn(&mut Files)>;
    let cases: [(&str, Spoil, &[&str]); 9] = [
        (
            "another key",
            Box::new(move |it| it.write("key.pem", &other.read("key.pem"))),
            &[
                "key.pem: error: the key does not belong to the certificate",
                "openssl x509",
            ],
        ),
        (
            "no certificate",
            Box::new(|it| fs::remove_file(it.path("certificate.pem")).unwrap()),
            &[
                "/etc/serve.toml: error: the certificate `",
                "does not exist",
            ],
        ),
        (
            "no key",
            Box::new(|it| fs::remove_file(it.path("key.pem")).unwrap()),
            &[
                "/etc/serve.toml: error: the private key `",
                "does not exist",
            ],
        ),
        (
            "swapped",
            Box::new(|it| {
                let key = it.read("key.pem");
                it.write("certificate.pem", &key);
            }),
            &["certificate.pem: error: there is no certificate in PEM form"],
        ),
        (
            "a certificate for a key",
            Box::new(|it| {
                let certificate = it.read("certificate.pem");
                it.write("key.pem", &certificate);
            }),
            &["key.pem: error: there is no unencrypted private key in PEM form"],
        ),
        (
            "empty",
            Box::new(|it| it.write("certificate.pem", "")),
            &["there is no certificate in PEM form"],
        ),
        (
            "cut",
            Box::new(|it| {
                let certificate = it.read("certificate.pem");
                it.write("certificate.pem", &certificate[..200]);
            }),
            &["certificate.pem: error: the certificate is malformed"],
        ),
        (
            "nonsense inside",
            Box::new(|it| {
                it.write(
                    "certificate.pem",
                    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                );
            }),
            &["certificate.pem: error: the certificate is malformed"],
        ),
        (
            "a key as authority",
            Box::new(|it| {
                it.tls.client_ca = Some(it.tls.private_key.clone());
            }),
            &["key.pem: error: there is no certificate in PEM form"],
        ),
    ];
    for (what, spoil, expected) in cases {
        let mut files = Files::new(&["a"], 90);
        spoil(&mut files);
        let said = files.complaint();
        for part in expected {
            assert!(said.contains(part), "{what}: {part} is not in {said}");
        }
    }
}

#[test]
fn both_files_are_complained_about_at_once() {
    let files = Files::new(&["a"], 90);
    fs::remove_file(files.path("certificate.pem")).unwrap();
    fs::remove_file(files.path("key.pem")).unwrap();
    assert_eq!(files.complaint().matches("does not exist").count(), 2);
}

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

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let files = Files::new(&["a"], 90);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    fs::remove_file(files.path("key.pem")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, files.path("key.pem"), fifo, mode, 0).unwrap();
    assert!(
        files
            .complaint()
            .contains("the private key is no regular file")
    );
    fs::remove_file(files.path("key.pem")).unwrap();
    fs::create_dir(files.path("key.pem")).unwrap();
    assert!(
        files
            .complaint()
            .contains("the private key is no regular file")
    );
}

/// A certificate and the authorities between it and a root, the root's left out.
struct Issued {
    /// The server's own first.
    certificates: Vec<String>,
    key: String,
}

impl Issued {
    fn chain(&self) -> String {
        self.certificates.concat()
    }

    /// The one of this number alone.
    fn one(&self, number: usize) -> &str {
        &self.certificates[number]
    }

    fn put(&self, files: &Files) {
        files.write("certificate.pem", &self.chain());
        files.write("key.pem", &self.key);
    }
}

fn authority(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY * days).into();
    params
}

/// For this host, by an intermediate that is valid for `days`.
fn issued(host: &str, intermediate: &str, days: u32) -> Issued {
    let [root_key, middle_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
    let root = Issuer::new(authority("Root", 900), root_key);
    let middle = authority(intermediate, days);
    let middle_certificate = middle.signed_by(&middle_key, &root).unwrap();
    let middle = Issuer::new(middle, middle_key);
    let mut leaf = CertificateParams::new([host.to_owned()]).unwrap();
    leaf.use_authority_key_identifier_extension = true;
    leaf.not_before = (SystemTime::now() - DAY).into();
    leaf.not_after = (SystemTime::now() + 90 * DAY).into();
    let leaf = leaf.signed_by(&key, &middle).unwrap();
    Issued {
        certificates: vec![leaf.pem(), middle_certificate.pem()],
        key: key.serialize_pem(),
    }
}

/// What comes of a renewal, in words.
fn renewal(
    files: &Files,
    public_name: Option<&str>,
    running: &Identity,
    now: SystemTime,
) -> String {
    let name = public_name.map(|it| it.parse().unwrap());
    match renew(&files.tls, name.as_ref(), running, now) {
        Ok(Renewal::Same) => "same".to_owned(),
        Ok(Renewal::New(_)) => "new".to_owned(),
        Ok(Renewal::Shorter(_)) => "shorter".to_owned(),
        Err(findings) => findings.iter().map(|it| format!("{it}\n")).collect(),
    }
}

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

#[test]
fn text_around_certificates_is_none_of_them() {
    let files = Files::new(&["a"], 90);
    let certificate = files.read("certificate.pem");
    for text in ["", "\n\n", " \r\n", "# The end.\n", "subject=CN = a\n"] {
        files.write("certificate.pem", &format!("{text}{certificate}{text}"));
        assert!(load(&files.tls).is_ok(), "{text:?}");
    }
    for text in [
        "-",
        "--",
        "-----",
        "-----BEG",
        "-----BEGIN CERTIFICATE-----",
        "\n -",
    ] {
        files.write("certificate.pem", &format!("{certificate}{text}"));
        let said = files.complaint();
        assert!(
            said.contains("the certificate is malformed"),
            "{text:?}: {said}"
        );
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

/// Another distribution or a container has a group of another name.
#[test]
fn the_advice_names_the_group_that_the_server_has() {
    let files = Files::new(&["a"], 90);
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let said = unreadable_file(&files.tls.private_key, &denied, PRIVATE_KEY).to_string();
    let group = crate::control::peer::group_name(rustix::process::getegid().as_raw());
    assert!(said.contains(&format!("`chgrp {group} /")), "{said}");
}
