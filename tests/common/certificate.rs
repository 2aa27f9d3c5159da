//! Certificates with their keys, and clients that tell which one was shown.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::client::{Client, connect};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate for localhost, which is its own authority, and its key.
pub struct Pair {
    /// Both in PEM form.
    pub certificate: String,
    pub key: String,
    der: CertificateDer<'static>,
    /// Whom clients have to trust.
    authority: CertificateDer<'static>,
}

impl Pair {
    /// Valid for a while.
    pub fn new(serial: u64) -> Self {
        let now = SystemTime::now();
        Self::valid(serial, now - DAY, now + 90 * DAY)
    }

    /// Expired yesterday.
    pub fn expired(serial: u64) -> Self {
        let now = SystemTime::now();
        Self::valid(serial, now - 90 * DAY, now - DAY)
    }

    /// Valid from tomorrow on.
    pub fn not_yet_valid(serial: u64) -> Self {
        let now = SystemTime::now();
        Self::valid(serial, now + DAY, now + 90 * DAY)
    }

    fn valid(serial: u64, from: SystemTime, to: SystemTime) -> Self {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = from.into();
        params.not_after = to.into();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            authority: certificate.der().clone(),
        }
    }

    /// One that an authority has issued, whose certificate follows in the file.
    pub fn issued(serial: u64) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        let name = format!("Authority {serial}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self {
            certificate: certificate.pem() + &authority.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            authority: authority.der().clone(),
        }
    }

    /// The same without what follows in the file.
    pub fn alone(&self) -> Self {
        const END: &str = "-----END CERTIFICATE-----\n";
        let end = self.certificate.find("-----END").unwrap();
        Self {
            certificate: self.certificate[..end].to_owned() + END,
            key: self.key.clone(),
            der: self.der.clone(),
            authority: self.authority.clone(),
        }
    }

    /// Puts both files where a test's configuration has them.
    pub fn put(&self, directory: &Path) {
        fs::write(directory.join("key.pem"), &self.key).unwrap();
        fs::write(directory.join("certificate.pem"), &self.certificate).unwrap();
    }
}

/// A client that accepts these certificates, and remembers sessions.
pub fn trusting(pairs: &[&Pair]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in pairs {
        roots.add(pair.authority.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A connection after its handshake.
pub struct Greeted {
    pub client: Client,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    certificate: CertificateDer<'static>,
    /// How many certificates were shown.
    pub chain: usize,
}

impl Greeted {
    /// Connects; panics if the handshake fails.
    pub fn by(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::try_by(address, config).expect("a handshake")
    }

    /// The same with a certificate that may not be accepted.
    pub fn try_by(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut stream = connect(address);
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self {
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            chain: session.peer_certificates().unwrap().len(),
            certificate: session.peer_certificates().unwrap()[0].clone().into_owned(),
            client: Client::over(StreamOwned::new(session, stream)),
        })
    }

    /// Whether this certificate was shown.
    pub fn was_shown(&self, pair: &Pair) -> bool {
        self.certificate == pair.der
    }
}
