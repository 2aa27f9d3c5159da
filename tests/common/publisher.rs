//! A publisher with a key, and clients that verify every signature: the two ends
//! between which a publication has to hold together. Both are the real ostree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::command::{Output, Program};
use super::pattern;

/// The ref that everything here is about.
pub const BRANCH: &str = "app/x86_64/stable";

/// ostree, with a repository.
pub fn ostree(repo: &Path, args: &[&str]) -> Program {
    with_repo(Program::new("ostree"), repo, args)
}

/// The same, yielding to everything else: many clients on few cores must not
/// keep the writer from writing, for it is the writer that makes the race.
fn nice_ostree(repo: &Path, args: &[&str]) -> Program {
    with_repo(Program::new("nice").args(["-n10", "ostree"]), repo, args)
}

fn with_repo(program: Program, repo: &Path, args: &[&str]) -> Program {
    let (subcommand, args) = args.split_first().expect("a subcommand");
    let program = program.arg(subcommand);
    let program = program.arg(format!("--repo={}", repo.display())).args(args);
    // Nothing here has to survive a power cut.
    program.env("OSTREE_SUPPRESS_SYNCFS", "1")
}

/// Makes a repository that does not wait for the disk.
pub fn init(repo: &Path, mode: &str) {
    ostree(repo, &["init", &format!("--mode={mode}")]).run();
    ostree(repo, &["config", "set", "core.fsync", "false"]).run();
}

/// A key of gpg's, and its home. Outside the user's keyring.
pub struct Key {
    home: TempDir,
    fingerprint: String,
}

impl Key {
    pub fn new() -> Self {
        let home = TempDir::new().unwrap();
        let gpg = || Program::new("gpg").env("GNUPGHOME", home.path());
        gpg()
            .args(["--batch", "--passphrase", "", "--quick-generate-key"])
            .args(["publisher", "ed25519", "sign", "never"])
            .run();
        gpg()
            .args(["--batch", "--output"])
            .arg(home.path().join("public.gpg"))
            .arg("--export")
            .run();
        let listing = gpg().args(["--with-colons", "--list-keys"]).run();
        let fingerprint = |line: &str| Some(line.strip_prefix("fpr:")?.split(':').nth(8)?.into());
        let fingerprint = listing.stdout.lines().find_map(fingerprint);
        let fingerprint = fingerprint.expect("a key");
        Self { home, fingerprint }
    }

    /// The file of the public key.
    pub fn public(&self) -> PathBuf {
        self.home.path().join("public.gpg")
    }

    /// What makes ostree and flatpak sign.
    pub fn signature(&self) -> [String; 2] {
        [
            format!("--gpg-sign={}", self.fingerprint),
            format!("--gpg-homedir={}", self.home.path().display()),
        ]
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // The agent would outlive the test. A second panic would hide the first.
        if !std::thread::panicking() {
            let gpgconf = Program::new("gpgconf").env("GNUPGHOME", self.home.path());
            gpgconf.args(["--kill", "all"]).run();
        }
    }
}

/// The commits of a branch in the order in which they were made.
#[derive(Default)]
pub struct History(Mutex<Vec<String>>);

impl History {
    pub fn push(&self, commit: String) {
        self.lock().push(commit);
    }

    /// The newest.
    pub fn last(&self) -> String {
        self.lock().last().expect("a commit").clone()
    }

    /// How many came before it; `None` for what was never committed.
    pub fn position(&self, commit: &str) -> Option<usize> {
        self.lock().iter().position(|it| it == commit)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap()
    }
}

/// A repository in which versions are published, all of them signed.
pub struct Publisher {
    directory: TempDir,
    pub key: Key,
    pub history: History,
    file_size: usize,
    version: Mutex<usize>,
}

impl Publisher {
    /// Publishes the first version: some files of so many bytes each.
    pub fn new(file_size: usize) -> Self {
        let publisher = Self {
            directory: TempDir::new().unwrap(),
            key: Key::new(),
            history: History::default(),
            file_size,
            version: Mutex::new(0),
        };
        init(&publisher.repo(), "archive");
        publisher.publish();
        publisher
    }

    pub fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    /// ostree in its repository.
    pub fn ostree(&self, args: &[&str]) -> Program {
        ostree(&self.repo(), args)
    }

    /// Commits the next version and updates the summary.
    pub fn publish(&self) -> String {
        let commit = self.commit();
        self.update_summary();
        commit
    }

    /// Commits the next version, which differs from the one before in a file of
    /// each directory.
    pub fn commit(&self) -> String {
        let program = self.commit_program();
        let commit = program.run().stdout.trim().to_owned();
        self.history.push(commit.clone());
        commit
    }

    /// What commits the next version, not yet begun.
    pub fn commit_program(&self) -> Program {
        let tree = self.write_tree();
        self.ostree(&["commit", "--canonical-permissions"])
            .arg(format!("--branch={BRANCH}"))
            .arg(format!("--tree=dir={}", tree.display()))
            .args(self.key.signature())
    }

    fn write_tree(&self) -> PathBuf {
        const DIRECTORIES: usize = 3;
        const FILES: usize = 4;
        let tree = self.directory.path().join("tree");
        let mut version = self.version.lock().unwrap();
        for directory in 0..DIRECTORIES {
            let path = tree.join(format!("directory{directory}"));
            fs::create_dir_all(&path).unwrap();
            for file in 0..FILES {
                if *version == 0 || *version % FILES == file {
                    let seed = (*version * DIRECTORIES + directory) * FILES + file;
                    let bytes = &pattern(self.file_size + seed)[seed..];
                    fs::write(path.join(format!("file{file}")), bytes).unwrap();
                }
            }
        }
        fs::write(tree.join("version"), version.to_string()).unwrap();
        *version += 1;
        tree
    }

    /// Updates and signs the summary.
    pub fn update_summary(&self) {
        self.summary_program().run();
    }

    /// What does that, not yet begun.
    pub fn summary_program(&self) -> Program {
        self.ostree(&["summary", "--update"])
            .args(self.key.signature())
    }

    /// Adds the ref's commit to the history, if a writer that was killed came so
    /// far.
    pub fn note_tip(&self) {
        let tip = self.tip();
        if self.history.position(&tip).is_none() {
            self.history.push(tip);
        }
    }

    /// The ref's commit, as the repository has it.
    pub fn tip(&self) -> String {
        let path = self.repo().join("refs/heads").join(BRANCH);
        fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

/// Where clients find a repository.
#[derive(Clone, Debug)]
pub struct Remote {
    pub url: String,
    /// The certificate of the server, if it has one.
    pub certificate: Option<PathBuf>,
}

/// Adds a remote `demo` whose every signature is verified.
pub fn add_remote(repo: &Path, remote: &Remote, key: &Path) {
    let certificate = remote.certificate.iter();
    ostree(repo, &["remote", "add"])
        .args(["--set=gpg-verify=true", "--set=gpg-verify-summary=true"])
        .arg(format!("--gpg-import={}", key.display()))
        .args(certificate.map(|it| format!("--set=tls-ca-path={}", it.display())))
        .args(["demo", &remote.url])
        .run();
}

/// A client that follows the branch and verifies every signature.
pub struct Follower {
    directory: TempDir,
    remote: Remote,
    key: PathBuf,
}

impl Follower {
    pub fn new(remote: &Remote, key: &Key) -> Self {
        let follower = Self {
            directory: TempDir::new().unwrap(),
            remote: remote.clone(),
            key: key.public(),
        };
        follower.start_over();
        follower
    }

    /// Forgets all that it has.
    pub fn start_over(&self) {
        let repo = self.repo();
        _ = fs::remove_dir_all(&repo);
        init(&repo, "bare-user-only");
        add_remote(&repo, &self.remote, &self.key);
    }

    fn repo(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    /// Goes on with another remote that has the same repository.
    pub fn moved(&mut self, remote: &Remote) {
        self.remote = remote.clone();
        let set = |key: &str, value: &str| {
            let group = ["config", "set", "--group=remote \"demo\""];
            ostree(&self.repo(), &group).args([key, value]).run();
        };
        set("url", &remote.url);
        if let Some(certificate) = &remote.certificate {
            set("tls-ca-path", &certificate.to_string_lossy());
        }
    }

    /// Pulls the branch, and tells what was said if that failed.
    pub fn pull(&self) -> Result<Output, Output> {
        let pull = nice_ostree(&self.repo(), &["pull", "demo", BRANCH]);
        let (status, output) = pull.env("OSTREE_DEBUG_HTTP", "1").finish();
        match status.success() {
            true => Ok(output),
            false => Err(output),
        }
    }

    /// Pulls the branch; panics if that fails.
    pub fn must_pull(&self) -> Output {
        let failed = |output: Output| -> ! { panic!("{}\n{}", output.stdout, output.stderr) };
        self.pull().unwrap_or_else(|output| failed(output))
    }

    /// The commit that it has; `None` before the first pull.
    pub fn tip(&self) -> Option<String> {
        let path = self.repo().join("refs/remotes/demo").join(BRANCH);
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    }

    /// Panics unless all that it has is whole.
    pub fn fsck(&self) {
        ostree(&self.repo(), &["fsck"]).run();
    }
}

/// What clients met with.
#[derive(Debug, Default)]
pub struct Tally {
    pub pulls: usize,
    pub failures: Vec<Failure>,
    /// The positions of the commits that they had after their pulls.
    pub seen: BTreeSet<usize>,
}

#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub text: String,
}

/// How a pull can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BadSignature,
    NoSignature,
    NotFound,
    Other,
    /// It did not fail, and brought a commit that is none, or an older one.
    Backwards,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::BadSignature,
        Self::NoSignature,
        Self::NotFound,
        Self::Other,
        Self::Backwards,
    ];

    fn of(stderr: &str) -> Self {
        // What gpg says is on further lines.
        let error = stderr.find("\nerror:").map_or(stderr, |at| &stderr[at..]);
        let says = |text: &str| error.contains(text);
        match () {
            () if says("BAD signature") => Self::BadSignature,
            () if says("signatures found") || says("no summary.sig found") => Self::NoSignature,
            () if says("404") => Self::NotFound,
            () => Self::Other,
        }
    }
}

impl Tally {
    fn fail(&mut self, kind: Kind, text: String) {
        self.failures.push(Failure { kind, text });
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.failures.iter().filter(|it| it.kind == kind).count()
    }

    fn add(&mut self, other: Self) {
        self.pulls += other.pulls;
        self.failures.extend(other.failures);
        self.seen.extend(other.seen);
    }

    /// Panics if any pull failed, with what the first ones said.
    pub fn assert_flawless(&self) {
        let first: Vec<_> = self.failures.iter().take(3).collect();
        let count = self.failures.len();
        assert!(count == 0, "{count} of {} pulls: {first:#?}", self.pulls);
    }
}

/// Lets the clients pull, again and again, for as long as `write` goes on.
/// `each` is called after each pull that went well.
pub fn while_pulling(
    followers: &[Follower],
    history: &History,
    each: impl Fn(&Follower, &Output) + Sync,
    write: impl FnOnce(),
) -> Tally {
    /// Tells the clients to stop also if the writer panics: they would keep the
    /// test from ending.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let stop = AtomicBool::new(false);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let follow = |follower| follow(follower, history, &stop, &each);
        let threads: Vec<_> = followers
            .iter()
            .map(|follower| scope.spawn(move || follow(follower)))
            .collect();
        let end = Stop(&stop);
        write();
        drop(end);
        for thread in threads {
            tally.add(thread.join().unwrap());
        }
    });
    tally
}

fn follow(
    follower: &Follower,
    history: &History,
    stop: &AtomicBool,
    each: &impl Fn(&Follower, &Output),
) -> Tally {
    let mut tally = Tally::default();
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        tally.pulls += 1;
        let output = match follower.pull() {
            Ok(output) => output,
            Err(output) => {
                tally.fail(Kind::of(&output.stderr), output.stderr);
                continue;
            }
        };
        let tip = follower.tip().expect("what was pulled");
        match history.position(&tip) {
            Some(position) if position >= last => {
                last = position;
                tally.seen.insert(position);
            }
            other => tally.fail(Kind::Backwards, format!("{tip} ({other:?}) after {last}")),
        }
        each(follower, &output);
    }
    tally
}

/// How long it takes until a change is served, measured by asking again and
/// again.
pub fn delay(mut is_served: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_served() {
        assert!(start.elapsed() < Duration::from_secs(20), "never served");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}
