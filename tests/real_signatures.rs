//! Signatures that the real gpg, openssl and ostree make are judged as they
//! themselves judge them.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::TestRepo;
use common::command::Program;
use ostree_serve::config::Placed;
use ostree_serve::format::signatures::Signatures;
use ostree_serve::signature::{Fit, Keys, fit};
use tempfile::TempDir;

#[test]
fn gpg_signs_with_each_kind_of_key() {
    for algorithm in ["rsa3072", "ed25519", "nistp256"] {
        let gpg = Gpg::new();
        gpg.make_key("signer", algorithm, "never");
        let document = gpg.write("document", algorithm);
        let signatures = openpgp(&gpg.sign("signer", &document, &[]));
        assert_eq!(fit(&read(&document), &signatures), Fit::Fits, "{algorithm}");
        assert_eq!(fit(b"another", &signatures), Fit::DoesNotFit);
        for armor in [false, true] {
            let keys = load(&gpg.export("signer", armor));
            let name = keys.verify(&read(&document), &signatures).unwrap();
            assert!(name.contains(&gpg.fingerprint("signer")), "{name}");
            keys.verify(b"another", &signatures).unwrap_err();
        }
    }
}

#[test]
fn the_wrong_key_is_refused() {
    let gpg = Gpg::new();
    gpg.make_key("signer", "ed25519", "never");
    gpg.make_key("stranger", "ed25519", "never");
    let document = gpg.write("document", "text");
    let signatures = openpgp(&gpg.sign("signer", &document, &[]));
    let keys = load(&gpg.export("stranger", false));
    let reason = keys.verify(&read(&document), &signatures).unwrap_err();
    assert!(reason.contains(&gpg.fingerprint("signer")), "{reason}");
}

#[test]
fn an_expired_key_is_refused() {
    let gpg = Gpg::new();
    // It lived for a day in 2020, and signed on it.
    let then = ["--faked-system-time", "20200101T000000!"];
    gpg.run(
        &then,
        &["--quick-generate-key", "old", "ed25519", "sign", "1d"],
    );
    let document = gpg.write("document", "text");
    let signatures = openpgp(&gpg.sign("old", &document, &then));
    assert_eq!(fit(&read(&document), &signatures), Fit::Fits);
    let keys = load(&gpg.export("old", false));
    let reason = keys.verify(&read(&document), &signatures).unwrap_err();
    assert!(reason.contains("(old) has expired"), "{reason}");
}

#[test]
fn a_subkey_signs_for_its_primary_key() {
    let gpg = Gpg::new();
    let now: [&str; 0] = [];
    gpg.run(
        &now,
        &["--quick-generate-key", "owner", "ed25519", "cert", "never"],
    );
    let owner = gpg.fingerprint("owner");
    gpg.run(&now, &["--quick-add-key", &owner, "ed25519", "sign", "1y"]);
    let document = gpg.write("document", "text");
    let signatures = openpgp(&gpg.sign("owner", &document, &[]));
    let name = load(&gpg.export("owner", false)).verify(&read(&document), &signatures);
    let name = name.unwrap();
    assert!(name.contains("(owner)") && !name.contains(&owner), "{name}");
}

#[test]
fn ostree_signs_summaries_with_gpg() {
    let gpg = Gpg::new();
    for name in ["first", "second"] {
        gpg.make_key(name, "ed25519", "never");
    }
    let repo = TestRepo::new();
    let update = |names: &[&str]| {
        let mut ostree = ostree(&repo, "summary").arg("--update");
        for name in names {
            ostree = ostree.arg(format!("--gpg-sign={}", gpg.fingerprint(name)));
        }
        ostree
            .arg(format!("--gpg-homedir={}", gpg.home.path().display()))
            .run();
        let signatures = Signatures::parse(&repo.read("summary.sig")).unwrap();
        (repo.read("summary"), signatures)
    };
    let (older, of_older) = update(&["first"]);
    commit(&repo);
    let (newer, of_newer) = update(&["first", "second"]);
    assert_eq!(of_newer.openpgp.len(), 2);

    for (document, signatures, expected) in [
        (&older, &of_older, Fit::Fits),
        (&newer, &of_newer, Fit::Fits),
        (&newer, &of_older, Fit::DoesNotFit),
        (&older, &of_newer, Fit::DoesNotFit),
    ] {
        assert_eq!(fit(document, signatures), expected);
        let verified = load(&gpg.export("first", false)).verify(document, signatures);
        assert_eq!(verified.is_ok(), expected == Fit::Fits, "{verified:?}");
    }
    let second = load(&gpg.export("second", false));
    second.verify(&newer, &of_newer).unwrap();
    second.verify(&older, &of_older).unwrap_err();
}

/// Debian's ostree is built without ed25519, so openssl signs in its place; the
/// container's format is the same for all kinds.
#[test]
fn openssl_signs_with_ed25519() {
    let (signer, stranger) = (Ed25519::new(), Ed25519::new());
    let summary = signer.file("summary", &TestRepo::new().read("summary"));
    let signatures = Signatures {
        ed25519: vec![signer.sign(&summary)],
        ..Signatures::default()
    };
    assert_eq!(fit(&read(&summary), &signatures), Fit::Untellable);
    let keys = load(&signer.public());
    keys.verify(&read(&summary), &signatures).unwrap();
    keys.verify(b"another", &signatures).unwrap_err();
    let verified = load(&stranger.public()).verify(&read(&summary), &signatures);
    assert!(verified.unwrap_err().contains("by another key"));
}

/// The one kind beside gpg's that every ostree has: it is for ostree's own tests.
#[test]
fn ostree_signs_with_what_nobody_verifies() {
    let repo = TestRepo::new();
    fs::remove_file(repo.file("summary.sig")).unwrap();
    ostree(&repo, "summary")
        .args(["--update", "--sign-type=dummy", "--sign=secret"])
        .run();
    let signatures = Signatures::parse(&repo.read("summary.sig")).unwrap();
    assert_eq!(signatures.others, ["ostree.sign.dummy"]);
    assert_eq!(fit(&repo.read("summary"), &signatures), Fit::Untellable);

    ostree(&repo, "sign")
        .args(["--sign-type=dummy", common::TIP, "secret"])
        .run();
    let object = repo.find(&format!("{}.commitmeta", &common::TIP[2..]));
    let signatures = Signatures::parse(&repo.read(&object)).unwrap();
    // It was signed with gpg before, and that is kept.
    let commit = repo.read(object.trim_end_matches("meta"));
    assert_eq!(fit(&commit, &signatures), Fit::Fits);
    assert_eq!(signatures.others, ["ostree.sign.dummy"]);
}

/// Files of public keys as ostree itself trusts them, whatever gpg makes of them.
#[test]
fn the_keyring_of_an_ostree_remote_is_read() {
    let repo = TestRepo::new();
    let directory = TempDir::new().unwrap();
    let client = directory.path().join("client");
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/demo.gpg");
    let client_ostree = |arguments: &[&str]| {
        Program::new("ostree")
            .arg(arguments[0])
            .arg(format!("--repo={}", client.display()))
            .args(&arguments[1..])
    };
    client_ostree(&["init"]).run();
    client_ostree(&["remote", "add", "demo", "https://localhost/"])
        .arg(format!("--gpg-import={}", key.display()))
        .run();
    let keys = load(&client.join("demo.trustedkeys.gpg"));
    let signatures = Signatures::parse(&repo.read("summary.sig")).unwrap();
    keys.verify(&repo.read("summary"), &signatures).unwrap();
}

fn ostree(repo: &TestRepo, command: &str) -> Program {
    Program::new("ostree")
        .env("OSTREE_DUMMY_SIGN_ENABLED", "1")
        .arg(command)
        .arg(format!("--repo={}", repo.path().display()))
}

/// Something that changes the summary.
fn commit(repo: &TestRepo) {
    let tree = TempDir::new().unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    ostree(repo, "commit")
        .args(["--branch=added", "--canonical-permissions"])
        .arg(format!("--tree=dir={}", tree.path().display()))
        .run();
}

fn load(file: &Path) -> Keys {
    let placed = Placed {
        value: file.to_owned(),
        place: file.into(),
    };
    Keys::load(&[placed]).unwrap_or_else(|findings| panic!("{findings:?}"))
}

fn openpgp(signature: &Path) -> Signatures {
    Signatures {
        openpgp: vec![read(signature)],
        ..Signatures::default()
    }
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap()
}

/// A key of openssl's.
struct Ed25519 {
    directory: TempDir,
}

impl Ed25519 {
    fn new() -> Self {
        let key = Self {
            directory: TempDir::new().unwrap(),
        };
        key.openssl(&["genpkey", "-algorithm", "ED25519", "-out", "key.pem"]);
        key
    }

    fn openssl(&self, arguments: &[&str]) -> common::command::Output {
        Program::new("openssl")
            .current_dir(self.directory.path())
            .args(arguments)
            .run()
    }

    fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, data).unwrap();
        path
    }

    /// A file of public keys as ostree has it.
    fn public(&self) -> PathBuf {
        let pkey = ["pkey", "-in", "key.pem", "-pubout"];
        self.openssl(&[&pkey[..], &["-outform", "DER", "-out", "key.der"]].concat());
        let der = read(&self.directory.path().join("key.der"));
        // What comes before the last 32 bytes says what kind of key it is.
        self.file("key", &der[der.len() - 32..]);
        let base64 = self.openssl(&["base64", "-A", "-in", "key"]).stdout;
        self.file("public", base64.as_bytes())
    }

    fn sign(&self, document: &Path) -> Vec<u8> {
        let document = document.display().to_string();
        let pkeyutl = ["pkeyutl", "-sign", "-rawin", "-inkey", "key.pem"];
        self.openssl(&[&pkeyutl[..], &["-in", &document, "-out", "signature"]].concat());
        read(&self.directory.path().join("signature"))
    }
}

/// A home of gpg's, outside the user's keyring.
struct Gpg {
    home: TempDir,
}

impl Gpg {
    fn new() -> Self {
        Self {
            home: TempDir::new().unwrap(),
        }
    }

    fn program(&self, name: &str) -> Program {
        Program::new(name).env("GNUPGHOME", self.home.path())
    }

    fn run(&self, options: &[&str], arguments: &[&str]) -> common::command::Output {
        self.program("gpg")
            .args(["--batch", "--yes", "--passphrase", ""])
            .args(["--pinentry-mode", "loopback"])
            .args(options)
            .args(arguments)
            .run()
    }

    fn make_key(&self, name: &str, algorithm: &str, expires: &str) {
        self.run(
            &[],
            &["--quick-generate-key", name, algorithm, "sign", expires],
        );
    }

    fn fingerprint(&self, name: &str) -> String {
        let listing = self.run(&["--with-colons"], &["--list-keys", name]).stdout;
        let mut lines = listing.lines();
        let fingerprint = lines.find_map(|line| line.strip_prefix("fpr:")?.split(':').nth(8));
        fingerprint.expect("a key").to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.file(name), text).unwrap();
        self.file(name)
    }

    fn export(&self, name: &str, armor: bool) -> PathBuf {
        let file = self.file(&format!("{name}-{armor}.gpg"));
        let output = format!("--output={}", file.display());
        let armor: &[&str] = if armor { &["--armor"] } else { &[] };
        self.run(&[&[output.as_str()], armor].concat(), &["--export", name]);
        file
    }

    /// The file of a detached signature.
    fn sign(&self, name: &str, document: &Path, options: &[&str]) -> PathBuf {
        let file = self.file(&format!("{name}.sig"));
        let output = format!("--output={}", file.display());
        let document = document.display().to_string();
        let own = [output.as_str(), "--local-user", name];
        self.run(&[options, &own].concat(), &["--detach-sign", &document]);
        file
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // As in tests/real_ostree.rs: the agent would outlive the test a little.
        if !std::thread::panicking() {
            self.program("gpgconf").args(["--kill", "all"]).run();
        }
    }
}
