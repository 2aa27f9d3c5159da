//! The same names by both ways of resolving them: what the kernel does in one
//! call is the measure for what this program does step by step.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use proptest::prelude::*;
use tempfile::TempDir;

use rustix::fs::CWD;

use super::*;

/// A tree with every kind of thing that may lie in a repository's place.
fn tree() -> TempDir {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("root/objects/aa")).unwrap();
    fs::create_dir_all(at("root/refs/heads/a")).unwrap();
    fs::create_dir_all(at("root/refs/remotes")).unwrap();
    fs::write(at("outside"), "secret").unwrap();
    fs::write(at("root/config"), "config").unwrap();
    fs::write(at("root/objects/aa/file"), "file").unwrap();
    fs::write(at("root/refs/heads/a/b"), "b").unwrap();
    fs::write(at("root/refs/heads/c"), "c").unwrap();
    let links = [
        ("root/objects/aa/link", "file"),
        ("root/objects/bb", "aa"),
        ("root/objects/aa/out", "../../../outside"),
        ("root/refs/heads/alias", "c"),
        ("root/refs/heads/deep", "a/b"),
        ("root/refs/heads/a/up", "../c"),
        ("root/refs/heads/dir", "a"),
        ("root/refs/heads/chain", "alias"),
        ("root/refs/heads/around", "../heads/./c"),
        ("root/refs/heads/out", "../../config"),
        ("root/refs/heads/far", "../../../outside"),
        ("root/refs/heads/absolute", "/etc/passwd"),
        ("root/refs/heads/loop", "loop"),
        ("root/refs/heads/dangling", "nothing"),
        ("root/refs/heads/slash", "c/"),
    ];
    for (link, target) in links {
        symlink(target, at(link)).unwrap();
    }
    rustix::fs::mkfifoat(CWD, at("root/objects/aa/fifo"), Mode::RWXU).unwrap();
    drop(UnixListener::bind(at("root/objects/aa/socket")).unwrap());
    directory
}

/// What opening comes to, in a word and without the file's identity.
fn outcome(result: Result<Opened, Unreadable>) -> String {
    match result {
        Ok(Opened::File(file)) => format!("file of {}", file.identity.size),
        Ok(Opened::Absent) => "absent".into(),
        Ok(Opened::WouldWait) => "would wait".into(),
        Err(Unreadable {
            cause: Cause::Errno(errno),
            ..
        }) => format!("{errno:?}"),
        Err(error) => error.cause.to_string(),
    }
}

#[test]
fn both_resolvers_open_the_same() {
    let tree = tree();
    let root = tree.path().join("root");
    let refs = Links::Inside("refs");
    let loops = format!("{:?}", Errno::LOOP);
    let leaves = format!("{:?}", Errno::XDEV);
    let cases = [
        (Links::Refused, "config", "file of 6"),
        (Links::Refused, "objects/aa/file", "file of 4"),
        (Links::Refused, "objects/aa/none", "absent"),
        (Links::Refused, "objects/none/file", "absent"),
        (Links::Refused, "config/file", "absent"),
        (
            Links::Refused,
            "objects/aa",
            "is a directory, not a regular file",
        ),
        (
            Links::Refused,
            "objects/aa/fifo",
            "is a FIFO, not a regular file",
        ),
        (
            Links::Refused,
            "objects/aa/socket",
            "is a socket, not a regular file",
        ),
        (Links::Refused, "objects/aa/link", &loops),
        (Links::Refused, "objects/aa/out", &loops),
        (Links::Refused, "objects/bb/file", &loops),
        (Links::Refused, "refs/heads/alias", &loops),
        (refs, "refs/heads/c", "file of 1"),
        (refs, "refs/heads/a/b", "file of 1"),
        (refs, "refs/heads/alias", "file of 1"),
        (refs, "refs/heads/deep", "file of 1"),
        (refs, "refs/heads/a/up", "file of 1"),
        (refs, "refs/heads/dir/b", "file of 1"),
        (refs, "refs/heads/dir/up", "file of 1"),
        (refs, "refs/heads/chain", "file of 1"),
        (refs, "refs/heads/around", "file of 1"),
        (refs, "refs/heads/out", &leaves),
        (refs, "refs/heads/far", &leaves),
        (refs, "refs/heads/absolute", &leaves),
        (refs, "refs/heads/loop", &loops),
        (refs, "refs/heads/dangling", "absent"),
        (refs, "refs/heads/slash", "absent"),
        (refs, "refs/heads/a", "is a directory, not a regular file"),
        (refs, "refs/heads/dir", "is a directory, not a regular file"),
        (refs, "refs/heads/none", "absent"),
        (refs, "config", "absent"),
    ];
    for resolver in [Resolver::Openat2, Resolver::Walk] {
        let directory = Directory::open_with(&root, resolver).unwrap();
        for (links, name, expected) in cases {
            let got = outcome(directory.open_file(name, links, Patience::Wait));
            assert_eq!(got, expected, "{name} by {resolver:?}");
        }
        assert_eq!(directory.opens(), cases.len() as u64);
    }
}

#[test]
fn what_is_cached_is_opened_without_waiting() {
    let tree = tree();
    let directory = Directory::open(&tree.path().join("root")).unwrap();
    for name in ["config", "objects/aa/none"] {
        let waited = outcome(directory.open_file(name, Links::Refused, Patience::Wait));
        let cached = outcome(directory.open_file(name, Links::Refused, Patience::Never));
        // Without Linux 5.12 nothing is known to be cached.
        assert!(
            cached == waited || cached == "would wait",
            "{name}: {cached}"
        );
    }
}

#[test]
fn a_replaced_directory_stays_the_old_one() {
    let tree = tree();
    let root = tree.path().join("root");
    let directory = Directory::open(&root).unwrap();
    fs::rename(&root, tree.path().join("moved")).unwrap();
    fs::create_dir(&root).unwrap();
    let got = directory.open_file("config", Links::Refused, Patience::Wait);
    assert_eq!(outcome(got), "file of 6");
}

#[test]
fn what_is_no_directory_is_not_opened() {
    let tree = tree();
    for name in ["outside", "none"] {
        assert!(Directory::open(&tree.path().join(name)).is_err(), "{name}");
    }
}

proptest! {
    /// Chains of links, up, down and around, lead to the same place by both
    /// resolvers, and never out of refs/.
    #[test]
    fn links_lead_to_the_same_place(targets in proptest::collection::vec("(\\.\\./){0,3}(l[0-4]|a|a/b|c|heads|\\.|none)(/\\.\\.|/|/b)?", 5)) {
        let tree = tree();
        let root = tree.path().join("root");
        for (number, target) in targets.iter().enumerate() {
            symlink(target, root.join(format!("refs/heads/l{number}"))).unwrap();
        }
        let [kernel, own] = [Resolver::Openat2, Resolver::Walk]
            .map(|resolver| Directory::open_with(&root, resolver).unwrap());
        for number in 0..targets.len() {
            let name = format!("refs/heads/l{number}");
            let [by_kernel, by_own] = [&kernel, &own]
                .map(|directory| outcome(directory.open_file(&name, Links::Inside("refs"), Patience::Wait)));
            // The kernel opens a directory and this finds it to be one; the walk
            // may end in `..` and say so at once.
            let own_word = by_own.replace(&format!("{:?}", Errno::ISDIR), "is a directory, not a regular file");
            prop_assert_eq!(&by_kernel, &own_word, "{} of {:?}", name, &targets);
            prop_assert_ne!(by_kernel, "file of 6");
        }
    }
}
