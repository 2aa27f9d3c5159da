//! Kernel TLS, in the guest that `tests/vm/run` makes: whether the kernel takes
//! over, whether clients notice nothing of it, and what happens when it cannot.
//!
//! The tests run one after the other: each looks at what the kernel counts.

#![cfg(feature = "guest")]

mod common;

use std::fs::{self, File};
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};

use common::client::{Client, connect};
use common::command::Program;
use common::process::Process;
use common::{Setup, TestRepo, TestServer, object_name, pattern, wait_for};
use ostree_serve::listener::stream::Stream;
use ostree_serve::tls::TlsAcceptor;
use ostree_serve::tls::kernel::{self, Cipher, KernelTls, Suite, Switched, Traced};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Version = &'static SupportedProtocolVersion;

const SMALL: usize = 1000;
const LARGE: usize = 4 * 1024 * 1024;

/// What the guest's script has made of this kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    WithoutTls,
    WithoutChaCha20,
    WithAll,
}

impl Kernel {
    fn this() -> Self {
        match std::env::var("GUEST_KERNEL").as_deref() {
            Ok("without-tls") => Self::WithoutTls,
            Ok("without-chacha20") => Self::WithoutChaCha20,
            Ok("with-all") => Self::WithAll,
            other => panic!("GUEST_KERNEL is {other:?}; these tests are run by tests/vm/run"),
        }
    }

    fn does(self, suite: CipherSuite) -> bool {
        let is_chacha20 = format!("{suite:?}").contains("CHACHA20");
        match self {
            Self::WithoutTls => false,
            Self::WithoutChaCha20 => !is_chacha20,
            Self::WithAll => true,
        }
    }
}

/// What the kernel has counted (/proc/net/tls_stat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    sending: u64,
    receiving: u64,
    forged: u64,
}

impl Counted {
    fn now() -> Self {
        // Without the module there is no such file.
        let text = fs::read_to_string("/proc/net/tls_stat").unwrap_or_default();
        let of = |name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.map_or(0, |it| it.trim().parse().unwrap())
        };
        Self {
            sending: of("TlsTxSw "),
            receiving: of("TlsRxSw "),
            forged: of("TlsDecryptError "),
        }
    }
}

/// A server, and what the kernel had counted before it.
struct Guest {
    repo: TestRepo,
    server: TestServer,
    before: Counted,
}

impl Guest {
    fn new() -> Self {
        Self::serving(Setup::new().http1_only())
    }

    fn serving(setup: Setup) -> Self {
        let repo = TestRepo::new();
        let server = setup.repo("/repo", &repo.path()).start();
        // By then the server has tried out what the kernel can do.
        assert_eq!(Client::plain(&server).get("/repo/config").status, 200);
        Self {
            repo,
            server,
            before: Counted::now(),
        }
    }

    /// Panics unless the kernel took over so many connections in the meantime, and
    /// decrypted all it got.
    fn assert_taken_over(&self, connections: u64) {
        let Counted {
            sending,
            receiving,
            forged,
        } = self.before;
        let expected = Counted {
            sending: sending + connections,
            receiving: receiving + connections,
            forged,
        };
        assert_eq!(Counted::now(), expected);
    }

    fn config(&self, version: Version, suite: CipherSuite) -> ClientConfig {
        let pem = fs::read(self.server.certificate()).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem).unwrap())
            .unwrap();
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|it| it.suite() == suite);
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// What the server's handshakes are made with, in a test that makes its own.
    fn server_config(&self) -> ServerConfig {
        let certificate = fs::read(self.server.certificate()).unwrap();
        let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
        let key = fs::read(self.server.directory().join("key.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.enable_secret_extraction = true;
        config
    }

    /// A client that has connected, but said nothing yet.
    fn session(&self, version: Version, suite: CipherSuite) -> ClientConnection {
        let name = ServerName::try_from("localhost").unwrap();
        ClientConnection::new(Arc::new(self.config(version, suite)), name).unwrap()
    }

    fn client(&self, version: Version, suite: CipherSuite) -> Client {
        let stream = connect(self.server.https());
        Client::over(StreamOwned::new(self.session(version, suite), stream))
    }

    /// A client with TLS 1.3 that is in the middle of the handshake: its last
    /// message is not sent yet.
    fn unfinished(&self) -> (ClientConnection, TcpStream) {
        let mut stream = connect(self.server.https());
        let mut session = self.session(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
        while session.is_handshaking() {
            while session.wants_write() {
                session.write_tls(&mut stream).unwrap();
            }
            session.read_tls(&mut stream).unwrap();
            session.process_new_packets().unwrap();
        }
        (session, stream)
    }

    /// A client with TLS 1.3 that has had an answer: by now the kernel is at work.
    fn served(&self) -> (ClientConnection, TcpStream) {
        self.served_by(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256)
    }

    fn served_by(&self, version: Version, suite: CipherSuite) -> (ClientConnection, TcpStream) {
        let stream = connect(self.server.https());
        let session = self.session(version, suite);
        let mut client = StreamOwned::new(session, stream);
        client
            .write_all(b"HEAD /repo/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        (client.conn, client.sock)
    }

    /// curl, or whatever else knows the certificate by this name.
    fn shell(&self, script: &str) -> String {
        let directory = self.server.certificate();
        let output = Program::new("sh")
            .args(["-euc", script])
            .current_dir(directory.parent().unwrap())
            .run();
        output.stdout + &output.stderr
    }
}

/// What a session has to send.
fn outgoing(session: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Small and large replies, ranges and a HEAD on one connection.
fn everything_is_served(version: Version, suite: CipherSuite) {
    let guest = Guest::new();
    let mut client = guest.client(version, suite);
    for len in [SMALL, LARGE, 0, 16384, LARGE + 1] {
        let path = format!("/repo/{}", guest.repo.plant_object(len));
        let response = client.get(&path);
        assert_eq!(
            (response.status, response.body == pattern(len)),
            (200, true),
            "{len}"
        );
    }
    let path = format!("/repo/{}", object_name(LARGE as u64));
    let response = client.get_with(&path, "Range: bytes=1000000-2999999\r\n");
    assert_eq!(response.status, 206);
    assert!(response.body == pattern(LARGE)[1_000_000..3_000_000]);
    let response = client.head_with(&path, "");
    assert_eq!(response.header("content-length"), Some("4194304"));
    assert_eq!(client.get("/repo/objects/none").status, 404);
    guest.assert_taken_over(Kernel::this().does(suite).into());
}

#[test]
fn suites_tls13_aes_128() {
    everything_is_served(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[test]
fn suites_tls13_aes_256() {
    everything_is_served(&TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384);
}

#[test]
fn suites_tls13_chacha20() {
    everything_is_served(&TLS13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
}

#[test]
fn suites_tls12_aes_128() {
    everything_is_served(&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
}

#[test]
fn suites_tls12_aes_256() {
    everything_is_served(&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
}

#[test]
fn suites_tls12_chacha20() {
    everything_is_served(
        &TLS12,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    );
}

#[test]
fn curl_is_served_by_all_suites() {
    let guest = Guest::new();
    let path = format!("/repo/{}", guest.repo.plant_object(LARGE));
    let (url, object) = (
        guest.server.url(),
        guest.repo.file(&object_name(LARGE as u64)),
    );
    let options = [
        "--tlsv1.3 --tls13-ciphers TLS_AES_128_GCM_SHA256",
        "--tlsv1.3 --tls13-ciphers TLS_AES_256_GCM_SHA384",
        "--tlsv1.3 --tls13-ciphers TLS_CHACHA20_POLY1305_SHA256",
        "--tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-GCM-SHA256",
        "--tls-max 1.2 --ciphers ECDHE-ECDSA-AES256-GCM-SHA384",
        "--tls-max 1.2 --ciphers ECDHE-ECDSA-CHACHA20-POLY1305",
    ];
    for options in options {
        // Both files on one connection.
        let said = guest.shell(&format!(
            "curl -sSv --cacert certificate.pem {options} {url}{path} -o large {url}/repo/config -o config
             cmp large {object:?}; cmp config {:?}",
            guest.repo.file("config"),
        ));
        assert!(said.contains("Re-using existing connection"), "{said}");
    }
    guest.assert_taken_over(match Kernel::this() {
        Kernel::WithoutTls => 0,
        Kernel::WithoutChaCha20 => 4,
        Kernel::WithAll => 6,
    });
}

/// An object of more than 2 GiB, most of it a hole.
#[test]
fn large_offsets_and_bodies_are_right() {
    const LEN: u64 = 5 << 29;
    const MARK: &[u8] = b"across the 2 GiB mark";
    let guest = Guest::new();
    let name = object_name(LEN);
    fs::create_dir_all(guest.repo.file(&name).parent().unwrap()).unwrap();
    let mut file = File::create(guest.repo.file(&name)).unwrap();
    io::Seek::seek(&mut file, io::SeekFrom::Start((1 << 31) - 10)).unwrap();
    file.write_all(MARK).unwrap();
    file.set_len(LEN).unwrap();
    let mut client = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let start = (1_u64 << 31) - 10;
    let end = start + MARK.len() as u64 - 1;
    let range = format!("Range: bytes={start}-{end}\r\n");
    assert_eq!(client.get_with(&format!("/repo/{name}"), &range).body, MARK);
    // 64 MiB around it: more than all buffers.
    let range = format!(
        "Range: bytes={}-{}\r\n",
        start - (1 << 25),
        start + (1 << 25) - 1
    );
    let body = client.get_with(&format!("/repo/{name}"), &range).body;
    assert_eq!(body.len(), 1 << 26);
    assert_eq!(&body[1 << 25..][..MARK.len()], MARK);
    assert_eq!(body.iter().filter(|&&it| it != 0).count(), MARK.len());
    guest.assert_taken_over(1);
}

#[test]
fn http2_stays_with_rustls() {
    let guest = Guest::serving(Setup::new());
    let url = guest.server.url();
    let said = guest.shell(&format!(
        "curl -sSv --cacert certificate.pem --http2 {url}/repo/config"
    ));
    assert!(said.contains("HTTP/2 200"), "{said}");
    guest.assert_taken_over(0);
}

#[test]
fn ostree_pulls() {
    let guest = Guest::new();
    let url = guest.server.url();
    guest.shell(&format!(
        "ostree --repo=mine init --mode=archive
         ostree --repo=mine remote add --no-sign-verify --set=tls-ca-path=$PWD/certificate.pem o {url}/repo
         ostree --repo=mine pull --mirror o
         ostree --repo=mine fsck"
    ));
    assert!(Counted::now().sending > guest.before.sending);
    assert_eq!(Counted::now().forged, guest.before.forged);
}

/// The ticket was sent before the kernel took over.
#[test]
fn sessions_are_resumed() {
    let guest = Guest::new();
    let port = guest.server.https().port();
    for version in ["-tls1_3", "-tls1_2"] {
        let said = guest.shell(&format!(
            r"s_client() {{
                 printf 'GET /repo/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' |
                     openssl s_client -connect 127.0.0.1:{port} -servername localhost -ign_eof \
                         -CAfile certificate.pem {version} $@
              }}
              s_client -sess_out session; s_client -sess_in session"
        ));
        assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
        assert_eq!(said.matches("Reused, TLS").count(), 1, "{said}");
    }
    guest.assert_taken_over(4);
}

/// Kernels before 6.13 cannot take a new key.
#[test]
fn a_key_update_ends_the_connection_with_an_alert() {
    let guest = Guest::new();
    let (mut session, mut stream) = guest.served();
    session.refresh_traffic_keys().unwrap();
    session
        .writer()
        .write_all(b"GET /repo/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    stream.write_all(&outgoing(&mut session)).unwrap();
    let error = loop {
        assert_ne!(session.read_tls(&mut stream).unwrap(), 0, "no alert");
        if let Err(error) = session.process_new_packets() {
            break error;
        }
    };
    assert!(error.to_string().contains("UnexpectedMessage"), "{error}");
    let mut other = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(other.get("/repo/config").status, 200);
    guest.assert_taken_over(2);
}

/// With rustls they are no problem. The answer to this one waits until something is
/// sent, and its key is in use by then.
#[test]
fn a_key_update_with_the_handshakes_end_keeps_the_connection_with_rustls() {
    let guest = Guest::new();
    let (mut session, mut stream) = guest.unfinished();
    session.refresh_traffic_keys().unwrap();
    stream.write_all(&outgoing(&mut session)).unwrap();
    let mut client = Client::over(StreamOwned::new(session, stream));
    assert_eq!(client.get("/repo/config").status, 200);
    guest.assert_taken_over(0);
}

#[test]
fn a_request_with_the_handshakes_end_is_answered() {
    let guest = Guest::new();
    let (mut session, mut stream) = guest.unfinished();
    session
        .writer()
        .write_all(b"GET /repo/config HTTP/1.1\r\nHost: local")
        .unwrap();
    stream.write_all(&outgoing(&mut session)).unwrap();
    let mut client = Client::over(StreamOwned::new(session, stream));
    client.send("host\r\n\r\n");
    assert_eq!(client.response("GET").status, 200);
    assert_eq!(client.get("/repo/config").status, 200);
    guest.assert_taken_over(1);
}

#[test]
fn half_a_record_with_the_handshakes_end_keeps_the_connection_with_rustls() {
    let guest = Guest::new();
    let (mut session, mut stream) = guest.unfinished();
    session
        .writer()
        .write_all(b"GET /repo/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let bytes = outgoing(&mut session);
    let (first, second) = bytes.split_at(bytes.len() - 10);
    stream.write_all(first).unwrap();
    // The ticket: by now all that came was read.
    stream.peek(&mut [0]).unwrap();
    stream.write_all(second).unwrap();
    let mut client = Client::over(StreamOwned::new(session, stream));
    assert_eq!(client.response("GET").status, 200);
    assert_eq!(client.get("/repo/config").status, 200);
    guest.assert_taken_over(0);
}

/// What comes while the kernel takes over wakes nobody.
#[test]
fn no_request_is_overlooked_at_the_switch() {
    const CLIENTS: u64 = 100;
    let guest = Guest::new();
    for _ in 0..CLIENTS {
        let mut client = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(client.get("/repo/config").status, 200);
    }
    guest.assert_taken_over(CLIENTS);
}

#[test]
fn goodbyes_are_said_and_understood() {
    let guest = Guest::new();
    for (version, suite) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let path = format!("/repo/{}", guest.repo.plant_object(LARGE));
        let mut client = guest.client(version, suite);
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ));
        let (bytes, error) = client.read_to_end();
        assert!(
            bytes.ends_with(&pattern(LARGE)) && error.is_none(),
            "{error:?}"
        );

        // The client's comes first; it still gets its answer.
        let (mut session, mut stream) = guest.served_by(version, suite);
        session
            .writer()
            .write_all(b"GET /repo/config HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        session.send_close_notify();
        stream.write_all(&outgoing(&mut session)).unwrap();
        let (bytes, error) = Client::over(StreamOwned::new(session, stream)).read_to_end();
        assert!(
            bytes.starts_with(b"HTTP/1.1 200") && error.is_none(),
            "{error:?}"
        );

        // None at all.
        let mut client = guest.client(version, suite);
        assert_eq!(client.get("/repo/config").status, 200);
        drop(client);
    }
    guest.assert_taken_over(6);
}

/// The kernel forgets what it has encrypted and not sent when a connection is
/// closed: that has to wait.
#[test]
fn a_slow_reader_gets_the_end_and_the_goodbye() {
    let guest = Guest::new();
    let path = format!("/repo/{}", guest.repo.plant_object(LARGE));
    for (version, suite) in [
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ] {
        let stream = connect(guest.server.https());
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 128 * 1024).unwrap();
        let wire = StreamOwned::new(guest.session(version, suite), stream);
        let mut client = Client::over(wire);
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ));
        let (bytes, error) = client.read_to_end();
        assert!(
            bytes.ends_with(&pattern(LARGE)) && error.is_none(),
            "{error:?}"
        );
    }
    guest.assert_taken_over(2);
}

/// While a connection is new, its socket has room for three records, and not for as
/// much as the kernel takes from a file at a time: it must not keep them.
#[test]
fn what_fills_a_new_socket_leaves_it() {
    const LEN: usize = 256 * 1024;
    const CONNECTIONS: u64 = 20;
    let guest = Guest::new();
    let path = format!("/repo/{}", guest.repo.plant_object(LEN));
    for connection in 0..CONNECTIONS {
        let mut client = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(
            client.get(&path).body == pattern(LEN),
            "connection {connection}"
        );
    }
    guest.assert_taken_over(CONNECTIONS);
}

/// The client sees an abort, and no byte that is not the file's.
#[test]
fn a_shrinking_file_ends_the_connection_without_a_goodbye() {
    const LEN: usize = 8 * LARGE;
    const LEFT: usize = LARGE;
    let guest = Guest::new();
    let name = guest.repo.plant_object(LEN);
    let mut client = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
    client.send(format!(
        "GET /repo/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ));
    client.read_head().unwrap();
    let mut body = client.read_exactly(10).unwrap();
    guest.repo.truncate(&name, LEFT as u64);
    let (rest, error) = client.read_to_end();
    body.extend(rest);
    let error = error.expect("an end that is not clean");
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
    // What was read ahead of the cut may come as well.
    assert!(
        body.len() < LEN && body == pattern(LEN)[..body.len()],
        "{}",
        body.len()
    );
    let mut other = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(other.get("/repo/config").status, 200);
    guest.assert_taken_over(2);
}

#[test]
fn a_forged_record_ends_the_connection() {
    let guest = Guest::new();
    let (_, mut stream) = guest.served();
    let mut record = [0; 5 + 40];
    record[..5].copy_from_slice(&[23, 3, 3, 0, 40]);
    stream.write_all(&record).unwrap();
    let mut rest = Vec::new();
    // At the latest the client's patience ends it.
    let ended = stream.read_to_end(&mut rest);
    assert!(
        !matches!(&ended, Err(error) if error.kind() == io::ErrorKind::WouldBlock),
        "{ended:?}"
    );
    wait_for("the kernel to count it", || {
        (Counted::now().forged == guest.before.forged + 1).then_some(())
    });
    let mut other = guest.client(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(other.get("/repo/config").status, 200);
}

/// Under TLS 1.2 with AES-GCM each record carries its nonce. rustls and the kernel
/// choose them in different ways, and none may come twice under one key.
#[test]
fn no_nonce_comes_twice() {
    let guest = Guest::new();
    let path = format!("/repo/{}", guest.repo.plant_object(100_000));
    for _ in 0..20 {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let wire = Recording {
            stream: connect(guest.server.https()),
            seen: Arc::clone(&seen),
        };
        let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
        let mut client = Client::over(StreamOwned::new(guest.session(&TLS12, suite), wire));
        assert_eq!(client.get(&path).status, 200);
        let mut nonces = nonces(&seen.lock().unwrap());
        let count = nonces.len();
        assert!(count > 7, "{count}");
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), count);
    }
    guest.assert_taken_over(20);
}

/// The explicit nonces of the records after ChangeCipherSpec.
fn nonces(mut bytes: &[u8]) -> Vec<[u8; 8]> {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    let mut nonces = Vec::new();
    let mut protected = false;
    while let [content, _, _, high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        // The last one may not have come as a whole.
        let Some((record, rest)) = rest.split_at_checked(len) else {
            break;
        };
        bytes = rest;
        if protected {
            nonces.push(record[..8].try_into().unwrap());
        }
        protected |= *content == CHANGE_CIPHER_SPEC;
    }
    nonces
}

/// Notes what comes from the server, as it is on the wire.
struct Recording {
    stream: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Read for Recording {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.seen
            .lock()
            .unwrap()
            .extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A header without the end of a record, and the file behind it, without hyper in
/// between: what the transport will do.
#[test]
fn a_file_follows_its_header_out_of_the_page_cache() {
    let guest = Guest::new();
    let name = guest.repo.plant_object(LARGE);
    let file = File::open(guest.repo.file(&name)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = guest.server_config();
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let socket = accept(&listener);
            send_file(socket, config, &file).await
        })
    });
    let session = guest.session(&TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384);
    let mut client = Client::over(StreamOwned::new(session, connect(address)));
    client.send("");
    let (bytes, error) = client.read_to_end();
    assert!(error.is_none(), "{error:?}");
    assert!(bytes == [b"header, ", &pattern(LARGE)[..]].concat());
    // The server waits for that.
    drop(client);
    // No more than one for each 4 KiB, and one for each system call.
    let records = server.join().unwrap();
    assert!((256..2048).contains(&records), "{records}");
}

/// What has come by then was announced before the kernel knew of records, and to
/// who asks again there is nothing new.
#[test]
fn what_came_just_before_the_switch_is_read() {
    let guest = Guest::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = guest.server_config();
    let (ready, is_ready) = mpsc::channel();
    let (sent, was_sent) = mpsc::channel();
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let socket = accept(&listener);
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let stream = acceptor.accept(Traced::new(Stream::Tcp(socket), true));
            let stream = Box::new(stream.await.unwrap());
            ready.send(()).unwrap();
            // Blocks, so that the runtime hears of nothing.
            was_sent.recv().unwrap();
            let switched = kernel::switch(stream, &KernelTls::probe().unwrap()).unwrap();
            let Switched::Kernel(mut stream) = switched else {
                panic!("{switched:?}");
            };
            let mut got = [0; 5];
            let read = stream.read_exact(&mut got);
            let patience = std::time::Duration::from_secs(20);
            tokio::time::timeout(patience, read).await.unwrap().unwrap();
            got
        })
    });
    let session = guest.session(&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut client = StreamOwned::new(session, connect(address));
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock).unwrap();
    }
    is_ready.recv().unwrap();
    client.write_all(b"hello").unwrap();
    client.flush().unwrap();
    sent.send(()).unwrap();
    assert_eq!(&server.join().unwrap(), b"hello");
}

/// Confined, the server may not connect to try it out. What the module promises then
/// is seen to be true by who may.
#[test]
fn suites_that_the_module_promises_are_done() {
    let promised = match (Kernel::this(), KernelTls::promised()) {
        (Kernel::WithoutTls, Err(_)) => return,
        (_, promised) => promised.unwrap(),
    };
    let seen = KernelTls::probe().unwrap();
    for suite in Suite::ALL {
        assert!(!promised.supports(suite) || seen.supports(suite), "{suite}");
        let is_aes = suite.cipher != Cipher::ChaCha20Poly1305;
        assert_eq!(promised.supports(suite), is_aes, "{suite}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn accept(listener: &std::net::TcpListener) -> tokio::net::TcpStream {
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(socket).unwrap()
}

async fn send_file(socket: tokio::net::TcpStream, config: ServerConfig, file: &File) -> u64 {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let stream = acceptor.accept(Traced::new(Stream::Tcp(socket), true));
    let kernel = KernelTls::probe().unwrap();
    let switched = kernel::switch(Box::new(stream.await.unwrap()), &kernel).unwrap();
    let Switched::Kernel(mut stream) = switched else {
        panic!("{switched:?}");
    };
    let header = [IoSlice::new(b"head"), IoSlice::new(b"er, ")];
    let sent = poll_fn(|cx| stream.poll_send(cx, &header, true)).await;
    assert_eq!(sent.unwrap(), 8);
    let mut position = 0;
    while position < LARGE {
        let left = LARGE - position;
        let sent = poll_fn(|cx| stream.poll_send_file(cx, file, position as u64, left)).await;
        position += sent.unwrap();
    }
    stream.shutdown().await.unwrap();
    // Until the client has it all and has gone: closing with bytes unread resets.
    _ = stream.read(&mut [0]).await;
    stream.records()
}

/// The program itself, under strace: records are made by the kernel out of files.
#[test]
fn files_are_sent_by_sendfile() {
    let repo = TestRepo::new();
    let name = repo.plant_object(LARGE);
    let setup = Setup::new().http1_only().repo("/repo", &repo.path());
    let trace = setup.directory().join("trace");
    let trace = trace.to_str().unwrap();
    let server = Process::start_under(
        setup,
        "strace",
        &[
            "-f",
            "-qq",
            "-e",
            "trace=sendfile,sendmsg,setsockopt",
            "-o",
            trace,
        ],
    );
    Program::new("curl")
        .args([
            "-sS",
            "--cacert",
            server.certificate().to_str().unwrap(),
            "-o",
        ])
        .arg(server.directory().join("got"))
        .arg(format!(
            "https://localhost:{}/repo/{name}",
            server.https().port()
        ))
        .run();
    assert!(fs::read(server.directory().join("got")).unwrap() == pattern(LARGE));
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("TCP_ULP"), "{trace}");
    // Whether the head waits for the file depends on the file system: this kernel's
    // tmpfs does not tell what is in memory, so the file is read first.
    let sent = trace.lines().filter(|line| line.contains("sendfile("));
    let sent: usize = sent
        .filter_map(|line| line.rsplit_once("= ")?.1.parse::<usize>().ok())
        .sum();
    assert_eq!(sent, LARGE, "{trace}");
}
