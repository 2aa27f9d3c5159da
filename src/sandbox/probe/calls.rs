//! Attempts at what is no file: programs, memory, the network, other processes, the
//! kernel.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::ptr::null_mut;

use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType};

use super::Attempt;
use super::layer::Judge;

/// A call with arguments that do nothing, or that the kernel refuses.
type Call = (&'static str, libc::c_long, [libc::c_long; 6]);

/// What no pointer and no descriptor is.
const NONE: libc::c_long = -1;

/// Each of them has no effect for whoever may call it: a null pointer is not read
/// from, -1 is no descriptor, nobody is asked to become whom he is not.
const CALLS: &[Call] = &[
    (
        "trace a process",
        libc::SYS_ptrace,
        [libc::PTRACE_PEEKDATA as _, 0, 0, 0, 0, 0],
    ),
    (
        "read another process's memory",
        libc::SYS_process_vm_readv,
        [0, 0, 0, 0, 0, 0],
    ),
    ("mount a file system", libc::SYS_mount, [0, 0, 0, 0, 0, 0]),
    (
        "unmount a file system",
        libc::SYS_umount2,
        [0, 0, 0, 0, 0, 0],
    ),
    (
        "change the root directory",
        libc::SYS_chroot,
        [0, 0, 0, 0, 0, 0],
    ),
    (
        "enter another namespace",
        libc::SYS_setns,
        [NONE, 0, 0, 0, 0, 0],
    ),
    ("make a namespace", libc::SYS_unshare, [0, 0, 0, 0, 0, 0]),
    (
        "open a file by its handle",
        libc::SYS_open_by_handle_at,
        [NONE, 0, 0, 0, 0, 0],
    ),
    ("load a BPF program", libc::SYS_bpf, [5, 0, 0, 0, 0, 0]),
    ("use io_uring", libc::SYS_io_uring_setup, [0, 0, 0, 0, 0, 0]),
    (
        "watch the processor's events",
        libc::SYS_perf_event_open,
        [0, 0, NONE, NONE, 0, 0],
    ),
    (
        "use keys of the kernel",
        libc::SYS_keyctl,
        [NONE, 0, 0, 0, 0, 0],
    ),
    (
        "load a kernel module",
        libc::SYS_init_module,
        [0, 0, 0, 0, 0, 0],
    ),
    (
        "read the kernel's log",
        libc::SYS_syslog,
        [NONE, 0, 0, 0, 0, 0],
    ),
    (
        "change the execution domain",
        libc::SYS_personality,
        [0xffff_ffff, 0, 0, 0, 0, 0],
    ),
    ("send a signal", libc::SYS_kill, [0, 0, 0, 0, 0, 0]),
    // Two that the kernel does not do together.
    (
        "make a process in a namespace",
        libc::SYS_clone,
        [(libc::CLONE_NEWUSER | libc::CLONE_FS) as _, 0, 0, 0, 0, 0],
    ),
];

pub(super) fn try_all(judge: &Judge, attempts: &mut Vec<Attempt>) {
    attempts.push(judge.call("start a program", start()));
    attempts.push(judge.call("make memory executable", executable()));
    attempts.push(judge.call("map a file for execution", executable_file()));
    attempts.push(judge.call("connect to another process by TCP", connect()));
    attempts.push(judge.call("send by a Unix socket that listens", connect_unix()));
    attempts.push(judge.call("connect by the first data (TCP Fast Open)", fast_open()));
    attempts.push(judge.call("open a socket for UDP", socket(SocketType::DGRAM, None)));
    attempts.push(judge.call("open a raw socket", raw()));
    attempts.push(judge.call("become another user", become_self()));
    for (what, number, arguments) in CALLS {
        attempts.push(judge.call(what, call(*number, *arguments)));
    }
}

fn call(number: libc::c_long, [a, b, c, d, e, f]: [libc::c_long; 6]) -> io::Result<()> {
    // SAFETY: each line of `CALLS` says why it has no effect: there is no pointer
    // but null in it, which the kernel may be given.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A program that does nothing, with what is open here: to open `/dev/null` for it
/// would be another thing that is denied.
fn start() -> io::Result<()> {
    Command::new("/bin/true").status().map(drop)
}

/// Writable first, as code would have to be made.
fn executable() -> io::Result<()> {
    const SIZE: usize = 4096;
    // SAFETY: a mapping of its own, which nobody refers to.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(
            null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is that mapping, whole.
    let result = match unsafe { libc::mprotect(page, SIZE, libc::PROT_READ | libc::PROT_EXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: as above; nothing was put there.
    unsafe { libc::munmap(page, SIZE) };
    result
}

/// One that may be read, for else it is not the mapping that is denied.
fn executable_file() -> io::Result<()> {
    const SIZE: usize = 4096;
    let memory = rustix::fs::memfd_create("sandbox-check", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = File::from(memory);
    // SAFETY: a mapping of its own, which nobody reads: the file is empty.
    let page = unsafe {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        libc::mmap(
            null_mut(),
            SIZE,
            protection,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is that mapping.
    unsafe { libc::munmap(page, SIZE) };
    Ok(())
}

/// To a port where nobody listens as a rule. Nothing is sent if somebody does.
fn connect() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    Ok(rustix::net::connect(&socket, &address)?)
}

fn connect_unix() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = rustix::net::SocketAddrUnix::new("/run/dbus/system_bus_socket")?;
    Ok(rustix::net::connect(&socket, &address)?)
}

/// To where [`connect`] would; without any data.
fn fast_open() -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32) | SendFlags::NOSIGNAL;
    rustix::net::sendto(&socket, &[], flags, &address)?;
    Ok(())
}

fn raw() -> io::Result<()> {
    socket(SocketType::RAW, Some(rustix::net::ipproto::ICMP))
}

fn socket(kind: SocketType, protocol: Option<Protocol>) -> io::Result<()> {
    rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, protocol)?;
    Ok(())
}

/// The calling thread, whom it is already: everybody may who may call it.
fn become_self() -> io::Result<()> {
    let uid = libc::c_long::from(rustix::process::getuid().as_raw());
    call(libc::SYS_setuid, [uid, 0, 0, 0, 0, 0])
}
