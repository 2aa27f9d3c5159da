//! SHA-256 checksums in the two spellings that an archive repository uses for
//! them: hexadecimal (object and summary names) and ostree's variant of base64
//! (delta names).
//!
//! Both parsers accept exactly one spelling of each checksum, so a name on disk
//! has exactly one URL.

use std::fmt;

use aws_lc_rs::digest;

/// A SHA-256 checksum: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum([u8; 32]);

impl Checksum {
    /// Length of the hexadecimal form.
    pub const HEX_LEN: usize = 64;
    /// Length of the base64 form: 32 bytes without padding.
    pub const BASE64_LEN: usize = 43;

    /// The checksum that is these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The checksum of `data`.
    pub fn of(data: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(data);
        hasher.finish()
    }

    /// Reads 64 lower-case hexadecimal digits.
    ///
    /// Upper case is refused as libostree does
    /// (`ostree_validate_structureof_checksum_string`).
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let digits: &[u8; Self::HEX_LEN] = text.try_into().ok()?;
        let mut bytes = [0; 32];
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| HEX_VALUES[usize::from(digit)]);
            *byte = high << 4 | low & 15;
            seen |= high | low;
        }
        // Only what is no digit has bits beyond the lowest four.
        (seen < 16).then_some(Self(bytes))
    }

    /// Reads ostree's base64: the standard alphabet with `_` for `/`, without
    /// padding (`ostree_checksum_b64_inplace_from_bytes`).
    ///
    /// The last character carries only four bits of the checksum; a spelling
    /// with other bits set is refused.
    pub fn from_base64(text: &[u8]) -> Option<Self> {
        let digits: &[u8; Self::BASE64_LEN] = text.try_into().ok()?;
        let mut bytes = [0; 32];
        let mut at = 0;
        let mut pending = 0u32;
        let mut pending_bits = 0;
        for &digit in digits {
            pending = pending << 6 | u32::from(base64_value(digit)?);
            pending_bits += 6;
            if pending_bits >= 8 {
                pending_bits -= 8;
                bytes[at] = (pending >> pending_bits) as u8;
                at += 1;
                pending &= (1 << pending_bits) - 1;
            }
        }
        (pending == 0).then_some(Self(bytes))
    }

    /// The checksum as 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> [u8; Self::HEX_LEN] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; Self::HEX_LEN];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }

    /// The checksum in ostree's base64 (see [`Checksum::from_base64`]).
    pub fn base64(&self) -> [u8; Self::BASE64_LEN] {
        let mut text = [0; Self::BASE64_LEN];
        let mut at = 0;
        let mut pending = 0u32;
        let mut pending_bits = 0;
        for byte in self.0 {
            pending = pending << 8 | u32::from(byte);
            pending_bits += 8;
            while pending_bits >= 6 {
                pending_bits -= 6;
                text[at] = BASE64[(pending >> pending_bits) as usize & 63];
                at += 1;
            }
            pending &= (1 << pending_bits) - 1;
        }
        // 256 bits are 42 digits and four bits more.
        text[at] = BASE64[(pending << (6 - pending_bits)) as usize & 63];
        text
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hex()
            .iter()
            .try_for_each(|&digit| fmt::Write::write_char(f, digit.into()))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a [`Checksum`] piece by piece.
pub struct Hasher(digest::Context);

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes in the next piece.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The checksum of all pieces.
    pub fn finish(self) -> Checksum {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Checksum(bytes)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+_";

/// What each byte is worth as a hexadecimal digit; 255 if it is none. A table, since
/// this is done for every request.
const HEX_VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

fn base64_value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `printf foo | sha256sum`
    const HEX: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    #[test]
    fn sha256_of_a_known_text() {
        assert_eq!(Checksum::of(b"foo").to_string(), HEX);
    }

    #[test]
    fn base64_is_the_standard_one_with_underscore() {
        let checksum = Checksum::from_hex(HEX.as_bytes()).unwrap();
        assert_eq!(
            std::str::from_utf8(&checksum.base64()).unwrap(),
            "LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564"
        );
    }

    #[test]
    fn only_the_canonical_spelling_is_read() {
        let upper = HEX.to_uppercase();
        let cases: &[&str] = &[&upper, &HEX[1..], "", "zz"];
        for case in cases {
            assert_eq!(Checksum::from_hex(case.as_bytes()), None, "{case}");
        }
        let base64 = "LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564";
        assert!(Checksum::from_base64(base64.as_bytes()).is_some());
        for case in [
            "LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564",
            "LCa0a2j-xo-5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
            "LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm565",
            "LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=",
        ] {
            assert_eq!(Checksum::from_base64(case.as_bytes()), None, "{case}");
        }
    }

    proptest! {
        #[test]
        fn both_spellings_return(bytes: [u8; 32]) {
            let checksum = Checksum::from_bytes(bytes);
            prop_assert_eq!(Checksum::from_hex(&checksum.hex()), Some(checksum));
            prop_assert_eq!(Checksum::from_base64(&checksum.base64()), Some(checksum));
        }

        #[test]
        fn a_base64_that_is_read_is_written_the_same(text in "[A-Za-z0-9+_]{43}") {
            if let Some(checksum) = Checksum::from_base64(text.as_bytes()) {
                prop_assert_eq!(&checksum.base64()[..], text.as_bytes());
            }
        }
    }
}
