//! Parts of files: what is sent, and what it says about itself.

mod common;

use std::fs;

use common::in_process::{Answer, InProcess, one_of_each, static_site};
use common::{TestRepo, pattern};
use http::Method;
use tempfile::TempDir;

/// More than is read at once, and no multiple of it.
const LARGE: usize = 200_003;

fn large() -> (TestRepo, InProcess, String) {
    let repo = TestRepo::new();
    let path = format!("/repo/{}", repo.plant_object(LARGE));
    let server = InProcess::of(&repo);
    (repo, server, path)
}

/// That the answer has these bytes of the whole, and says so.
fn require_part(answer: &Answer, whole: &Answer, first: usize, last: usize) {
    let about = format!("{first}-{last}: {:?} {:?}", answer.status, answer.headers);
    assert_eq!(answer.status, 206, "{about}");
    let range = format!("bytes {first}-{last}/{}", whole.body.len());
    assert_eq!(answer.header("content-range"), Some(&*range), "{about}");
    assert_eq!(answer.body, whole.body[first..=last], "{about}");
    for name in ["etag", "cache-control", "content-type", "accept-ranges"] {
        assert_eq!(answer.header(name), whole.header(name), "{about}");
    }
}

#[test]
fn parts_of_a_file_that_is_read_while_it_is_sent() {
    let (_repo, server, path) = large();
    let whole = server.get(&path);
    assert_eq!(whole.body, pattern(LARGE));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let end = LARGE - 1;
    let cases = [
        ("bytes=0-0", 0, 0),
        ("bytes=0-65535", 0, 65_535),
        ("bytes=65535-65536", 65_535, 65_536),
        ("bytes=1-131072", 1, 131_072),
        ("bytes=100000-", 100_000, end),
        ("bytes=200002-", end, end),
        ("bytes=-1", end, end),
        ("bytes=-70000", LARGE - 70_000, end),
        ("bytes=0-", 0, end),
        ("bytes=-999999999", 0, end),
        ("bytes=5-99999999999999999999999999", 5, end),
    ];
    for (range, first, last) in cases {
        let answer = server.get_with(&path, &[("range", range)]);
        require_part(&answer, &whole, first, last);
    }
}

#[test]
fn a_part_of_everything() {
    let repo = TestRepo::new();
    let names = one_of_each(&repo);
    let server = InProcess::of(&repo);
    for (name, _) in names {
        let path = format!("/repo/{name}");
        let whole = server.get(&path);
        let answer = server.get_with(&path, &[("range", "bytes=1-3")]);
        require_part(&answer, &whole, 1, 3);
    }
}

#[test]
fn a_part_beyond_the_end() {
    let (repo, server, path) = large();
    let empty = common::object_name(0);
    fs::create_dir_all(repo.file(&empty).parent().unwrap()).unwrap();
    fs::write(repo.file(&empty), "").unwrap();
    let empty = format!("/repo/{empty}");
    let cases = [
        (&path, "bytes=200003-", "bytes */200003"),
        (&path, "bytes=200003-200004", "bytes */200003"),
        (&path, "bytes=99999999999999999999999-", "bytes */200003"),
        (&path, "bytes=-0", "bytes */200003"),
        (&empty, "bytes=0-", "bytes */0"),
        (&empty, "bytes=0-0", "bytes */0"),
    ];
    for (path, range, expected) in cases {
        let answer = server.get_with(path, &[("range", range)]);
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), Some(expected), "{range}");
        assert_eq!(answer.body, b"", "{range}");
        assert_eq!(answer.header("accept-ranges"), None, "{range}");
    }
    let whole = server.get(&empty);
    assert_eq!((whole.status, &*whole.body), (200, &b""[..]));
}

#[test]
fn what_is_not_one_range_gets_the_whole() {
    let (_repo, server, path) = large();
    let whole = server.get(&path);
    let cases: &[&[(&str, &str)]] = &[
        &[("range", "bytes=0-1,4-5")],
        &[("range", "bytes=5-1")],
        &[("range", "lines=0-1")],
        &[("range", "bytes")],
        &[("range", "")],
        &[("range", "bytes=0-1"), ("range", "bytes=0-1")],
    ];
    for lines in cases {
        let answer = server.get_with(&path, lines);
        assert_eq!(answer.status, 200, "{lines:?}");
        assert_eq!(answer.header("content-range"), None, "{lines:?}");
        assert_eq!(answer.body, whole.body, "{lines:?}");
    }
}

/// If-Range goes with the range: the part if the bytes are still the same, else
/// the whole, which is never an error.
#[test]
fn a_part_of_the_same_bytes_only() {
    let (_repo, server, path) = large();
    let whole = server.get(&path);
    let cases = [
        ("@", 206),
        (" @ ", 206),
        ("W/@", 200),
        ("\"other\"", 200),
        ("Tue, 24 Nov 2026 08:00:00 GMT", 200),
        ("*", 200),
        ("", 200),
    ];
    for (if_range, status) in cases {
        let if_range = if_range.replace('@', whole.tag());
        for range in ["bytes=1-3", "bytes=999999-"] {
            let lines = [("range", range), ("if-range", &*if_range)];
            let answer = server.get_with(&path, &lines);
            match (status, range) {
                (206, "bytes=1-3") => require_part(&answer, &whole, 1, 3),
                (206, _) => assert_eq!(answer.status, 416, "{lines:?}"),
                _ => assert_eq!(
                    (answer.status, answer.body.len()),
                    (200, LARGE),
                    "{lines:?}"
                ),
            }
        }
    }
    let alone = server.get_with(&path, &[("if-range", whole.tag())]);
    assert_eq!(alone.status, 200);
}

/// The order of RFC 9110, section 13.2.2: the range comes last.
#[test]
fn other_conditions_come_before_the_range() {
    let (_repo, server, path) = large();
    let tag = server.get(&path).tag().to_owned();
    let cases = [
        ("if-none-match", &*tag, 304),
        ("if-none-match", "\"other\"", 206),
        ("if-match", &*tag, 206),
        ("if-match", "\"other\"", 412),
    ];
    for (name, value, status) in cases {
        for range in ["bytes=1-3", "bytes=999999-"] {
            let answer = server.get_with(&path, &[("range", range), (name, value)]);
            let expected = match (status, range) {
                (206, "bytes=999999-") => 416,
                _ => status,
            };
            assert_eq!(answer.status, expected, "{name}: {value}, {range}");
        }
    }
}

#[test]
fn ranges_are_for_get_alone() {
    let (_repo, server, path) = large();
    for range in ["bytes=1-3", "bytes=999999-"] {
        let answer = server.ask(&Method::HEAD, &path, &[("range", range)]);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-length"), Some("200003"));
        assert_eq!(answer.header("content-range"), None);
    }
}

#[test]
fn plain_files_have_parts_as_well() {
    let www = TempDir::new().unwrap();
    fs::write(www.path().join("a.txt"), pattern(LARGE)).unwrap();
    let server = InProcess::new(vec![("/", static_site(www.path()))]);
    let whole = server.get("/a.txt");
    let part = server.get_with("/a.txt", &[("range", "bytes=9-99999")]);
    require_part(&part, &whole, 9, 99_999);
    let beyond = server.get_with("/a.txt", &[("range", "bytes=200003-")]);
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.body, b"The range is outside of the file.\n");
}
