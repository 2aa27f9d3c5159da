//! What is served without asking, for how long, and how much of it there is.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::files::{Directory, Links, Opened, Patience};

const GRACE: Duration = Duration::from_secs(60);
const ROOM: Room = Room {
    memory: 1 << 20,
    files: 256,
    kept: 0,
};

fn cache(room: Room) -> Cache {
    Cache::new(room, Period::new(GRACE))
}

fn object(number: usize) -> Object {
    (Checksum::of(&number.to_le_bytes()), ObjectKind::FileZ)
}

fn write(directory: &Path, name: &str, len: usize) -> FileContent {
    fs::write(directory.join(name), vec![7; len]).unwrap();
    let directory = Directory::open(directory).unwrap();
    match directory.open_file(name, Links::Refused, Patience::Wait) {
        Ok(Opened::File(file)) => FileContent::new(file, name.into()),
        other => panic!("{other:?}"),
    }
}

async fn remember(cache: &Cache, object: Object, file: &FileContent, now: Instant) {
    let content = file.clone().content().await.unwrap();
    let found = Found::once(content, None);
    cache.remember(object, file.clone(), &found, now);
}

fn is_trusted(cache: &Cache, object: Object, now: Instant) -> bool {
    cache.trusted(object, now).unwrap().is_some()
}

async fn is_found_gone(cache: &Cache, object: Object, now: Instant) -> bool {
    cache.gone(object, now).await.unwrap().is_some()
}

#[tokio::test]
async fn what_was_seen_is_trusted_for_a_moment() {
    let directory = TempDir::new().unwrap();
    let (cache, start) = (cache(ROOM), Instant::now());
    for (number, len) in [(1, 100), (2, 100_000)] {
        let file = write(directory.path(), "file", len);
        remember(&cache, object(number), &file, start).await;
        assert!(is_trusted(&cache, object(number), start + TRUSTED / 2));
        assert!(!is_trusted(&cache, object(number), start + TRUSTED));
        let seen = start + TRUSTED;
        let confirmed = cache.confirmed(object(number), file.identity(), seen);
        assert_eq!(confirmed.unwrap().content.len(), len as u64);
        assert!(is_trusted(&cache, object(number), seen + TRUSTED / 2));
        // Another file was put in its place.
        let other = write(directory.path(), "other", len + 1);
        assert!(
            cache
                .confirmed(object(number), other.identity(), seen)
                .is_none()
        );
    }
    assert!(!is_trusted(&cache, object(3), start));
    let start = start + TRUSTED;
    cache.distrust(start);
    assert!(
        !is_trusted(&cache, object(1), start),
        "of another directory"
    );
}

#[tokio::test]
async fn what_can_change_is_always_asked_for() {
    let directory = TempDir::new().unwrap();
    let (cache, now) = (cache(ROOM), Instant::now());
    let (checksum, _) = object(1);
    let metadata = (checksum, ObjectKind::CommitMeta);
    let file = write(directory.path(), "file", 100);
    remember(&cache, metadata, &file, now).await;
    assert!(!is_trusted(&cache, metadata, now));
    // It is so young that a second change might not show.
    assert!(cache.confirmed(metadata, file.identity(), now).is_none());
    assert!(is_found_gone(&cache, metadata, now).await);
}

#[tokio::test]
async fn what_is_gone_is_found_for_the_grace() {
    let directory = TempDir::new().unwrap();
    let (cache, start) = (cache(ROOM), Instant::now());
    for (number, len) in [(1, 100), (2, 100_000)] {
        let file = write(directory.path(), "file", len);
        remember(&cache, object(number), &file, start).await;
        assert!(is_found_gone(&cache, object(number), start + GRACE / 2).await);
        // Whoever sees it prolongs it.
        let seen = start + GRACE * 3 / 4;
        cache
            .confirmed(object(number), file.identity(), seen)
            .unwrap();
        assert!(is_found_gone(&cache, object(number), start + GRACE * 3 / 2).await);
        assert!(!is_found_gone(&cache, object(number), start + GRACE * 2).await);
    }
    cache.sweep(start + GRACE * 2);
    assert_eq!((cache.files.len(), cache.contents.len()), (0, 0));
}

/// Without memory nothing is trusted, and what is gone is found nevertheless.
#[tokio::test]
async fn without_room_everything_is_asked_for() {
    let directory = TempDir::new().unwrap();
    let (cache, now) = (cache(Room { memory: 0, ..ROOM }), Instant::now());
    let file = write(directory.path(), "file", 100);
    remember(&cache, object(1), &file, now).await;
    assert_eq!(cache.contents.len(), 0);
    assert!(!is_trusted(&cache, object(1), now));
    assert!(is_found_gone(&cache, object(1), now).await);
}

#[tokio::test]
async fn no_more_is_remembered_than_there_is_room_for() {
    let directory = TempDir::new().unwrap();
    let (cache, now) = (cache(ROOM), Instant::now());
    let file = write(directory.path(), "file", 16_000);
    for number in 0..4 * ROOM.files {
        remember(&cache, object(number), &file, now).await;
    }
    // The store rounds up.
    let most = ROOM.files + ROOM.files / 4;
    assert!(
        (1..=most).contains(&cache.files.len()),
        "{}",
        cache.files.len()
    );
    let memory = cache.contents.weight();
    assert!((1..=ROOM.memory * 5 / 4).contains(&memory), "{memory}");

    cache.make_room(Room {
        memory: 0,
        files: 32,
        kept: 0,
    });
    assert!(cache.files.len() <= 64, "{}", cache.files.len());
    assert_eq!(cache.contents.len(), 0);
}

/// What is large takes the room of many.
#[tokio::test]
async fn the_space_of_deleted_files_is_bounded() {
    let directory = TempDir::new().unwrap();
    let (cache, now) = (cache(ROOM), Instant::now());
    let file = write(directory.path(), "file", 3 << 20);
    for number in 0..ROOM.files {
        remember(&cache, object(number), &file, now).await;
    }
    let most = ROOM.files / 10;
    assert!(
        (1..=most).contains(&cache.files.len()),
        "{}",
        cache.files.len()
    );
}

/// Names in repositories that were made for measurements count in both ends at once,
/// and a hash that cancels them out makes a list of the cache.
#[test]
fn names_that_count_have_hashes_of_their_own() {
    let hash = |number: usize| {
        let name = format!("{:02x}{number:062x}", number % 256);
        let checksum = Checksum::from_hex(name.as_bytes()).unwrap();
        ByChecksum.hash_one((checksum, ObjectKind::FileZ))
    };
    let hashes: std::collections::HashSet<u64> = (0..10_000).map(hash).collect();
    assert_eq!(hashes.len(), 10_000);
}
