//! Noticing changes, on a disk and in memory, by real events of the kernel.
//!
//! What needs mounts and limits of its own is in `real_watch.rs`.

mod common;

use std::fs;
use std::future::Future;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostree_serve::config::Notice;
use ostree_serve::watch::{Cause, Means, Watch};
use tempfile::TempDir;
use tokio::time::timeout;

/// An interval that no test lives to see the end of.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// When nothing is told for this long, nothing will be: it is more than twice
/// the longest that events are held back.
const QUIET: Duration = Duration::from_millis(600);

const AUTO: Notice = Notice::Automatic;

/// Runs a story on a disk and in memory, each with an empty directory.
fn everywhere<F: Future>(story: impl Fn(PathBuf) -> F + Sync) {
    thread::scope(|scope| {
        for place in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
            let story = &story;
            scope.spawn(move || {
                let place = TempDir::new_in(place).unwrap();
                let runtime = ostree_serve::daemon::runtime().unwrap();
                runtime.block_on(async {
                    check_place(place.path());
                    story(place.path().to_owned()).await;
                });
            });
        }
    });
}

/// A place without events would make every story fail, and not say why.
fn check_place(place: &Path) {
    let means = watch_repo(place).means();
    let advice = "set CARGO_TARGET_DIR to a directory on a local disk";
    assert_eq!(means, Means::Inotify, "{place:?}: {advice}");
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

fn watch_repo(path: &Path) -> Watch {
    Watch::repository(path, AUTO, NEVER)
}

/// The change that was just made is told of, and then nothing more.
async fn noticed(watch: &mut Watch, what: &str) {
    let cause = timeout(Duration::from_secs(20), watch.changed()).await;
    assert_eq!(cause, Ok(Cause::Event), "{what}");
    // A change of many steps may be told of in two.
    while timeout(QUIET, watch.changed()).await.is_ok() {}
}

async fn not_noticed(watch: &mut Watch, what: &str) {
    let cause = timeout(QUIET, watch.changed()).await;
    assert!(cause.is_err(), "{what}: {cause:?}");
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
        let mut watch = watch_repo(&repo);
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
        let mut watch = watch_repo(&repo);
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
        let mut watch = watch_repo(&repo);
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

#[test]
fn reading_is_not_noticed() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = watch_repo(&repo);
        let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for directory in ["", "refs", "refs/heads", "refs/heads/a"] {
                        let entries = fs::read_dir(repo.join(directory)).unwrap();
                        entries.for_each(|it| _ = fs::read(it.unwrap().path()));
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            let told = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(timeout(QUIET, watch.changed()))
            });
            done.store(true, Ordering::Relaxed);
            assert!(told.is_err(), "{told:?}");
        });
        assert!(rounds.into_inner() > 0);
    });
}

#[test]
fn a_directory_may_be_replaced() {
    everywhere(|place| async move {
        let [repo, new, old] = ["repo", "new", "old"].map(|it| place.join(it));
        make_repo(&repo);
        make_repo(&new);
        let mut watch = watch_repo(&repo);
        fs::rename(&repo, &old).unwrap();
        fs::rename(&new, &repo).unwrap();
        noticed(&mut watch, "replaced").await;
        replace(&repo.join("summary"));
        noticed(&mut watch, "a change in the new one").await;
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
        let mut watch = watch_repo(&repo);
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
        let mut watch = watch_repo(&repo);
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
        let mut watch = watch_repo(&place.join("site/www/../www/repo"));
        replace(&place.join("v1/www/repo/summary"));
        noticed(&mut watch, "a change").await;

        symlink("v2", place.join("next")).unwrap();
        fs::rename(place.join("next"), &current).unwrap();
        noticed(&mut watch, "switched").await;
        replace(&place.join("v2/www/repo/summary"));
        noticed(&mut watch, "a change in the new one").await;
        replace(&place.join("v1/www/repo/summary"));
        not_noticed(&mut watch, "a change in the old one").await;
    });
}

#[test]
fn a_repository_may_come_later() {
    everywhere(|place| async move {
        let mut watch = watch_repo(&place.join("a/b/repo"));
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
        let mut watch = watch_repo(&place.join("a/repo"));
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
        let mut watch = watch_repo(&repo);
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
        }
        writer.await.unwrap();
        // Two are never closer than the shortest time events are held back.
        let most = start.elapsed().as_millis() / 100;
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
        let mut watch = watch_repo(&repo);
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
            assert_eq!(told, Ok(Cause::Event));
        });
    });
}

#[test]
fn a_call_that_is_dropped_loses_nothing() {
    everywhere(|place| async move {
        let repo = place.join("repo");
        make_repo(&repo);
        let mut watch = watch_repo(&repo);
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
        for (notice, means) in [
            (AUTO, "inotify"),
            (Notice::Poll, "poll: the configuration says so"),
        ] {
            let mut watch = Watch::repository(&repo, notice, Duration::from_millis(50));
            assert_eq!(watch.means().to_string(), means);
            for _ in 0..3 {
                let cause = timeout(Duration::from_secs(20), watch.changed()).await;
                assert_eq!(cause, Ok(Cause::Poll));
            }
        }
        let mut watch = Watch::repository(&repo, Notice::Poll, NEVER);
        replace(&repo.join("summary"));
        not_noticed(&mut watch, "a change that is only polled for").await;
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
        let mut watch = Watch::files(&names, AUTO, NEVER);

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
        let mut watch = Watch::files(&[place.join("tls.crt")], AUTO, NEVER);
        symlink("..2", place.join("..data_tmp")).unwrap();
        fs::rename(place.join("..data_tmp"), place.join("..data")).unwrap();
        noticed(&mut watch, "switched").await;
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
        let mut watch = Watch::files(std::slice::from_ref(&file), AUTO, NEVER);
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
