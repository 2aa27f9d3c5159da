//! Which addresses lead where: prefixes, escapes, and the grammar as the one
//! way to the file system.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::in_process::{InProcess, as_files_lie, one_of_each, repo_site, static_site};
use common::{TIP, TestRepo};
use http::Method;
use http::header::HOST;
use ostree_serve::http::Service;
use ostree_serve::repo::Repo;
use ostree_serve::repo::visitor::Visitor;
use ostree_serve::resource::path::{decode, file_path, parse};
use ostree_serve::routes::{Routes, Site};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tempfile::TempDir;

/// A directory with a file `summary` and `index.html` that tell its name.
fn directory(name: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    for file in ["summary", "index.html"] {
        fs::write(directory.path().join(file), name).unwrap();
    }
    directory
}

#[test]
fn the_longest_prefix_of_whole_segments_decides() {
    let repo = TestRepo::new();
    let summary = repo.read("summary");
    let [root, apps, inner] = ["root", "apps", "inner"].map(directory);
    // In an order that is none.
    let server = InProcess::new(vec![
        ("/repo", repo_site(&repo)),
        ("/", static_site(root.path())),
        ("/repo/apps/inner", static_site(inner.path())),
        ("/repo/apps", static_site(apps.path())),
    ]);
    let cases: [(&str, Option<&[u8]>); 16] = [
        ("/summary", Some(b"root")),
        ("/", Some(b"root")),
        ("/repo/summary", Some(&summary)),
        ("/repo/apps/summary", Some(b"apps")),
        ("/repo/apps", Some(b"apps")),
        ("/repo/apps/", Some(b"apps")),
        ("/repo/apps/inner/summary", Some(b"inner")),
        // What begins like a prefix and is none.
        ("/repos/summary", None),
        ("/repo.old/summary", None),
        ("/repo/appsx/summary", None),
        ("/Repo/summary", None),
        // A prefix that has nothing there does not pass the request on.
        ("/repo/index.html", None),
        ("/repo", None),
        ("/repo/apps/nothing", None),
        // Slashes are not merged.
        ("//repo/summary", None),
        ("/repo//summary", None),
    ];
    for (path, expected) in cases {
        let answer = server.get(path);
        match expected {
            Some(body) => assert_eq!((answer.status, &*answer.body), (200, body), "{path}"),
            None => assert_eq!(answer.status, 404, "{path}"),
        }
    }
}

#[test]
fn escapes_are_undone_exactly_once() {
    let repo = TestRepo::new();
    let www = TempDir::new().unwrap();
    fs::write(www.path().join("a b"), "space").unwrap();
    fs::write(www.path().join("a+b"), "plus").unwrap();
    fs::write(www.path().join("a%20b"), "escaped escape").unwrap();
    fs::write(www.path().join("ü"), "letter").unwrap();
    let server = InProcess::new(vec![
        ("/repo", repo_site(&repo)),
        ("/größe x", repo_site(&repo)),
        ("/www", static_site(www.path())),
    ]);
    let summary = repo.read("summary");
    let commit = repo.read("refs/heads/demo/prüfung");
    let cases: [(&str, Option<&[u8]>); 20] = [
        ("/repo/%73ummar%79", Some(&summary)),
        ("/%72epo/summary", Some(&summary)),
        ("/gr%c3%b6%C3%9fe%20x/summary", Some(&summary)),
        ("/repo/refs/heads/demo/pr%c3%bcfung", Some(&commit)),
        ("/repo/refs/heads/demo/pr%C3%BCfung", Some(&commit)),
        ("/www/a%20b", Some(b"space")),
        ("/www/a+b", Some(b"plus")),
        ("/www/a%2Bb", Some(b"plus")),
        ("/www/a%2520b", Some(b"escaped escape")),
        ("/www/%c3%bc", Some(b"letter")),
        // Twice escaped.
        ("/repo/%2573ummary", None),
        // An escaped slash is no separator.
        ("/repo%2Fsummary", None),
        ("/repo/refs%2fheads/demo/x86_64/stable", None),
        ("/www/%2e%2e%2frepo", None),
        // Escapes of nothing that could be a name.
        ("/repo/summary%00", None),
        ("/repo/summary%", None),
        ("/repo/summary%7", None),
        ("/repo/summary%zz", None),
        ("/repo/%fc", None),
        ("/repo/refs/heads/demo/pr%fcfung", None),
    ];
    for (path, expected) in cases {
        let answer = server.get(path);
        match expected {
            Some(body) => assert_eq!((answer.status, &*answer.body), (200, body), "{path}"),
            None => assert_eq!((answer.status, &*answer.body), (404, &b""[..]), "{path}"),
        }
    }
}

/// libostree sends it as it is; others escape it.
#[test]
fn a_plus_in_a_delta_name_is_a_plus() {
    let repo = TestRepo::new();
    let server = InProcess::of(&repo);
    for suffix in ["/superblock", "/0", ".index"] {
        let name = repo.find(suffix);
        assert!(name.contains('+'), "{name}");
        let bytes = repo.read(&name);
        for plus in ["+", "%2B", "%2b"] {
            let answer = server.get(&format!("/repo/{}", name.replace('+', plus)));
            assert_eq!((answer.status, &answer.body), (200, &bytes), "{plus}");
        }
        let answer = server.get(&format!("/repo/{}", name.replace('+', "%20")));
        assert_eq!(answer.status, 404);
    }
}

#[test]
fn a_query_changes_nothing() {
    let repo = TestRepo::new();
    let server = InProcess::of(&repo);
    let plain = server.get("/repo/summary");
    for query in ["?", "?a=b", "?/../../etc/passwd", "?%zz%00", "??", "?a+b"] {
        let answer = server.get(&format!("/repo/summary{query}"));
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(answer.headers, plain.headers, "{query}");
        assert_eq!(answer.body, plain.body, "{query}");
        assert_eq!(server.get(&format!("/repo/nothing{query}")).status, 404);
    }
}

/// A target may be a whole address (RFC 9112, section 3.2.2).
#[test]
fn an_absolute_target_is_its_path() {
    let repo = TestRepo::new();
    let server = InProcess::of(&repo);
    let answer = server.get("http://other.example:1/repo/summary?x");
    assert_eq!(answer.body, repo.read("summary"));
    assert_eq!(server.get("http://repo/summary").status, 404);
    assert_eq!(server.ask(&Method::OPTIONS, "*", &[]).status, 405);
}

/// Names within the grammar for which there can be no file, or is none.
#[test]
fn what_cannot_be_a_file_is_not_found() {
    let repo = TestRepo::new();
    let www = directory("www");
    fs::create_dir(www.path().join("sub")).unwrap();
    let sites = vec![
        ("/repo", repo_site(&repo)),
        ("/www", static_site(www.path())),
    ];
    let server = InProcess::new(sites);
    let name = "a".repeat(300);
    let deep = "a/".repeat(5000) + "a";
    let cases = [
        // Longer than a name or a path can be.
        format!("/repo/refs/heads/{name}"),
        format!("/repo/refs/heads/{deep}"),
        format!("/www/{name}"),
        format!("/www/{deep}"),
        // Below a file.
        "/repo/refs/heads/demo/x86_64/stable/more".into(),
        "/repo/refs/heads/demo/x86_64/latest/more".into(),
        "/www/summary/more".into(),
        // Where there is a directory: anybody can guess the first half of a ref.
        "/repo/refs/heads/demo".into(),
        "/repo/refs/heads/demo/x86_64".into(),
        "/www/sub".into(),
        "/www/sub/".into(),
        // Without a grammar for it.
        "/repo/objects".into(),
        "/repo/refs/heads".into(),
        "/repo/refs/heads/".into(),
    ];
    for path in cases {
        let answer = server.get(&path);
        assert_eq!(answer.status, 404, "{path:.60}");
    }
}

/// The bytes in every file that is not to be served.
const SECRET: &str = "this must stay here";

/// What lies in a repository, or beside it, and is no client's business
/// (client-contract 1.3).
const PRIVATE: [&str; 16] = [
    "../secret",
    ".lock",
    "origin.cookies.txt",
    "origin.trustedkeys.gpg",
    "tmp/cache/summaries/origin",
    "state/a.commitpartial",
    "refs/remotes/origin/stable",
    "refs/heads/.hidden",
    "deltas/.tmp/superblock",
    "deltas/sM/FaYb8MNMygd7K3DHNE+crEV3a43_QnfIxgjyjtQGg/meta",
    "extensions/x",
    "objects/aa/a.commitmeta2",
    "objects/aa/a.file",
    "uncompressed-objects-cache/aa/a.filez",
    "transaction",
    "index.html",
];

/// A repository with all that is for clients and all that is not, and the names
/// of the former.
fn guarded() -> (TestRepo, Arc<Repo>, Vec<String>) {
    let repo = TestRepo::new();
    let names = one_of_each(&repo).into_iter().map(|(name, _)| name);
    for name in PRIVATE {
        let path = repo.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, SECRET).unwrap();
    }
    let opened = Arc::new(Repo::open(&repo.path(), as_files_lie()).unwrap());
    (repo, opened, names.collect())
}

#[test]
fn what_is_private_does_not_exist() {
    let (_files, repo, _) = guarded();
    let server = InProcess::new(vec![("/repo", Site::Repo(Arc::clone(&repo)))]);
    let before = repo.directory().opens();
    for name in PRIVATE {
        // As it is, with all dots escaped, and by a way around.
        for path in [
            name.to_owned(),
            name.replace('.', "%2e"),
            format!("refs/heads/../../{name}"),
            format!("./{name}"),
            format!("/{name}"),
        ] {
            let answer = server.get(&format!("/repo/{path}"));
            assert_eq!((answer.status, &*answer.body), (404, &b""[..]), "{path}");
        }
    }
    assert_eq!(repo.directory().opens(), before);
}

/// A change to a path.
#[derive(Clone, Debug)]
enum Edit {
    /// Puts a text somewhere.
    Insert(Index, &'static str),
    /// Takes a character away.
    Remove(Index),
    /// Escapes a character.
    Escape(Index),
    /// Ends the path somewhere, with a text.
    Cut(Index, &'static str),
}

fn edit() -> impl Strategy<Value = Edit> {
    const TEXTS: [&str; 24] = [
        "/", "//", ".", "..", "/..", "/../", "%2e%2e", "%2f", "%2F..", "%5c", "%00", "%", "%25",
        "%c3%bc", "%c3", "+", "-", "_", "0", "a", "A", ";", ":", "%0a",
    ];
    prop_oneof![
        (any::<Index>(), select(&TEXTS)).prop_map(|(at, text)| Edit::Insert(at, text)),
        any::<Index>().prop_map(Edit::Remove),
        any::<Index>().prop_map(Edit::Escape),
        (any::<Index>(), select(&TEXTS)).prop_map(|(at, text)| Edit::Cut(at, text)),
    ]
}

/// The path with a change. Paths are ASCII here, as they are in requests.
fn edited(mut path: String, edit: &Edit) -> String {
    match edit {
        Edit::Insert(at, text) => path.insert_str(at.index(path.len() + 1), text),
        Edit::Remove(at) if !path.is_empty() => _ = path.remove(at.index(path.len())),
        Edit::Escape(at) if !path.is_empty() => {
            let at = at.index(path.len());
            let escape = format!("%{:02x}", path.as_bytes()[at]);
            path.replace_range(at..=at, &escape);
        }
        Edit::Cut(at, text) => {
            path.truncate(at.index(path.len() + 1));
            path.push_str(text);
        }
        Edit::Remove(_) | Edit::Escape(_) => {}
    }
    path
}

fn near_grammar(names: Vec<String>) -> impl Strategy<Value = String> {
    let edits = proptest::collection::vec(edit(), 0..4);
    (select(names), edits).prop_map(|(name, edits)| {
        let escaped = name.replace('ü', "%c3%bc");
        edits.iter().fold(escaped, edited)
    })
}

/// Whatever is asked, a file is opened if and only if the grammar has its name;
/// the name is below the repository, and no secret comes out.
#[test]
fn nothing_outside_the_grammar_reaches_the_file_system() {
    let (_files, repo, names) = guarded();
    let site = ("/repo".parse().unwrap(), Site::Repo(Arc::clone(&repo)));
    let service = Service::new(Routes::new(vec![site]));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let counts = std::cell::Cell::new((0, 0));

    let property = |rest: String, method: Method| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/repo/{rest}"))
            .header(HOST, "localhost")
            .body(());
        // What is no address does not become a request either.
        let Ok(request) = request else { return Ok(()) };
        let (head, ()) = request.into_parts();
        let before = repo.directory().opens();
        let body = runtime.block_on(async {
            let reply = service.answer(&head, &Visitor::unknown()).await;
            let body = http_body_util::BodyExt::collect(reply.into_body()).await;
            body.unwrap().to_bytes()
        });
        let opened = repo.directory().opens() > before;

        let path = decode(head.uri.path());
        let rest = path.as_deref().and_then(|path| path.strip_prefix("/repo/"));
        let resource = rest.and_then(parse);
        prop_assert_eq!(opened, resource.is_some(), "{:?}", rest);
        if let Some(resource) = resource {
            let mut components = Path::new(rest.unwrap_or_default()).components();
            let is_below = components.all(|it| matches!(it, std::path::Component::Normal(_)));
            prop_assert!(is_below, "{:?}", rest);
            prop_assert_eq!(Some(&*file_path(&resource)), rest);
        }
        let leaks = body.windows(SECRET.len()).any(|it| it == SECRET.as_bytes());
        prop_assert!(!leaks, "{:?}", rest);
        let (accepted, refused) = counts.get();
        counts.set((accepted + u32::from(opened), refused + u32::from(!opened)));
        Ok(())
    };

    let method = || select(&[Method::GET, Method::HEAD]);
    let config = ProptestConfig::with_cases(2000);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let names = names.into_iter().chain(PRIVATE.map(str::to_owned));
    let near = (near_grammar(names.collect()), method());
    runner
        .run(&near, |(rest, method)| property(rest, method))
        .unwrap_or_else(|failure| panic!("{failure}"));
    // Else one side of the property was never seen.
    let (accepted, refused) = counts.get();
    assert!(accepted > 200 && refused > 200, "{accepted} {refused}");

    let any = ("[ -~]{0,80}|.{0,20}|[a-z.%/]{0,30}", method());
    runner
        .run(&any, |(rest, method)| property(rest, method))
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// What is refused for another reason than its name is not looked for either.
#[test]
fn a_refused_request_opens_nothing() {
    let (_files, repo, _) = guarded();
    let server = InProcess::new(vec![("/repo", Site::Repo(Arc::clone(&repo)))]);
    let before = repo.directory().opens();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        assert_eq!(server.ask(&method, "/repo/summary", &[]).status, 405);
    }
    let length = [("content-length", "1")];
    assert_eq!(server.get_with("/repo/summary", &length).status, 400);
    let long = format!("/repo/refs/heads/{}", "a".repeat(3 * 4096));
    assert_eq!(server.get(&long).status, 414);
    assert_eq!(repo.directory().opens(), before);

    let commit = format!("/repo/objects/{}/{}.commit", &TIP[..2], &TIP[2..]);
    assert_eq!(server.get(&commit).status, 200);
    assert!(repo.directory().opens() > before);
}
