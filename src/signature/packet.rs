//! OpenPGP signature packets (RFC 9580, 5.2), as far as they say what they are
//! of. Bytes are hashed as they were found, not as somebody would write them.

use std::io::Read;

use aws_lc_rs::digest::{Algorithm, Context, SHA3_256, SHA3_512, SHA224, SHA256, SHA384, SHA512};
use pgp::packet::{PacketHeader, PacketParser};
use pgp::types::Tag;

/// How many signatures with a salt are looked at: for each the whole document
/// is hashed anew.
const MAX_SALTED: usize = 8;

/// A signature packet.
pub(super) struct SignaturePacket {
    pub(super) header: PacketHeader,
    pub(super) body: Vec<u8>,
}

/// The signature packets in a run of packets, up to where it is malformed.
pub(super) fn packets(data: &[u8]) -> impl Iterator<Item = SignaturePacket> + use<'_> {
    let mut parser = PacketParser::new(data);
    let packets = std::iter::from_fn(move || {
        let mut reader = parser.next_ref()?.ok()?;
        let header = reader.packet_header();
        let mut body = Vec::new();
        reader.read_to_end(&mut body).ok()?;
        Some(SignaturePacket { header, body })
    });
    packets.filter(|packet| packet.header.tag() == Tag::Signature)
}

/// What a signature says of its digest.
struct Hint<'a> {
    algorithm: &'static Algorithm,
    /// What is hashed before the document, in version 6.
    salt: &'a [u8],
    /// What is hashed after it: the packet's beginning, and its length.
    signed: &'a [u8],
    trailer: [u8; 6],
    /// The first bytes of the digest.
    start: [u8; 2],
}

/// `None` for anything but versions 4 and 6 over a document as it is.
fn hint(body: &[u8]) -> Option<Hint<'_>> {
    const BINARY_DOCUMENT: u8 = 0;
    let &[version, BINARY_DOCUMENT, _key_algorithm, hash, ..] = body else {
        return None;
    };
    let width = match version {
        4 => 2,
        6 => 4,
        _ => return None,
    };
    let mut rest = body.get(4..)?;
    let hashed_len = length(take(&mut rest, width)?);
    take(&mut rest, hashed_len)?;
    let (signed, _) = body.split_at(body.len() - rest.len());
    let unhashed_len = length(take(&mut rest, width)?);
    take(&mut rest, unhashed_len)?;
    let start = take(&mut rest, 2)?.try_into().ok()?;
    let salt = match version {
        6 => {
            let len = length(take(&mut rest, 1)?);
            take(&mut rest, len)?
        }
        _ => &[],
    };
    let [a, b, c, d] = u32::try_from(signed.len()).ok()?.to_be_bytes();
    Some(Hint {
        algorithm: algorithm(hash)?,
        salt,
        signed,
        trailer: [version, 0xff, a, b, c, d],
        start,
    })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, others) = rest.split_at_checked(len)?;
    *rest = others;
    Some(taken)
}

/// A big-endian number of at most four bytes.
fn length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |len, &byte| len << 8 | usize::from(byte))
}

/// RFC 9580, 9.5, without what was broken since: MD5, SHA-1 and RIPEMD-160.
fn algorithm(id: u8) -> Option<&'static Algorithm> {
    match id {
        8 => Some(&SHA256),
        9 => Some(&SHA384),
        10 => Some(&SHA512),
        11 => Some(&SHA224),
        12 => Some(&SHA3_256),
        14 => Some(&SHA3_512),
        _ => None,
    }
}

/// Digests of one document, which is hashed once for all signatures with the
/// same algorithm.
pub(super) struct Digests<'a> {
    document: &'a [u8],
    unsalted: Vec<(&'static Algorithm, Context)>,
    salted: usize,
}

impl<'a> Digests<'a> {
    pub(super) fn new(document: &'a [u8]) -> Self {
        Self {
            document,
            unsalted: Vec::new(),
            salted: 0,
        }
    }

    /// Whether the signature is of the document, as far as it tells.
    pub(super) fn fits(&mut self, packet: &SignaturePacket) -> Option<bool> {
        let hint = hint(&packet.body)?;
        let mut context = match hint.salt {
            [] => self.unsalted(hint.algorithm),
            salt => self.salted(hint.algorithm, salt)?,
        };
        context.update(hint.signed);
        context.update(&hint.trailer);
        Some(context.finish().as_ref().starts_with(&hint.start))
    }

    fn unsalted(&mut self, algorithm: &'static Algorithm) -> Context {
        let known = self.unsalted.iter().find(|(known, _)| *known == algorithm);
        if let Some((_, context)) = known {
            return context.clone();
        }
        let mut context = Context::new(algorithm);
        context.update(self.document);
        self.unsalted.push((algorithm, context.clone()));
        context
    }

    fn salted(&mut self, algorithm: &'static Algorithm, salt: &[u8]) -> Option<Context> {
        self.salted += 1;
        (self.salted <= MAX_SALTED).then(|| {
            let mut context = Context::new(algorithm);
            context.update(salt);
            context.update(self.document);
            context
        })
    }
}
