//! The promise, kept to the real flatpak: it finds, installs and updates what is
//! published here. Each scenario runs over each transport, with a user's
//! installation in a temporary directory; nothing of the machine's changes.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::command::{Output, Program};
use common::flatpak;
use common::transport::{Traffic, Transport, over_each};
use common::{Setup, TestServer, wait_until_published};
use tempfile::TempDir;

const APPLICATION: &str = "org.example.Hello";
const RUNTIME: &str = "org.example.Platform";

#[test]
fn install_and_update() {
    over_each(&Transport::ALL, |transport| {
        let publisher = Publisher::new();
        let server = publisher.serve(transport);
        let client = Client::new(transport, &server);
        // The first look at the repository; what it finds is kept.
        let added = client.add_remote();
        for file in ["/repo/summary.idx", ".idx.sig", ".gz"] {
            assert!(added.asked_for(file), "{file}: {added:#?}");
        }

        let listing = client.run(&["remote-ls", "--columns=application", "example"]);
        let mut names: Vec<&str> = listing.stdout.lines().collect();
        names.sort_unstable();
        assert_eq!(names, [APPLICATION, RUNTIME]);

        // The application brings its runtime along.
        let installed = client.fetch(&["install", NO_QUESTIONS, "example", APPLICATION]);
        assert!(installed.asked_for("/superblock"), "{installed:#?}");
        client.assert_installed(&publisher, 1);

        publisher.update();
        wait_until_published(&server, "/repo", &publisher.repo());
        let updated = client.fetch(&["update", NO_QUESTIONS]);
        // What is new in the list of everything, and in the application: of a
        // delta's name, only that which has two commits in it has a hyphen.
        assert!(updated.asked_for(".delta"), "{updated:#?}");
        let between = |path: &String| path.ends_with("/superblock") && path.contains('-');
        assert!(updated.requests.iter().any(between), "{updated:#?}");
        client.assert_installed(&publisher, 2);
    });
}

#[test]
fn install_object_by_object() {
    over_each(&Transport::ALL, |transport| {
        let publisher = Publisher::new();
        let server = publisher.serve(transport);
        let client = Client::new(transport, &server);
        let key = format!("--gpg-import={}", publisher.key().display());
        let url = format!("{}/repo", transport.url(&server));
        client.fetch(&["remote-add", &key, "example", &url]);

        for name in [RUNTIME, APPLICATION] {
            let install = ["install", NO_QUESTIONS, "--no-static-deltas"];
            let installed = client.fetch(&[&install[..], &["example", name]].concat());
            assert!(installed.asked_for(".filez"), "{installed:#?}");
            assert!(!installed.asked_for("/superblock"), "{installed:#?}");
        }
        client.assert_installed(&publisher, 1);
    });
}

#[test]
fn install_from_a_flatpakref() {
    over_each(&Transport::ALL, |transport| {
        let publisher = Publisher::new();
        let server = publisher.serve(transport);
        let client = Client::new(transport, &server);
        let file = format!("{}/files/hello.flatpakref", transport.url(&server));
        let installed = client.fetch(&["install", NO_QUESTIONS, "--from", &file]);
        assert_eq!(installed.requests[0], "/files/hello.flatpakref");
        client.assert_installed(&publisher, 1);
    });
}

#[test]
fn nothing_new_costs_one_request() {
    over_each(&Transport::ALL, |transport| {
        let publisher = Publisher::new();
        let server = publisher.serve(transport);
        let client = Client::new(transport, &server);
        client.add_remote();
        client.fetch(&["install", NO_QUESTIONS, "example", APPLICATION]);

        let updated = client.fetch(&["update", NO_QUESTIONS, APPLICATION]);
        assert_eq!(updated.requests, ["/repo/summary.idx"]);
        client.assert_installed(&publisher, 1);
    });
}

#[test]
fn the_wrong_key_is_refused() {
    over_each(&Transport::ALL, |transport| {
        let publisher = Publisher::new();
        let server = publisher.serve(transport);
        let client = Client::new(transport, &server);
        let stranger = Publisher::new();
        let key = format!("--gpg-import={}", stranger.key().display());
        let url = format!("{}/repo", transport.url(&server));
        // It looks at the repository at once.
        let add = client.program(&["remote-add", &key, "example", &url]);
        let output = add.run_to_failure();
        assert!(
            output.stderr.contains("public key not found"),
            "{output:#?}"
        );
        Traffic::of(&output).assert_over(transport);
    });
}

/// Installs and updates without asking.
const NO_QUESTIONS: &str = "--noninteractive";

/// What `tests/fixtures/make-flatpak-repository` makes, and the files that lead
/// users to it.
struct Publisher {
    directory: TempDir,
    files: TempDir,
}

impl Publisher {
    /// Publishes version 1.
    fn new() -> Self {
        let publisher = Self {
            directory: TempDir::new().unwrap(),
            files: TempDir::new().unwrap(),
        };
        publisher.script().run();
        publisher
    }

    /// Publishes the next version of the application.
    fn update(&self) {
        self.script().arg("update").run();
    }

    fn script(&self) -> Program {
        let calls = ["flatpak", "ostree", "gpg", "gpgconf", "openssl"];
        Program::fixture("make-flatpak-repository", &calls).arg(self.directory.path())
    }

    fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.gpg")
    }

    fn serve(&self, transport: Transport) -> TestServer {
        let setup = Setup::new()
            .repo("/repo", &self.repo())
            .statics("/files", self.files.path());
        let server = transport.start(setup);
        self.write_files(&transport.url(&server));
        server
    }

    fn write_files(&self, url: &str) {
        let encoded = Program::new("base64").arg("--wrap=0").arg(self.key()).run();
        let key = encoded.stdout;
        fs::write(
            self.files.path().join("example.flatpakrepo"),
            format!("[Flatpak Repo]\nTitle=Example\nUrl={url}/repo\nGPGKey={key}\n"),
        )
        .unwrap();
        fs::write(
            self.files.path().join("hello.flatpakref"),
            format!(
                "[Flatpak Ref]\nName={APPLICATION}\nBranch=stable\nIsRuntime=false\n\
                 Url={url}/repo\nRuntimeRepo={url}/files/example.flatpakrepo\nGPGKey={key}\n"
            ),
        )
        .unwrap();
    }

    /// The application's newest commit.
    fn tip(&self) -> String {
        let arch = Program::new("flatpak").arg("--default-arch").run().stdout;
        let name = format!("app/{APPLICATION}/{}/stable", arch.trim());
        let repo = format!("--repo={}", self.repo().display());
        let output = Program::new("ostree").args(["rev-parse", &repo, &name]);
        output.run().stdout.trim().to_owned()
    }
}

/// A user with an installation.
struct Client {
    home: TempDir,
    transport: Transport,
    certificate: PathBuf,
    /// The beginning of the server's addresses.
    url: String,
}

impl Client {
    fn new(transport: Transport, server: &TestServer) -> Self {
        let home = TempDir::new().unwrap();
        Self {
            home,
            transport,
            certificate: server.certificate(),
            url: transport.url(server),
        }
    }

    fn program(&self, args: &[&str]) -> Program {
        flatpak::user(self.home.path(), &self.certificate, args)
            // Makes libcurl tell what it sends and gets, for flatpak's own
            // requests and for libostree's.
            .env("OSTREE_DEBUG_HTTP", "1")
    }

    /// Runs a subcommand.
    fn run(&self, args: &[&str]) -> Output {
        self.program(args).run()
    }

    /// Runs a subcommand that asks the server, over this client's transport and
    /// no other.
    fn fetch(&self, args: &[&str]) -> Traffic {
        let traffic = Traffic::of(&self.run(args));
        traffic.assert_over(self.transport);
        traffic
    }

    /// Adds the remote `example` from its file on the server.
    fn add_remote(&self) -> Traffic {
        let file = format!("{}/files/example.flatpakrepo", self.url);
        self.fetch(&["remote-add", "example", &file])
    }

    /// Panics unless the application is installed as it is published, in this
    /// version and undamaged.
    fn assert_installed(&self, publisher: &Publisher, version: u32) {
        let commit = self.run(&["info", "--show-commit", APPLICATION]).stdout;
        assert_eq!(commit.trim(), publisher.tip());
        let location = self.run(&["info", "--show-location", APPLICATION]).stdout;
        let hello = Path::new(location.trim()).join("files/bin/hello");
        let text = fs::read_to_string(hello).unwrap();
        assert!(text.contains(&format!("version {version}.")), "{text}");
        self.run(&["info", RUNTIME]);
        let repo = self.home.path().join("user/repo");
        let fsck = Program::new("ostree").args(["fsck", "--repo"]).arg(repo);
        fsck.run();
    }
}
