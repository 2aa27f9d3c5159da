//! Reading files that stay as they are, and files that do not.

use std::fs::{self, File};
use std::future::poll_fn;
use std::io::Write;

use tempfile::TempDir;

use super::super::{Cause, Digests, Directory, Links, Opened};
use super::*;
use crate::resource::Checksum;

fn open(directory: &TempDir, name: &str) -> OpenFile {
    let opened =
        Directory::open(directory.path())
            .unwrap()
            .open_file(name, Links::Refused, Patience::Wait);
    match opened.unwrap() {
        Opened::File(file) => file,
        other => panic!("{other:?}"),
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

async fn collect(mut chunks: Chunks) -> Result<Vec<u8>, Unreadable> {
    let mut all = Vec::new();
    while let Some(chunk) = poll_fn(|context| chunks.poll_next(context)).await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

#[tokio::test]
async fn every_size_and_part_is_read_right() {
    let directory = TempDir::new().unwrap();
    let small = Content::SMALL as usize;
    for len in [
        0,
        1,
        small - 1,
        small,
        small + 1,
        Chunks::SIZE,
        3 * Chunks::SIZE + 7,
    ] {
        let expected = bytes(len);
        fs::write(directory.path().join("f"), &expected).unwrap();
        let content = Content::of(open(&directory, "f"), directory.path(), "f")
            .await
            .unwrap();
        assert_eq!(content.len(), len as u64);
        match content {
            Content::Memory(bytes) => {
                assert!(len <= small);
                assert_eq!(bytes, expected);
            }
            Content::File(file) => {
                assert!(len > small);
                for (start, end) in [
                    (0, len),
                    (0, 1),
                    (len - 1, len),
                    (5, len - 5),
                    (Chunks::SIZE.min(len), len),
                ] {
                    let chunks = Chunks::new(file.clone(), start as u64, end as u64);
                    assert_eq!(
                        collect(chunks).await.unwrap(),
                        expected[start..end],
                        "{start}..{end}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, bytes(200_000)).unwrap();
    let file = FileContent::new(open(&directory, "f"), path.clone());

    let mut appending = File::options().append(true).open(&path).unwrap();
    appending.write_all(b"more").unwrap();
    let whole = collect(Chunks::new(file.clone(), 0, file.len())).await;
    assert_eq!(whole.unwrap(), bytes(200_000));

    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100_000)
        .unwrap();
    let error = collect(Chunks::new(file.clone(), 0, file.len()))
        .await
        .unwrap_err();
    assert!(matches!(error.cause, Cause::Shrank), "{error}");
    assert_eq!(error.path, path);
}

#[tokio::test]
async fn digests_follow_the_content() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("f");
    let digests = Digests::new();
    // The same size each time, in place and in quick succession: the file's
    // times alone would not tell.
    for round in 0..20u8 {
        let expected = vec![round; 100_000];
        fs::write(&path, &expected).unwrap();
        let file = FileContent::new(open(&directory, "f"), path.clone());
        assert_eq!(
            digests.of(&file).await.unwrap(),
            Checksum::of(&expected),
            "{round}"
        );
    }
}

#[test]
fn young_files_are_not_settled() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("f");
    fs::write(&path, bytes(100_000)).unwrap();
    let file = open(&directory, "f");
    let now = file.identity.changed_seconds();
    assert!(!file.identity.settled_for(3, now));
    assert!(!file.identity.settled_for(3, now + 2));
    assert!(file.identity.settled_for(3, now + 3));
}
