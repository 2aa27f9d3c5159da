//! The promise, kept to the real ostree: what it pulls from this server is what
//! the server's repository holds, however it asks. Each scenario runs over each
//! transport, and each pull is checked to have used that transport.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::command::{Output, Program};
use common::transport::{Traffic, Transport, over_each};
use common::{Setup, TIP, TestRepo, TestServer, pattern, wait_until_published};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

const STABLE: &str = "demo/x86_64/stable";
/// A symbolic link to [`STABLE`] inside `refs/`.
const LATEST: &str = "demo/x86_64/latest";
const UNICODE: &str = "demo/prüfung";

#[test]
fn pull_by_ref() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::verifying(transport, &server);
        for name in [STABLE, LATEST, UNICODE] {
            client.pull(&[name]);
            client.assert_holds(name, &rev_parse(&repo.path(), name));
        }
        assert_eq!(client.rev_parse(&format!("demo:{STABLE}")), TIP);
    });
}

#[test]
fn pull_by_commit() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let older = rev_parse(&repo.path(), &format!("{STABLE}^"));

        let client = Client::verifying(transport, &server);
        client.pull(&[&format!("{STABLE}@{older}")]);
        client.assert_holds(STABLE, &older);

        let client = Client::verifying(transport, &server);
        client.pull(&[&older]);
        client.fsck();
        let release = client.ostree(&["cat", &older, "/usr/lib/os-release"]);
        assert!(release.stdout.contains("VERSION_ID=1.1"), "{release:?}");
    });
}

#[test]
fn pull_the_whole_history() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::verifying(transport, &server);
        client.pull(&["--depth=-1", STABLE]);
        client.assert_holds(STABLE, TIP);
        for generation in ["", "^", "^^"] {
            assert_eq!(
                client.rev_parse(&format!("demo:{STABLE}{generation}")),
                rev_parse(&repo.path(), &format!("{STABLE}{generation}"))
            );
        }
        let log = client.ostree(&["log", &format!("demo:{STABLE}")]).stdout;
        assert_eq!(log.matches("\ncommit ").count() + 1, 3, "{log}");
    });
}

#[test]
fn mirror_everything() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::new(transport, "archive");
        client.add_demo(&transport.url(&server), &server, &VERIFY_ALL, &demo_key());
        client.pull(&["--mirror", "--depth=-1"]);
        client.fsck();
        for name in [STABLE, LATEST, UNICODE] {
            assert_eq!(client.rev_parse(name), rev_parse(&repo.path(), name));
        }
        // A mirror is served on, so it must have what clients verify.
        for name in ["summary", "summary.sig"] {
            let mirrored = fs::read(client.repo().join(name)).unwrap();
            assert_eq!(mirrored, repo.read(name), "{name}");
        }
    });
}

#[test]
fn pull_a_static_delta_between_commits() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let older = rev_parse(&repo.path(), &format!("{STABLE}^"));
        let client = Client::verifying(transport, &server);
        client.pull(&[&format!("{STABLE}@{older}")]);

        let traffic = client.pull(&["--require-static-deltas", STABLE]);
        client.assert_holds(STABLE, TIP);
        let delta = "/repo/deltas/sT/TiEqa8V4CEVS+0uCpgCCtpZPye2TqWC5Uat50yLzA-sMFaYb8MNMygd7K3DHNE+crEV3a43_QnfIxgjyjtQGg";
        assert_used_delta(&traffic, delta);
    });
}

#[test]
fn pull_a_static_delta_from_nothing() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::verifying(transport, &server);
        let traffic = client.pull(&["--require-static-deltas", STABLE]);
        client.assert_holds(STABLE, TIP);
        let delta = "/repo/deltas/sM/FaYb8MNMygd7K3DHNE+crEV3a43_QnfIxgjyjtQGg";
        assert_used_delta(&traffic, delta);
    });
}

fn assert_used_delta(traffic: &Traffic, delta: &str) {
    for file in ["superblock", "0"] {
        let path = format!("{delta}/{file}");
        assert!(traffic.asked_for(&path), "{traffic:#?}");
    }
}

#[test]
fn pull_object_by_object() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::verifying(transport, &server);
        let traffic = client.pull(&["--disable-static-deltas", STABLE]);
        client.assert_holds(STABLE, TIP);
        for kind in [".commit", ".commitmeta", ".dirtree", ".dirmeta", ".filez"] {
            assert!(traffic.asked_for(kind), "{kind}: {traffic:#?}");
        }
    });
}

#[test]
fn the_wrong_key_is_refused() {
    let stranger = Key::new("somebody else");
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        // Once the summary's signature is what fails, once the commit's.
        for options in [&VERIFY_ALL[..], &VERIFY_COMMITS] {
            let client = Client::new(transport, "bare-user-only");
            client.add_demo(
                &transport.url(&server),
                &server,
                options,
                &stranger.public(),
            );
            let output = client.pull_program(&[STABLE]).run_to_failure();
            assert!(output.stderr.contains("public key not found"), "{output:?}");
            Traffic::of(&output).assert_over(transport);
            let refs = client.ostree(&["refs"]).stdout;
            assert_eq!(refs, "", "{options:?}");
        }
    });
}

#[test]
fn an_unsigned_repository() {
    over_each(&Transport::ALL, |transport| {
        let source = Source::new(None);
        let commit = source.publish("1");
        let server = serve(transport, &source.repo());
        let client = Client::trusting(transport, &server);
        client.pull(&[STABLE]);
        client.assert_holds(STABLE, &commit);
    });
}

/// Over HTTP/1.1 libcurl opens a connection for almost every object; over HTTP/2
/// one stream's window must not hold up the others.
#[test]
fn many_small_objects_and_a_large_one() {
    let source = Source::new(None);
    let tree = TempDir::new().unwrap();
    for number in 0..300 {
        fs::write(tree.path().join(format!("{number}")), number.to_string()).unwrap();
    }
    fs::write(tree.path().join("large"), pattern(16 << 20)).unwrap();
    let commit = source.publish_tree(tree.path());
    over_each(&Transport::ALL, |transport| {
        let server = serve(transport, &source.repo());
        let client = Client::trusting(transport, &server);
        let traffic = client.pull(&[STABLE]);
        client.assert_holds(STABLE, &commit);
        let objects = traffic.requests.iter().filter(|it| it.ends_with(".filez"));
        assert_eq!(objects.count(), 301);
    });
}

/// That a certificate is presented at all shows in the refusal of a stranger's:
/// its authority has the same name, and the client goes by that.
#[test]
fn a_client_with_a_certificate() {
    over_each(&Transport::TLS, |transport| {
        let repo = TestRepo::new();
        let (known, stranger) = (ClientIdentity::new(), ClientIdentity::new());
        let setup = Setup::new()
            .repo("/repo", &repo.path())
            .tls("client_ca = \"client-ca.pem\"");
        fs::write(setup.directory().join("client-ca.pem"), &known.authority).unwrap();
        let server = transport.start(setup);
        let client_with = |identity: &ClientIdentity| {
            let client = Client::new(transport, "bare-user-only");
            let (certificate, key) = identity.write_to(client.directory.path());
            let certificate = format!("--set=tls-client-cert-path={}", certificate.display());
            let key = format!("--set=tls-client-key-path={}", key.display());
            let options = [&VERIFY_ALL[..], &[&certificate, &key]].concat();
            client.add_demo(&server.url(), &server, &options, &demo_key());
            client
        };

        let client = client_with(&known);
        client.pull(&[STABLE]);
        client.assert_holds(STABLE, TIP);

        let client = client_with(&stranger);
        let output = client.pull_program(&[STABLE]).run_to_failure();
        assert!(!output.stderr.contains("\n< HTTP/"), "{output:?}");
        assert_eq!(client.ostree(&["refs"]).stdout, "");
    });
}

#[test]
fn a_repository_without_a_summary() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        for name in ["summary", "summary.sig"] {
            fs::remove_file(repo.file(name)).unwrap();
        }
        let server = serve(transport, &repo.path());
        let client = Client::new(transport, "bare-user-only");
        client.add_demo(
            &transport.url(&server),
            &server,
            &VERIFY_COMMITS,
            &demo_key(),
        );
        for name in [STABLE, LATEST, UNICODE] {
            let traffic = client.pull(&[name]);
            client.assert_holds(name, &rev_parse(&repo.path(), name));
            assert!(
                traffic.requests[2].starts_with("/repo/refs/heads/demo/"),
                "{traffic:#?}"
            );
        }
    });
}

#[test]
fn nothing_new_costs_no_summary() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::verifying(transport, &server);
        client.pull(&[STABLE]);

        let traffic = client.pull(&[STABLE]);
        client.assert_holds(STABLE, TIP);
        // One after the other, so that each reply belongs to its request.
        let endings = traffic
            .requests
            .iter()
            .map(|path| path.rsplit_once(['/', '.']).unwrap().1);
        let exchange: Vec<(&str, u16)> = endings.zip(traffic.statuses()).collect();
        let expected = [
            ("sig", 304),
            ("config", 200),
            ("index", 200),
            ("commitmeta", 200),
        ];
        assert_eq!(exchange, expected);
    });
}

#[test]
fn an_update_while_serving() {
    let key = Key::new("publisher");
    over_each(&Transport::ALL, |transport| {
        let source = Source::new(Some(&key));
        let first = source.publish("1");
        let server = serve(transport, &source.repo());
        let client = Client::new(transport, "bare-user-only");
        client.add_demo(&transport.url(&server), &server, &VERIFY_ALL, &key.public());
        client.pull(&[STABLE]);
        client.assert_holds(STABLE, &first);

        for version in ["2", "3"] {
            let commit = source.publish(version);
            wait_until_published(&server, "/repo", &source.repo());
            client.pull(&[STABLE]);
            client.assert_holds(STABLE, &commit);
            let content = client.ostree(&["cat", &format!("demo:{STABLE}"), "/version"]);
            assert_eq!(content.stdout, version);
        }
    });
}

#[test]
fn remote_refs_and_summary() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::verifying(transport, &server);

        let output = client.program(&["remote", "refs", "demo"]).run();
        Traffic::of(&output).assert_over(transport);
        let mut names: Vec<&str> = output.stdout.lines().collect();
        names.sort_unstable();
        let mut expected = [STABLE, LATEST, UNICODE].map(|name| format!("demo:{name}"));
        expected.sort();
        assert_eq!(names, expected);

        let output = client.program(&["remote", "summary", "demo"]).run();
        Traffic::of(&output).assert_over(transport);
        for expected in [STABLE, TIP, "Good signature"] {
            assert!(output.stdout.contains(expected), "{expected}: {output:?}");
        }
    });
}

#[test]
fn the_redirect_to_https_is_followed() {
    over_each(&Transport::TLS, |transport| {
        let repo = TestRepo::new();
        let server = serve(transport, &repo.path());
        let client = Client::new(transport, "bare-user-only");
        let plaintext = format!("http://localhost:{}", server.redirect().port());
        client.add_demo(&plaintext, &server, &VERIFY_ALL, &demo_key());

        let traffic = Traffic::of(&client.pull_program(&[STABLE]).run());
        client.assert_holds(STABLE, TIP);
        let (redirects, rest): (Vec<_>, Vec<_>) = traffic
            .replies
            .iter()
            .partition(|reply| reply.status == 308);
        assert_eq!(redirects.len(), rest.len(), "{traffic:#?}");
        assert!(redirects.iter().all(|reply| reply.protocol == "HTTP/1.1"));
        assert!(
            rest.iter()
                .all(|reply| reply.protocol == transport.protocol())
        );
    });
}

/// libostree tries the next mirror after a 404. It once kept the 404's body in
/// front of the object; a server that sends none cannot trigger that.
#[test]
fn a_mirror_that_lacks_objects() {
    over_each(&Transport::ALL, |transport| {
        let repo = TestRepo::new();
        let lacking = TestRepo::new();
        for name in ["objects", "deltas", "delta-indexes"] {
            fs::remove_dir_all(lacking.file(name)).unwrap();
        }
        let lists = TempDir::new().unwrap();
        let setup = Setup::new()
            .repo("/lacking", &lacking.path())
            .repo_line("hold_unsigned = \"100ms\"")
            .repo("/whole", &repo.path())
            .statics("/lists", lists.path());
        let server = transport.start(setup);
        let url = transport.url(&server);
        fs::write(
            lists.path().join("mirrors"),
            format!("{url}/lacking\n{url}/whole\n"),
        )
        .unwrap();

        let client = Client::new(transport, "bare-user-only");
        let list = format!("mirrorlist={url}/lists/mirrors");
        let content = format!("--contenturl={list}");
        let options = [&VERIFY_ALL[..], &[content.as_str()]].concat();
        client.add_remote(&list, &server, &options, &demo_key());
        let traffic = client.pull(&["--disable-static-deltas", STABLE]);
        client.assert_holds(STABLE, TIP);
        for mirror in ["/lacking/objects/", "/whole/objects/"] {
            let asked = |path: &String| path.starts_with(mirror) && path.ends_with(".filez");
            assert!(traffic.requests.iter().any(asked), "{traffic:#?}");
        }

        // What is asked of the second mirror repeats the condition's lines.
        for name in ["summary", "summary.sig"] {
            fs::remove_file(lacking.file(name)).unwrap();
        }
        wait_until_published(&server, "/lacking", &lacking.path());
        let traffic = client.pull(&[STABLE]);
        client.assert_holds(STABLE, TIP);
        let asked = traffic.requests.iter().map(String::as_str);
        let mut exchange: Vec<(&str, u16)> = asked.zip(traffic.statuses()).collect();
        exchange.retain(|(path, _)| path.ends_with("/summary.sig"));
        let expected = [("/lacking/summary.sig", 404), ("/whole/summary.sig", 304)];
        assert_eq!(exchange, expected, "{traffic:#?}");
    });
}

/// Every signature is checked, of the summary and of commits.
const VERIFY_ALL: [&str; 2] = ["--set=gpg-verify=true", "--set=gpg-verify-summary=true"];
/// The signatures of commits alone are checked.
const VERIFY_COMMITS: [&str; 1] = ["--set=gpg-verify=true"];

fn serve(transport: Transport, repo: &Path) -> TestServer {
    transport.start(Setup::new().repo("/repo", repo))
}

fn demo_key() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/demo.gpg")
}

fn rev_parse(repo: &Path, revision: &str) -> String {
    ostree(repo, &["rev-parse", revision])
        .run()
        .stdout
        .trim()
        .to_owned()
}

fn ostree(repo: &Path, args: &[&str]) -> Program {
    Program::new("ostree")
        .arg(format!("--repo={}", repo.display()))
        .args(args)
        // Nothing here has to survive a power cut.
        .env("OSTREE_SUPPRESS_SYNCFS", "1")
}

/// A client's repository, with the server as its remote `demo`.
struct Client {
    directory: TempDir,
    transport: Transport,
}

impl Client {
    /// One that has no remote yet.
    fn new(transport: Transport, mode: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let client = Self {
            directory,
            transport,
        };
        client.ostree(&["init", &format!("--mode={mode}")]);
        client
    }

    /// The usual one: it checks every signature of the demonstration repository.
    fn verifying(transport: Transport, server: &TestServer) -> Self {
        let client = Self::new(transport, "bare-user-only");
        client.add_demo(&transport.url(server), server, &VERIFY_ALL, &demo_key());
        client
    }

    /// One that checks no signature.
    fn trusting(transport: Transport, server: &TestServer) -> Self {
        let client = Self::new(transport, "bare-user-only");
        let url = transport.url(server) + "/repo";
        client.add_remote(&url, server, &["--no-gpg-verify"], &demo_key());
        client
    }

    /// `origin` is the beginning of the address of `/repo`.
    fn add_demo(&self, origin: &str, server: &TestServer, options: &[&str], key: &Path) {
        self.add_remote(&format!("{origin}/repo"), server, options, key);
    }

    fn add_remote(&self, url: &str, server: &TestServer, options: &[&str], key: &Path) {
        self.program(&["remote", "add"])
            .args(options)
            .arg(format!("--gpg-import={}", key.display()))
            .arg(format!(
                "--set=tls-ca-path={}",
                server.certificate().display()
            ))
            .args(["demo", url])
            .run();
    }

    fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    fn program(&self, args: &[&str]) -> Program {
        // Makes libcurl tell what it sends and gets.
        ostree(&self.repo(), args).env("OSTREE_DEBUG_HTTP", "1")
    }

    fn ostree(&self, args: &[&str]) -> Output {
        self.program(args).run()
    }

    fn pull_program(&self, args: &[&str]) -> Program {
        let (options, refs): (Vec<&str>, Vec<&str>) =
            args.iter().partition(|arg| arg.starts_with("--"));
        self.program(&["pull"]).args(options).arg("demo").args(refs)
    }

    /// Pulls, over this client's transport and no other.
    fn pull(&self, args: &[&str]) -> Traffic {
        let traffic = Traffic::of(&self.pull_program(args).run());
        traffic.assert_over(self.transport);
        traffic
    }

    fn rev_parse(&self, revision: &str) -> String {
        rev_parse(&self.repo(), revision)
    }

    fn fsck(&self) {
        self.ostree(&["fsck"]);
    }

    /// Panics unless the remote's ref is at this commit, and all of it is here.
    fn assert_holds(&self, name: &str, commit: &str) {
        assert_eq!(self.rev_parse(&format!("demo:{name}")), commit, "{name}");
        self.fsck();
    }
}

/// A repository of the test's own, in which it publishes versions.
struct Source<'a> {
    directory: TempDir,
    key: Option<&'a Key>,
}

impl<'a> Source<'a> {
    /// Signed with a key, or unsigned.
    fn new(key: Option<&'a Key>) -> Self {
        let directory = TempDir::new().unwrap();
        let source = Self { directory, key };
        ostree(&source.repo(), &["init", "--mode=archive"]).run();
        source
    }

    fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    /// Publishes a tree in which `/version` holds this text.
    fn publish(&self, version: &str) -> String {
        let tree = TempDir::new().unwrap();
        fs::write(tree.path().join("version"), version).unwrap();
        self.publish_tree(tree.path())
    }

    /// Commits a tree, updates the summary, and gives the commit's name.
    fn publish_tree(&self, tree: &Path) -> String {
        let signature = self.key.map(Key::signature).unwrap_or_default();
        ostree(&self.repo(), &["commit", "--canonical-permissions"])
            .arg(format!("--branch={STABLE}"))
            .arg(format!("--tree=dir={}", tree.display()))
            .args(&signature)
            .run();
        ostree(&self.repo(), &["summary", "--update"])
            .args(&signature)
            .run();
        rev_parse(&self.repo(), STABLE)
    }
}

/// A key of gpg's, and its home. Short-lived, and outside the user's keyring.
struct Key {
    home: TempDir,
}

impl Key {
    fn new(name: &str) -> Self {
        let key = Self {
            home: TempDir::new().unwrap(),
        };
        key.gpg("gpg")
            .args(["--batch", "--passphrase", "", "--quick-generate-key"])
            .args([name, "ed25519", "sign", "never"])
            .run();
        key.gpg("gpg")
            .args(["--batch", "--output"])
            .arg(key.public())
            .arg("--export")
            .run();
        key
    }

    fn gpg(&self, program: &str) -> Program {
        Program::new(program).env("GNUPGHOME", self.home.path())
    }

    /// The file of the public key.
    fn public(&self) -> PathBuf {
        self.home.path().join("public.gpg")
    }

    /// What makes `ostree` sign.
    fn signature(&self) -> Vec<String> {
        let listing = self.gpg("gpg").args(["--with-colons", "--list-keys"]).run();
        let fingerprint = listing
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("fpr:")?.split(':').nth(8))
            .expect("a key");
        vec![
            format!("--gpg-sign={fingerprint}"),
            format!("--gpg-homedir={}", self.home.path().display()),
        ]
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // The agent would outlive the test, if not by much: it ends when it notices
        // that its home has gone. A second panic would hide why the test failed.
        if !std::thread::panicking() {
            self.gpg("gpgconf").args(["--kill", "all"]).run();
        }
    }
}

/// A client's certificate and key, and the authority that issued it, in PEM.
struct ClientIdentity {
    authority: String,
    certificate: String,
    key: String,
}

impl ClientIdentity {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new([]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Self {
            authority,
            certificate: params.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes certificate and key into files of this directory.
    fn write_to(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        fs::write(&certificate, &self.certificate).unwrap();
        fs::write(&key, &self.key).unwrap();
        (certificate, key)
    }
}
