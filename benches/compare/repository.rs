//! What is served: a repository like that of a desktop system, made by ostree,
//! and others with nothing but very many or very large objects.
//!
//! They stay in cargo's directory for temporary files from one run to the next.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::command::Program;
use crate::objects::size_at;
use crate::servers::{Peer, Site};
use crate::{common, special};

/// To be counted up when what is made here changes.
const VERSION: u32 = 1;

/// The ref of the commit in [`KINOITE`].
pub const BRANCH: &str = "fedora/43/x86_64/kinoite";
/// Has the size and the shape of a desktop system.
pub const KINOITE: &str = "kinoite";
/// Has large objects.
pub const BULK: &str = "bulk";
/// How many objects the repositories have that differ in nothing else.
pub const COUNTS: [usize; 3] = [500, 20_000, 200_000];
/// The size of each of those, in bytes.
pub const COUNTED_SIZE: usize = 1024;

const FILES: usize = 20_000;
const DIRECTORIES: usize = 3_900;
/// Directories from the root to a file's name, at most.
const DEPTH: usize = 8;

/// Sizes in bytes below which a share of a desktop system's files is; some
/// 540 MB in all.
const SIZES: [(f64, f64); 7] = [
    (0.0, 40.0),
    (0.25, 700.0),
    (0.5, 3_100.0),
    (0.9, 25_000.0),
    (0.99, 330_000.0),
    (0.999, 1_000_000.0),
    (1.0, 20_000_000.0),
];

/// Something to be asked for.
#[derive(Clone, Debug)]
pub struct Object {
    /// As in a request, from the first slash.
    pub path: String,
    /// In bytes.
    pub len: u64,
}

/// All repositories.
pub struct Repositories {
    /// The directory that they are in.
    pub root: PathBuf,
    /// The objects of [`KINOITE`] in the order in which a real pull asked for them.
    pub trace: Vec<Object>,
    /// Objects of 1 MiB and of 64 MiB.
    pub large: [Object; 2],
}

impl Repositories {
    /// Those of the trace that have at most 4 KiB.
    pub fn small(&self) -> Vec<Object> {
        let small = |it: &&Object| it.len <= 4096;
        self.trace.iter().filter(small).cloned().collect()
    }
}

/// The repository with so many objects.
pub fn counted(count: usize) -> String {
    format!("objects-{count}")
}

/// An object of that repository.
pub fn counted_object(count: usize, number: usize) -> Object {
    let path = format!("/{}/{}", counted(count), planted(number));
    Object {
        path,
        len: COUNTED_SIZE as u64,
    }
}

/// The name of an object that no real repository has, each in another directory
/// than the one before.
fn planted(number: usize) -> String {
    format!("objects/{:02x}/{number:062x}.filez", number % 256)
}

/// Makes what is not there yet; a server of ours shows in which order a pull asks.
pub fn prepare(ours: &Path) -> Repositories {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("compare-{VERSION}"));
    fs::create_dir_all(&root).unwrap();
    once(&root.join(KINOITE), make_kinoite);
    once(&root.join(BULK), make_bulk);
    for count in COUNTS {
        once(&root.join(counted(count)), |repo| make_counted(repo, count));
    }
    let order = root.join("trace");
    once(&order, |file| record(ours, &root, file));
    let trace = fs::read_to_string(&order).unwrap();
    let object = |path: &str| Object {
        path: path.to_owned(),
        len: length(&root, path),
    };
    Repositories {
        trace: trace.lines().map(object).collect(),
        large: [MIB, 64 * MIB].map(|len| object(&format!("/{BULK}/{}", planted(len)))),
        root,
    }
}

const MIB: usize = 1024 * 1024;

/// Makes a file or directory under another name first: what has its name is whole.
fn once(path: &Path, make: impl FnOnce(&Path)) {
    if path.exists() {
        return;
    }
    eprintln!("making {}", path.display());
    let unfinished = path.with_extension("unfinished");
    _ = fs::remove_dir_all(&unfinished);
    _ = fs::remove_file(&unfinished);
    make(&unfinished);
    fs::rename(unfinished, path).unwrap();
}

fn length(root: &Path, path: &str) -> u64 {
    let file = root.join(path.trim_start_matches('/'));
    let facts = fs::metadata(&file);
    facts
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .len()
}

fn make_kinoite(repo: &Path) {
    let tree = repo.with_extension("tree");
    _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree).unwrap();
    let mut random = Random(1);
    let directories = make_directories(&tree, &mut random);
    // A prime, so that every rank has its turn, in an order that has nothing to do
    // with size.
    let ranks = (0..FILES).map(|number| number * 7_919 % FILES);
    for (number, rank) in ranks.enumerate() {
        let at = match directories.get(number) {
            Some(directory) => directory,
            // Few directories have many files.
            None => &directories[(random.share().powi(3) * DIRECTORIES as f64) as usize],
        };
        let len = size_at(&SIZES, (rank as f64 + 0.5) / FILES as f64);
        fs::write(at.join(format!("file-{number}.so")), random.bytes(len)).unwrap();
    }
    common::publisher::init(repo, "archive");
    let tree_argument = format!("--tree=dir={}", tree.display());
    let ostree = |args: &[&str]| common::publisher::ostree(repo, args).run();
    // Less work for the machine; what is random does not become smaller anyway.
    ostree(&["config", "set", "archive.zlib-level", "1"]);
    ostree(&[
        "commit",
        &format!("--branch={BRANCH}"),
        "--owner-uid=0",
        "--owner-gid=0",
        "--no-xattrs",
        "--timestamp=2026-11-24 00:00:00 +0000",
        &tree_argument,
    ]);
    ostree(&["summary", "--update"]);
    fs::remove_dir_all(&tree).unwrap();
}

fn make_directories(tree: &Path, random: &mut Random) -> Vec<PathBuf> {
    let mut all = vec![(tree.to_owned(), 0)];
    while all.len() < DIRECTORIES {
        let number = all.len();
        let (parent, depth) = &all[random.below(number)];
        if *depth + 1 < DEPTH {
            let path = parent.join(format!("directory-{number}"));
            let entry = (path, depth + 1);
            fs::create_dir(&entry.0).unwrap();
            all.push(entry);
        }
    }
    all.into_iter().map(|(path, _)| path).collect()
}

fn make_bulk(repo: &Path) {
    common::publisher::init(repo, "archive");
    let mut random = Random(2);
    for len in [MIB, 64 * MIB] {
        plant(repo, len, &random.bytes(len));
    }
}

fn make_counted(repo: &Path, count: usize) {
    common::publisher::init(repo, "archive");
    let bytes = Random(3).bytes(COUNTED_SIZE);
    (0..count).for_each(|number| plant(repo, number, &bytes));
}

/// What it holds is no object: only real clients would mind.
fn plant(repo: &Path, number: usize, bytes: &[u8]) {
    let path = repo.join(planted(number));
    let directory = path.parent().expect("objects/xx");
    if !directory.exists() {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(path, bytes).unwrap();
}

/// Writes what a pull asks for, in its order.
fn record(ours: &Path, root: &Path, file: &Path) {
    let site = Site::new(root, &[KINOITE]);
    let server = Peer::Ours.start(ours, &site);
    let clone = special::Clone::new(&server);
    let output = clone.pull(|ostree: Program| ostree.env("OSTREE_DEBUG_HTTP", "1"));
    let asked = output.stderr.lines().filter_map(|line| {
        let (path, _protocol) = line.trim_end().strip_prefix("> GET ")?.rsplit_once(' ')?;
        Some(path)
    });
    let mut out = File::create(file).unwrap();
    for path in asked {
        let there = root.join(path.trim_start_matches('/')).is_file();
        if there && path.contains("/objects/") {
            writeln!(out, "{path}").unwrap();
        }
    }
}

/// Numbers that look like chance and are the same every time (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.collect();
        bytes.truncate(len);
        bytes
    }
}
