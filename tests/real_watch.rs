//! Noticing changes where the kernel does not tell of them, or refuses to: each
//! test runs once more in a process of its own, most of them in namespaces.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::command::Program;
use ostree_serve::config::Notice;
use ostree_serve::watch::{Cause, Means, Watch};
use tempfile::TempDir;
use tokio::time::timeout;

const INTERVAL: Duration = Duration::from_millis(100);

/// Set for the test that runs inside.
const INSIDE: &str = "OSTREE_SERVE_TEST_INSIDE";

/// How to become root of a user namespace of its own, which has limits of its own.
const USER: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];

/// The same for who is root already, where user namespaces are forbidden; enough
/// to mount.
const MOUNT: &[&str] = &["unshare", "--mount"];

/// Runs a story where it may mount.
fn mounting<F: Future<Output = ()>>(test: &str, story: impl FnOnce(PathBuf) -> F) {
    begun_by(test, story, || first_allowed(&[USER, MOUNT]));
}

/// Runs a story where it may set limits. Never without a user namespace: they
/// would be the machine's.
fn limiting<F: Future<Output = ()>>(test: &str, story: impl FnOnce(PathBuf) -> F) {
    begun_by(test, story, || first_allowed(&[USER]));
}

/// Runs a story with the rights of files' owners only, even as root.
fn unprivileged<F: Future<Output = ()>>(test: &str, story: impl FnOnce(PathBuf) -> F) {
    const OWNER: &[&str] = &["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    begun_by(test, story, || match rustix::process::geteuid().is_root() {
        true => OWNER,
        false => &["env"],
    });
}

/// Runs a story in a process of its own, which this command begins.
fn begun_by<F: Future<Output = ()>>(
    test: &str,
    story: impl FnOnce(PathBuf) -> F,
    command: impl FnOnce() -> &'static [&'static str],
) {
    if std::env::var_os(INSIDE).is_some() {
        let place = TempDir::new_in("/dev/shm").unwrap();
        let runtime = ostree_serve::daemon::runtime().unwrap();
        return runtime.block_on(story(place.path().to_owned()));
    }
    let command = command();
    let output = Program::new(command[0])
        .args(&command[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .run();
    assert!(output.stdout.contains("1 passed"), "{output:?}");
}

/// The first of these commands that may begin another.
fn first_allowed(commands: &[&'static [&'static str]]) -> &'static [&'static str] {
    let mut said = String::new();
    for command in commands {
        let (status, output) = Program::new(command[0])
            .args(&command[1..])
            .arg("true")
            .finish();
        if status.success() {
            return command;
        }
        said += &output.stderr;
    }
    panic!(
        "namespaces are forbidden here, and this test cannot do without: {said}\
         Allow them to all users (sysctl user.max_user_namespaces above 0, \
         kernel.apparmor_restrict_unprivileged_userns=0), or to a container \
         (docker run --cap-add=SYS_ADMIN --security-opt seccomp=unconfined \
         --security-opt apparmor=unconfined)"
    );
}

fn mount(arguments: &[&str], at: &Path) {
    Program::new("mount").args(arguments).arg(at).run();
}

fn watch(path: &Path) -> Watch {
    Watch::repository(path, Notice::Automatic, INTERVAL)
}

/// Waits for this cause, past others.
async fn told(watch: &mut Watch, cause: Cause) {
    let wait = async { while watch.changed().await != cause {} };
    let told = timeout(Duration::from_secs(20), wait).await;
    assert!(told.is_ok(), "{cause:?} is not told");
}

/// Waits until changes are noticed by other means.
async fn means(watch: &mut Watch, expected: impl Fn(&Means) -> bool) -> Means {
    let wait = async {
        while !expected(&watch.means()) {
            watch.changed().await;
        }
        watch.means()
    };
    let now = timeout(Duration::from_secs(20), wait).await;
    now.unwrap_or_else(|_| panic!("it is still {}", watch.means()))
}

fn polls(means: &Means) -> bool {
    matches!(means, Means::Poll { .. })
}

#[test]
fn lower_layers_are_polled() {
    mounting("lower_layers_are_polled", |place| async move {
        let [lower, upper, work, repo] =
            ["lower", "upper", "work", "repo"].map(|it| place.join(it));
        for directory in [&lower, &upper, &work, &repo] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(lower.join("summary"), "old").unwrap();
        let mut watch = watch(&repo);
        assert_eq!(watch.means(), Means::Inotify);

        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(&["-t", "overlay", "-o", &layers, "none"], &repo);
        let means = means(&mut watch, polls).await.to_string();
        let expected = format!(
            "poll: {} is on overlayfs, which does not tell of all changes",
            repo.display()
        );
        assert_eq!(means, expected);
        // What is yet to come can come from below as well.
        let later = self::watch(&repo.join("later")).means();
        assert_eq!(later.to_string(), expected);

        fs::write(lower.join("summary"), "new").unwrap();
        told(&mut watch, Cause::Poll).await;
        assert_eq!(fs::read(repo.join("summary")).unwrap(), b"new");
    });
}

/// The new file system has the numbers of the old one, and none of its watches.
#[test]
fn what_is_mounted_again_is_watched_again() {
    mounting(
        "what_is_mounted_again_is_watched_again",
        |place| async move {
            mount(&["-t", "tmpfs", "none"], &place);
            let mut watch = watch(&place);
            for turn in 0..3 {
                Program::new("umount").arg(&place).run();
                mount(&["-t", "tmpfs", "none"], &place);
                // What was mounted is seen at the end of the interval at the latest.
                told(&mut watch, Cause::Poll).await;
                told(&mut watch, Cause::Poll).await;
                fs::write(place.join("summary"), turn.to_string()).unwrap();
                told(&mut watch, Cause::Event).await;
            }
        },
    );
}

/// The kernel has one watch for both, and notify one name.
#[test]
fn a_directory_may_be_bound_to_two_places() {
    mounting(
        "a_directory_may_be_bound_to_two_places",
        |place| async move {
            let [one, two] = ["one", "two"].map(|it| place.join(it));
            fs::create_dir(&one).unwrap();
            fs::create_dir(&two).unwrap();
            mount(&["--bind", one.to_str().unwrap()], &two);
            let files = [one.join("cert"), two.join("key")];
            let mut watch = Watch::files(&files, Notice::Automatic, INTERVAL);
            for file in &files {
                fs::write(file, "new").unwrap();
                told(&mut watch, Cause::Event).await;
            }
        },
    );
}

#[test]
fn without_watches_it_polls_and_says_why() {
    limiting(
        "without_watches_it_polls_and_says_why",
        |place| async move {
            let limit = |name: &str, value: &str| {
                fs::write(format!("/proc/sys/user/max_inotify_{name}"), value).unwrap();
            };
            for (name, sysctl) in [
                ("watches", "fs.inotify.max_user_watches"),
                ("instances", "fs.inotify.max_user_instances"),
            ] {
                limit(name, "0");
                let mut watch = watch(&place);
                let why = watch.means().to_string();
                assert!(why.starts_with("poll: ") && why.contains(sysctl), "{why}");
                told(&mut watch, Cause::Poll).await;

                limit(name, "100");
                means(&mut watch, |it| *it == Means::Inotify).await;
                fs::write(place.join("summary"), "new").unwrap();
                told(&mut watch, Cause::Event).await;
            }
        },
    );
}

#[test]
fn what_may_not_be_listed() {
    unprivileged("what_may_not_be_listed", |place| async move {
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let repo = place.join("repo");
        let refs = repo.join("refs");
        fs::create_dir_all(&refs).unwrap();
        allow(&place, 0o311);
        // One on the way only keeps from noticing at once that it is replaced.
        let mut watch = watch(&repo);
        assert_eq!(watch.means(), Means::Inotify);
        fs::write(repo.join("summary"), "new").unwrap();
        told(&mut watch, Cause::Event).await;

        fs::rename(&refs, repo.join("away")).unwrap();
        fs::create_dir(&refs).unwrap();
        allow(&refs, 0o311);
        let why = means(&mut watch, polls).await.to_string();
        let expected = format!("poll: {} cannot be watched: ", refs.display());
        assert!(why.starts_with(&expected), "{why}");
        allow(&place, 0o700);
    });
}

#[test]
fn a_watch_that_is_dropped_leaves_nothing() {
    unprivileged(
        "a_watch_that_is_dropped_leaves_nothing",
        |place| async move {
            let queues = || {
                let open = fs::read_dir("/proc/self/fd").unwrap();
                open.filter_map(|it| fs::read_link(it.unwrap().path()).ok())
                    .filter(|it| it.as_os_str() == "anon_inode:inotify")
                    .count()
            };
            let watch = watch(&place);
            assert_eq!(queues(), 1);
            drop(watch);
            common::wait_for("the end of the queue", || (queues() == 0).then_some(()));
        },
    );
}
