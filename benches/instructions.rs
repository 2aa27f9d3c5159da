//! How many instructions this program spends on one reply, from request to the last
//! byte of the body, without sockets: counted by valgrind, so that whatever else the
//! machine does makes no difference, and a change of a few percent shows.
//!
//!     cargo bench --bench instructions [-- --out FILE]
//!
//! `instructions.md` has a result, and is what a new one is compared with. The
//! system calls' own work is not counted.

#[path = "../tests/common/mod.rs"]
mod common;
mod objects;

use std::path::Path;
use std::process::{Command, exit};

use common::TestRepo;
use http::Request;
use http::header::HOST;
use http::request::Parts;
use http_body_util::BodyExt;
use ostree_serve::config::Publishing;
use ostree_serve::http::Service;
use ostree_serve::repo::Repo;
use ostree_serve::repo::visitor::Visitor;
use ostree_serve::routes::{Routes, Site};

/// What is asked for: its name here, and what it costs to find out.
const CASES: [&str; 6] = [
    "200 small",
    "200 large",
    "200 summary",
    "304",
    "404 absent",
    "404 outside",
];

/// What is done before, and not counted: caches are filled.
const BEFORE: u64 = 200;
const COUNTED: u64 = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--case", case, "--count", count] => answer(case, count.parse().expect("a count")),
        ["--out", file, ..] => report(Some(Path::new(file))),
        _ => report(None),
    }
}

fn report(out: Option<&Path>) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is missing: apt-get install valgrind, or dnf install valgrind");
        exit(1);
    }
    let before = include_str!("instructions.md");
    let mut table = String::from("| reply | instructions |\n|---|---|\n");
    println!("| reply | instructions | before | change |\n|---|---|---|---|");
    for case in CASES {
        let counts = [BEFORE, BEFORE + COUNTED].map(|count| count_instructions(case, count));
        let each = (counts[1] - counts[0]) / COUNTED;
        table += &format!("| {case} | {each} |\n");
        match counted_before(before, case) {
            Some(before) => {
                let change = 100.0 * (each as f64 - before as f64) / before as f64;
                println!("| {case} | {each} | {before} | {change:+.1} % |");
            }
            None => println!("| {case} | {each} | – | – |"),
        }
    }
    if let Some(out) = out {
        let head = include_str!("instructions.md").split("| reply").next();
        std::fs::write(out, head.unwrap_or_default().to_owned() + &table).expect("a report");
    }
}

fn counted_before(table: &str, case: &str) -> Option<u64> {
    let row = table
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| {case} | ")))?;
    row.split(' ').next()?.parse().ok()
}

/// All instructions of a process that answers this many requests.
fn count_instructions(case: &str, count: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--case", case, "--count", &count.to_string()])
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    match collected.and_then(|count| count.trim().parse().ok()) {
        Some(count) if output.status.success() => count,
        _ => panic!("{said}"),
    }
}

/// Answers a request so many times.
fn answer(case: &str, count: u64) {
    let repo = TestRepo::new();
    let median = repo.plant_object(objects::MEDIAN);
    let large = repo.plant_object(objects::LARGE);
    let opened = Repo::open(&repo.path(), Publishing::default()).expect("a repository");
    let site = Site::Repo(std::sync::Arc::new(opened));
    let routes = Routes::new(vec![("/repo".parse().expect("a prefix"), site)]);
    let service = Service::new(routes);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let visitor = Visitor::unknown();
    runtime.expect("a runtime").block_on(async {
        let tag = service.answer(&request(&median, None), &visitor).await;
        let tag = tag.headers()["etag"].to_str().expect("a tag").to_owned();
        let head = match case {
            "200 small" => request(&median, None),
            "200 large" => request(&large, None),
            "200 summary" => request("summary", None),
            "304" => request(&median, Some(&tag)),
            "404 absent" => request(&common::object_name(7), None),
            "404 outside" => request("wp-login.php", None),
            _ => panic!("{case} is none of {CASES:?}"),
        };
        let expected = case.split(' ').next();
        for _ in 0..count {
            let reply = service.answer(&head, &visitor).await;
            assert_eq!(Some(reply.status().as_str()), expected);
            let mut body = reply.into_body();
            while let Some(frame) = body.frame().await {
                frame.expect("a frame");
            }
        }
    });
}

fn request(name: &str, tag: Option<&str>) -> Parts {
    let mut request = Request::get(format!("/repo/{name}")).header(HOST, "localhost");
    if let Some(tag) = tag {
        request = request.header("if-none-match", tag);
    }
    request.body(()).expect("a request").into_parts().0
}
