//! `ostree-serve check`: everything that can be validated without serving.
//!
//! It opens what start-up opens, by the same functions, binds without listening what
//! start-up binds, and then looks further:
//! whether this user gets at the files inside, and whether clients will find
//! what they ask for first.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, FileType};
use rustix::io::Errno;

use crate::config::{Address, Config, Listen, Mount, Placed, PublicName, RepoMount, Tls};
use crate::control::server::obstacle;
use crate::files::{Cause, Directory, Links, Opened, Patience, Unreadable, permitted};
use crate::finding::{Finding, Place, Severity, shell_word};
use crate::listener::{self, Obstacle};
use crate::repo::Repo;
use crate::statics::Statics;
use crate::tls;

/// Everything that is wrong with a configuration file and with what it names.
pub fn check(file: &Path) -> Vec<Finding> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(findings) => return findings,
    };
    let mut findings = Vec::new();
    if rustix::process::geteuid().is_root() {
        let user = match &*config.sandbox.user {
            "root" => "USER",
            user => user,
        };
        let remedy = format!(
            "runuser -u {user} -- ostree-serve check, with the user that the server runs as"
        );
        let note = Finding::note(
            file,
            "root may read everything, the server's user perhaps not",
        );
        findings.push(note.remedy(remedy));
    }
    if let Some(tls) = &config.tls {
        findings.extend(check_tls(tls, config.listen.public_name.as_ref()));
    }
    findings.extend(check_control(&config.listen.control));
    findings.extend(check_plaintext(file, &config.listen.http));
    findings.extend(check_addresses(file, &config.listen));
    for repo in &config.repos {
        findings.extend(check_repo(repo));
    }
    for mount in &config.statics {
        findings.extend(check_statics(mount));
    }
    findings
}

fn check_tls(tls: &Tls, public_name: Option<&PublicName>) -> Vec<Finding> {
    let identity = match tls::load(tls) {
        Ok(identity) => identity,
        Err(findings) => return findings,
    };
    let certificate = &tls.certificate.value;
    let facts = &identity.certificate;
    let about = format!(
        "a certificate for {}, valid until {}",
        facts.names.join(", "),
        humantime::format_rfc3339_seconds(facts.not_after)
    );
    let mut findings = vec![Finding::note(&**certificate, about)];
    findings.extend(facts.findings(certificate, SystemTime::now()));
    findings.extend(identity.chain_findings(certificate, SystemTime::now()));
    findings.extend(public_name.and_then(|name| facts.other_host(certificate, name)));
    findings.extend(check_secrecy(&tls.private_key.value));
    findings
}

/// A private key that everybody may read is none.
fn check_secrecy(key: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(key).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let reason = format!(
            "every user of this machine may read the private key (mode {:04o})",
            mode & 0o7777
        );
        Finding::warning(key, reason).remedy(format!("chmod o= {}", shell_word(key)))
    })
}

/// Whether the server will have its control socket. A directory that is not there
/// may be one that systemd makes at the start.
fn check_control(socket: &Placed<PathBuf>) -> Option<Finding> {
    let finding = obstacle(socket)?;
    let directory = socket.value.parent().unwrap_or(Path::new("/"));
    let severity = match directory.exists() {
        true => finding.severity,
        false => Severity::Note,
    };
    Some(Finding {
        severity,
        ..finding
    })
}

/// Content in plaintext is meant for a proxy on the same machine.
fn check_plaintext(file: &Path, addresses: &[Address]) -> Vec<Finding> {
    let is_public = |address: &&Address| match address {
        Address::Tcp(address) => !address.ip().is_loopback(),
        Address::Unix(_) => false,
    };
    let finding = |address: &Address| {
        let reason =
            format!("`listen.http` serves content at {address} in plaintext to other machines");
        Finding::warning(file, reason).remedy("listen at 127.0.0.1, [::1] or a Unix socket")
    };
    addresses.iter().filter(is_public).map(finding).collect()
}

/// Whether this machine has what is to be listened at. Unix sockets are left
/// alone: their directory may exist only while the service runs.
fn check_addresses(file: &Path, listen: &Listen) -> Vec<Finding> {
    let all = [&listen.https, &listen.redirect, &listen.http];
    let finding = |address: &Address| {
        let Address::Tcp(socket) = address else {
            return None;
        };
        let obstacle = listener::probe(*socket).err()?;
        let place = listen.place(address).cloned();
        let place = place.unwrap_or_else(|| file.into());
        Some(obstacle_finding(place, *socket, obstacle))
    };
    all.into_iter().flatten().filter_map(finding).collect()
}

fn obstacle_finding(place: Place, address: SocketAddr, obstacle: Obstacle) -> Finding {
    match obstacle {
        Obstacle::Taken => {
            let port = address.port();
            let note = format!("somebody listens at {address}, this server itself if it runs");
            Finding::note(place, note).remedy(format!("`ss -ltnp sport = :{port}` shows who"))
        }
        Obstacle::Forbidden => {
            let note = format!("this user may not listen at {address}, the service perhaps may");
            Finding::note(place, note)
                .remedy("AmbientCapabilities=CAP_NET_BIND_SERVICE in the service's unit")
        }
        Obstacle::Impossible { reason, advice } => {
            let finding = Finding::error(place, format!("cannot listen at {address}: {reason}"));
            match advice.is_empty() {
                true => finding,
                false => finding.remedy(advice),
            }
        }
    }
}

fn check_repo(repo: &RepoMount) -> Vec<Finding> {
    let mount = &repo.mount;
    let path = &mount.path.value;
    let opened = match Repo::open(path, repo.publishing.clone()) {
        Ok(opened) => opened,
        Err(finding) => return vec![finding],
    };
    let about = format!("an archive repository, served at {}", mount.prefix);
    let mut findings = vec![Finding::note(&**path, about)];
    let obstacles = opened.status().waiting;
    findings.extend(obstacles.into_iter().map(|obstacle| {
        let reason = format!("{}: {}", obstacle.file, obstacle.reason);
        Finding::warning(&**path, reason).remedy(obstacle.remedy)
    }));
    findings.extend(check_access(path));
    let summary = path.join("summary");
    if matches!(summary.symlink_metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
    {
        let reason = "the repository has no summary: `ostree remote refs`, flatpak and static deltas need one";
        let remedy = format!("ostree summary --update --repo={}", shell_word(path));
        findings.push(Finding::warning(summary, reason).remedy(remedy));
    }
    findings
}

fn check_statics(mount: &Mount) -> Vec<Finding> {
    let path = &mount.path.value;
    if let Err(finding) = Statics::open(path) {
        return vec![finding];
    }
    let mut findings = Vec::new();
    check_directory(path, path, usize::MAX, Links::Refused, &mut findings);
    shortened(path, findings)
}

/// Whether this user may enter every directory and read what is inside. It
/// takes a second for some 500,000 objects.
fn check_access(repo: &Path) -> Vec<Finding> {
    /// What is served, how deep its directories are, and where links may be.
    const PLACES: [(&str, usize, Links); 5] = [
        ("objects", 1, Links::Refused),
        ("refs", usize::MAX, Links::Inside("refs")),
        ("deltas", 2, Links::Refused),
        ("delta-indexes", 1, Links::Refused),
        ("summaries", 0, Links::Refused),
    ];
    let mut findings = Vec::new();
    for name in [
        "config",
        "summary",
        "summary.sig",
        "summary.idx",
        "summary.idx.sig",
    ] {
        findings.extend(check_file(&repo.join(name), repo));
    }
    for (name, depth, links) in PLACES {
        check_directory(&repo.join(name), repo, depth, links, &mut findings);
    }
    shortened(repo, findings)
}

/// The gravest findings, and how many more there are.
fn shortened(directory: &Path, mut findings: Vec<Finding>) -> Vec<Finding> {
    const MOST: usize = 10;
    findings.sort_by_key(|finding| Reverse(finding.severity));
    if findings.len() > MOST {
        let rest = findings.split_off(MOST);
        let reason = format!("{} more of this kind", rest.len());
        findings.push(Finding {
            severity: rest[0].severity,
            ..Finding::note(directory, reason)
        });
    }
    findings
}

fn check_directory(
    directory: &Path,
    root: &Path,
    depth: usize,
    links: Links,
    findings: &mut Vec<Finding>,
) {
    if directory.is_symlink() && directory != root {
        findings.extend(check_link(directory, root, Links::Refused));
        return;
    }
    match permitted(directory, Access::EXEC_OK) {
        Ok(()) => {}
        Err(Errno::NOENT) => return,
        Err(errno) => {
            let reason = format!("this user cannot enter the directory: {errno}");
            findings.push(Finding::error(directory, reason).remedy(open_up(root)));
            return;
        }
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // All refs have to be known, for they are published together.
        Err(error) if links != Links::Refused => {
            let reason = format!("this user cannot list the directory: {error}");
            findings.push(Finding::error(directory, reason).remedy(open_up(root)));
            return;
        }
        // Entering is all that serving needs here, and there is no more to see.
        Err(_) => return,
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if entry.file_name().as_bytes().starts_with(b".") {
            // No name in a repository or beside it that is served.
            continue;
        }
        let path = entry.path();
        if kind.is_dir() && depth > 0 {
            check_directory(&path, root, depth - 1, links, findings);
        } else if kind.is_file() {
            findings.extend(check_file(&path, root));
        } else if kind.is_symlink() {
            findings.extend(check_link(&path, root, links));
        }
    }
}

/// A link is served where it may be and leads to a file.
fn check_link(link: &Path, root: &Path, links: Links) -> Option<Finding> {
    let replace = format!("replace it by what it points at: {}", shell_word(link));
    if links == Links::Refused {
        let reason = "a symbolic link is not served: clients get an error";
        return Some(Finding::error(link, reason).remedy(replace));
    }
    let name = link.strip_prefix(root).ok()?.to_str()?;
    let opened = Directory::open(root).and_then(|root| root.open_file(name, links, Patience::Wait));
    match opened {
        // A link to a directory holds refs.
        Ok(Opened::File(_))
        | Err(Unreadable {
            cause: Cause::NotRegular(FileType::Directory),
            ..
        }) => None,
        Ok(Opened::Absent | Opened::WouldWait) => {
            Some(Finding::warning(link, "the alias leads to no ref").remedy(replace))
        }
        Err(error) => {
            let reason = format!("the alias cannot be followed: {}", error.cause);
            Some(Finding::error(link, reason).remedy(error.remedy()))
        }
    }
}

fn check_file(file: &Path, repo: &Path) -> Option<Finding> {
    if file.is_symlink() {
        return check_link(file, repo, Links::Refused);
    }
    match permitted(file, Access::READ_OK) {
        Ok(()) | Err(Errno::NOENT) => None,
        Err(errno) => {
            let reason = format!("this user cannot read the file: {errno}");
            Some(Finding::error(PathBuf::from(file), reason).remedy(open_up(repo)))
        }
    }
}

/// ostree makes files readable and, under a strict umask, directories not.
fn open_up(repo: &Path) -> String {
    format!("chmod -R a+rX {}", shell_word(repo))
}
