//! What a person, a cache or a download tool sees: the real curl, over each
//! transport.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;

use common::command::Program;
use common::transport::{Transport, over_each};
use common::{Setup, TestRepo, TestServer, pattern, summary_with, wait_until_published};
use tempfile::TempDir;

#[test]
fn get() {
    over_each(&Transport::ALL, |transport| {
        let fixture = Fixture::new(transport);
        let file = fixture.directory.path().join("got");
        let get = fixture.curl("/repo/summary").arg("--output").arg(&file);
        assert_eq!(get.run().stdout, fixture.outcome(200));
        assert_eq!(fs::read(file).unwrap(), fixture.repo.read("summary"));

        // Without a body: curl would write it in front of the outcome.
        let missing = fixture.curl("/repo/objects").run();
        assert_eq!(missing.stdout, fixture.outcome(404));
    });
}

#[test]
fn head() {
    over_each(&Transport::ALL, |transport| {
        let fixture = Fixture::new(transport);
        let head = fixture.curl("/repo/summary").arg("--head").run();
        let len = fixture.repo.read("summary").len();
        assert!(
            head.stdout.contains(&format!("content-length: {len}\r\n")),
            "{head:?}"
        );
        assert!(head.stdout.ends_with(&fixture.outcome(200)), "{head:?}");
    });
}

#[test]
fn range() {
    over_each(&Transport::ALL, |transport| {
        let fixture = Fixture::new(transport);
        let name = fixture.repo.plant_object(300_000);
        let whole = fixture.repo.read(&name);
        let file = fixture.directory.path().join("got");

        let part = fixture.curl(&format!("/repo/{name}"));
        let part = part.args(["--range", "1000-200000", "--output"]).arg(&file);
        assert_eq!(part.run().stdout, fixture.outcome(206));
        assert_eq!(fs::read(&file).unwrap(), whole[1000..=200_000]);

        // An interrupted download goes on where it stopped.
        fs::write(&file, &whole[..123_456]).unwrap();
        let rest = fixture.curl(&format!("/repo/{name}"));
        let rest = rest.args(["--continue-at", "-", "--output"]).arg(&file);
        assert_eq!(rest.run().stdout, fixture.outcome(206));
        assert!(fs::read(&file).unwrap() == whole, "differs");
    });
}

#[test]
fn condition() {
    over_each(&Transport::ALL, |transport| {
        let fixture = Fixture::new(transport);
        let tag = fixture.directory.path().join("etag");
        let ask = || {
            let curl = fixture
                .curl("/repo/summary")
                .args(["--output", "/dev/null"]);
            let curl = curl.arg("--etag-compare").arg(&tag);
            curl.arg("--etag-save").arg(&tag).run().stdout
        };
        fs::write(&tag, "").unwrap();
        assert_eq!(ask(), fixture.outcome(200));
        assert_eq!(ask(), fixture.outcome(304));
        fs::remove_file(fixture.repo.file("summary.sig")).unwrap();
        let changed = summary_with(&pattern(100_000));
        fs::write(fixture.repo.file("summary"), changed).unwrap();
        wait_until_published(&fixture.server, "/repo", &fixture.repo.path());
        assert_eq!(ask(), fixture.outcome(200));
        assert_eq!(ask(), fixture.outcome(304));
    });
}

/// In plaintext, curl asks for HTTP/2 by an upgrade, which may be ignored.
#[test]
fn the_upgrade_from_plaintext_is_ignored() {
    let fixture = Fixture::new(Transport::Plaintext);
    let file = fixture.directory.path().join("got");
    let get = fixture.curl("/repo/summary").arg("--http2");
    let get = get.arg("--output").arg(&file);
    assert_eq!(get.run().stdout, fixture.outcome(200));
    assert_eq!(fs::read(file).unwrap(), fixture.repo.read("summary"));
}

#[test]
fn a_redirect_to_https() {
    over_each(&Transport::TLS, |transport| {
        let fixture = Fixture::new(transport);
        let file = fixture.directory.path().join("got");
        let plaintext = format!("http://localhost:{}", fixture.server.redirect().port());
        let get = fixture.curl_at(&plaintext, "/repo/summary");
        let get = get.arg("--location").arg("--output").arg(&file);
        assert_eq!(get.run().stdout, fixture.outcome(200));
        assert_eq!(fs::read(file).unwrap(), fixture.repo.read("summary"));
    });
}

/// A server, and a place for what is got from it.
struct Fixture {
    transport: Transport,
    repo: TestRepo,
    server: TestServer,
    directory: TempDir,
}

impl Fixture {
    fn new(transport: Transport) -> Self {
        let repo = TestRepo::new();
        // With both protocols offered, it is curl that chooses one.
        let server = Setup::new()
            .repo("/repo", &repo.path())
            .repo_line("hold_unsigned = \"100ms\"")
            .start();
        Self {
            transport,
            repo,
            server,
            directory: TempDir::new().unwrap(),
        }
    }

    fn curl(&self, path: &str) -> Program {
        self.curl_at(&self.transport.url(&self.server), path)
    }

    fn curl_at(&self, origin: &str, path: &str) -> Program {
        let protocol = match self.transport {
            Transport::Http2 => "--http2",
            Transport::Http1 | Transport::Plaintext => "--http1.1",
        };
        // A user's ~/.curlrc is not part of the test.
        Program::new("curl")
            .args(["--disable", "--silent", "--show-error", protocol])
            .arg("--cacert")
            .arg(self.server.certificate())
            .args(["--write-out", "HTTP/%{http_version} %{http_code}"])
            .arg(format!("{origin}{path}"))
    }

    /// What curl writes at the end.
    fn outcome(&self, status: u16) -> String {
        format!("{} {status}", self.transport.protocol())
    }
}
