//! What is served while a repository changes: whole generations, and nothing
//! half-done. The repositories of these tests are changed by hand; those of
//! `real_publications` by ostree and flatpak.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use common::client::Client;
use ostree_serve::format::superblock::Superblock;
use ostree_serve::format::tree;
use ostree_serve::resource::Checksum;

use common::{Setup, TIP, TestRepo, TestServer, wait_for};

/// The parent of [`TIP`].
const PARENT: &str = "b134e212a6bc578084552fb4b82a60082b6964fc9ed93a960b951ab79d322f30";

/// A commit that is nowhere.
const NOWHERE: &str = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e";

fn get(server: &TestServer, name: &str) -> (u16, Vec<u8>) {
    let response = Client::plain(server).get(&format!("/repo/{name}"));
    (response.status, response.body)
}

/// Waits until a file is served like this.
fn wait_until_served(server: &TestServer, name: &str, expected: &[u8]) {
    wait_for(&format!("{name} to be served anew"), || {
        let (status, body) = get(server, name);
        assert!(status == 200 || status == 404, "{status}");
        (body == expected).then_some(())
    });
}

/// Replaces a file as ostree does.
fn replace(repo: &TestRepo, name: &str, bytes: &[u8]) {
    let path = repo.file(name);
    let aside = repo.file("tmp").join("replacement");
    fs::create_dir_all(aside.parent().unwrap()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&aside, bytes).unwrap();
    fs::rename(aside, path).unwrap();
}

/// A publication that is good, after something that is not: once it is served,
/// the other thing was seen, and judged.
fn publish_mark(repo: &TestRepo, server: &TestServer, mark: &str) {
    let name = format!("refs/heads/mark/{mark}");
    replace(repo, &name, format!("{TIP}\n").as_bytes());
    wait_until_served(server, &name, format!("{TIP}\n").as_bytes());
}

/// Something bad that was put into the repository keeps a good ref from being
/// published for as long as the server takes to look at it, several times over.
fn is_held_back(repo: &TestRepo, server: &TestServer, mark: &str) {
    let name = format!("refs/heads/mark/{mark}");
    replace(repo, &name, format!("{TIP}\n").as_bytes());
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        assert_eq!(get(server, &name).0, 404, "published with {mark}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An unsigned repository, whose summaries differ in the time that they name.
fn unsigned() -> TestRepo {
    let repo = TestRepo::new();
    fs::remove_file(repo.file("summary.sig")).unwrap();
    repo
}

/// The summary with another `ostree.summary.last-modified`.
fn later(summary: &[u8], seconds: u8) -> Vec<u8> {
    let key = b"ostree.summary.last-modified\0";
    let at = summary.windows(key.len()).position(|it| it == key).unwrap();
    // A `v` holds its value aligned to eight bytes, here a number of eight.
    let value = (at + key.len()).next_multiple_of(8);
    let mut later = summary.to_vec();
    later[value + 7] ^= seconds;
    later
}

#[test]
fn a_new_summary_is_served_soon() {
    let repo = unsigned();
    let server = TestServer::of(&repo);
    let first = repo.read("summary");
    assert_eq!(get(&server, "summary"), (200, first.clone()));
    for round in 1..5 {
        let next = later(&first, round);
        replace(&repo, "summary", &next);
        wait_until_served(&server, "summary", &next);
    }
}

#[test]
fn what_is_broken_is_not_served() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let (summary, signature) = (repo.read("summary"), repo.read("summary.sig"));
    let config = repo.read("config");
    let unservable = b"[core]\nrepo_version=1\nmode=bare\n".to_vec();
    let cases: [(&str, &str, Vec<u8>); 7] = [
        ("crossed", "summary", later(&summary, 1)),
        ("cut", "summary", summary[..summary.len() / 2].to_vec()),
        ("empty", "summary", Vec::new()),
        ("foreign", "summary", b"<html>not a summary</html>".to_vec()),
        ("cut-signature", "summary.sig", signature[..40].to_vec()),
        ("empty-signature", "summary.sig", Vec::new()),
        ("config", "config", unservable),
    ];
    for (mark, name, bytes) in cases {
        let good = repo.read(name);
        replace(&repo, name, &bytes);
        is_held_back(&repo, &server, mark);
        assert_eq!(get(&server, "summary"), (200, summary.clone()), "{mark}");
        assert_eq!(
            get(&server, "summary.sig"),
            (200, signature.clone()),
            "{mark}"
        );
        assert_eq!(
            get(&server, "refs/heads/demo/x86_64/stable").0,
            200,
            "{mark}"
        );
        replace(&repo, name, &good);
        publish_mark(&repo, &server, &format!("{mark}-repaired"));
    }
    assert_eq!(repo.read("config"), config);
}

#[test]
fn a_signature_that_vanished_is_waited_for_as_long_as_configured() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .repo("/repo", &repo.path())
        .repo_line("hold_unsigned = \"1s\"")
        .start();
    let signature = repo.read("summary.sig");
    fs::remove_file(repo.file("summary.sig")).unwrap();
    let removed = Instant::now();
    wait_for(
        "the summary to be published without a signature",
        || match get(&server, "summary.sig") {
            (404, _) => Some(()),
            (status, body) => {
                assert_eq!((status, &body), (200, &signature));
                None
            }
        },
    );
    assert!(removed.elapsed() >= Duration::from_secs(1));
    replace(&repo, "summary.sig", &signature);
    wait_until_served(&server, "summary.sig", &signature);
}

#[test]
fn a_ref_is_served_when_its_commit_is_there() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let commit = object(NOWHERE, "commit");
    let name = "refs/heads/new";
    replace(&repo, name, format!("{NOWHERE}\n").as_bytes());
    is_held_back(&repo, &server, "dangling");
    replace(&repo, &format!("state/{NOWHERE}.commitpartial"), b"");
    replace(&repo, &commit, b"a commit");
    is_held_back(&repo, &server, "partial");
    fs::remove_file(repo.file(&format!("state/{NOWHERE}.commitpartial"))).unwrap();
    // As ostree does when it is done.
    fs::write(repo.file(".lock"), "").unwrap();
    wait_until_served(&server, name, format!("{NOWHERE}\n").as_bytes());
    fs::remove_file(repo.file(name)).unwrap();
    wait_for("the ref to be gone", || {
        (get(&server, name).0 == 404).then_some(())
    });
}

/// Breaks something in a repository.
type Damage = fn(&TestRepo);

/// A server that finds something broken when it starts has nothing else to
/// serve: it leaves out what is broken.
#[test]
fn at_the_start_what_is_sound_is_served() {
    let damage: [(&str, Damage, [u16; 3]); 4] = [
        ("nothing", |_| {}, [200, 200, 200]),
        (
            "a crossed pair",
            |repo| replace(repo, "summary", &later(&repo.read("summary"), 1)),
            [200, 404, 200],
        ),
        (
            "a cut summary",
            |repo| repo.truncate("summary", 100),
            [404, 404, 200],
        ),
        (
            "a dangling ref",
            |repo| replace(repo, "refs/heads/new", NOWHERE.as_bytes()),
            [200, 200, 200],
        ),
    ];
    for (what, damage, expected) in damage {
        let repo = TestRepo::new();
        damage(&repo);
        let server = TestServer::of(&repo);
        let names = ["summary", "summary.sig", "refs/heads/demo/x86_64/stable"];
        let statuses = names.map(|name| get(&server, name).0);
        assert_eq!(statuses, expected, "{what}");
    }
}

/// The race that every other server has: the signature is asked for, the
/// repository is updated, and then the summary is asked for.
#[test]
fn a_connection_that_has_a_signature_gets_what_it_signs() {
    let repo = unsigned();
    let server = TestServer::of(&repo);
    let old = repo.read("summary");
    let new = later(&old, 1);
    let clients = [Client::plain, Client::tls];
    let mut began = clients.map(|client| {
        let mut client = client(&server);
        assert_eq!(client.get("/repo/summary.sig").status, 404);
        client
    });
    replace(&repo, "summary", &new);
    wait_until_served(&server, "summary", &new);
    for client in &mut began {
        assert!(
            client.get("/repo/summary").body == old,
            "another generation"
        );
        // Who starts over sees the new one.
        assert_eq!(client.get("/repo/summary.sig").status, 404);
        assert!(
            client.get("/repo/summary").body == new,
            "the old generation"
        );
    }
}

#[test]
fn without_coherence_files_are_served_as_they_lie() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .repo("/repo", &repo.path())
        .repo_line("coherent = false")
        .start();
    for (name, text) in [
        ("summary", "crossed"),
        ("summary.sig", "nonsense"),
        ("refs/heads/new", "no checksum"),
    ] {
        replace(&repo, name, text.as_bytes());
        assert_eq!(get(&server, name), (200, text.into()));
    }
    fs::remove_file(repo.file("summary.sig")).unwrap();
    assert_eq!(get(&server, "summary.sig").0, 404);
    let object = repo.find(".filez");
    assert_eq!(get(&server, &object).0, 200);
    fs::remove_file(repo.file(&object)).unwrap();
    assert_eq!(get(&server, &object).0, 404);
}

#[test]
fn a_pruned_object_is_served_for_the_grace() {
    let repo = TestRepo::new();
    let server = Setup::new()
        .repo("/repo", &repo.path())
        .repo_line("grace = \"1s\"")
        .start();
    let object = repo.find(".filez");
    let bytes = repo.read(&object);
    assert_eq!(get(&server, &object), (200, bytes.clone()));
    fs::remove_file(repo.file(&object)).unwrap();
    assert_eq!(get(&server, &object), (200, bytes));
    wait_for("the grace to end", || {
        (get(&server, &object).0 == 404).then_some(())
    });
}

/// Nobody has asked for them yet, and a client that has the old ref will.
#[test]
fn what_only_a_replaced_commit_has_is_kept_before_it_is_pruned() {
    let repo = TestRepo::new();
    for name in ["summary", "summary.sig"] {
        fs::remove_file(repo.file(name)).unwrap();
    }
    let server = TestServer::of(&repo);
    let name = "refs/heads/demo/x86_64/stable";
    replace(&repo, name, format!("{PARENT}\n").as_bytes());
    wait_until_served(&server, name, format!("{PARENT}\n").as_bytes());
    // One look at the repository ends before the next one begins.
    publish_mark(&repo, &server, "after");

    let (old, new) = (tree_of(&repo, TIP), tree_of(&repo, PARENT));
    let only_old: Vec<_> = old.difference(&new).collect();
    assert!(only_old.len() > 3, "{only_old:?}");
    for object in only_old {
        let bytes = repo.read(object);
        fs::remove_file(repo.file(object)).unwrap();
        assert_eq!(get(&server, object), (200, bytes), "{object}");
    }
}

/// The names of a commit's objects.
fn tree_of(repo: &TestRepo, commit: &str) -> BTreeSet<String> {
    let name = object(commit, "commit");
    let root = tree::root(&repo.read(&name)).unwrap();
    let mut names = BTreeSet::from([name]);
    add_directory(repo, root, &mut names);
    names
}

fn add_directory(repo: &TestRepo, directory: tree::Directory, names: &mut BTreeSet<String>) {
    let name = object(directory.tree, "dirtree");
    let bytes = repo.read(&name);
    let entries = tree::entries(&bytes).unwrap();
    names.extend([name, object(directory.meta, "dirmeta")]);
    names.extend(entries.files.iter().map(|file| object(file, "filez")));
    for (_, directory) in entries.directories {
        add_directory(repo, directory, names);
    }
}

fn object(checksum: impl ToString, kind: &str) -> String {
    let checksum = checksum.to_string();
    format!("objects/{}/{}.{kind}", &checksum[..2], &checksum[2..])
}

#[test]
fn a_superblock_is_never_served_with_parts_of_another_delta() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let superblock = repo.find("/superblock");
    let part = superblock.replace("superblock", "0");
    let good = repo.read(&part);

    // A client that has the superblock gets its part, whatever happens.
    let mut client = Client::plain(&server);
    assert_eq!(client.get(&format!("/repo/{superblock}")).status, 200);
    replace(&repo, &part, b"a part of another generation");
    assert!(client.get(&format!("/repo/{part}")).body == good);
    // Also by a second connection.
    assert_eq!(get(&server, &part), (200, good.clone()));
    // What is known to fit stays together for others.
    assert_eq!(get(&server, &superblock).0, 200);
    drop(server);

    // A server that never saw the good part does not give out the superblock:
    // clients then fetch objects.
    let server = TestServer::of(&repo);
    assert_eq!(get(&server, &superblock).0, 404);
    replace(&repo, &part, &good);
    let bytes = repo.read(&superblock);
    replace(&repo, &superblock, &bytes);
    assert_eq!(get(&server, &superblock), (200, bytes));
    assert_eq!(get(&server, &part), (200, good));
    // The whole delta is deleted while clients are at it.
    let directory = repo.file(&superblock);
    fs::remove_dir_all(directory.parent().unwrap()).unwrap();
    assert_eq!(get(&server, &part).0, 200);
}

/// `ostree static-delta generate` replaces a delta, and only the next update of
/// the summary says so. Clients refuse a superblock that they were not told of.
#[test]
fn a_superblock_is_served_to_those_who_were_told_of_it() {
    let repo = unsigned();
    let server = TestServer::of(&repo);
    let (superblock, index) = (repo.find("/superblock"), repo.find(".index"));
    let (old, old_index) = (repo.read(&superblock), repo.read(&index));
    assert_eq!(get(&server, &superblock), (200, old.clone()));
    assert_eq!(get(&server, &index), (200, old_index.clone()));

    let new = regenerated(&old);
    replace(&repo, &superblock, &new);
    assert_eq!(get(&server, &superblock), (200, old.clone()));
    // Who never saw the old one has nothing to give: clients fetch objects.
    assert_eq!(get(&TestServer::of(&repo), &superblock).0, 404);

    // The index tells of the new one before the summary does, and clients
    // believe it.
    let mut told_of_old = Client::plain(&server);
    assert!(told_of_old.get(&format!("/repo/{index}")).body == old_index);
    let names_new = |bytes: Vec<u8>| replace_digest(&bytes, &old, &new);
    let new_index = names_new(old_index);
    replace(&repo, &index, &new_index);
    let mut told_of_new = Client::plain(&server);
    assert!(told_of_new.get(&format!("/repo/{index}")).body == new_index);
    assert!(told_of_new.get(&format!("/repo/{superblock}")).body == new);
    assert!(told_of_old.get(&format!("/repo/{superblock}")).body == old);
    assert_eq!(get(&server, &superblock), (200, old.clone()));

    let mut began = Client::plain(&server);
    assert_eq!(began.get("/repo/summary.sig").status, 404);
    let summary = names_new(repo.read("summary"));
    replace(&repo, "summary", &summary);
    wait_until_served(&server, "summary", &summary);
    assert_eq!(get(&server, &superblock), (200, new));
    assert!(began.get(&format!("/repo/{superblock}")).body == old);
    // The commit is pruned, and then its index.
    fs::remove_file(repo.file(&index)).unwrap();
    assert_eq!(get(&server, &index), (200, new_index));
}

/// Another superblock that names the same parts.
fn regenerated(superblock: &[u8]) -> Vec<u8> {
    let parsed = Superblock::parse(superblock);
    let flipped = (0..superblock.len()).map(|at| {
        let mut other = superblock.to_vec();
        other[at] ^= 1;
        other
    });
    let same = |other: &Vec<u8>| Superblock::parse(other) == parsed;
    flipped.into_iter().find(same).expect("its time, at least")
}

/// Puts the digest of `new` in the place of that of `old`.
fn replace_digest(document: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let [old, new] = [old, new].map(digest);
    let at = document.windows(old.len()).position(|it| it == old);
    let at = at.expect("the old one's digest");
    [&document[..at], &new, &document[at + old.len()..]].concat()
}

/// The SHA-256, as ostree's documents hold it.
fn digest(bytes: &[u8]) -> Vec<u8> {
    let hex = Checksum::of(bytes).to_string();
    let pairs = (0..hex.len()).step_by(2);
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    pairs.map(byte).collect()
}

#[test]
fn a_repository_that_is_put_in_place_of_another_is_served() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let other = TestRepo::new();
    let object = other.plant_object(5000);
    replace(&other, "refs/heads/other", format!("{TIP}\n").as_bytes());

    let served = repo.find(".filez");
    let (path, aside) = (repo.path(), repo.path().with_extension("old"));
    fs::rename(&path, &aside).unwrap();
    // Nothing is there: what was served stays served.
    assert_eq!(get(&server, "summary").0, 200);
    assert_eq!(get(&server, &served).0, 200);
    fs::rename(other.path(), &path).unwrap();
    wait_until_served(&server, "refs/heads/other", format!("{TIP}\n").as_bytes());
    assert_eq!(get(&server, &object).0, 200);
}

/// Two links to their own directory make more ways than anybody can walk.
#[test]
fn aliases_that_lead_in_circles_do_not_hang_the_repository() {
    let repo = TestRepo::new();
    for name in ["a", "b", "c"] {
        std::os::unix::fs::symlink(".", repo.file("refs/heads").join(name)).unwrap();
    }
    let server = TestServer::of(&repo);
    let tip = format!("{TIP}\n").into_bytes();
    assert_eq!(get(&server, "refs/heads/a/demo/x86_64/stable"), (200, tip));
    publish_mark(&repo, &server, "after");
}

/// What one directory has another one may lack.
#[test]
fn a_directory_without_its_objects_is_not_published() {
    let repo = TestRepo::new();
    let server = TestServer::of(&repo);
    let commit = object(TIP, "commit");
    let other = TestRepo::new();
    fs::remove_dir_all(other.file("objects")).unwrap();
    replace(&other, "refs/heads/other", format!("{TIP}\n").as_bytes());

    let path = repo.path();
    fs::rename(&path, path.with_extension("old")).unwrap();
    fs::rename(other.path(), &path).unwrap();
    is_held_back(&repo, &server, "without-objects");
    assert_eq!(get(&server, &commit).0, 200);
    assert_eq!(get(&server, "refs/heads/other").0, 404);
}

/// A fault that was there at the start must not keep back what comes later.
#[test]
fn a_fault_of_the_start_keeps_nothing_back() {
    let repo = TestRepo::new();
    replace(&repo, "refs/heads/garbage", b"");
    let server = TestServer::of(&repo);
    publish_mark(&repo, &server, "after");
}
