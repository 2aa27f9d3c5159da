//! What the confined process can get at: decided from the configuration and from
//! where its symbolic links lead, before anything is forbidden.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::config::{Address, Config};
use crate::files::is_permitted;
use crate::finding::{Finding, Place, shell_word};

/// Files of the system that are read while the server runs, to name users and
/// groups. Where they are replaced later, numbers are named instead.
const SYSTEM: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];

/// What is within reach. All of it is without symbolic links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Directories below which everything may be read.
    pub read: BTreeSet<PathBuf>,
    /// Files that may be read.
    pub files: BTreeSet<PathBuf>,
    /// Directories in which sockets may be made and removed.
    pub sockets: BTreeSet<PathBuf>,
    /// Sockets that were named, and whose directories were not there.
    pub absent: BTreeSet<PathBuf>,
}

impl Reach {
    /// What this configuration needs.
    pub fn of(config: &Config) -> Self {
        let mut read = BTreeSet::new();
        for (path, _) in named(config) {
            read.extend(around(&path));
        }
        for directory in &config.sandbox.directories {
            // One that is not there yet may be made later, and is then out of reach.
            read.extend(directory.value.canonicalize());
        }
        let directory = |path: &Path| path.parent()?.canonicalize().ok();
        let (there, absent): (Vec<_>, Vec<_>) = sockets(config)
            .map(|(path, _)| path)
            .partition(|path| directory(path).is_some());
        let files = SYSTEM
            .iter()
            .filter_map(|it| Path::new(it).canonicalize().ok());
        Self {
            sockets: there.iter().filter_map(|it| directory(it)).collect(),
            absent: absent.into_iter().collect(),
            files: files.collect(),
            read,
        }
    }

    /// Whether something may be read, wherever its links lead. What does not exist
    /// counts by where it would be: whoever opens it says that it is not there.
    pub fn covers(&self, path: &Path) -> bool {
        let real = path.canonicalize().or_else(|_| in_real_directory(path));
        let real = real.unwrap_or_else(|_| path.to_owned());
        self.read.iter().any(|it| real.starts_with(it))
    }

    /// What a configuration names that is out of reach.
    pub fn lacks(&self, config: &Config) -> Vec<Finding> {
        let unreadable = named(config).into_iter().filter_map(|(path, place)| {
            let reason = match self.covers(&path) {
                true if !is_shut_out(&path) => return None,
                true => "a directory around it was mounted or renamed anew since",
                false => "and its configuration did not name it then",
            };
            Some(out_of_reach(&path, place, reason))
        });
        let closed = sockets(config).filter_map(|(path, place)| {
            let directory = path.parent()?;
            let real = directory.canonicalize().ok()?;
            // That it was missing at the start has been no reason not to serve.
            let is_new = !self.sockets.contains(&real) && !self.absent.contains(&path);
            is_new.then(|| no_socket(directory, place))
        });
        unreadable.chain(closed).collect()
    }
}

/// Whether Landlock alone forbids to open what is there. By its name it may be within
/// reach nevertheless: rules are about files, not about names (landlock(7)).
fn is_shut_out(path: &Path) -> bool {
    // Whatever it is, opening it waits for nobody.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.is_err_and(|it| it == Errno::ACCESS) && is_permitted(path)
}

/// The reason and the remedy for what a reload cannot have.
fn out_of_reach(path: &Path, place: Place, why: &str) -> Finding {
    let reason = format!(
        "`{}` is out of reach: the server has confined itself, {why}",
        path.display()
    );
    let around = path.parent().unwrap_or(path);
    let remedy = format!(
        "restart the server (systemctl restart ostree-serve); to have it in reach of reloads, \
         list {} in `sandbox.directories` before",
        shell_word(around)
    );
    Finding::error(place, reason).remedy(remedy)
}

fn no_socket(directory: &Path, place: Place) -> Finding {
    let reason = format!(
        "no socket can be made in `{}`: the server has confined itself, and there was none \
         there when it was started",
        directory.display()
    );
    Finding::error(place, reason).remedy("restart the server (systemctl restart ostree-serve)")
}

/// Everything that is read, and where it is named. With the file itself.
fn named(config: &Config) -> Vec<(PathBuf, Place)> {
    let placed = |it: &crate::config::Placed<PathBuf>| (it.value.clone(), it.place.clone());
    let mut named = vec![(config.file.clone(), Place::from(&*config.file))];
    if let Some(tls) = &config.tls {
        named.push(placed(&tls.certificate));
        named.push(placed(&tls.private_key));
        named.extend(tls.client_ca.as_ref().map(placed));
    }
    for repo in &config.repos {
        named.push(placed(&repo.mount.path));
        named.extend(repo.publishing.verify_keys.iter().map(placed));
    }
    named.extend(config.statics.iter().map(|it| placed(&it.path)));
    named
}

/// The Unix sockets, and where they are named.
fn sockets(config: &Config) -> impl Iterator<Item = (PathBuf, Place)> {
    let listen = &config.listen;
    let listeners = [&listen.https, &listen.redirect, &listen.http]
        .into_iter()
        .flatten()
        .filter_map(|address| match address {
            Address::Unix(path) => {
                let place = listen.place(address).cloned();
                Some((
                    path.clone(),
                    place.unwrap_or_else(|| (&*config.file).into()),
                ))
            }
            Address::Tcp(_) => None,
        });
    let control = (listen.control.value.clone(), listen.control.place.clone());
    std::iter::once(control).chain(listeners)
}

/// The directories around a file or directory: where its name is, and where what it
/// leads to is, so that both may be replaced (certbot's `live` leads to `archive`).
/// Never the root directory, which would be everything; then it is the thing itself.
fn around(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(Ok(directory)) = path.parent().map(Path::canonicalize) {
        found.push(directory);
    }
    if let Ok(real) = path.canonicalize() {
        found.extend(real.parent().map(Path::to_owned));
        if found.iter().any(|it| it == Path::new("/")) {
            found.push(real);
        }
    }
    found.retain(|it| it != Path::new("/"));
    found
}

fn in_real_directory(path: &Path) -> std::io::Result<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new("/")).canonicalize()?;
    Ok(directory.join(path.file_name().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// `live` leads to `archive`, `repos/prod` to another place, as certbot and
    /// administrators do it.
    fn configured() -> (TempDir, Config) {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in [
            "etc",
            "live",
            "archive",
            "repos/dev",
            "disk/prod",
            "new",
            "run",
        ] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("archive/cert1.pem"), "").unwrap();
        symlink("../archive/cert1.pem", at("live/cert.pem")).unwrap();
        symlink("../disk/prod", at("repos/prod")).unwrap();
        let config = parse(&directory, "");
        (directory, config)
    }

    fn parse(directory: &TempDir, more: &str) -> Config {
        let text = format!(
            "[listen]\ncontrol = \"../run/control.sock\"\n\
             [tls]\ncertificate = \"../live/cert.pem\"\n\
             [[repo]]\nprefix = \"/prod\"\npath = \"../repos/prod\"\n{more}"
        );
        Config::parse(&text, &directory.path().join("etc/serve.toml")).unwrap()
    }

    #[test]
    fn it_is_what_is_around_and_where_links_lead() {
        let (directory, config) = configured();
        let reach = Reach::of(&config);
        let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
        let expected = ["etc", "live", "archive", "repos", "disk"].map(at);
        assert_eq!(reach.read, expected.into());
        assert_eq!(reach.sockets, [at("run")].into());
        let cases = [
            ("repos/dev", true),
            ("repos/prod/objects/aa", true),
            ("repos/not-there-yet", true),
            ("disk/prod", true),
            ("archive/cert2.pem", true),
            ("new", false),
            ("repos/../new", false),
            ("", false),
        ];
        for (name, expected) in cases {
            assert_eq!(reach.covers(&at(name)), expected, "{name}");
        }
    }

    #[test]
    fn the_root_directory_is_never_within_reach() {
        assert_eq!(around(Path::new("/usr")), [PathBuf::from("/usr")]);
        assert!(around(Path::new("/")).is_empty());
        assert!(around(Path::new("/not-there")).is_empty());
    }

    #[test]
    fn a_reload_is_told_what_to_do() {
        let (directory, config) = configured();
        let reach = Reach::of(&config);
        assert_eq!(reach.lacks(&config), []);
        let beside = "[[repo]]\nprefix = \"/dev\"\npath = \"../repos/dev\"\n";
        assert_eq!(reach.lacks(&parse(&directory, beside)), []);
        let elsewhere = "[[repo]]\nprefix = \"/new\"\npath = \"../new\"\n";
        let findings = reach.lacks(&parse(&directory, elsewhere));
        let said: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        for part in [
            "serve.toml:10:8: error",
            "out of reach",
            "systemctl restart",
            "`sandbox.directories`",
        ] {
            assert!(said[0].contains(part), "{part}: {}", said[0]);
        }
        let mut listed = config.clone();
        listed.sandbox.directories = vec![crate::config::Placed {
            value: directory.path().to_owned(),
            place: config.listen.control.place.clone(),
        }];
        assert_eq!(Reach::of(&listed).lacks(&parse(&directory, elsewhere)), []);
        let mut moved = config.clone();
        moved.listen.control.value = directory.path().join("new/control.sock");
        let findings = reach.lacks(&moved);
        assert!(
            findings[0].reason.contains("no socket can be made"),
            "{findings:?}"
        );
    }
}
