//! Entity tags and the conditions that clients make of them.

mod common;

use std::fs::{self, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::TestRepo;
use common::in_process::{InProcess, one_of_each, repo_site, static_site};
use http::Method;
use http::header::ALLOW;
use tempfile::TempDir;

/// A repository with one of each kind of file, a directory of plain files, and
/// the addresses of all of them.
fn everything() -> (TestRepo, TempDir, InProcess, Vec<String>) {
    let repo = TestRepo::new();
    let www = TempDir::new().unwrap();
    fs::write(www.path().join("index.html"), "<!doctype html>\n").unwrap();
    let mut paths: Vec<String> = one_of_each(&repo)
        .into_iter()
        .map(|(name, _)| format!("/repo/{name}"))
        .collect();
    paths.push("/index.html".into());
    let sites = vec![("/repo", repo_site(&repo)), ("/", static_site(www.path()))];
    (repo, www, InProcess::new(sites), paths)
}

/// Conditions and the status of the reply. `@` stands for the entity tag.
const CONDITIONS: &[(&[(&str, &str)], u16)] = &[
    (&[], 200),
    (&[("if-none-match", "@")], 304),
    (&[("if-none-match", "W/@")], 304),
    (&[("if-none-match", "*")], 304),
    (&[("if-none-match", "\"other\"")], 200),
    (&[("if-none-match", "\"other\", @")], 304),
    (&[("if-none-match", "not a tag")], 200),
    (&[("if-match", "@")], 200),
    (&[("if-match", "*")], 200),
    (&[("if-match", "W/@")], 412),
    (&[("if-match", "\"other\"")], 412),
    (&[("if-match", "\"other\""), ("if-none-match", "@")], 412),
    (&[("if-match", "@"), ("if-none-match", "@")], 304),
    // There are no dates, so whatever is said about them is ignored.
    (
        &[("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")],
        200,
    ),
    (
        &[("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")],
        200,
    ),
    // As libostree writes them, which is not how HTTP does.
    (
        &[
            ("if-none-match", "@"),
            ("if-modified-since", "Tue, 24 Nov 2026 08:00:00 UTC"),
        ],
        304,
    ),
    (
        &[
            ("if-none-match", "\"other\""),
            ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 UTC"),
        ],
        200,
    ),
    // A client that goes on to the next mirror adds its headers once more.
    (&[("if-none-match", "@"), ("if-none-match", "@")], 304),
    (
        &[("if-none-match", "\"other\""), ("if-none-match", "@")],
        304,
    ),
    (
        &[
            ("if-none-match", "@"),
            ("if-modified-since", "Tue, 24 Nov 2026 08:00:00 UTC"),
            ("if-none-match", "@"),
            ("if-modified-since", "Tue, 24 Nov 2026 08:00:00 UTC"),
            ("authorization", "Basic eDp5"),
            ("authorization", "Basic eDp5"),
            ("flatpak-ref", "app/x/y/z"),
            ("flatpak-ref", "app/x/y/z"),
        ],
        304,
    ),
];

#[test]
fn conditions_on_everything_by_every_method() {
    let (_repo, _www, server, paths) = everything();
    for path in &paths {
        let whole = server.get(path);
        for (lines, status) in CONDITIONS {
            let lines: Vec<(&str, String)> = lines
                .iter()
                .map(|(name, value)| (*name, value.replace('@', whole.tag())))
                .collect();
            let lines: Vec<(&str, &str)> = lines.iter().map(|(n, v)| (*n, v.as_str())).collect();
            for method in [Method::GET, Method::HEAD] {
                let answer = server.ask(&method, path, &lines);
                assert_eq!(answer.status, *status, "{method} {path} {lines:?}");
                if answer.status == 412 {
                    continue;
                }
                assert_eq!(answer.tag(), whole.tag(), "{method} {path} {lines:?}");
                assert_eq!(
                    answer.header("cache-control"),
                    whole.header("cache-control"),
                    "{method} {path} {lines:?}"
                );
                if method == Method::GET && answer.status == 200 {
                    assert_eq!(answer.body, whole.body, "{path} {lines:?}");
                }
            }
            for method in ["OPTIONS", "POST", "PUT", "DELETE", "PATCH", "PROPFIND"] {
                let method = method.parse().unwrap();
                let answer = server.ask(&method, path, &lines);
                assert_eq!(answer.status, 405, "{method} {path} {lines:?}");
                assert_eq!(answer.header(ALLOW), Some("GET, HEAD"));
            }
        }
    }
}

#[test]
fn what_does_not_exist_is_not_found_whatever_the_condition() {
    let (_repo, _www, server, _) = everything();
    let absent = common::object_name(7);
    for path in [&*format!("/repo/{absent}"), "/repo/nothing", "/nothing"] {
        for (lines, _) in CONDITIONS {
            assert_eq!(server.get_with(path, lines).status, 404, "{path} {lines:?}");
        }
    }
}

#[test]
fn head_is_get_without_the_body() {
    let (_repo, _www, server, mut paths) = everything();
    paths.extend(["/repo/nothing".into(), "/nothing".into()]);
    for path in &paths {
        let (get, head) = (server.get(path), server.ask(&Method::HEAD, path, &[]));
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.headers, get.headers, "{path}");
        assert_eq!(head.body, b"", "{path}");
    }
}

/// Everything that differs between two mirrors and is not content.
#[test]
fn two_copies_have_the_same_tags() {
    let [here, there] = [TestRepo::new(), TestRepo::new()];
    let names = one_of_each(&here);
    one_of_each(&there);
    for (name, _) in &names {
        set_modified(
            &there.file(name),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        );
        let [ours, theirs] = [&here, &there].map(|repo| fs::metadata(repo.file(name)).unwrap());
        assert_ne!((ours.ino(), ours.mtime()), (theirs.ino(), theirs.mtime()));
    }
    let servers = [&here, &there].map(InProcess::of);
    for (name, _) in &names {
        let path = format!("/repo/{name}");
        let [ours, theirs] = servers.each_ref().map(|server| server.get(&path));
        assert_eq!(ours.tag(), theirs.tag(), "{name}");
        assert!(!ours.tag().starts_with("W/"));
    }
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// The names of these are not checksums of what they hold.
#[test]
fn other_bytes_have_another_tag() {
    let repo = TestRepo::new();
    let immutable = |policy: &str| policy.contains("immutable");
    let names = one_of_each(&repo);
    let server = InProcess::of(&repo);
    for (name, _) in names.iter().filter(|(_, policy)| !immutable(policy)) {
        if name == "config" {
            continue; // See `secrets_do_not_show_in_the_tag_of_the_configuration`.
        }
        let path = format!("/repo/{name}");
        let before = server.get(&path);
        let again = server.get(&path);
        assert_eq!(before.tag(), again.tag());

        // As ostree does it: another file takes the place of the old one.
        let mut bytes = repo.read(name);
        bytes[0] ^= 1;
        let file = fs::canonicalize(repo.file(name)).unwrap();
        let new = file.with_extension("new");
        fs::write(&new, &bytes).unwrap();
        fs::rename(&new, &file).unwrap();
        let renamed = server.get(&path);
        assert_eq!(renamed.body, bytes, "{name}");
        assert_ne!(renamed.tag(), before.tag(), "{name}");

        // As nobody should: in place, and without waiting for the clock to tick.
        // Since Linux 6.13 a file's times tell even this; older ones do not.
        let file = fs::File::options().write(true).open(&file).unwrap();
        let mut tags = vec![before.tag().to_owned(), renamed.tag().to_owned()];
        for round in 2..20 {
            file.write_all_at(&[bytes[0] ^ round], 0).unwrap();
            let tag = server.get(&path).tag().to_owned();
            assert!(!tags.contains(&tag), "{name}, round {round}");
            tags.push(tag);
        }
    }
}

/// Two compressions of the same content: one name, other bytes, another size.
#[test]
fn the_tag_of_compressed_content_tells_its_size() {
    let repo = TestRepo::new();
    let names = one_of_each(&repo);
    let server = InProcess::of(&repo);
    let compressed = names
        .iter()
        .filter(|(name, _)| name.ends_with(".filez") || name.ends_with(".gz"));
    for (name, _) in compressed {
        let path = format!("/repo/{name}");
        let before = server.get(&path);
        let mut bytes = before.body.clone();
        bytes.push(0);
        fs::write(repo.file(name), &bytes).unwrap();
        let after = server.get(&path);
        assert_eq!(after.body, bytes);
        assert_ne!(after.tag(), before.tag(), "{name}");
        let size = format!("-{:x}\"", bytes.len());
        assert!(after.tag().ends_with(&size), "{}", after.tag());
    }
}

#[test]
fn secrets_do_not_show_in_the_tag_of_the_configuration() {
    let repo = TestRepo::new();
    let server = InProcess::of(&repo);
    let original = String::from_utf8(repo.read("config")).unwrap();
    let get = |text: String| {
        fs::write(repo.file("config"), text).unwrap();
        server.get("/repo/config")
    };
    let plain = get(original.clone());
    let secret = get(format!(
        "{original}[remote \"x\"]\nurl=https://user:password@host/\n"
    ));
    assert_eq!(plain.tag(), secret.tag());
    assert_eq!(plain.body, secret.body);
    let changed = get(format!("{original}[core]\ntombstone-commits=true\n"));
    assert_ne!(plain.tag(), changed.tag());
}
