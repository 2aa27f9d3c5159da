//! A direction's keys in the form that the kernel takes them
//! (include/uapi/linux/tls.h, `struct tls12_crypto_info_*`).

use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use super::suite::{Cipher, Suite, Version};

/// Version, cipher, key and place in the sequence of records. It is overwritten
/// when it is dropped.
pub(super) struct Material {
    bytes: Zeroizing<[u8; Self::LONGEST]>,
    len: usize,
}

impl Material {
    /// That of AES-256-GCM, and of ChaCha20-Poly1305.
    const LONGEST: usize = 56;

    /// For a direction in which `sequence` records have gone already; `None` if the
    /// secrets are not the suite's.
    pub(super) fn of(
        suite: Suite,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Option<Self> {
        use ConnectionTrafficSecrets as Secrets;
        let (key, iv) = match (suite.cipher, secrets) {
            (Cipher::Aes128Gcm, Secrets::Aes128Gcm { key, iv })
            | (Cipher::Aes256Gcm, Secrets::Aes256Gcm { key, iv })
            | (Cipher::ChaCha20Poly1305, Secrets::Chacha20Poly1305 { key, iv }) => (key, iv),
            _ => return None,
        };
        Self::new(suite, sequence, key.as_ref(), iv.as_ref())
    }

    /// Of a key that protects nothing, to see what the kernel says to it.
    pub(super) fn made_up(suite: Suite) -> Option<Self> {
        let key = [0x5a; 32];
        let len = match suite.cipher {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 32,
        };
        Self::new(suite, 0, &key[..len], &[0xa5; 12])
    }

    /// `None` if `iv` is not of twelve bytes, or `key` is too long.
    pub(super) fn new(suite: Suite, sequence: u64, key: &[u8], iv: &[u8]) -> Option<Self> {
        // TLS_1_2_VERSION and TLS_1_3_VERSION; TLS_CIPHER_*.
        let version: u16 = match suite.version {
            Version::Tls12 => 0x0303,
            Version::Tls13 => 0x0304,
        };
        let cipher: u16 = match suite.cipher {
            Cipher::Aes128Gcm => 51,
            Cipher::Aes256Gcm => 52,
            Cipher::ChaCha20Poly1305 => 54,
        };
        let iv = Zeroizing::new(<[u8; 12]>::try_from(iv).ok()?);
        // The part that a connection keeps, and the one that may go over the wire.
        let (salt, mut iv) = match suite.cipher {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => (&iv[..4], Zeroizing::new(iv[4..].to_vec())),
            Cipher::ChaCha20Poly1305 => (&[][..], Zeroizing::new(iv.to_vec())),
        };
        if suite.version == Version::Tls12
            && let Ok(explicit) = <[u8; 8]>::try_from(&iv[..])
        {
            let explicit = u64::from_be_bytes(explicit);
            iv.copy_from_slice(&unused_nonce(explicit, sequence).to_be_bytes());
        }
        let mut material = Self {
            bytes: Zeroizing::new([0; Self::LONGEST]),
            len: 0,
        };
        material.push(&version.to_ne_bytes())?;
        material.push(&cipher.to_ne_bytes())?;
        material.push(&iv)?;
        material.push(key)?;
        material.push(salt)?;
        material.push(&sequence.to_be_bytes())?;
        Some(material)
    }

    fn push(&mut self, field: &[u8]) -> Option<()> {
        let place = self.bytes.get_mut(self.len..self.len + field.len())?;
        place.copy_from_slice(field);
        self.len += field.len();
        Some(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// From where the kernel may count, for AES-GCM under TLS 1.2.
///
/// Each record carries its nonce there, and both sides may choose it as they like,
/// as long as none comes twice: that would give the key away (RFC 5288 3). rustls
/// has used `start ^ n` for its record number `n`; the kernel uses what it is
/// given, and from there on the next integers. All that rustls used lie in the
/// block around `start` whose size is a power of two; so the first after it.
pub(super) fn unused_nonce(start: u64, sequence: u64) -> u64 {
    match sequence.checked_next_power_of_two() {
        Some(block) if sequence > 0 => (start | (block - 1)).wrapping_add(1),
        _ => start,
    }
}
