//! What the README tells systemd, read by systemd.

#![cfg(feature = "real-clients")]

mod common;

use std::fs;

use common::command::Program;
use tempfile::TempDir;

const README: &str = include_str!("../README.md");

/// The settings of the unit that the README shows, from its heading on.
fn unit() -> &'static str {
    let (_, rest) = README.split_once("```ini\n").expect("a unit");
    let (unit, _) = rest.split_once("```").expect("the end of the unit");
    assert!(unit.starts_with("[Service]\n"), "{unit}");
    unit
}

/// What systemd 252 to 257 say of a unit.
fn complaints(unit: &str) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ostree-serve.service");
    fs::write(&file, unit).unwrap();
    // Some versions fail for what others only tell.
    let (_, output) = Program::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&file)
        .finish();
    [output.stdout, output.stderr]
        .iter()
        .flat_map(|it| it.lines())
        .filter(|line| line.contains("ostree-serve.service"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn systemd_understands_the_unit() {
    let start = format!("ExecStart={}\n", env!("CARGO_BIN_EXE_ostree-serve"));
    let unit = format!("{}{start}", unit());
    let new = "FileDescriptorStorePreserve";
    let rest: Vec<_> = complaints(&unit)
        .into_iter()
        .filter(|it| !(it.contains("Unknown key") && it.contains(new)))
        .collect();
    assert_eq!(rest, [""; 0], "{unit}");

    let commented = unit.replace("Type=notify", "Type=notify # it tells");
    assert_ne!(complaints(&commented), [""; 0], "mistakes are not seen");
}

/// To systemd, what follows a value on its line is part of the value, and names of
/// directories may well be that.
#[test]
fn comments_have_their_own_lines() {
    for line in unit().lines() {
        assert!(line.starts_with('#') || !line.contains('#'), "{line}");
    }
}
