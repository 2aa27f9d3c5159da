//! What is known to be in memory, and for how long.

use std::path::PathBuf;

use super::super::outbox::Outbox;
use super::*;
use crate::files::{Directory, Links, Opened, Patience};

const LEN: usize = 100;

fn file() -> FileContent {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), [7; LEN]).unwrap();
    let opened = Directory::open(directory.path()).unwrap();
    match opened.open_file("file", Links::Refused, Patience::Wait) {
        Ok(Opened::File(file)) => FileContent::new(file, PathBuf::from("file")),
        other => panic!("{other:?}"),
    }
}

/// There are 256 numbers, and a connection that stays may be asked for more files. The
/// beginning of one was read by the pool; the one that has its number later was not,
/// and the thread that serves must not believe so and wait for the disk.
#[test]
fn what_was_read_for_a_part_is_forgotten_with_it() {
    let (outbox, mut sender) = (Outbox::default(), Sender::new(true));
    let mut warm = Vec::new();
    for count in 0..257 {
        outbox.put(file(), 0, LEN as u64);
        let part = outbox.part((count % 256) as u8).unwrap();
        sender.turn_to(&part);
        if count == 0 {
            sender.warm = (part.number, LEN as u64);
        }
        // Each time that it is looked at while it is sent.
        sender.turn_to(&part);
        if sender.is_warm(&part, LEN) {
            warm.push(count);
        }
        outbox.sent(LEN);
    }
    assert_eq!(warm, [0]);
}
