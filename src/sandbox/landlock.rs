//! Landlock (landlock(7)): all that can be done with files, denied but for reading
//! what is within reach; connections of TCP (ABI 4), abstract sockets and signals of
//! others (ABI 6) as well. What the kernel does not know is left out.
//!
//! Landlock denies with `EACCES`. It says nothing about modes, owners, times and
//! extended attributes; those are [`super::seccomp`]'s.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use super::reach::Reach;

/// The newest ABI whose rights are asked for. A newer one may bring rights that the
/// server needs, so it is not raised without looking.
const NEWEST: ABI = ABI::V6;

/// Rules that a thread can be put under.
pub struct Rules {
    ruleset: RulesetCreated,
    abi: u32,
}

/// The rules for this reach; `None` if the kernel has no Landlock.
///
/// # Errors
/// If the kernel does not take them.
pub fn rules(reach: &Reach) -> anyhow::Result<Option<Rules>> {
    let Some(abi) = kernel_abi() else {
        return Ok(None);
    };
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let sockets = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Reloads bind new ports; connecting is for nobody.
        .handle_access(AccessNet::ConnectTcp)?
        .scope(scopes())?
        .create()?;
    for directory in &reach.read {
        ruleset = allow(ruleset, directory, read)?;
    }
    for file in &reach.files {
        ruleset = allow(ruleset, file, AccessFs::ReadFile.into())?;
    }
    for directory in &reach.sockets {
        ruleset = allow(ruleset, directory, sockets)?;
    }
    Ok(Some(Rules { ruleset, abi }))
}

/// A service manager with an abstract socket could not be told anything.
fn scopes() -> BitFlags<Scope> {
    let manager = std::env::var_os(crate::systemd::NOTIFY_SOCKET);
    match manager.is_some_and(|it| it.as_encoded_bytes().starts_with(b"@")) {
        true => Scope::Signal.into(),
        false => Scope::Signal | Scope::AbstractUnixSocket,
    }
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> anyhow::Result<RulesetCreated> {
    // A rule needs to know what the file is. SELinux keeps even that from the server for
    // files that it does well without, such as /etc/passwd.
    if let Err(error) = path.metadata() {
        tracing::debug!(%error, path = %path.display(), "not within reach anyway");
        return Ok(ruleset);
    }
    match PathFd::new(path) {
        Ok(opened) => Ok(ruleset.add_rule(PathBeneath::new(opened, access))?),
        Err(error) => {
            // It was there a moment ago. Whoever needs it will say what is wrong.
            tracing::warn!(%error, path = %path.display(), "cannot be kept within reach");
            Ok(ruleset)
        }
    }
}

impl Rules {
    /// The ABI that is in force with them.
    pub fn abi(&self) -> u32 {
        self.abi
    }

    /// Puts the calling thread under them, for good.
    ///
    /// # Errors
    /// If the kernel does not do it.
    pub fn enforce(&self) -> anyhow::Result<()> {
        let status = self.ruleset.try_clone()?.restrict_self()?;
        anyhow::ensure!(
            status.ruleset != RulesetStatus::NotEnforced,
            "the kernel does not enforce the Landlock rules"
        );
        Ok(())
    }
}

/// The ABI that the kernel has, or the newest one known here; `None` without
/// Landlock (landlock_create_ruleset(2)).
pub fn kernel_abi() -> Option<u32> {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call takes no attributes, and makes nothing.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    let abi = u32::try_from(abi).ok().filter(|it| *it > 0)?;
    Some(abi.min(NEWEST as u32))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode};
    use tempfile::TempDir;

    use super::*;
    use crate::sandbox::probe::files::cut;

    /// In a thread of its own, which takes the rules with it when it ends.
    #[test]
    fn what_is_out_of_reach_cannot_be_read_and_nothing_can_be_written() {
        if kernel_abi().is_none() {
            panic!("this kernel has no Landlock; boot one with `lsm=landlock,…`");
        }
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["in", "out", "run"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), "x").unwrap();
            fs::create_dir(at(name).join("directory")).unwrap();
        }
        let (listener, abi) = (TcpListener::bind("127.0.0.1:0").unwrap(), kernel_abi());
        let since = |version| abi >= Some(version);
        let reach = Reach {
            read: [at("in")].into(),
            files: Default::default(),
            sockets: [at("run")].into(),
            absent: Default::default(),
        };
        let confined = || {
            crate::sandbox::privileges::reduce().unwrap();
            rules(&reach).unwrap().unwrap().enforce().unwrap();
            let denied = |result: std::io::Result<()>| {
                result.is_err_and(|it| it.kind() == ErrorKind::PermissionDenied)
            };
            assert_eq!(fs::read(at("in/file")).unwrap(), b"x");
            assert!(denied(File::open(at("out/file")).map(drop)));
            let write = |name| File::options().append(true).open(at(name)).map(drop);
            assert!(denied(write("in/file")) && denied(write("run/file")));
            // No seccomp filter is in force here, which would answer first.
            for directory in ["in", "run"] {
                let new = at(directory).join("new");
                let file = at(directory).join("file");
                assert!(denied(fs::create_dir(&new)));
                assert!(denied(std::os::unix::fs::symlink("file", &new)));
                let fifo = rustix::fs::mknodat(CWD, &new, FileType::Fifo, Mode::RUSR, 0);
                assert!(denied(fifo.map_err(Into::into)));
                assert!(denied(fs::remove_dir(at(directory).join("directory"))));
                assert!(denied(fs::rename(&file, &new)));
                // Out of its directory: told as if it were another file system.
                assert!(fs::hard_link(&file, at("new")).is_err());
                assert!(!since(3) || denied(cut(&file, 0)));
            }
            assert!(denied(Command::new("/bin/true").status().map(drop)));
            let connected = TcpStream::connect(listener.local_addr().unwrap());
            assert!(!since(4) || denied(connected.map(drop)));
            assert!(denied(File::create(at("run/new")).map(drop)));
            let socket = std::os::unix::net::UnixListener::bind(at("run/socket"));
            socket.unwrap();
            fs::remove_file(at("run/socket")).unwrap();
            assert!(denied(fs::remove_file(at("in/file"))));
        };
        thread::scope(|scope| scope.spawn(confined).join()).unwrap();
    }
}
