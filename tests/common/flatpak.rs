//! flatpak as a user of its own, with nothing of this machine's but the program.

use std::fs;
use std::path::Path;

use super::command::Program;

/// A subcommand of flatpak for a user whose home is this directory, and who trusts
/// this certificate.
pub fn user(home: &Path, certificate: &Path, arguments: &[&str]) -> Program {
    let (subcommand, rest) = arguments.split_first().unwrap();
    let places = [
        ("HOME", "home"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_RUNTIME_DIR", "run"),
        ("FLATPAK_USER_DIR", "user"),
        // The machine's own, which flatpak looks at even for a user.
        ("FLATPAK_SYSTEM_DIR", "system"),
        ("FLATPAK_SYSTEM_CACHE_DIR", "system-cache"),
        ("FLATPAK_CONFIG_DIR", "system-config"),
    ];
    let mut program = Program::fixture("with-ca", &["bwrap", "flatpak"])
        .arg(certificate)
        .args(["flatpak", subcommand, "--user"])
        .args(rest)
        .env("DBUS_SESSION_BUS_ADDRESS", "disabled:");
    for (name, directory) in places {
        let directory = home.join(directory);
        fs::create_dir_all(&directory).unwrap();
        program = program.env(name, directory);
    }
    program
}
