//! Programs of the system, run for a test: what they said, or a panic with all
//! of it. Nothing here knows what the programs are for.

use std::env;
use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Programs whose Debian package has another name than they.
const OTHER_PACKAGES: [(&str, &str); 7] = [
    ("bwrap", "bubblewrap"),
    ("firewall-offline-cmd", "firewalld"),
    ("systemctl", "systemd"),
    ("systemd-analyze", "systemd"),
    ("systemd-sysusers", "systemd"),
    ("systemd-tmpfiles", "systemd"),
    ("unshare", "util-linux"),
];

/// How long a program may take, in seconds: far longer than any of them needs,
/// so that a client that hangs is a failed test and not a lost afternoon.
const PATIENCE: &str = "120";

/// What a program said.
#[derive(Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

/// A program about to be run.
pub struct Program {
    command: Command,
    line: String,
}

impl Program {
    /// A program of the system; panics with the way to install it if it is missing.
    pub fn new(name: &str) -> Self {
        require(name);
        Self::at(Path::new(name))
    }

    /// A script of `tests/fixtures`, which calls these programs.
    pub fn fixture(name: &str, calls: &[&str]) -> Self {
        calls.iter().for_each(|name| require(name));
        Self::at(&fixture_path(name))
    }

    fn at(path: &Path) -> Self {
        // It also ends what the program has started.
        let mut command = Command::new("timeout");
        command.arg("--kill-after=5").arg(PATIENCE).arg(path);
        command.stdin(Stdio::null());
        // One ref of the demonstration repository is not ASCII.
        command.env("LC_ALL", "C.UTF-8");
        // A proxy of the machine's does not know this server.
        command.env("no_proxy", "*").env_remove("NO_PROXY");
        Self {
            command,
            line: path.display().to_string(),
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let arg = arg.as_ref();
        self.line += &format!(" {}", arg.to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// The same under another program, which gets its command line.
    pub fn under(self, program: &[&str]) -> Self {
        let (name, args) = program.split_first().expect("a program");
        require(name);
        // The first arguments are those of `timeout`.
        let mine = self.command.get_args().skip(2);
        let mut other = Self::at(Path::new(name)).args(args).args(mine);
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => other.command.env(name, value),
                None => other.command.env_remove(name),
            };
        }
        other
    }

    /// Runs it; panics if it fails.
    pub fn run(self) -> Output {
        let line = self.line.clone();
        let (status, output) = self.finish();
        assert!(status.success(), "{}", story(&line, status, &output));
        output
    }

    /// Runs it; panics unless it fails of its own accord.
    pub fn run_to_failure(self) -> Output {
        let line = self.line.clone();
        let (status, output) = self.finish();
        // 124 is `timeout` losing its patience, 125 to 127 what never began.
        let failed = matches!(status.code(), Some(1..=123));
        assert!(failed, "should fail: {}", story(&line, status, &output));
        output
    }

    /// Runs it, whatever comes of it.
    pub fn finish(mut self) -> (ExitStatus, Output) {
        let done = self.command.output().expect("coreutils' timeout runs");
        let output = Output {
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        };
        (done.status, output)
    }
}

/// Where a file of `tests/fixtures` is.
pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn story(line: &str, status: ExitStatus, output: &Output) -> String {
    let end = match (status.code(), status.signal()) {
        (Some(124), _) => format!("still running after {PATIENCE} s"),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {signal:?}"),
    };
    let Output { stdout, stderr } = output;
    format!("{line}\n{end}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
}

/// A test that cannot run must not look like one that passed.
fn require(name: &str) {
    let directories = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&directories).any(|it| it.join(name).is_file()) {
        return;
    }
    let package = OTHER_PACKAGES
        .iter()
        .find(|(program, _)| *program == name)
        .map_or(name, |(_, package)| package);
    panic!("{name} is missing: apt-get install {package}, or run tests/run");
}
