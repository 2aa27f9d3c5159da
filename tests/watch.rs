//! Noticing changes, on a disk and in memory. In memory it is by real events of
//! the kernel, always. On the disk it is by whatever its file system allows: that
//! of a container is an overlay, which is polled, and the same stories are true
//! of it with the interval in place of events.
//!
//! What needs mounts and limits of its own is in `real_watch.rs`.

mod common;

use std::fs;
use std::future::Future;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostree_serve::config::Notice;
use ostree_serve::watch::{Cause, Means, Watch};
use tempfile::TempDir;
use tokio::time::{timeout, timeout_at};

/// An interval that no test lives to see the end of.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// The interval where there are no events.
const TICK: Duration = Duration::from_millis(20);

/// When nothing is told for this long, nothing will be: it is well over the
/// longest that events are held back, 250 ms.
const QUIET: Duration = Duration::from_millis(400);

/// What is left of a change is told of in this time, unless the machine is busy.
const REST: Duration = Duration::from_millis(150);

const AUTO: Notice = Notice::Automatic;

/// Runs a story on a disk and in memory, each with an empty directory.
fn everywhere<F: Future>(story: impl Fn(Place) -> F + Sync) {
    thread::scope(|scope| {
        for parent in [env!("CARGO_TARGET_TMPDIR"), MEMORY] {
            let story = &story;
            scope.spawn(move || {
                let directory = TempDir::new_in(parent).unwrap_or_else(|error| {
                    panic!("{parent}: {error}; mount a tmpfs at {MEMORY}, and build first")
                });
                let runtime = ostree_serve::daemon::runtime().unwrap();
                runtime.block_on(async {
                    let place = Place::at(directory.path(), parent == MEMORY);
                    story(place).await;
                });
            });
        }
    });
}

const MEMORY: &str = "/dev/shm";

/// An empty directory, and by what changes in it are noticed.
struct Place {
    path: PathBuf,
    cause: Cause,
}

impl Place {
    /// A place that polls for another reason than its file system would hide that
    /// events do not work, and so would one in memory that polls at all.
    fn at(path: &Path, in_memory: bool) -> Self {
        let means = Watch::repository(path, AUTO, NEVER).means();
        let cause = match &means {
            Means::Inotify => Cause::Event,
            Means::Poll { why } if why.ends_with("which does not tell of all changes") => {
                assert!(!in_memory, "{means}: mount a tmpfs at {MEMORY}");
                Cause::Poll
            }
            Means::Poll { why } => panic!("{path:?} cannot be watched here: {why}"),
        };
        let path = path.to_owned();
        Self { path, cause }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn watch_repo(&self, path: &Path) -> Observed {
        self.observe(Watch::repository(path, AUTO, self.interval()))
    }

    fn watch_files(&self, paths: &[PathBuf]) -> Observed {
        self.observe(Watch::files(paths, AUTO, self.interval()))
    }

    fn observe(&self, watch: Watch) -> Observed {
        let cause = self.cause;
        Observed { watch, cause }
    }

    fn interval(&self) -> Duration {
        match self.cause {
            Cause::Event => NEVER,
            Cause::Poll => TICK,
        }
    }
}

/// A watch, and the only cause that it may ever tell of.
struct Observed {
    watch: Watch,
    cause: Cause,
}

impl Observed {
    async fn changed(&mut self) -> Cause {
        let cause = self.watch.changed().await;
        assert_eq!(cause, self.cause, "by {}", self.watch.means());
        cause
    }
}

/// A directory with what a watch looks at.
fn make_repo(path: &Path) {
    for directory in ["refs/heads/a", "objects/00", "tmp", "state"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    for file in [
        "config",
        "summary",
        "summary.sig",
        ".lock",
        "refs/heads/a/b",
    ] {
        fs::write(path.join(file), "old").unwrap();
    }
}

fn replace(path: &Path) {
    let new = path.with_file_name("tmp-new");
    fs::write(&new, "new").unwrap();
    fs::rename(new, path).unwrap();
}

/// The change that was just made is told of, and then nothing more.
async fn noticed(watch: &mut Observed, what: &str) {
    // The first end of an interval may be that of a look before the change.
    let times = match watch.cause {
        Cause::Event => 1,
        Cause::Poll => 2,
    };
    for _ in 0..times {
        let told = timeout(Duration::from_secs(20), watch.changed()).await;
        assert!(told.is_ok(), "{what}");
    }
    // A change of many steps may be told of in two.
    silence(watch, REST).await;
}

/// What is told after this is of what happens after this, however busy the
/// machine is.
async fn settled(watch: &mut Observed) {
    silence(watch, QUIET).await;
}

async fn silence(watch: &mut Observed, long: Duration) {
    if watch.cause == Cause::Event {
        while timeout(long, watch.changed()).await.is_ok() {}
    }
}

/// No event is told of. Intervals end, whatever happens.
async fn not_noticed(watch: &mut Observed, what: &str) {
    let end = Instant::now() + QUIET;
    while let Ok(cause) = timeout_at(end.into(), watch.changed()).await {
        assert_eq!(cause, Cause::Poll, "{what}");
    }
}

#[test]
fn each_change_of_a_document_is_noticed() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 12] = [
        ("summary replaced", |repo| replace(&repo.join("summary"))),
        ("summary written in place", |repo| {
            fs::write(repo.join("summary"), "new").unwrap();
        }),
        ("signature gone", |repo| {
            fs::remove_file(repo.join("summary.sig")).unwrap();
        }),
        ("index made", |repo| {
            fs::write(repo.join("summary.idx"), "").unwrap();
        }),
        ("summary made unreadable", |repo| {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(repo.join("summary"), mode).unwrap();
        }),
        ("config replaced", |repo| replace(&repo.join("config"))),
        ("ref replaced", |repo| replace(&repo.join("refs/heads/a/b"))),
        ("ref deleted", |repo| {
            fs::remove_file(repo.join("refs/heads/a/b")).unwrap();
        }),
        ("ref in a new directory", |repo| {
            fs::create_dir_all(repo.join("refs/heads/c/d/e")).unwrap();
            fs::write(repo.join("refs/heads/c/d/e/f"), "").unwrap();
        }),
        ("and that ref replaced", |repo| {
            replace(&repo.join("refs/heads/c/d/e/f"));
        }),
        ("refs gone", |repo| {
            fs::remove_dir_all(repo.join("refs")).unwrap();
        }),
        ("a writer has finished", |repo| {
            drop(fs::File::options().write(true).open(repo.join(".lock")));
        }),
    ];
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        for (what, change) in changes {
            change(&repo);
            noticed(&mut watch, what).await;
        }
    });
}

#[test]
fn summaries_may_come_later() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        fs::create_dir(repo.join("summaries")).unwrap();
        noticed(&mut watch, "directory made").await;
        fs::write(repo.join("summaries/abc.gz"), "").unwrap();
        noticed(&mut watch, "file made in it").await;
    });
}

#[test]
fn what_is_no_document_is_not_noticed() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        for file in [
            "objects/00/1.filez",
            "tmp/x",
            "state/x",
            "x",
            "../beside",
            "summary.x",
        ] {
            fs::write(repo.join(file), "").unwrap();
            fs::remove_file(repo.join(file)).unwrap();
        }
        fs::create_dir(repo.join("deltas")).unwrap();
        not_noticed(&mut watch, "nothing of interest").await;
    });
}

/// More is read than the kernel would remember if it told of reading, so that a
/// full queue would be told of at the latest.
#[test]
fn reading_is_not_noticed() {
    const ROUNDS: usize = 2500;
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        // It ends when it has read that much, not when time is up: a busy machine
        // would not have it begin.
        let mut reader = tokio::task::spawn_blocking(move || {
            for _ in 0..ROUNDS {
                for directory in ["", "refs", "refs/heads", "refs/heads/a"] {
                    let entries = fs::read_dir(repo.join(directory)).unwrap();
                    entries.for_each(|it| _ = fs::read(it.unwrap().path()));
                }
            }
        });
        loop {
            tokio::select! {
                read = &mut reader => break read.unwrap(),
                cause = watch.changed() => assert_eq!(cause, Cause::Poll, "reading"),
            }
        }
        not_noticed(&mut watch, "reading").await;
    });
}

#[test]
fn a_directory_may_be_replaced() {
    everywhere(|place| async move {
        let [repo, new, old] = ["repo", "new", "old"].map(|it| place.join(it));
        make_repo(&repo);
        make_repo(&new);
        let mut watch = place.watch_repo(&repo);
        fs::rename(&repo, &old).unwrap();
        fs::rename(&new, &repo).unwrap();
        noticed(&mut watch, "replaced").await;
        replace(&repo.join("summary"));
        noticed(&mut watch, "a change in the new one").await;
        settled(&mut watch).await;
        replace(&old.join("summary"));
        not_noticed(&mut watch, "a change in the old one").await;

        fs::remove_dir_all(&repo).unwrap();
        noticed(&mut watch, "removed").await;
        make_repo(&repo);
        noticed(&mut watch, "made again").await;
        replace(&repo.join("refs/heads/a/b"));
        noticed(&mut watch, "a change in that one").await;
    });
}

/// The kernel tells of the end of a directory only when nobody has it open, and
/// a server has.
#[test]
fn a_directory_that_is_held_open_may_be_removed() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        fs::create_dir(&repo).unwrap();
        let held = fs::File::open(&repo).unwrap();
        let mut watch = place.watch_repo(&repo);
        fs::remove_dir(&repo).unwrap();
        noticed(&mut watch, "removed").await;
        make_repo(&repo);
        noticed(&mut watch, "made again").await;
        drop(held);
    });
}

/// A directory that is back looks as if nothing had happened.
#[test]
fn a_directory_may_go_and_come_back() {
    everywhere(|place| async move {
        let [repo, away] = ["repo", "away"].map(|it| place.join(it));
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        for directory in ["", "refs/heads/a"].map(|it| repo.join(it)) {
            fs::rename(&directory, &away).unwrap();
            fs::rename(&away, &directory).unwrap();
            noticed(&mut watch, "moved").await;
            replace(&repo.join("refs/heads/a/b"));
            noticed(&mut watch, "a change in it").await;
        }
    });
}

#[test]
fn a_link_on_the_way_may_be_switched() {
    everywhere(|place| async move {
        for name in ["v1", "v2"] {
            make_repo(&place.join(name).join("www/repo"));
        }
        let current = place.join("current");
        symlink("v1", &current).unwrap();
        // A link to a link, one of them absolute.
        symlink(&current, place.join("site")).unwrap();
        let mut watch = place.watch_repo(&place.join("site/www/../www/repo"));
        replace(&place.join("v1/www/repo/summary"));
        noticed(&mut watch, "a change").await;

        symlink("v2", place.join("next")).unwrap();
        fs::rename(place.join("next"), &current).unwrap();
        noticed(&mut watch, "switched").await;
        replace(&place.join("v2/www/repo/summary"));
        noticed(&mut watch, "a change in the new one").await;
        settled(&mut watch).await;
        replace(&place.join("v1/www/repo/summary"));
        not_noticed(&mut watch, "a change in the old one").await;
    });
}

#[test]
fn a_repository_may_come_later() {
    everywhere(|place| async move {
        let mut watch = place.watch_repo(&place.join("a/b/repo"));
        fs::create_dir(place.join("a")).unwrap();
        noticed(&mut watch, "the first directory").await;
        make_repo(&place.join("a/b/repo"));
        noticed(&mut watch, "the rest").await;
        replace(&place.join("a/b/repo/summary"));
        noticed(&mut watch, "a change").await;
    });
}

#[test]
fn links_that_lead_in_circles_are_left() {
    everywhere(|place| async move {
        symlink("b", place.join("a")).unwrap();
        symlink("a", place.join("b")).unwrap();
        let mut watch = place.watch_repo(&place.join("a/repo"));
        fs::remove_file(place.join("a")).unwrap();
        make_repo(&place.join("a/repo"));
        noticed(&mut watch, "made").await;
        replace(&place.join("a/repo/summary"));
        noticed(&mut watch, "a change").await;
    });
}

#[test]
fn ten_thousand_changes_are_told_of_a_few_times() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        let start = Instant::now();
        let writer = tokio::task::spawn_blocking({
            let repo = repo.clone();
            move || {
                for number in 0..10_000 {
                    let name = format!("refs/heads/a/{}", number % 100);
                    fs::write(repo.join(name), number.to_string()).unwrap();
                }
            }
        });
        let mut told = 0;
        while timeout(QUIET, watch.changed()).await.is_ok() {
            told += 1;
            if place.cause == Cause::Poll && writer.is_finished() {
                break;
            }
        }
        writer.await.unwrap();
        // Two are never closer than the shortest time events are held back, or
        // than an interval is long.
        let shortest = Duration::from_millis(100).min(place.interval());
        let most = start.elapsed().as_millis() / shortest.as_millis();
        assert!(told >= 1 && told <= most, "{told}, at most {most}");
        replace(&repo.join("summary"));
        noticed(&mut watch, "a change afterwards").await;
    });
}

#[test]
fn a_busy_writer_does_not_delay_for_ever() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Never as quiet as events ask for, until it is told that it was noticed.
            scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_secs(20);
                while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
                    fs::write(repo.join("summary"), "new").unwrap();
                }
            });
            let told = tokio::task::block_in_place(|| {
                let wait = timeout(Duration::from_secs(15), watch.changed());
                tokio::runtime::Handle::current().block_on(wait)
            });
            done.store(true, Ordering::Relaxed);
            assert_eq!(told, Ok(place.cause));
        });
    });
}

#[test]
fn a_call_that_is_dropped_loses_nothing() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = place.watch_repo(&repo);
        replace(&repo.join("summary"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while timeout(Duration::from_millis(1), watch.changed())
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "it is lost");
        }
    });
}

#[test]
fn the_interval_ticks_with_and_without_events() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let automatic = match place.cause {
            Cause::Event => "inotify",
            Cause::Poll => "poll: ",
        };
        for (notice, means) in [
            (AUTO, automatic),
            (Notice::Poll, "poll: the configuration says so"),
        ] {
            let mut watch = Watch::repository(&repo, notice, Duration::from_millis(50));
            let now = watch.means().to_string();
            assert!(now.starts_with(means), "{now}");
            for _ in 0..3 {
                let cause = timeout(Duration::from_secs(20), watch.changed()).await;
                assert_eq!(cause, Ok(Cause::Poll));
            }
        }
        let mut watch = Watch::repository(&repo, Notice::Poll, NEVER);
        replace(&repo.join("summary"));
        let told = timeout(QUIET, watch.changed()).await;
        assert!(told.is_err(), "a change that is only polled for");
    });
}

/// As certbot does it: the name leads to a file that is never changed, and then
/// to another one.
#[test]
fn a_certificate_behind_a_link() {
    everywhere(|place| async move {
        let [live, archive] = ["live/name", "archive/name"].map(|it| place.join(it));
        fs::create_dir_all(&live).unwrap();
        fs::create_dir_all(&archive).unwrap();
        let names = ["fullchain", "privkey"].map(|it| live.join(format!("{it}.pem")));
        for name in ["fullchain", "privkey"] {
            fs::write(archive.join(format!("{name}1.pem")), "1").unwrap();
            symlink(
                format!("../../archive/name/{name}1.pem"),
                live.join(format!("{name}.pem")),
            )
            .unwrap();
        }
        let mut watch = place.watch_files(&names);

        fs::write(archive.join("fullchain2.pem"), "2").unwrap();
        fs::write(live.join("README"), "").unwrap();
        not_noticed(&mut watch, "files that nothing leads to").await;
        fs::remove_file(&names[0]).unwrap();
        symlink("../../archive/name/fullchain2.pem", &names[0]).unwrap();
        noticed(&mut watch, "another file").await;
        fs::write(archive.join("fullchain2.pem"), "3").unwrap();
        noticed(&mut watch, "a change of that file").await;
        fs::write(archive.join("privkey1.pem"), "2").unwrap();
        noticed(&mut watch, "a change of the other one").await;
    });
}

/// As Kubernetes does it: the files lead through `..data`, and that to a
/// directory, which is replaced as a whole.
#[test]
fn a_certificate_behind_a_linked_directory() {
    everywhere(|place| async move {
        for version in ["..1", "..2"] {
            fs::create_dir(place.join(version)).unwrap();
            fs::write(place.join(version).join("tls.crt"), version).unwrap();
        }
        symlink("..1", place.join("..data")).unwrap();
        symlink("..data/tls.crt", place.join("tls.crt")).unwrap();
        let mut watch = place.watch_files(&[place.join("tls.crt")]);
        symlink("..2", place.join("..data_tmp")).unwrap();
        fs::rename(place.join("..data_tmp"), place.join("..data")).unwrap();
        noticed(&mut watch, "switched").await;
        settled(&mut watch).await;
        fs::remove_dir_all(place.join("..1")).unwrap();
        not_noticed(&mut watch, "the old one removed").await;
        fs::write(place.join("..2/tls.crt"), "new").unwrap();
        noticed(&mut watch, "a change of the new one").await;
    });
}

#[test]
fn a_certificate_may_come_later() {
    everywhere(|place| async move {
        let file = place.join("tls/cert.pem");
        let mut watch = place.watch_files(std::slice::from_ref(&file));
        fs::create_dir(place.join("tls")).unwrap();
        noticed(&mut watch, "its directory").await;
        fs::write(&file, "1").unwrap();
        noticed(&mut watch, "the file").await;
        replace(&file);
        noticed(&mut watch, "replaced").await;
        fs::remove_file(&file).unwrap();
        noticed(&mut watch, "gone").await;
    });
}
