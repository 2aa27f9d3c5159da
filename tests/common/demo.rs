//! `ostree-serve demo` as a process, and what it says.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::wait_for;

/// A running demonstration.
pub struct Demo {
    temporary: TempDir,
    child: Child,
    /// What it printed.
    pub said: String,
}

impl Demo {
    /// Starts it, and waits until it has said what to do.
    pub fn start() -> Self {
        let temporary = TempDir::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ostree-serve"))
            .arg("demo")
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("goes with it") {
            assert!(
                output.read_line(&mut said).unwrap() > 0,
                "it ended early: {said}"
            );
        }
        Self {
            temporary,
            child,
            said,
        }
    }

    /// Where it serves HTTPS, as it said.
    pub fn https(&self) -> SocketAddr {
        let (_, rest) = self
            .said
            .split_once("https://localhost:")
            .expect("an address");
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        ([127, 0, 0, 1], port.parse().unwrap()).into()
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.temporary.path()).unwrap();
        entries.next().expect("a directory").unwrap().path()
    }

    /// The commands that it said to paste, as a script.
    pub fn commands(&self) -> String {
        let is_command = |line: &&str| line.starts_with("  ") && !line.starts_with("  https:");
        self.said
            .lines()
            .filter(is_command)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Ends it as Ctrl-C does; it ends clean and leaves nothing behind.
    pub fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let status = wait_for("the demonstration to end", || {
            self.child.try_wait().unwrap()
        });
        assert_eq!(status.code(), Some(0));
        assert_eq!(fs::read_dir(self.temporary.path()).unwrap().count(), 0);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
