//! TLS as the real openssl and curl see it: which keys can be served with,
//! which versions are spoken, whether sessions are resumed, whose certificates
//! are accepted.

#![cfg(feature = "real-clients")]

mod common;

use std::path::Path;

use common::command::Program;
use common::{Setup, TestRepo, TestServer};

/// A shell script in a directory.
fn script(directory: &Path, text: &str) -> Program {
    // Those that scripts call: a missing one is told from one that fails.
    for program in ["openssl", "curl"] {
        Program::new(program);
    }
    Program::new("sh")
        .args(["-euc", text])
        .current_dir(directory)
}

/// Runs a script: its whole output, and whether it succeeded.
fn shell(directory: &Path, text: &str) -> (bool, String) {
    let (status, output) = script(directory, text).finish();
    (status.success(), output.stdout + &output.stderr)
}

/// The same for what must succeed.
fn must(directory: &Path, text: &str) -> String {
    let output = script(directory, text).run();
    output.stdout + &output.stderr
}

/// `openssl s_client` with these options; closes after the handshake.
fn s_client(server: &TestServer, options: &str) -> (bool, String) {
    let port = server.https().port();
    let certificate = server.certificate();
    shell(
        certificate.parent().unwrap(),
        &format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername localhost -CAfile certificate.pem \
             -verify_return_error {options} </dev/null"
        ),
    )
}

fn curl(server: &TestServer, options: &str) -> (bool, String) {
    let url = server.url();
    let certificate = server.certificate();
    shell(
        certificate.parent().unwrap(),
        &format!("curl --silent --show-error --cacert certificate.pem {options} {url}/repo/config"),
    )
}

#[test]
fn every_form_of_key_can_be_served_with() {
    let repo = TestRepo::new();
    let rsa = "openssl genrsa -out k.pem 2048";
    let p256 = "openssl ecparam -name prime256v1 -genkey -noout -out k.pem";
    let p384 = "openssl ecparam -name secp384r1 -genkey -noout -out k.pem";
    // What each conversion makes is checked, so that each form is really met.
    let cases = [
        (
            rsa,
            "openssl pkcs8 -topk8 -nocrypt -in k.pem -out key.pem",
            "BEGIN PRIVATE KEY",
        ),
        (
            rsa,
            "openssl rsa -traditional -in k.pem -out key.pem",
            "BEGIN RSA PRIVATE KEY",
        ),
        (
            p256,
            "openssl pkcs8 -topk8 -nocrypt -in k.pem -out key.pem",
            "BEGIN PRIVATE KEY",
        ),
        (p256, "cp k.pem key.pem", "BEGIN EC PRIVATE KEY"),
        // With the curve's parameters in front, as `openssl ecparam` writes it.
        (
            p256,
            "{ openssl ecparam -name prime256v1; cat k.pem; } > key.pem",
            "BEGIN EC PARAMETERS",
        ),
        (
            p384,
            "openssl pkcs8 -topk8 -nocrypt -in k.pem -out key.pem",
            "BEGIN PRIVATE KEY",
        ),
    ];
    for (make, convert, marker) in cases {
        let setup = Setup::new().repo("/repo", &repo.path()).own_certificate();
        must(
            setup.directory(),
            &format!(
                "{make} 2>&1; {convert} 2>&1; grep -q '{marker}' key.pem; \
                 openssl req -x509 -new -key k.pem -days 2 -subj /CN=test \
                     -addext subjectAltName=DNS:localhost -out certificate.pem 2>&1"
            ),
        );
        let server = setup.start();
        let (success, said) = curl(&server, "--write-out %{http_version}");
        assert!(
            success && said.contains("mode=archive"),
            "{make}; {convert}: {said}"
        );
    }
}

#[test]
fn the_versions_are_1_2_and_1_3() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (success, said) = s_client(&server, option);
        assert!(
            success && said.contains(&format!("{version}, Cipher is")),
            "{said}"
        );
    }
    // The client's own policy must not be what refuses.
    for option in ["-tls1", "-tls1_1"] {
        let (success, said) = s_client(&server, &format!("{option} -cipher DEFAULT@SECLEVEL=0"));
        assert!(!success && said.contains("alert"), "{option}: {said}");
    }
}

#[test]
fn protocols_are_negotiated_as_configured() {
    let repo = TestRepo::new();
    let both = TestServer::of(&repo);
    let only = Setup::new()
        .repo("/repo", &repo.path())
        .http1_only()
        .start();
    let cases = [
        (&both, "", "\n2"),
        (&both, "--http1.1", "\n1.1"),
        (&both, "--no-alpn", "\n1.1"),
        (&only, "", "\n1.1"),
    ];
    for (server, options, version) in cases {
        let (success, said) = curl(
            server,
            &format!("{options} --write-out '\\n%{{http_version}}'"),
        );
        assert!(success && said.ends_with(version), "{options}: {said}");
    }
    // Who offers nothing would speak HTTP/1.1, which is not configured here.
    let h2 = Setup::new()
        .repo("/repo", &repo.path())
        .http2_only()
        .start();
    for (options, accepted) in [("", true), ("--no-alpn", false), ("--http1.1", false)] {
        let (success, said) = curl(&h2, options);
        assert_eq!(success, accepted, "{options}: {said}");
    }
    let (_, said) = s_client(&both, "-alpn unknown");
    assert!(said.contains("no application protocol"), "{said}");
}

#[test]
fn sessions_are_resumed() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    for version in ["-tls1_2", "-tls1_3"] {
        // A ticket of TLS 1.3 comes after the handshake, so a request is made;
        // after an HTTP/1.0 request the server ends the connection.
        let port = server.https().port();
        let client =
            format!("openssl s_client -connect 127.0.0.1:{port} -CAfile certificate.pem {version}");
        let said = must(
            server.certificate().parent().unwrap(),
            &format!(
                "printf 'GET /repo/config HTTP/1.0\\r\\n\\r\\n' |
                     {client} -ign_eof -sess_out session 2>&1 | grep 'mode='
                 {client} -sess_in session </dev/null 2>&1"
            ),
        );
        assert!(said.contains("Reused, "), "{version}: {said}");
    }
}

#[test]
fn a_client_certificate_is_optional_and_verified() {
    let repo = TestRepo::new();
    let setup = Setup::new()
        .repo("/repo", &repo.path())
        .tls("client_ca = \"authority.pem\"");
    must(
        setup.directory(),
        "issue() { # NAME AUTHORITY
            openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -subj /CN=$1 -out $1.csr
            # With an extension it is of version 3; rustls takes no others.
            openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -days 2 -extfile extensions -out $1.pem
         }
         echo basicConstraints=CA:FALSE > extensions
         for authority in authority stranger; do
            openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                -keyout $authority.key -subj /CN=$authority -out $authority.pem
         done
         issue good authority; issue bad stranger",
    );
    let server = setup.start();
    let cases = [
        ("", true),
        ("--cert good.pem --key good.key", true),
        ("--cert bad.pem --key bad.key", false),
    ];
    for (options, accepted) in cases {
        let (success, said) = curl(&server, options);
        assert_eq!(success, accepted, "{options}: {said}");
        assert_eq!(said.contains("mode="), accepted, "{options}: {said}");
    }
}
