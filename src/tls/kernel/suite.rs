//! What there is for the kernel to do: a version of TLS with a cipher.

use std::fmt;

use rustls::{CipherSuite, ProtocolVersion, ServerConnection};

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// How records are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-GCM with a key of 128 bits.
    Aes128Gcm,
    /// AES-GCM with a key of 256 bits.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// A version with a cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// The version.
    pub version: Version,
    /// The cipher.
    pub cipher: Cipher,
}

impl Suite {
    /// All that rustls may agree upon with a client.
    pub const ALL: [Self; 6] = [
        Self::new(Version::Tls13, Cipher::Aes128Gcm),
        Self::new(Version::Tls13, Cipher::Aes256Gcm),
        Self::new(Version::Tls13, Cipher::ChaCha20Poly1305),
        Self::new(Version::Tls12, Cipher::Aes128Gcm),
        Self::new(Version::Tls12, Cipher::Aes256Gcm),
        Self::new(Version::Tls12, Cipher::ChaCha20Poly1305),
    ];

    const fn new(version: Version, cipher: Cipher) -> Self {
        Self { version, cipher }
    }

    /// What was agreed upon; `None` before that, and for what is unknown here.
    pub(super) fn of(session: &ServerConnection) -> Option<Self> {
        let version = match session.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Version::Tls12,
            ProtocolVersion::TLSv1_3 => Version::Tls13,
            _ => return None,
        };
        let cipher = match session.negotiated_cipher_suite()?.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::Aes256Gcm,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::ChaCha20Poly1305,
            _ => return None,
        };
        Some(Self::new(version, cipher))
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version {
            Version::Tls12 => "TLS 1.2 ",
            Version::Tls13 => "TLS 1.3 ",
        })?;
        f.write_str(match self.cipher {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}
