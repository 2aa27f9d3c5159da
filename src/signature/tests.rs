//! With what gpg and openssl made (`tests/fixtures/make-signatures`).

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::demo;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixture_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/signatures")
        .join(name)
}

fn openpgp(names: &[&str]) -> Signatures {
    Signatures {
        openpgp: names.iter().map(|name| fixture(name)).collect(),
        ..Signatures::default()
    }
}

fn keys(name: &str) -> Keys {
    Keys::parse(&fixture(name), Path::new(name)).unwrap()
}

/// Days since the keys were made, on the first of January 2026. They signed in
/// February.
fn day(number: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600 + number * 24 * 3600)
}

#[test]
fn signatures_fit_what_they_are_of() {
    let ed25519 = Signatures {
        ed25519: vec![fixture("ed25519.sig")],
        ..Signatures::default()
    };
    let cut = Signatures {
        openpgp: vec![fixture("plain.sig")[..60].to_vec()],
        ..Signatures::default()
    };
    let cases = [
        (openpgp(&["plain.sig"]), Fit::Fits),
        (openpgp(&["rsa.sig"]), Fit::Fits),
        (openpgp(&["sha384.sig"]), Fit::Fits),
        (openpgp(&["several.sig"]), Fit::Fits),
        (openpgp(&["other.sig"]), Fit::DoesNotFit),
        (openpgp(&["other.sig", "plain.sig"]), Fit::Fits),
        (openpgp(&["sha1.sig", "other.sig"]), Fit::DoesNotFit),
        (openpgp(&["sha1.sig"]), Fit::Untellable),
        (openpgp(&["text.sig"]), Fit::Untellable),
        (openpgp(&["plain.gpg"]), Fit::Untellable),
        (openpgp(&["document"]), Fit::Untellable),
        (openpgp(&[]), Fit::Untellable),
        (ed25519, Fit::Untellable),
        (cut, Fit::Untellable),
    ];
    let document = fixture("document");
    for (number, (signatures, expected)) in cases.iter().enumerate() {
        assert_eq!(fit(&document, signatures), *expected, "case {number}");
    }
}

/// RFC 9580 has no detached signature of version 6, so this one is put together:
/// what matters is what is hashed, and in which order.
#[test]
fn version_6_begins_with_a_salt() {
    use aws_lc_rs::digest::{SHA256, digest};
    let (document, salt) = (fixture("document"), [7; 16]);
    let signed = [&[6, 0, 27, 8, 0, 0, 0, 6][..], &[5, 2, 0, 0, 0, 0]].concat();
    let trailer = [6, 0xff, 0, 0, 0, 14];
    let digest = digest(&SHA256, &[&salt[..], &document, &signed, &trailer].concat());
    let digest = &digest.as_ref()[..2];
    let body = [&signed[..], &[0, 0, 0, 0], digest, &[16], &salt, &[0; 64]].concat();
    let packet = [&[0xc2, body.len() as u8], &body[..]].concat();
    let signatures = Signatures {
        openpgp: vec![packet.clone()],
        ..Signatures::default()
    };
    assert_eq!(fit(&document, &signatures), Fit::Fits);
    assert_eq!(fit(b"another", &signatures), Fit::DoesNotFit);
    // For each salt the document is hashed anew, so there is an end to it.
    let many = Signatures {
        openpgp: vec![packet; 1000],
        ..Signatures::default()
    };
    assert_eq!(fit(b"another", &many), Fit::DoesNotFit);
}

#[test]
fn the_demonstration_is_signed() {
    let keys = Keys::parse(demo::PUBLIC_KEY, Path::new("demo.gpg")).unwrap();
    let tip = "objects/b0/c15a61bf0c34cca077b2b70c7344f9cac45776b8dff4277c8c608f28ed4068";
    let pairs = [
        ("summary".to_owned(), "summary.sig".to_owned()),
        (format!("{tip}.commit"), format!("{tip}.commitmeta")),
    ];
    let pairs = pairs.map(|(document, signatures)| {
        let signatures = Signatures::parse(&demo::file(&signatures)).unwrap();
        (demo::file(&document), signatures)
    });
    for (document, signatures) in &pairs {
        assert_eq!(fit(document, signatures), Fit::Fits);
        let name = keys.verify_at(document, signatures, day(100)).unwrap();
        assert!(name.contains("throw-away"), "{name}");
    }
    let ((summary, _), (_, of_commit)) = (&pairs[0], &pairs[1]);
    assert_eq!(fit(summary, of_commit), Fit::DoesNotFit);
    assert!(keys.verify_at(summary, of_commit, day(100)).is_err());
}

#[test]
fn keys_that_count() {
    let cases = [
        ("plain.gpg", "plain.sig", 40),
        ("plain.asc", "plain.sig", 40),
        ("plain.gpg", "sha384.sig", 40),
        ("plain.gpg", "fleeting.sig", 60),
        ("plain.gpg", "several.sig", 40),
        ("rsa.gpg", "several.sig", 40),
        ("rsa.gpg", "rsa.sig", 40),
        ("several.asc", "rsa.sig", 40),
        ("several.asc", "plain.sig", 40),
        ("expiring.gpg", "expiring.sig", 99),
        ("prolonged.gpg", "expiring.sig", 389),
        ("owner.gpg", "owner.sig", 99),
    ];
    for (key, signature, today) in cases {
        let verified =
            keys(key).verify_at(&fixture("document"), &openpgp(&[signature]), day(today));
        let name = verified.unwrap_or_else(|error| panic!("{key} {signature}: {error}"));
        assert!(name.starts_with("OpenPGP key "), "{name}");
    }
}

#[test]
fn keys_and_signatures_that_do_not_count() {
    let cases = [
        ("plain.gpg", "other.sig", 40, "of another document"),
        ("plain.gpg", "rsa.sig", 40, "not among those named"),
        ("plain.gpg", "sha1.sig", 40, "not accepted"),
        ("plain.gpg", "text.sig", 40, "not accepted"),
        ("plain.gpg", "fleeting.sig", 61, "(plain) has expired"),
        ("plain.gpg", "notation.sig", 40, "not understood"),
        ("plain.gpg", "document", 40, "no signature"),
        (
            "expiring.gpg",
            "expiring.sig",
            100,
            "(expiring) has expired",
        ),
        (
            "prolonged.gpg",
            "expiring.sig",
            390,
            "(expiring) has expired",
        ),
        ("owner.gpg", "owner.sig", 100, "(owner) has expired"),
        ("revoked.gpg", "revoked.sig", 40, "(revoked) was revoked"),
        (
            "withdrawn.gpg",
            "withdrawn.sig",
            90,
            "(withdrawn) was revoked",
        ),
    ];
    for (key, signature, today, reason) in cases {
        let verified =
            keys(key).verify_at(&fixture("document"), &openpgp(&[signature]), day(today));
        let error = verified.expect_err(signature);
        assert!(error.contains(reason), "{key} {signature}: {error}");
    }
}

/// All 16 bits that a signature tells may fit, and it be false all the same.
#[test]
fn what_fits_need_not_be_true() {
    let mut forged = fixture("plain.sig");
    *forged.last_mut().unwrap() ^= 1;
    let signatures = Signatures {
        openpgp: vec![forged],
        ..Signatures::default()
    };
    let document = fixture("document");
    assert_eq!(fit(&document, &signatures), Fit::Fits);
    let error = keys("plain.gpg").verify_at(&document, &signatures, day(40));
    assert!(error.unwrap_err().contains("is wrong"));
}

/// A key without the signatures that bind it to its owner's wishes, such as a
/// subkey that somebody added to it.
#[test]
fn a_foreign_subkey_is_not_believed() {
    // The primary key of one, with its name, then the subkey of the other.
    let withdrawn = fixture("withdrawn.gpg");
    let owner = fixture("owner.gpg");
    let subkey_at = |data: &[u8]| {
        let mut at = 0;
        while data[at] & 0x3c != 14 << 2 {
            at += 2 + usize::from(data[at + 1]);
        }
        at
    };
    let mixed = [
        &withdrawn[..subkey_at(&withdrawn)],
        &owner[subkey_at(&owner)..],
    ]
    .concat();
    let keys = Keys::parse(&mixed, Path::new("mixed.gpg")).unwrap();
    let error = keys
        .verify_at(&fixture("document"), &openpgp(&["owner.sig"]), day(40))
        .unwrap_err();
    assert!(error.contains("is not bound"), "{error}");
}

#[test]
fn ed25519_keys_by_line() {
    let document = fixture("document");
    let signatures = Signatures {
        ed25519: vec![vec![], vec![0; 64], fixture("ed25519.sig")],
        ..Signatures::default()
    };
    let public = String::from_utf8(fixture("ed25519.pub")).unwrap();
    let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let text = format!("{other}\n\n {public}\r\n");
    let keys = Keys::parse(text.as_bytes(), Path::new("keys")).unwrap();
    let name = format!("ed25519 key {}", public.trim());
    assert_eq!(keys.verify(&document, &signatures), Ok(name));
    assert!(keys.verify(b"another", &signatures).is_err());

    let keys = Keys::parse(other.as_bytes(), Path::new("keys")).unwrap();
    let error = keys.verify(&document, &signatures).unwrap_err();
    assert!(error.contains("by another key"), "{error}");
}

#[test]
fn signatures_of_other_kinds_are_named() {
    let keys = keys("plain.gpg");
    let mut signatures = Signatures::default();
    let reason = keys.verify(b"", &signatures).unwrap_err();
    assert_eq!(reason, "there is no signature");
    signatures.others.push("ostree.sign.spki".into());
    let reason = keys.verify(b"", &signatures).unwrap_err();
    assert!(reason.contains("`ostree.sign.spki`"), "{reason}");
}

#[test]
fn what_is_no_file_of_public_keys() {
    let public = String::from_utf8(fixture("ed25519.pub")).unwrap();
    let with_more = |more: &str| format!("{public}{more}\n").into_bytes();
    let armored = String::from_utf8(fixture("plain.asc")).unwrap();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "no public key"),
        ("text", b"hello\n".to_vec(), "no ed25519 public key"),
        ("short", with_more(&public[4..]), "no ed25519 public key"),
        (
            "padding",
            with_more(&public.replace('=', "A")),
            "no ed25519",
        ),
        ("secret", fixture("ed25519.secret"), "secret key"),
        ("OpenPGP secret", fixture("secret.asc"), "secret key"),
        ("signature", fixture("plain.sig"), "no key"),
        ("keybox", fixture("keybox"), "keybox"),
        ("cut", fixture("plain.gpg")[..40].to_vec(), "no OpenPGP"),
        ("cut armor", armored[..200].into(), "no OpenPGP"),
        (
            "changed",
            armored.replacen('A', "B", 2).into(),
            "no OpenPGP",
        ),
    ];
    for (what, data, reason) in cases {
        let finding = Keys::parse(data, Path::new("the keys")).expect_err(what);
        assert!(finding.reason.contains(reason), "{what}: {finding}");
        assert!(finding.remedy.is_some(), "{what}");
    }
    // A secret is not for the log.
    let finding = Keys::parse(&fixture("ed25519.secret"), Path::new("x")).unwrap_err();
    let secret = String::from_utf8(fixture("ed25519.secret")).unwrap();
    assert!(!finding.to_string().contains(&secret[..20]));
}

#[test]
fn files_are_loaded_together() {
    let placed = |path: PathBuf| Placed {
        value: path,
        place: Path::new("serve.toml").into(),
    };
    let files = |names: &[&str]| -> Vec<_> {
        names
            .iter()
            .map(|name| placed(fixture_path(name)))
            .collect()
    };
    let keys = Keys::load(&files(&["rsa.gpg", "ed25519.pub", "plain.asc"])).unwrap();
    for name in ["rsa.sig", "plain.sig"] {
        let verified = keys.verify_at(&fixture("document"), &openpgp(&[name]), day(40));
        assert!(verified.is_ok(), "{verified:?}");
    }

    let findings = Keys::load(&files(&["rsa.gpg", "missing", "document"])).unwrap_err();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert_eq!(findings[0].place, Path::new("serve.toml").into());
    assert!(findings[0].reason.contains("does not exist"));
    assert_eq!(findings[1].place.file, fixture_path("document"));
    // Neither a device nor a huge file is read to its end.
    let endless = Keys::load(&[placed("/dev/zero".into())]).unwrap_err();
    assert!(endless[0].reason.contains("too large"), "{endless:?}");
}
