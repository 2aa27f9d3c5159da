//! How long objects outlive their names, and how many of them.

use std::time::Duration;

use bytes::Bytes;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

fn found(text: &'static str) -> Found {
    Found {
        content: Content::Memory(text.into()),
        digest: None,
    }
}

fn object(number: usize) -> Object {
    (Checksum::of(&number.to_le_bytes()), ObjectKind::FileZ)
}

#[test]
fn what_was_served_is_kept_until_its_time() {
    let grace = Grace::new(Period::new(GRACE));
    let start = Instant::now();
    grace.served(object(1), &found("one"), start);
    assert!(grace.find(object(1), start + GRACE / 2).is_some());
    assert!(grace.find(object(2), start).is_none());
    // Whoever is served prolongs it.
    grace.served(object(1), &found("one"), start + GRACE * 3 / 4);
    assert!(grace.find(object(1), start + GRACE * 3 / 2).is_some());
    assert!(grace.find(object(1), start + GRACE * 2).is_none());
    grace.sweep(start + GRACE * 2);
    assert_eq!(grace.served.len(), 0);
}

#[test]
fn no_more_is_kept_than_there_is_room_for() {
    let grace = Grace::new(Period::new(GRACE));
    let start = Instant::now();
    for number in 0..4 * grace.most {
        grace.served(object(number), &found("one of many"), start);
    }
    // The cache rounds up.
    assert!(
        grace.served.len() < 2 * grace.most,
        "{}",
        grace.served.len()
    );
}

/// What is large takes the room of many.
#[test]
fn the_space_of_what_is_kept_is_bounded() {
    let grace = Grace::new(Period::new(GRACE));
    let start = Instant::now();
    let megabytes = Bytes::from(vec![0; 3 << 20]);
    for number in 0..grace.most {
        let found = Found {
            // One memory for all of them: it is the length that counts.
            content: Content::Memory(megabytes.clone()),
            digest: None,
        };
        grace.served(object(number), &found, start);
    }
    let kept = grace.served.len();
    assert!(
        (1..=grace.most / 3).contains(&kept),
        "{kept} of {}",
        grace.most
    );
}
