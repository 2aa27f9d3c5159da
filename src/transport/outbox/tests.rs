//! Placeholders are known by their address, and nothing reads them.

use std::io::IoSlice;
use std::path::PathBuf;

use super::*;
use crate::files::{Directory, Links, Opened, Patience};

fn file(len: usize) -> FileContent {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), vec![7; len]).unwrap();
    let opened = Directory::open(directory.path()).unwrap();
    match opened.open_file("file", Links::Refused, Patience::Wait) {
        Ok(Opened::File(file)) => FileContent::new(file, PathBuf::from("file")),
        other => panic!("{other:?}"),
    }
}

fn number(chunk: &Chunk) -> Option<u8> {
    let mut slices = [IoSlice::new(&[])];
    let count = chunk.chunks_vectored(&mut slices);
    assert_eq!(count, usize::from(chunk.has_remaining()));
    assert_eq!(slices[0].len(), chunk.remaining());
    number_of(&slices[0])
}

#[test]
fn placeholders_are_told_from_memory() {
    let outbox = Outbox::default();
    for count in 0..600 {
        let chunk = Chunk::File(outbox.put(file(10), 0, 10));
        assert_eq!(number(&chunk), Some((count % 256) as u8));
    }
    for memory in [&b""[..], b"x", &[0; 70_000]] {
        assert_eq!(number(&Chunk::Memory(Bytes::copy_from_slice(memory))), None);
    }
}

#[test]
fn a_placeholder_stays_the_same_while_it_is_sent() {
    let outbox = Outbox::default();
    let mut chunk = Chunk::File(outbox.put(file(10), 3, u64::MAX));
    assert_eq!(chunk.remaining(), LONGEST, "a placeholder is for a piece");
    chunk.advance(1000);
    outbox.sent(1000);
    assert_eq!(
        (number(&chunk), chunk.remaining()),
        (Some(0), LONGEST - 1000)
    );
    assert_eq!(outbox.part(0).unwrap().position, 1003);
    chunk.advance(LONGEST - 1000);
    outbox.sent(LONGEST - 1000);
    assert_eq!(number(&chunk), None);
    assert!(chunk.chunk().is_empty());
    outbox.part(0).expect_err("its file was let go of");
}

#[test]
fn parts_that_were_sent_make_way() {
    let outbox = Outbox::default();
    for position in 0..3 {
        outbox.put(file(10), position, 1);
    }
    assert_eq!(outbox.part(1).unwrap().position, 1);
    assert_eq!(outbox.part(1).unwrap().position, 1);
    assert_eq!(outbox.part(2).unwrap().position, 2);
    outbox.part(0).expect_err("it was sent");
    outbox.part(2).expect_err("nothing is left");
}

#[test]
#[should_panic(expected = "read instead of sent")]
fn a_placeholder_is_never_read() {
    Chunk::File(Outbox::default().put(file(10), 0, 10)).chunk();
}
