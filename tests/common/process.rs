//! The server as a process of its own, for what cannot be tested in this one:
//! signals, limits, users, and system calls.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Setup, wait_for};

/// A running `ostree-serve`.
pub struct Process {
    setup: Setup,
    child: Child,
}

impl Process {
    /// Starts it.
    pub fn start(setup: Setup) -> Self {
        Self::start_with(setup, Command::new(env!("CARGO_BIN_EXE_ostree-serve")))
    }

    /// Starts it under another program, which gets the server's command line as
    /// the rest of its arguments.
    pub fn start_under(setup: Setup, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(env!("CARGO_BIN_EXE_ostree-serve"));
        Self::start_with(setup, command)
    }

    /// Starts it by a command that lacks only `--config FILE`, and waits until
    /// it listens.
    pub fn start_with(setup: Setup, mut command: Command) -> Self {
        let file = setup.directory().join("serve.toml");
        fs::write(&file, setup.config()).unwrap();
        let log = File::create(setup.directory().join("log")).unwrap();
        let child = command
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{command:?}: {error}; `tests/run` installs what is needed")
            });
        let mut this = Self { setup, child };
        wait_for("the server to listen", || {
            assert!(
                this.child.try_wait().unwrap().is_none(),
                "it ended: {}",
                this.log()
            );
            // The latter comes when all of its threads are there.
            let log = this.log();
            let confined = ["confined by ", "does not confine itself"];
            (log.contains("listening for HTTP to redirect")
                && confined.iter().any(|it| log.contains(it)))
            .then_some(())
        });
        this
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.setup.directory().join("log")).unwrap_or_default()
    }

    /// Where it listens for something, as its log says it.
    fn address(&self, what: &str) -> SocketAddr {
        let log = self.log();
        let line = log
            .lines()
            .find(|line| line.contains(&format!("listening for {what} ")))
            .unwrap_or_else(|| panic!("it does not listen for {what}: {log}"));
        let address = line.rsplit("address=").next().unwrap_or_default();
        address.trim().parse().unwrap_or_else(|_| panic!("{line}"))
    }

    /// Where it serves HTTPS.
    pub fn https(&self) -> SocketAddr {
        self.address("HTTPS")
    }

    /// Where it serves content in plaintext.
    pub fn http(&self) -> SocketAddr {
        self.address("HTTP with content")
    }

    /// The directory of its configuration.
    pub fn directory(&self) -> &Path {
        self.setup.directory()
    }

    /// The certificate, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.setup.directory().join("certificate.pem")
    }

    /// Changes its configuration file.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let file = self.directory().join("serve.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, change(text)).unwrap();
    }

    /// Sends SIGHUP, and waits until the log says what came of it.
    pub fn hang_up(&self) {
        let outcomes = || {
            let log = self.log();
            [
                "configuration reloaded: ",
                "the configuration is not reloaded",
            ]
            .map(|end| log.matches(end).count())
            .iter()
            .sum::<usize>()
        };
        let before = outcomes();
        self.signal(Signal::HUP);
        wait_for("a reload", || (outcomes() > before).then_some(()));
    }

    /// Its process, or that of the program that it runs under.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends the server, which is the child of a program that passes no signals on, as
    /// strace, and that program with it.
    pub fn end_child(&mut self) {
        self.signal_children(Signal::TERM);
        self.wait();
    }

    fn signal_children(&self, signal: Signal) {
        let pid = self.pid().as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
                _ = kill_process(child, signal);
            }
        }
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the server to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already in most tests. What strace traces outlives it.
        self.signal_children(Signal::KILL);
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
