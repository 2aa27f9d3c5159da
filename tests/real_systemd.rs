//! What is shipped for systemd and firewalld, read by them.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::command::{Output, Program};
use ostree_serve::config::{Config, Limits};
use tempfile::TempDir;

const SERVICE: &str = include_str!("../packaging/systemd/ostree-serve.service");
const SOCKET: &str = include_str!("../packaging/systemd/ostree-serve.socket");

/// Tenths of a point of `systemd-analyze security`: what is still open is explained in
/// the unit.
const EXPOSURE: u32 = 12;

/// A file of packaging/.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(name)
}

/// The units as they are installed, with the program where it is now.
struct Units(TempDir);

impl Units {
    fn new(service: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let program = env!("CARGO_BIN_EXE_ostree-serve");
        let service = service.replace(
            "ExecStart=/usr/bin/ostree-serve",
            &format!("ExecStart={program}"),
        );
        fs::write(directory.path().join("ostree-serve.service"), service).unwrap();
        fs::write(directory.path().join("ostree-serve.socket"), SOCKET).unwrap();
        Self(directory)
    }

    fn add(&self, unit: &str, drop_in: &str) {
        let directory = self.0.path().join(format!("{unit}.d"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("drop-in.conf"), drop_in).unwrap();
    }

    /// What systemd 252 to 257 say of them.
    fn complaints(&self) -> Vec<String> {
        let units = ["ostree-serve.service", "ostree-serve.socket"];
        // Some versions fail for what others only tell.
        let (_, output) = Program::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .args(units.map(|it| self.0.path().join(it)))
            .finish();
        let new = "FileDescriptorStorePreserve";
        [output.stdout, output.stderr]
            .iter()
            .flat_map(|it| it.lines())
            .filter(|line| line.contains("ostree-serve."))
            .filter(|it| !(it.contains("Unknown key") && it.contains(new)))
            .map(str::to_owned)
            .collect()
    }

    fn security(&self) -> Output {
        Program::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(self.0.path().join("ostree-serve.service"))
            .finish()
            .1
    }
}

#[test]
fn systemd_understands_the_units() {
    assert_eq!(Units::new(SERVICE).complaints(), [""; 0]);

    let commented = SERVICE.replace("Type=notify\n", "Type=notify # it tells\n");
    assert_ne!(
        Units::new(&commented).complaints(),
        [""; 0],
        "mistakes are not seen"
    );
}

#[test]
fn systemd_understands_the_examples() {
    for entry in fs::read_dir(shipped("systemd/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let unit = match text.contains("\n[Socket]\n") {
            true => "ostree-serve.socket",
            false => "ostree-serve.service",
        };
        let units = Units::new(SERVICE);
        units.add(unit, &text);
        assert_eq!(units.complaints(), [""; 0], "{path:?}");
        assert!(text.contains(&format!("/etc/systemd/system/{unit}.d/")));

        units.add(unit, &format!("{text}Setting=unknown\n"));
        assert_ne!(units.complaints(), [""; 0], "mistakes are not seen");
    }
}

/// What is open is little, and each of it is explained in the unit.
#[test]
fn the_service_can_do_little() {
    let Output { stdout, .. } = Units::new(SERVICE).security();
    let (_, overall) = stdout
        .rsplit_once("Overall exposure level for ostree-serve.service: ")
        .unwrap_or_else(|| panic!("{stdout}"));
    let exposure = overall.split_whitespace().next().unwrap();
    let (points, tenths) = exposure.split_once('.').unwrap();
    let exposure = points.parse::<u32>().unwrap() * 10 + tenths.parse::<u32>().unwrap();
    assert!(exposure <= EXPOSURE, "{stdout}");

    let open = stdout.lines().filter_map(|line| line.strip_prefix('✗'));
    let open: Vec<&str> = open.filter_map(|it| it.split_whitespace().next()).collect();
    assert!(open.contains(&"PrivateNetwork="), "{stdout}");
    let comments = SERVICE.lines().filter(|it| it.starts_with('#'));
    let comments: Vec<_> = comments.flat_map(str::split_whitespace).collect();
    for setting in open {
        assert!(comments.contains(&setting), "{setting} is not explained");
    }
}

/// To systemd, what follows a value on its line is part of the value, and names of
/// directories may well be that.
#[test]
fn comments_have_their_own_lines() {
    for line in SERVICE.lines().chain(SOCKET.lines()) {
        assert!(line.starts_with('#') || !line.contains('#'), "{line}");
    }
}

/// Of what is said twice, both say the same.
#[test]
fn the_units_fit_the_configuration() {
    let text = include_str!("../config/serve.toml");
    let config = Config::parse(text, Path::new("/etc/ostree-serve/serve.toml")).unwrap();
    let listen = config.listen.https.iter().chain(&config.listen.redirect);
    let configured: Vec<_> = listen.map(|it| format!("ListenStream={it}")).collect();
    let held = SOCKET.lines().filter(|it| it.starts_with("ListenStream="));
    assert_eq!(held.collect::<Vec<_>>(), configured);

    let backlog = format!("Backlog={}", ostree_serve::listener::BACKLOG);
    assert!(SOCKET.lines().any(|it| it == backlog));

    let stop = SERVICE
        .lines()
        .find_map(|it| it.strip_prefix("TimeoutStopSec="));
    let stop: u64 = stop.unwrap().parse().unwrap();
    assert!(stop > Limits::default().drain.as_secs());

    let ports = fs::read_to_string(shipped("firewalld/ostree-serve.xml")).unwrap();
    for line in &configured {
        let (_, port) = line.rsplit_once(':').unwrap();
        assert!(ports.contains(&format!("port=\"{port}\"")), "{port}");
    }
}

/// In a root directory of their own: the user, the directory, and that nothing starts
/// unless somebody says so.
#[test]
fn systemd_makes_the_user_and_the_directory_and_starts_nothing() {
    let root = TempDir::new().unwrap();
    let at = |name: &str| root.path().join(name);
    for directory in ["etc", "run", "units", "usr/lib/systemd/system-preset"] {
        fs::create_dir_all(at(directory)).unwrap();
    }
    fs::create_dir_all(at("usr/lib/systemd/system")).unwrap();
    let option = format!("--root={}", root.path().display());
    Program::new("systemd-sysusers")
        .arg(&option)
        .arg(shipped("systemd/sysusers.conf"))
        .run();
    let users = fs::read_to_string(at("etc/passwd")).unwrap();
    let user = users.lines().find(|it| it.starts_with("ostree-serve:"));
    assert!(user.is_some_and(|it| it.ends_with("/nologin")), "{users}");
    let groups = fs::read_to_string(at("etc/group")).unwrap();
    assert!(groups.contains("ostree-serve:"), "{groups}");

    let text = fs::read_to_string(shipped("systemd/tmpfiles.conf")).unwrap();
    let text = match rustix::process::geteuid().is_root() {
        true => text,
        // Nobody else may give something away.
        false => text.replace(" ostree-serve ostree-serve ", " - - "),
    };
    fs::write(at("tmpfiles.conf"), text).unwrap();
    Program::new("systemd-tmpfiles")
        .args(["--create", &option])
        .arg(at("tmpfiles.conf"))
        .run();
    assert!(at("run/ostree-serve").is_dir());

    let units = "usr/lib/systemd/system";
    fs::write(at(&format!("{units}/ostree-serve.service")), SERVICE).unwrap();
    fs::write(at(&format!("{units}/ostree-serve.socket")), SOCKET).unwrap();
    let preset = "80-ostree-serve.preset";
    fs::copy(
        shipped(&format!("systemd/{preset}")),
        at(&format!("{units}-preset/{preset}")),
    )
    .unwrap();
    let systemctl = |verb: &str, units: &[&str]| {
        let program = Program::new("systemctl").args([&option, verb]);
        program.args(units).finish().1.stdout
    };
    let both = ["ostree-serve.service", "ostree-serve.socket"];
    systemctl("preset", &both);
    assert_eq!(systemctl("is-enabled", &both), "disabled\ndisabled\n");
    // The service brings its sockets along.
    systemctl("enable", &both[..1]);
    assert_eq!(systemctl("is-enabled", &both), "enabled\nenabled\n");
}

#[test]
fn the_module_for_tls_is_loaded() {
    let text = fs::read_to_string(shipped("systemd/modules-load.conf")).unwrap();
    let modules: Vec<_> = text.lines().filter(|it| !it.starts_with('#')).collect();
    assert_eq!(modules, ["tls"]);
}

#[test]
fn firewalld_opens_the_ports() {
    let directory = TempDir::new().unwrap();
    let services = directory.path().join("services");
    fs::create_dir(&services).unwrap();
    fs::copy(
        shipped("firewalld/ostree-serve.xml"),
        services.join("ostree-serve.xml"),
    )
    .unwrap();
    let ask = |question: &str| {
        let program = Program::new("firewall-offline-cmd")
            .arg("--system-config")
            .arg(directory.path())
            .arg(question);
        // It insists on root, though nothing is asked of the system.
        match rustix::process::geteuid().is_root() {
            true => program.run(),
            false => program.under(&["unshare", "--map-root-user"]).run(),
        }
    };
    ask("--check-config");
    let Output { stdout, .. } = ask("--info-service=ostree-serve");
    let ports = stdout
        .lines()
        .find_map(|it| it.trim().strip_prefix("ports: "));
    assert_eq!(ports.map(str::trim), Some("8443/tcp 8080/tcp"), "{stdout}");
}
