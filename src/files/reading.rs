//! Reading at a place of a file, with or without waiting for the disk.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::{FileContent, Patience};

/// Reads exactly `len` bytes, or nothing (`None`) if that would wait.
pub(super) fn read_at(
    file: impl AsFd,
    offset: u64,
    len: usize,
    patience: Patience,
) -> io::Result<Option<Bytes>> {
    let mut buffer: Vec<u8> = Vec::with_capacity(len);
    if !fill(
        file,
        offset,
        &mut buffer.spare_capacity_mut()[..len],
        patience,
    )? {
        return Ok(None);
    }
    // SAFETY: `fill` says that the first `len` bytes were read.
    unsafe { buffer.set_len(len) };
    Ok(Some(buffer.into()))
}

/// Fills the whole buffer, or says that this would wait. Then nothing is known of
/// what is in it.
pub(super) fn fill(
    file: impl AsFd,
    offset: u64,
    buffer: &mut [MaybeUninit<u8>],
    patience: Patience,
) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset + filled as u64;
        let rest = &mut buffer[filled..];
        let read = match patience {
            Patience::Wait => rustix::io::pread(&file, rest, at).map(|(read, _)| read.len()),
            Patience::Never => read_cached(&file, rest, at),
        };
        match read {
            // Linux 5.9 and 5.10 say so in the middle of a file (preadv2(2), BUGS).
            Ok(0) if patience == Patience::Never => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            // Not in memory, or a kernel or file system that cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
                if patience == Patience::Never =>
            {
                return Ok(false);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}

/// Reads what the kernel has in memory (preadv2(2), RWF_NOWAIT).
fn read_cached(
    file: impl AsFd,
    buffer: &mut [MaybeUninit<u8>],
    offset: u64,
) -> Result<usize, Errno> {
    let slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let fd = file.as_fd().as_raw_fd();
    // A file's size fits into an `off_t`.
    let offset = offset as libc::off_t;
    // SAFETY: the kernel writes at most `iov_len` bytes to where `iov_base` is, and
    // that memory is borrowed until the call returns.
    match unsafe { libc::preadv2(fd, &raw const slice, 1, offset, libc::RWF_NOWAIT) } {
        count @ 0.. => Ok(count as usize),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Reads on a thread that may wait.
pub(super) fn read_in_pool(
    file: FileContent,
    offset: u64,
    len: usize,
) -> JoinHandle<io::Result<Bytes>> {
    tokio::task::spawn_blocking(move || read_waiting(&file, offset, len))
}

/// Reads on this thread, which may wait.
pub(super) fn read_waiting(file: impl AsFd, offset: u64, len: usize) -> io::Result<Bytes> {
    read_at(file, offset, len, Patience::Wait)?.ok_or_else(|| Errno::AGAIN.into())
}
