//! Who is at the other end of the control socket, as the kernel says it.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use tokio::net::UnixStream;

/// A process at the other end. What counts is what it was when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    uid: u32,
    /// The primary group, and the supplementary ones.
    groups: Vec<u32>,
}

/// Whose orders are taken: the server's own user and group, and root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Whether a peer may ask for anything.
    pub fn admits(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.uid || peer.groups.contains(&self.gid)
    }

    /// The group whose members may ask. May wait for a directory service.
    pub fn group(&self) -> String {
        group_name(self.gid)
    }
}

impl Peer {
    /// The peer of a socket.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = socket.peer_cred()?;
        let mut groups = supplementary_groups(socket)?;
        groups.push(credentials.gid());
        Ok(Self {
            uid: credentials.uid(),
            groups,
        })
    }

    /// The user's name, or number if it has none. May wait for a directory
    /// service.
    pub fn user(&self) -> String {
        user_name(self.uid)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} with groups {:?}", self.uid, self.groups)
    }
}

/// The supplementary groups (`SO_PEERGROUPS` of unix(7), which rustix lacks).
fn supplementary_groups(socket: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: `size` is the size of what the pointer points to, and the kernel
        // writes no more than that; any bits are a gid_t. `socket` keeps the
        // descriptor open.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = size as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The kernel says how many there are.
            Some(libc::ERANGE) if count > groups.len() => groups.resize(count, 0),
            _ => return Err(error),
        }
    }
}

/// The name of a user, or its number if it has none. May wait for a directory
/// service.
pub fn user_name(uid: u32) -> String {
    let name = look_up(
        // SAFETY: the pointers are as `look_up` promises.
        |entry, buffer, len, result| unsafe { libc::getpwuid_r(uid, entry, buffer, len, result) },
        |entry: &libc::passwd| entry.pw_name,
    );
    name.unwrap_or_else(|| format!("uid {uid}"))
}

/// The name of a group, or its number if it has none. May wait for a directory
/// service.
pub fn group_name(gid: u32) -> String {
    let name = look_up(
        // SAFETY: the pointers are as `look_up` promises.
        |entry, buffer, len, result| unsafe { libc::getgrgid_r(gid, entry, buffer, len, result) },
        |entry: &libc::group| entry.gr_name,
    );
    name.unwrap_or_else(|| format!("gid {gid}"))
}

/// A name from one of the functions of getpwnam_r(3), which `call` calls: with an
/// entry and a result to write to, and with a buffer as large as it takes.
fn look_up<T>(
    call: impl Fn(*mut T, *mut libc::c_char, usize, *mut *mut T) -> libc::c_int,
    name: impl Fn(&T) -> *mut libc::c_char,
) -> Option<String> {
    /// In bytes; a group with very many members needs much.
    const LARGEST: usize = 1 << 20;
    let mut len = 4096;
    while len <= LARGEST {
        let mut entry = MaybeUninit::<T>::uninit();
        let mut buffer: Vec<libc::c_char> = vec![0; len];
        let mut result: *mut T = std::ptr::null_mut();
        let error = call(
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut result,
        );
        match error {
            0 if result.is_null() => return None,
            0 => {
                // SAFETY: there was no error, and `result` points to the entry,
                // which is filled in therefore.
                let entry = unsafe { entry.assume_init_ref() };
                // SAFETY: an entry's name is a string in the buffer, which lives.
                let name = unsafe { CStr::from_ptr(name(entry)) };
                return Some(name.to_string_lossy().into_owned());
            }
            libc::ERANGE => len *= 4,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_server_and_its_group_may_ask() {
        let owner = Owner { uid: 990, gid: 980 };
        let cases = [
            (0, vec![0], true),
            (990, vec![1], true),
            (1000, vec![980], true),
            (1000, vec![100, 10, 980], true),
            (1000, vec![100, 10], false),
            (980, vec![990], false),
            (1000, vec![], false),
        ];
        for (uid, groups, expected) in cases {
            let peer = Peer { uid, groups };
            assert_eq!(owner.admits(&peer), expected, "{peer}");
        }
    }

    #[test]
    fn names_are_those_of_the_system() {
        assert_eq!(user_name(0), "root");
        assert_eq!(group_name(0), "root");
        assert_eq!(user_name(4_000_000_001), "uid 4000000001");
        assert_eq!(group_name(4_000_000_001), "gid 4000000001");
    }

    #[tokio::test]
    async fn the_kernel_says_who_it_is() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&socket).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        let mut groups: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(|it| it.as_raw())
            .collect();
        groups.push(rustix::process::getegid().as_raw());
        assert_eq!(peer.groups, groups);
        assert!(Owner::this().admits(&peer));
    }
}
