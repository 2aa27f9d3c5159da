//! Attempts what the server must not be able to do, one thing after the other, and
//! says of each whether it was possible.
//!
//! It runs in the server's domain of SELinux, as root and with nothing else in its
//! way: so what is denied, SELinux denied. That it is not denied for another reason
//! shows the same probe in permissive mode, in which each must be possible.
//!
//!     probe CONTENT CONFIGURATION
//!
//! CONTENT is a directory with files that are as those of a repository, made for this
//! alone: `file`, `victim`, `program`, a program, and `empty`, a directory.
//! CONFIGURATION is a file as that of the server.

use std::env;
use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;
use std::time::SystemTime;

/// An attempt: what it is called, and how it went.
type Attempt = (&'static str, io::Result<()>);

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(content), Some(configuration)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: probe CONTENT CONFIGURATION");
        return ExitCode::from(64);
    };
    let attempts = [
        content_changes(&content),
        other_files(&configuration),
        programs(&content),
        memory(&content),
        network(),
        system(),
    ];
    for (name, result) in attempts.into_iter().flatten() {
        match result {
            Ok(()) => println!("possible: {name}"),
            // What a layer of confinement answers; anything else has other reasons.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("denied: {name}: {error}");
            }
            Err(error) => println!("unclear: {name}: {error}"),
        }
    }
    ExitCode::SUCCESS
}

fn content_changes(content: &Path) -> Vec<Attempt> {
    let file = content.join("file");
    let at = |name: &str| content.join(name);
    vec![
        ("open content for writing", open_to_write(&file)),
        (
            "append to content",
            OpenOptions::new().append(true).open(&file).map(drop),
        ),
        ("truncate content", truncate(&file)),
        ("create in content", File::create_new(at("new")).map(drop)),
        ("make a directory in content", fs::create_dir(at("newdir"))),
        ("make a link in content", fs::hard_link(&file, at("link"))),
        (
            "make a symbolic link in content",
            symlink("file", at("symlink")),
        ),
        (
            "make a pipe in content",
            make_node(&at("pipe"), libc::S_IFIFO),
        ),
        ("rename content", fs::rename(at("victim"), at("renamed"))),
        // Whichever name it has by now.
        (
            "remove content",
            fs::remove_file(at("renamed")).or_else(|_| fs::remove_file(at("victim"))),
        ),
        ("remove a directory of content", fs::remove_dir(at("empty"))),
        (
            "change modes of content",
            fs::set_permissions(&file, Permissions::from_mode(0o640)),
        ),
        (
            "change the owner of content",
            chown(&file, Some(1), Some(1)),
        ),
        (
            "change times of content",
            // By name: to open it for that needs no right to write.
            set_times(&file),
        ),
        (
            "set an attribute of content",
            set_attribute(&file, c"user.probe", b"x"),
        ),
        (
            "change the label of content",
            set_attribute(&file, c"security.selinux", b"system_u:object_r:etc_t:s0\0"),
        ),
        ("lock content", lock(&file)),
    ]
}

fn other_files(configuration: &Path) -> Vec<Attempt> {
    let read = |path: &str| fs::read(path).map(drop);
    let create = |path: &str| {
        let path = Path::new(path);
        File::create_new(path).map(drop)?;
        fs::remove_file(path)
    };
    vec![
        ("write the configuration", open_to_write(configuration)),
        (
            "write the program",
            open_to_write(Path::new("/usr/bin/ostree-serve")),
        ),
        (
            "write a library",
            open_to_write(Path::new("/usr/lib/os-release")),
        ),
        ("create in /tmp", create("/tmp/probe")),
        ("create in /var/tmp", create("/var/tmp/probe")),
        ("create in /dev/shm", create("/dev/shm/probe")),
        ("create in /run", create("/run/probe")),
        ("create in /var/lib", create("/var/lib/probe")),
        ("create in /etc", create("/etc/probe")),
        ("create in /root", create("/root/probe")),
        (
            "create beside the configuration",
            create("/etc/ostree-serve/probe"),
        ),
        ("read /etc/shadow", read("/etc/shadow")),
        ("read a file of root's", read("/root/secret")),
        // To be let in is enough: at its end, reading waits for more.
        (
            "read the log of the kernel",
            File::open("/dev/kmsg").map(drop),
        ),
        ("read the environment of init", read("/proc/1/environ")),
        ("list /root", fs::read_dir("/root").map(drop)),
        ("read the disk", File::open("/dev/nvme0n1").map(drop)),
        (
            "change a setting of the kernel",
            open_to_write(Path::new("/proc/sys/kernel/panic")),
        ),
    ]
}

fn programs(content: &Path) -> Vec<Attempt> {
    vec![
        (
            "execute a file of content",
            execute(&content.join("program")),
        ),
        ("execute /usr/bin/true", execute(Path::new("/usr/bin/true"))),
        ("execute a shell", execute(Path::new("/bin/sh"))),
        (
            "execute the server",
            execute(Path::new("/usr/bin/ostree-serve")),
        ),
        ("execute from memory", execute_memory()),
    ]
}

fn memory(content: &Path) -> Vec<Attempt> {
    let file = File::open(content.join("file"));
    let mapped = file.and_then(|it| map(libc::PROT_READ | libc::PROT_EXEC, Some(&it)));
    vec![
        ("map content as code", mapped),
        (
            "memory to write and execute",
            map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, None),
        ),
    ]
}

fn network() -> Vec<Attempt> {
    // That nothing listens there is as good as a connection.
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Ok(()),
        _ => Err(error),
    };
    let connect = |address: &str| TcpStream::connect(address).map(drop).or_else(refused);
    let socket = |family, kind, protocol| {
        // SAFETY: three numbers; the descriptor stays open until the process ends.
        result(unsafe { libc::socket(family, kind, protocol) })
    };
    vec![
        ("connect to this machine", connect("127.0.0.1:22")),
        ("connect to the own port", connect("127.0.0.1:8443")),
        ("connect to another machine", connect("10.77.0.2:443")),
        (
            "send a datagram",
            UdpSocket::bind("0.0.0.0:0").and_then(|it| it.send_to(b"x", "10.77.0.2:53").map(drop)),
        ),
        (
            "listen at another port",
            TcpListener::bind("0.0.0.0:2525").map(drop),
        ),
        (
            "speak to the service manager",
            UnixStream::connect("/run/systemd/private").map(drop),
        ),
        (
            "a raw socket",
            socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ),
        (
            "a packet socket",
            socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0),
        ),
        (
            "a socket for routes",
            socket(libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ),
    ]
}

fn system() -> Vec<Attempt> {
    let none = ptr::null::<libc::c_char>();
    // SAFETY: all of these take numbers, and pointers that are null or to constants.
    // What they change of this process nobody needs any more: they come last.
    unsafe {
        vec![
            ("send a signal to init", result(libc::kill(1, 0))),
            // From a child, which lets go of it by ending.
            (
                "trace init",
                in_child(|| {
                    if libc::ptrace(libc::PTRACE_SEIZE, 1, 0, 0) == 0 {
                        libc::_exit(0);
                    }
                }),
            ),
            (
                "make a device",
                make_node(Path::new("/tmp/device"), libc::S_IFCHR),
            ),
            ("load a program into the kernel", {
                // A map of one element.
                let attributes: [u32; 32] = {
                    let mut it = [0; 32];
                    it[..4].copy_from_slice(&[2, 4, 4, 1]);
                    it
                };
                let size = size_of_val(&attributes);
                result(libc::syscall(libc::SYS_bpf, 0, &attributes, size) as i32)
            }),
            (
                "change the name of this machine",
                result(libc::sethostname(c"guest".as_ptr(), 5)),
            ),
            (
                "change the priority",
                result(libc::setpriority(libc::PRIO_PROCESS, 0, -5)),
            ),
            ("mount", {
                let flags = libc::MS_NOSUID;
                let (kind, place) = (c"tmpfs".as_ptr(), c"/mnt".as_ptr());
                result(libc::mount(kind, place, kind, flags, none.cast()))
            }),
            (
                "change the root directory",
                result(libc::chroot(c"/".as_ptr())),
            ),
            ("become another user", result(libc::setresuid(1, 1, 0))),
        ]
    }
}

fn result(returned: i32) -> io::Result<()> {
    match returned {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Nothing is written: to be let in is enough.
fn open_to_write(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(drop)
}

fn truncate(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with a zero and outlives the call.
    result(unsafe { libc::truncate(path.as_ptr(), 1) })
}

fn make_node(path: &Path, kind: u32) -> io::Result<()> {
    let path = c_path(path)?;
    // /dev/null, if it is a device.
    let device = libc::makedev(1, 3);
    // SAFETY: the path ends with a zero and outlives the call.
    result(unsafe { libc::mknod(path.as_ptr(), kind | 0o600, device) })
}

fn set_times(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = libc::timespec {
        tv_sec: now.map_err(io::Error::other)?.as_secs() as i64 - 60,
        tv_nsec: 0,
    };
    // SAFETY: the path ends with a zero, there are two times, and both outlive the call.
    result(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), [now; 2].as_ptr(), 0) })
}

fn set_attribute(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: path and name end with a zero, the value has this length, and all
    // outlive the call.
    result(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })
}

fn lock(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open.
    result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH) })
}

fn map(protection: i32, file: Option<&File>) -> io::Result<()> {
    let (flags, descriptor) = match file {
        Some(file) => (libc::MAP_PRIVATE, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a new mapping, where the kernel likes it; nobody uses it.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, descriptor, 0) };
    match mapped {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// In a child, for it replaces the process. Not by std's: that hands the error back
/// through a pipe, which is denied as well.
fn execute(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    in_child(|| {
        let arguments = [path.as_ptr(), c"--version".as_ptr(), ptr::null()];
        let environment = [ptr::null()];
        // SAFETY: path and lists end as they must, and outlive the call.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    })
}

fn execute_memory() -> io::Result<()> {
    // SAFETY: the name ends with a zero.
    let memory = unsafe { libc::memfd_create(c"probe".as_ptr(), 0) };
    result(memory)?;
    // SAFETY: the descriptor is new, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(memory) };
    // A program, as any that is made of memory.
    file.write_all(b"#!/usr/bin/true\n")?;
    in_child(|| {
        let (arguments, environment) = ([c"probe".as_ptr(), ptr::null()], [ptr::null()]);
        // SAFETY: the lists end as they must, and outlive the call.
        unsafe { libc::fexecve(memory, arguments.as_ptr(), environment.as_ptr()) };
    })
}

/// Runs what only returns if it fails, in a process of its own. The child's exit code is the error then.
fn in_child(attempt: impl Fn()) -> io::Result<()> {
    /// No program that is started here ends with as much added to an error.
    const FAILED: i32 = 100;
    // SAFETY: there is one thread only, so the child may do whatever it likes.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // What a program that is started has to say is no attempt.
            // SAFETY: numbers; nothing is buffered in the child.
            unsafe { (libc::close(1), libc::close(2)) };
            attempt();
            let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            // SAFETY: ends the child, with nothing of the parent's flushed twice.
            unsafe { libc::_exit(FAILED + error) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the child is this process's, and the number outlives the call.
            result(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
            match libc::WEXITSTATUS(status) {
                code if code > FAILED => Err(io::Error::from_raw_os_error(code - FAILED)),
                _ => Ok(()),
            }
        }
    }
}
