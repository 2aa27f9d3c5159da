//! A service manager, as far as a server notices: it passes descriptors, and takes
//! notifications with others.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

use super::Setup;
use super::process::Process;

/// The manager's end of the notifications.
pub struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
    watchdog: Option<Duration>,
}

impl Manager {
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        // Far longer than anything takes, so that who waits in vain fails.
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).unwrap();
        Self {
            socket,
            directory,
            watchdog: None,
        }
    }

    /// One that wants to hear so often that the server lives (`WatchdogSec=`).
    pub fn watching(self, patience: Duration) -> Self {
        Self {
            watchdog: Some(patience),
            ..self
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// The next notification, and the descriptors that came with it.
    pub fn next(&self) -> (String, Vec<OwnedFd>) {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let len = received.expect("a notification").bytes;
        let descriptors = ancillary
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
                _ => vec![],
            })
            .collect();
        let text = String::from_utf8(text[..len].to_vec()).unwrap();
        (text, descriptors)
    }

    /// The next notification that has this line, and its descriptors.
    pub fn wait_for(&self, line: &str) -> (String, Vec<OwnedFd>) {
        loop {
            let (text, descriptors) = self.next();
            if text.lines().any(|it| it == line) {
                return (text, descriptors);
            }
        }
    }

    /// Starts the server as a service, with these descriptors from its store or of its
    /// sockets.
    pub fn start(&self, setup: Setup, passed: &[(&str, &OwnedFd)]) -> Process {
        Process::start_with(setup, self.command(passed))
    }

    /// The same with a server that will not start: what it says.
    pub fn start_in_vain(&self, setup: Setup, passed: &[(&str, &OwnedFd)]) -> String {
        let file = setup.directory().join("serve.toml");
        std::fs::write(&file, setup.config()).unwrap();
        let mut command = self.command(passed);
        let output = command.arg("--config").arg(file).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn command(&self, passed: &[(&str, &OwnedFd)]) -> Command {
        let mut command = Command::new("sh");
        // What is watched is named as a process, and that is the shell.
        let script = "export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$0\" \"$@\"";
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_ostree-serve")])
            .env("NOTIFY_SOCKET", self.path())
            .env("FDSTORE", "16");
        if let Some(patience) = self.watchdog {
            command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        }
        if !passed.is_empty() {
            let names: Vec<_> = passed.iter().map(|(name, _)| *name).collect();
            command
                .env("LISTEN_FDS", passed.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
            pass(&mut command, passed.iter().map(|(_, it)| *it));
        }
        command
    }
}

/// Gives a command descriptors from 3 on.
fn pass<'d>(command: &mut Command, descriptors: impl Iterator<Item = &'d OwnedFd>) {
    // Away from the numbers that they are to have, so that none overwrites another.
    let above: Vec<OwnedFd> = descriptors
        .map(|it| rustix::io::fcntl_dupfd_cloexec(it.as_fd(), 100).unwrap())
        .collect();
    // SAFETY: nothing but a system call on descriptors that the closure owns.
    unsafe {
        command.pre_exec(move || {
            for (number, descriptor) in (3..).zip(&above) {
                if libc::dup2(descriptor.as_raw_fd(), number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
