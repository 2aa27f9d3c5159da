//! The demonstration as a newcomer meets it: what it prints is pasted into a
//! shell as it is, and works.

#![cfg(feature = "real-clients")]

mod common;

use common::command::Program;
use common::demo::Demo;

#[test]
fn what_the_demonstration_prints_can_be_pasted() {
    let mut demo = Demo::start();
    for program in ["curl", "ostree"] {
        // A missing one is told from one that fails.
        Program::new(program).arg("--version").run();
    }
    let output = Program::new("sh").args(["-euxc", &demo.commands()]).run();
    assert!(output.stdout.contains("mode=archive-z2"), "{output:?}");
    assert!(
        output.stdout.contains("/usr/share/demo/noise.bin"),
        "{output:?}"
    );
    demo.stop();
}

#[test]
fn without_its_certificate_the_demonstration_is_not_trusted() {
    let mut demo = Demo::start();
    let url = format!("https://localhost:{}/", demo.https().port());
    let output = Program::new("curl").args(["-sS", &url]).run_to_failure();
    assert!(output.stderr.contains("certificate"), "{output:?}");
    demo.stop();
}
