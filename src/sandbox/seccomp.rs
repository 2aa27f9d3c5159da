//! System calls that the server never makes, denied with `EPERM` (seccomp(2)).
//!
//! This is a list of what is denied, not of what is allowed: the libraries below
//! and the C library may begin to use another harmless call with any update, and a
//! server that fails in production for that would soon run with the filter off. What
//! counts is that the calls that do harm are here; each line says which harm.
//! Calls of another processor's or the x32 table end the process, or are denied.
//!
//! `unlinkat` is not denied: the control socket's name is removed at the end.
//! Landlock confines that to its directory.

use std::collections::BTreeMap;

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

/// Calls that would be good for the same, each with its number.
type Group = &'static [(&'static str, i64)];

/// Calls by their names in the C library's headers.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name as i64)),*] };
}

/// Denied whatever their arguments are, each group with the harm that it does.
const DENIED: &[Group] = &[
    // Start another program.
    calls!(SYS_execve SYS_execveat),
    // Send what was found to another host, or speak to a service of this one.
    calls!(SYS_connect),
    // Change a file's mode or owner, which Landlock does not know of.
    calls!(SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat),
    // Change a file's times or attributes, which Landlock does not know of.
    calls!(
        SYS_utimensat SYS_setxattr SYS_lsetxattr SYS_fsetxattr
        SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    ),
    // Change content where there is no Landlock, or an old one.
    calls!(
        SYS_truncate SYS_ftruncate SYS_fallocate SYS_renameat2 SYS_linkat SYS_symlinkat
        SYS_mknodat SYS_mkdirat
    ),
    // Look into other processes, or change them.
    calls!(
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_pidfd_getfd
        SYS_process_madvise
    ),
    // End other processes.
    calls!(SYS_kill SYS_rt_sigqueueinfo SYS_pidfd_send_signal),
    // Become somebody else, should a fault of the kernel give the means.
    calls!(
        SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid
        SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capset
    ),
    // See another file system than the service was given.
    calls!(
        SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree
        SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr SYS_unshare SYS_setns
        SYS_open_by_handle_at SYS_quotactl SYS_fanotify_init
    ),
    // Reach much code of the kernel that faults were found in.
    calls!(
        SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_io_uring_setup SYS_io_uring_enter
        SYS_io_uring_register SYS_add_key SYS_request_key SYS_keyctl SYS_personality
    ),
    // Change the machine as a whole.
    calls!(
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot
        SYS_swapon SYS_swapoff SYS_acct SYS_syslog SYS_settimeofday SYS_clock_settime
        SYS_clock_adjtime SYS_adjtimex SYS_sethostname SYS_setdomainname SYS_vhangup
    ),
    // Run code from memory that was shared.
    calls!(SYS_shmat),
    // The same as some of the above, under numbers that are the same everywhere.
    &[
        ("fchmodat2", 452),
        ("setxattrat", 463),
        ("removexattrat", 466),
        ("open_tree_attr", 467),
        ("file_setattr", 469),
    ],
];

/// Calls that only this processor's table has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[Group] = &[
    // The same as some of the above, in their older forms.
    calls!(
        SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_creat SYS_rename
        SYS_renameat SYS_link SYS_symlink SYS_mknod SYS_mkdir SYS_rmdir SYS_kexec_file_load
    ),
    // Reach hardware.
    calls!(SYS_iopl SYS_ioperm),
];
#[cfg(target_arch = "aarch64")]
const DENIED_HERE: &[Group] = &[
    // The same as some of the above, in their older forms.
    calls!(SYS_renameat SYS_kexec_file_load),
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const DENIED_HERE: &[Group] = &[];

/// Denied if an argument, counted from zero, has all these bits.
const DENIED_WITH: &[(&str, i64, u8, i64)] = &[
    // Code that was written into memory.
    ("mmap", libc::SYS_mmap, 2, libc::PROT_EXEC as i64),
    ("mprotect", libc::SYS_mprotect, 2, libc::PROT_EXEC as i64),
    (
        "pkey_mprotect",
        libc::SYS_pkey_mprotect,
        2,
        libc::PROT_EXEC as i64,
    ),
    // Directories are never removed.
    ("unlinkat", libc::SYS_unlinkat, 2, libc::AT_REMOVEDIR as i64),
    // A connection that is opened by its first data (tcp(7), TCP Fast Open).
    ("sendto", libc::SYS_sendto, 3, libc::MSG_FASTOPEN as i64),
    ("sendmsg", libc::SYS_sendmsg, 2, libc::MSG_FASTOPEN as i64),
    ("sendmmsg", libc::SYS_sendmmsg, 3, libc::MSG_FASTOPEN as i64),
    // A namespace of one's own, in which one has every capability. (Threads are made by
    // the same call.)
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWNS as i64),
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWCGROUP as i64),
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWUTS as i64),
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWIPC as i64),
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWUSER as i64),
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWPID as i64),
    ("clone", libc::SYS_clone, 0, libc::CLONE_NEWNET as i64),
];

/// Sockets that packets can be sent from without connecting: what is denied of
/// socket(2), by its first two arguments. (The kind is in the lowest four bits.)
const DENIED_SOCKETS: &[(i32, i32)] = &[
    (libc::AF_INET, libc::SOCK_DGRAM),
    (libc::AF_INET, libc::SOCK_RAW),
    (libc::AF_INET6, libc::SOCK_DGRAM),
    (libc::AF_INET6, libc::SOCK_RAW),
];

/// Denied if the command of ioctl(2) is this one.
const DENIED_IOCTLS: &[(&str, u32)] = &[
    // Attributes of a file that is open for reading (linux/fs.h).
    ("FS_IOC_SETFLAGS", 0x4008_6602),
    ("FS_IOC_FSSETXATTR", 0x401c_5820),
    ("FS_IOC_SETVERSION", 0x4008_7602),
    // Input for the terminal that the server was started from (asm-generic/ioctls.h).
    ("TIOCSTI", 0x5412),
    ("TIOCLINUX", 0x541c),
];

/// The bit that makes a number one of the x32 table, which x86_64 kernels may have.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// A filter for this processor.
pub struct Filter {
    denied: BpfProgram,
    /// A call whose arguments cannot be looked at, since they are in memory; who is told
    /// that there is no such call makes the older one (the C library does).
    absent: BpfProgram,
}

impl Filter {
    /// The filter; `None` if there is none for this processor.
    pub fn new() -> Option<Self> {
        let architecture = std::env::consts::ARCH.try_into().ok()?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (_, number) in denied() {
            rules.insert(number, Vec::new());
        }
        let mut deny_if = |number, conditions: Vec<Option<SeccompCondition>>| {
            let conditions: Option<Vec<_>> = conditions.into_iter().collect();
            let rule = SeccompRule::new(conditions?).ok()?;
            rules.entry(number).or_default().push(rule);
            Some(())
        };
        for &(_, number, argument, bits) in DENIED_WITH {
            deny_if(number, vec![all_bits(argument, bits as u64, bits as u64)])?;
        }
        for &(_, command) in DENIED_IOCTLS {
            deny_if(libc::SYS_ioctl, vec![equal(1, command.into())])?;
        }
        for &(family, kind) in DENIED_SOCKETS {
            const KIND: u64 = 0xf;
            let conditions = vec![equal(0, family as u64), all_bits(1, KIND, kind as u64)];
            deny_if(libc::SYS_socket, conditions)?;
        }
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let program = |rules, action| {
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture);
            filter.ok()?.try_into().ok()
        };
        Some(Self {
            denied: program(rules, deny())?,
            absent: program(absent, SeccompAction::Errno(libc::ENOSYS as u32))?,
        })
    }

    /// Puts all threads of this process under it, for good.
    ///
    /// # Errors
    /// If the kernel does not do it.
    pub fn enforce(&self) -> anyhow::Result<()> {
        const WHAT: &str = "the system calls cannot be filtered (seccomp)";
        #[cfg(target_arch = "x86_64")]
        seccompiler::apply_filter_all_threads(&no_x32()).context(WHAT)?;
        seccompiler::apply_filter_all_threads(&self.absent).context(WHAT)?;
        seccompiler::apply_filter_all_threads(&self.denied).context(WHAT)
    }
}

fn deny() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM as u32)
}

/// The calls that are denied whatever their arguments are, by name.
pub fn denied() -> impl Iterator<Item = (&'static str, i64)> {
    let all = DENIED.iter().chain(DENIED_HERE);
    all.copied().flatten().copied()
}

/// That these bits of an argument have this value. `None` only for an argument that no
/// call has.
fn all_bits(argument: u8, bits: u64, value: u64) -> Option<SeccompCondition> {
    condition(argument, SeccompCmpOp::MaskedEq(bits), value)
}

fn equal(argument: u8, value: u64) -> Option<SeccompCondition> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    // The kernel takes these arguments as 32 bits, and ignores the others.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).ok()
}

/// All of the x32 table is denied, whose numbers are a range, for which the library
/// has no rule: classic BPF, as in linux/filter.h.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> [sock_filter; 4] {
    let step = |code: u32, jt, jf, k| sock_filter {
        // All of them fit.
        code: code as u16,
        jt,
        jf,
        k,
    };
    const NUMBER: u32 = 0;
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, deny().into()),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            SeccompAction::Allow.into(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_call_is_listed_once() {
        let numbers: Vec<_> = denied().map(|(_, number)| number).collect();
        let unique: BTreeSet<_> = numbers.iter().collect();
        assert_eq!(unique.len(), numbers.len());
        for (name, number, ..) in DENIED_WITH {
            assert!(!numbers.contains(number), "{name} is denied altogether");
        }
    }

    #[test]
    fn there_is_a_filter_that_the_kernel_takes() {
        let filter = Filter::new().expect("for this processor");
        assert!(filter.denied.len() < 4096, "{}", filter.denied.len());
    }
}
