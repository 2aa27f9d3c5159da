//! Good and bad pairs. What openssl makes of the server is tested with the real
//! openssl (`tests/real_tls.rs`).

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose};
use rcgen::{IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use std::time::Duration;

use super::facts::DAY;
use super::*;

mod certificate_facts;
mod chain;
mod renewal;

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

/// Another distribution or a container has a group of another name.
#[test]
fn the_advice_names_the_group_that_the_server_has() {
    let files = Files::new(&["a"], 90);
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let said = unreadable_file(&files.tls.private_key, &denied, PRIVATE_KEY).to_string();
    let group = crate::control::peer::group_name(rustix::process::getegid().as_raw());
    assert!(said.contains(&format!("`chgrp {group} /")), "{said}");
}
