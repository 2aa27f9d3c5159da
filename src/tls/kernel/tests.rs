//! What can be tested where the kernel has no such module; `tests/vm` has the rest.

use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::material::{Material, unused_nonce};
use super::probe::KernelTls;
use super::stream::KernelStream;
use super::suite::{Cipher, Suite, Version};
use super::trace::Records;

proptest! {
    /// However the bytes come, a boundary is exactly where a record ends.
    #[test]
    fn record_boundaries_are_found(
        lengths in prop::collection::vec(prop_oneof![0..4_usize, 250..260_usize, Just(16640)], 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for length in lengths {
            bytes.extend([23, 3, 3, (length >> 8) as u8, length as u8]);
            bytes.extend((0..length).map(|at| at as u8));
            ends.push(bytes.len());
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|it| it.index(bytes.len() + 1)).collect();
        // One byte after the other around the ends.
        cuts.extend(ends.iter().flat_map(|&end| end.saturating_sub(6)..end + 7));
        cuts.retain(|&cut| cut <= bytes.len());
        cuts.sort_unstable();
        let mut records = Records::default();
        let mut at = 0;
        for cut in cuts {
            records.pass(&bytes[at..cut]);
            at = cut;
            prop_assert_eq!(records.at_boundary(), ends.contains(&at), "{}", at);
        }
    }

    /// The kernel's nonces, for as long as anybody will wait, are none of those
    /// that rustls has used.
    #[test]
    fn no_nonce_comes_twice(start: u64, sequence in 0..300_u64, later in 0..1_u64 << 40) {
        let nonce = unused_nonce(start, sequence).wrapping_add(later);
        prop_assert!((0..sequence).all(|it| start ^ it != nonce));
    }
}

/// rustls has sent one record, Finished, under TLS 1.2. The next integer after an
/// odd start would have been the first nonce's own.
#[test]
fn the_first_nonce_is_not_used_again() {
    assert_eq!(unused_nonce(6, 1), 7);
    assert_eq!(unused_nonce(7, 1), 8);
    assert_eq!(unused_nonce(u64::MAX, 1), 0);
    assert_eq!(unused_nonce(9, 0), 9);
}

#[test]
fn key_material_is_laid_out_as_the_kernel_reads_it() {
    let iv: Vec<u8> = (1..=12).collect();
    let material = |version, cipher, key: &[u8]| {
        let suite = Suite { version, cipher };
        Material::new(suite, 3, key, &iv).unwrap().bytes().to_vec()
    };
    let sequence = 3_u64.to_be_bytes();
    let header = |version: u16, cipher: u16| [version.to_ne_bytes(), cipher.to_ne_bytes()].concat();
    let (short, long) = ([7; 16], [8; 32]);

    // struct tls12_crypto_info_aes_gcm_128
    let expected = [&header(0x0304, 51), &iv[4..], &short, &iv[..4], &sequence].concat();
    assert_eq!(
        material(Version::Tls13, Cipher::Aes128Gcm, &short),
        expected
    );
    assert_eq!(expected.len(), 40);

    // struct tls12_crypto_info_aes_gcm_256
    let expected = [&header(0x0304, 52), &iv[4..], &long, &iv[..4], &sequence].concat();
    assert_eq!(material(Version::Tls13, Cipher::Aes256Gcm, &long), expected);
    assert_eq!(expected.len(), 56);

    // struct tls12_crypto_info_chacha20_poly1305, whose salt is empty
    for (version, number) in [(Version::Tls12, 0x0303), (Version::Tls13, 0x0304)] {
        let expected = [&header(number, 54), &iv[..], &long, &sequence].concat();
        let material = material(version, Cipher::ChaCha20Poly1305, &long);
        assert_eq!(material, expected);
        assert_eq!(expected.len(), 56);
    }

    // The nonce that goes over the wire: 3 were used out of a block of 4, which
    // ends at ...0f.
    let explicit = [5, 6, 7, 8, 9, 10, 11, 16];
    let expected = [
        &header(0x0303, 51),
        &explicit[..],
        &short,
        &iv[..4],
        &sequence,
    ]
    .concat();
    assert_eq!(
        material(Version::Tls12, Cipher::Aes128Gcm, &short),
        expected
    );
}

/// Either the machine has the module, and then it can do at least AES-GCM, or the
/// reason says what is missing.
#[test]
fn the_probe_says_why_there_is_nothing() {
    for result in [KernelTls::probe(), KernelTls::promised()] {
        match result {
            Ok(kernel) => assert!(!kernel.is_none()),
            Err(reason) => {
                let reason = reason.to_string();
                assert!(
                    reason.contains("TCP_ULP") && reason.contains("modprobe tls"),
                    "{reason}"
                );
            }
        }
    }
    assert!(!Suite::ALL.iter().any(|&it| KernelTls::NONE.supports(it)));
}

/// A reply that has begun can still be sent; then it is enough.
#[tokio::test]
async fn records_are_bounded() {
    const GIB: u64 = 1 << 30;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let mut stream = KernelStream::new(socket.await.unwrap(), Vec::new(), 1);
    assert!(!stream.is_spent());
    stream.count_file(32 * GIB);
    assert!(stream.is_spent());
    stream.may_send().unwrap();
    stream.count_file(32 * GIB);
    stream.may_send().unwrap_err();
}

/// What rustls had decrypted comes first, in pieces as the reader likes them.
#[tokio::test]
async fn what_was_decrypted_before_is_read_first() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let mut stream = KernelStream::new(socket.await.unwrap(), b"GET / HTTP".to_vec(), 1);
    let (mut first, mut second) = ([0; 3], [0; 7]);
    stream.read_exact(&mut first).await.unwrap();
    stream.read_exact(&mut second).await.unwrap();
    assert_eq!((&first, &second), (b"GET", b" / HTTP"));
}
