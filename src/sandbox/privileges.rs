//! Who the process is, and what it may do for that: less than it was started with.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::config::{Config, Placed};
use crate::files::permitted;
use crate::finding::{Finding, shell_word};

/// The user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Whom to become: nobody else, unless the process is root's.
///
/// # Errors
/// If the configuration names a user that does not exist. The default one may be
/// missing, for the sake of who tries the server out: the log says so.
pub fn wanted_user(config: &Config) -> Result<Option<User>, Vec<Finding>> {
    let name = &config.sandbox.user;
    if !rustix::process::geteuid().is_root() || name == "root" {
        return Ok(None);
    }
    if let Some(user) = User::named(name) {
        return Ok((user.uid != 0).then_some(user));
    }
    let make = "make it (systemd-sysusers, or useradd --system --no-create-home), or set \
                `[sandbox] user = \"root\"` to stay root";
    if *name != crate::config::Sandbox::default().user {
        let reason = format!("there is no user `{name}` to become (`sandbox.user`)");
        return Err(vec![Finding::error(&*config.file, reason).remedy(make)]);
    }
    tracing::warn!(
        user = name,
        remedy = make,
        "there is no such user to become; the server stays root"
    );
    Ok(None)
}

impl User {
    /// The user of this name, with all of its groups. May wait for a directory
    /// service.
    fn named(name: &str) -> Option<Self> {
        let c_name = CString::new(name).ok()?;
        let (uid, gid) = account(&c_name)?;
        Some(Self {
            name: name.to_owned(),
            uid,
            gid,
            groups: groups(&c_name, gid),
        })
    }

    /// Makes the calling thread this user's, for good. Capabilities go with that.
    ///
    /// # Errors
    /// If the kernel does not do it.
    pub fn become_it(&self) -> anyhow::Result<()> {
        let group = |gid| Gid::from_raw(gid);
        let groups: Vec<_> = self.groups.iter().copied().map(group).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // What was root's would stay in the bounding set, and no harm in that: no
        // program is ever started. It is gone where that is possible.
        drop_bounding_set();
        rustix::thread::set_thread_groups(&groups)
            .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
            .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
            .with_context(|| format!("cannot become the user {}", self.name))
    }
}

/// Gives a user what was made for it while the process was root: the control socket,
/// to whose group it is to answer.
pub fn hand_over(socket: &Path, user: &User) {
    match chown(socket, Some(user.uid), Some(user.gid)) {
        Ok(()) => {}
        // The log has said why there is none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, path = %socket.display(), "the control socket stays root's");
        }
    }
}

/// What has to be readable for the next reload, and is not for the user that the
/// process has become.
pub fn unreadable(config: &Config, user: &User) -> Vec<Finding> {
    let mut files: Vec<Placed<PathBuf>> = vec![Placed {
        value: config.file.clone(),
        place: (&*config.file).into(),
    }];
    if let Some(tls) = &config.tls {
        files.extend([tls.certificate.clone(), tls.private_key.clone()]);
        files.extend(tls.client_ca.clone());
    }
    let keys = config
        .repos
        .iter()
        .flat_map(|it| &it.publishing.verify_keys);
    files.extend(keys.cloned());
    let repos = config.repos.iter().map(|it| &it.mount.path);
    let directories = repos.chain(config.statics.iter().map(|it| &it.path));
    let files = files.iter().map(|it| (it, Access::READ_OK));
    let directories = directories.map(|it| (it, Access::READ_OK | Access::EXEC_OK));
    let lacking = files.chain(directories).filter_map(|(it, access)| {
        let error = permitted(&it.value, access).err()?;
        let reason = format!(
            "the user {}, which the server has become, cannot read it: {}",
            user.name,
            std::io::Error::from(error)
        );
        let path = shell_word(&it.value);
        let (name, group) = (&user.name, user.gid);
        let remedy = format!(
            "chgrp {group} {path} && chmod g+rX {path} (`namei -l {path}` shows the way to it), or \
             another `sandbox.user` than {name}"
        );
        Some(
            Finding::error(&*it.value, reason)
                .named_at(&it.place)
                .remedy(remedy),
        )
    });
    lacking.collect()
}

/// Reduces what the calling thread may do, and what a program that it starts could.
///
/// Kept are, where they are there: reading all (of a process that stays root on
/// purpose), and listening at ports below 1024, for a reload that adds one.
///
/// # Errors
/// If the kernel does not do it.
pub fn reduce() -> anyhow::Result<()> {
    // Who is not root has what came with the ambient set, if anything. To ask for more
    // would be a right of its own with SELinux, and capset(2) is often denied to who
    // has no capabilities anyway, as by this program's own unit.
    if rustix::process::geteuid().is_root() || has_ambient() {
        reduce_capabilities()?;
    }
    rustix::thread::set_no_new_privs(true).context("PR_SET_NO_NEW_PRIVS")
}

fn reduce_capabilities() -> anyhow::Result<()> {
    drop_bounding_set();
    // Linux before 4.3 has none.
    _ = rustix::thread::clear_ambient_capability_set();
    let kept = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::NET_BIND_SERVICE;
    let now = rustix::thread::capabilities(None).context("capabilities cannot be read")?;
    let reduced = CapabilitySets {
        effective: now.effective & kept,
        permitted: now.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    match rustix::thread::set_capabilities(None, reduced) {
        // What could only be inherited is of no use: no program gets privileges.
        Err(Errno::PERM) if reduced.permitted == now.permitted => Ok(()),
        result => result.context("capabilities cannot be given up"),
    }
}

fn has_ambient() -> bool {
    let is_set = |it| rustix::thread::capability_is_in_ambient_set(it).unwrap_or(false);
    CapabilitySet::all().iter().any(is_set)
}

/// Needs `CAP_SETPCAP`; without it there is nothing in the set that counts, for no
/// program gets privileges.
fn drop_bounding_set() {
    for capability in CapabilitySet::all().iter() {
        _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

/// No core dump of this process, and no other process of its user may look into it
/// (`PR_SET_DUMPABLE`): private keys are in its memory.
///
/// # Errors
/// If the kernel does not do it.
pub fn forbid_dumps() -> anyhow::Result<()> {
    // To lower the upper limit would be a right of its own with SELinux.
    let none = Rlimit {
        current: Some(0),
        maximum: getrlimit(Resource::Core).maximum,
    };
    rustix::process::setrlimit(Resource::Core, none).context("RLIMIT_CORE")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("PR_SET_DUMPABLE")
}

/// The user's number and its group's (getpwnam_r(3)).
fn account(name: &CStr) -> Option<(u32, u32)> {
    /// In bytes, far more than any entry has.
    const SIZE: usize = 1 << 16;
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut buffer: Vec<libc::c_char> = vec![0; SIZE];
    let mut result = std::ptr::null_mut();
    // SAFETY: all pointers are to memory of their types, `buffer` has the size that
    // is named, and all of it lives until the entry was read.
    let error = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut result,
        )
    };
    if error != 0 || result.is_null() {
        return None;
    }
    // SAFETY: there was no error, so the entry is filled in.
    let entry = unsafe { entry.assume_init_ref() };
    Some((entry.pw_uid, entry.pw_gid))
}

/// All groups of a user (getgrouplist(3)).
fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: `groups` has room for as many as `count` says.
        let found =
            unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        match found {
            // It says how many there are.
            -1 if count > groups.len() => groups.resize(count, 0),
            -1 => return vec![gid],
            _ => {
                groups.truncate(count);
                return groups;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_of_the_system() {
        let root = User::named("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert_eq!(User::named("no such user"), None);
        assert_eq!(User::named("\0"), None);
    }
}
