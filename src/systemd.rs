//! The service manager: what it is told, and what it keeps for the next process.
//!
//! It is told by notifications (sd_notify(3)). It keeps descriptors in its
//! descriptor store, by which a hold survives a restart: the frozen generation
//! lies in sealed memory that belongs to no process. What is in there is
//! [`crate::repo`]'s to know.

mod message;

use std::env;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use sd_notify::NotifyState;

use crate::config::Prefix;

/// The variable that names the service manager's socket.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The service manager, as the environment describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manager {
    keeps: Keeps,
    /// How long it waits to hear that the server lives.
    patience: Option<Duration>,
}

/// What a service manager keeps of the descriptors that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing: there is no service manager.
    Nothing,
    /// It does not say: it is older than systemd 254, or keeps none
    /// (`FileDescriptorStoreMax=` of the unit is 0, or not there).
    Unsaid,
    /// So many.
    UpTo(usize),
}

/// A descriptor that the process was started with.
#[derive(Debug)]
pub struct Inherited {
    /// Its name in the descriptor store, or that of the socket unit.
    pub name: String,
    /// The descriptor.
    pub descriptor: OwnedFd,
}

/// The beginning of the names of holds in the descriptor store.
pub const HOLD: &str = "hold-";

/// The longest name that systemd takes, in bytes (sd_pid_notify_with_fds(3)).
const NAME_MAX: usize = 255;

/// What the number of a hold takes of its name, in bytes.
const NUMBER_MAX: usize = "~4294967295".len();

/// The largest frozen generation that is read back, in bytes. A summary may have
/// 128 MiB (client-contract 3.4), and there may be an index beside it.
const FROZEN_MAX: u64 = 512 << 20;

impl Manager {
    /// No service manager at all.
    pub const NONE: Self = Self {
        keeps: Keeps::Nothing,
        patience: None,
    };

    /// Reads what the environment says, and takes over the descriptors that came
    /// with it. They are gone from the environment then. That descriptors cannot
    /// be had is logged: it is no reason not to serve. `way` follows the commands
    /// that the log names.
    ///
    /// # Safety
    /// There must be no other thread: the environment is changed. And nobody else
    /// may use the descriptors that `LISTEN_FDS` counts.
    pub unsafe fn inherit(way: impl Display) -> (Self, Vec<Inherited>) {
        let keeps = match (env::var_os(NOTIFY_SOCKET), env::var("FDSTORE")) {
            (None, _) => Keeps::Nothing,
            (Some(_), Ok(count)) => count.parse().map_or(Keeps::Unsaid, Keeps::UpTo),
            (Some(_), Err(_)) => Keeps::Unsaid,
        };
        // SAFETY: there is no other thread, says the caller.
        let patience = unsafe { sd_notify::watchdog_enabled_and_unset_env() };
        let manager = Self { keeps, patience };
        // SAFETY: as before.
        let listed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                let remedy = format!(
                    "see whether a repository is not held that should be: \
                     ostree-serve status{way}; then hold it again: \
                     ostree-serve hold PREFIX --reason TEXT{way}; sockets of the socket unit \
                     are not adopted, and may be in the way"
                );
                tracing::error!(%error, remedy, "what the service manager kept cannot be taken over");
                return (manager, Vec::new());
            }
        };
        let own = |(descriptor, name)| Inherited {
            name,
            // SAFETY: it is open, for its flags could be set, and it is this
            // program's alone, says the caller. The variables that name it are
            // gone, so it is not taken twice.
            descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) },
        };
        (manager, listed.map(own).collect())
    }

    /// What it keeps.
    pub fn keeps(&self) -> Keeps {
        self.keeps
    }

    /// How long it waits to hear that the server lives ([`Manager::alive`]) before it
    /// ends it (`WatchdogSec=`); `None` if it does not.
    pub fn patience(&self) -> Option<Duration> {
        match self.keeps {
            Keeps::Nothing => None,
            Keeps::Unsaid | Keeps::UpTo(_) => self.patience,
        }
    }

    /// The server lives.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// The server serves: at the start, and after a reload.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again; [`Manager::ready`] ends that.
    pub fn reloading(&self) {
        // systemd tells an old message from a new one by the time in it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the clock cannot be read"),
        }
    }

    /// The server is about to end.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// How the server is, as a line for `systemctl status`.
    pub fn say(&self, line: &str) {
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        self.tell(&[NotifyState::Status(&line)]);
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.keeps == Keeps::Nothing {
            return;
        }
        if let Err(error) = message::send(state, &[]) {
            let remedy = "with Type=notify the unit needs NotifyAccess=main, and the socket that \
                          NOTIFY_SOCKET names must be within reach";
            tracing::warn!(%error, remedy, "the service manager cannot be told");
        }
    }

    /// Has bytes kept under a name, beside those that it may keep there already. It
    /// does not answer: whether they are kept is for [`Manager::keeps`] to say.
    ///
    /// # Errors
    /// Why they cannot be handed over.
    pub fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.keeps == Keeps::Nothing {
            return Ok(());
        }
        let sealed = seal(bytes)?;
        let state = [
            NotifyState::FdStore,
            NotifyState::FdName(name),
            // There is nothing to poll: memory has no end of file to wait for.
            NotifyState::Custom("FDPOLL=0"),
        ];
        message::send(&state, &[sealed.as_fd()])
    }

    /// Has no bytes kept under a name any more.
    ///
    /// # Errors
    /// Why the service manager cannot be told.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        match self.keeps {
            Keeps::Nothing => Ok(()),
            Keeps::Unsaid | Keeps::UpTo(_) => message::send(
                &[NotifyState::FdStoreRemove, NotifyState::FdName(name)],
                &[],
            ),
        }
    }
}

/// The name in the descriptor store of the first hold of a repository: readable if
/// it can be, in any case one that systemd takes, and another one for each prefix.
pub fn hold_name(prefix: &Prefix) -> String {
    let prefix = prefix.to_string();
    let mut name = HOLD.to_owned();
    for byte in prefix.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                name.push(char::from(byte));
            }
            // Writing to a string does not fail.
            _ => _ = write!(name, "%{byte:02x}"),
        }
    }
    if name.len() <= NAME_MAX - NUMBER_MAX {
        return name;
    }
    // No prefix begins with this character.
    let mut name = format!("{HOLD}#");
    for byte in digest(&SHA256, prefix.as_bytes()).as_ref() {
        _ = write!(name, "{byte:02x}");
    }
    name
}

/// The prefix in the name of a first hold; `None` if it was too long for a name.
pub fn hold_prefix(name: &str) -> Option<Prefix> {
    let mut bytes = Vec::new();
    let mut rest = name.strip_prefix(HOLD)?.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()?.parse().ok()
}

/// The name of the hold of this number, from one, when that of the first is known.
/// Each one is to replace those with lower numbers.
pub fn numbered(first: &str, number: u32) -> String {
    match number {
        0 | 1 => first.to_owned(),
        _ => format!("{first}~{number}"),
    }
}

/// A hold's name as that of the first one, and a number.
pub fn split_number(name: &str) -> (&str, u32) {
    let split = name.rsplit_once('~');
    let numbered = split.and_then(|(first, number)| Some((first, number.parse().ok()?)));
    numbered.unwrap_or((name, 1))
}

/// These bytes in memory that nobody can change any more.
fn seal(bytes: &[u8]) -> io::Result<File> {
    let make = |extra| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | extra;
        memfd_create("ostree-serve-hold", flags)
    };
    let memory = match make(MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know the flag; later ones may insist on it
        // (vm.memfd_noexec).
        Err(Errno::INVAL) => make(MemfdFlags::empty()),
        result => result,
    };
    let mut file = File::from(memory?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, seals() | SealFlags::SEAL)?;
    Ok(file)
}

/// What has to be impossible with the memory.
fn seals() -> SealFlags {
    SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK
}

/// The bytes that a process before this one had kept.
///
/// # Errors
/// What is wrong with the descriptor.
pub fn unseal(descriptor: OwnedFd) -> Result<Vec<u8>, String> {
    // Seals come last, so what has them is complete. Asking for them fails for
    // whatever is no such memory.
    let sealed = fcntl_get_seals(&descriptor).is_ok_and(|it| it.contains(seals()));
    if !sealed {
        return Err("it is no sealed memory".into());
    }
    let file = File::from(descriptor);
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    if len > FROZEN_MAX {
        return Err(format!("it has {len} bytes, which no hold has"));
    }
    let mut bytes = vec![0; len as usize];
    // The position is where the writer left it.
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(prefix: &str) -> String {
        hold_name(&prefix.parse().unwrap())
    }

    #[test]
    fn names_are_readable() {
        let cases = [
            ("/", "hold-/"),
            ("/repo/flatpak", "hold-/repo/flatpak"),
            ("/a b:c", "hold-/a%20b%3ac"),
            ("/ü", "hold-/%c3%bc"),
        ];
        for (prefix, expected) in cases {
            assert_eq!(name(prefix), expected);
        }
        let longest = format!("/{}", "a".repeat(NAME_MAX - NUMBER_MAX - HOLD.len() - 1));
        assert_eq!(name(&longest), format!("hold-{longest}"));
        let longer = name(&format!("{longest}a"));
        assert!(longer.starts_with("hold-#"), "{longer}");
        assert_eq!(longer.len(), HOLD.len() + 1 + 64);
        assert_eq!(hold_prefix(&longer), None);
    }

    proptest! {
        #[test]
        fn systemd_takes_each_name(prefix in "/\\PC{0,300}") {
            let Ok(prefix) = prefix.parse::<Prefix>() else { return Ok(()) };
            // fdname_is_valid() of systemd.
            let name = numbered(&hold_name(&prefix), u32::MAX);
            prop_assert!(name.len() <= 255);
            prop_assert!(name.bytes().all(|it| (b' '..127).contains(&it) && it != b':'), "{}", name);
        }

        #[test]
        fn names_tell_the_prefix_and_the_number(prefix in "/[a%2:ü~#]{0,50}", number in 1_u32..) {
            let Ok(prefix) = prefix.parse::<Prefix>() else { return Ok(()) };
            let first = hold_name(&prefix);
            let name = numbered(&first, number);
            prop_assert_eq!(split_number(&name), (first.as_str(), number));
            prop_assert_eq!(hold_prefix(&first), Some(prefix));
        }

        #[test]
        fn any_name_may_be_asked_for_its_prefix(name in "hold-\\PC{0,20}") {
            _ = hold_prefix(split_number(&name).0);
        }

        #[test]
        fn no_two_prefixes_share_a_name(one in "/[a%2:ü]{1,4}", two in "/[a%2:ü]{1,4}") {
            let (Ok(one), Ok(two)) = (one.parse::<Prefix>(), two.parse::<Prefix>()) else {
                return Ok(());
            };
            prop_assert_eq!(one == two, hold_name(&one) == hold_name(&two));
        }

        #[test]
        fn sealed_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(unseal(seal(&bytes).unwrap().into()), Ok(bytes));
        }
    }

    #[test]
    fn sealed_memory_cannot_be_changed() {
        let mut sealed = seal(b"generation").unwrap();
        assert!(sealed.write_all(b"x").is_err());
        assert!(sealed.set_len(1).is_err());
        assert!(sealed.write_at(b"x", 0).is_err());
    }

    #[test]
    fn only_sealed_memory_is_read() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let unsealed = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        let cases = [
            ("a socket", socket.into()),
            ("a file", tempfile::tempfile().unwrap().into()),
            ("memory without seals", unsealed),
        ];
        for (what, descriptor) in cases {
            assert_eq!(
                unseal(descriptor),
                Err("it is no sealed memory".into()),
                "{what}"
            );
        }
    }
}
