//! The system calls of kernel TLS (Documentation/networking/tls.rst). All that is
//! `unsafe` about it is here.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::material::Material;

// include/uapi/linux/tls.h; libc has only `SOL_TLS` and `TCP_ULP`.
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;
const TLS_SET_RECORD_TYPE: libc::c_int = 1;
const TLS_GET_RECORD_TYPE: libc::c_int = 2;

/// Which way records go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Send,
    Receive,
}

/// What is in a record (RFC 8446 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Data,
    Alert,
    /// A handshake's message, as a new key's announcement, or what else there is.
    Other(u8),
}

impl Content {
    const ALERT: u8 = 21;

    fn of(number: u8) -> Self {
        match number {
            23 => Self::Data,
            Self::ALERT => Self::Alert,
            other => Self::Other(other),
        }
    }
}

/// What was received at once: bytes out of records of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) count: usize,
    /// `None` at the end of the stream.
    pub(super) content: Option<Content>,
}

/// Makes kernel TLS possible on a connected TCP socket. Until keys are set, nothing
/// changes for who uses it.
///
/// # Errors
/// `ENOENT` if the kernel's module is not there, `ENOTCONN` if the peer has closed.
pub(super) fn attach(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Has the kernel do one direction's records from now on.
pub(super) fn install(
    socket: BorrowedFd<'_>,
    direction: Direction,
    material: &Material,
) -> io::Result<()> {
    let option = match direction {
        Direction::Send => TLS_TX,
        Direction::Receive => TLS_RX,
    };
    set(socket, libc::SOL_TLS, option, material.bytes())
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes of `value`, which outlives the
    // call, as does the descriptor.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Room for one control message of one byte, as well aligned as its header.
type Control = [u64; 4];
const CONTROL: Control = [0; 4];

/// Sends application data, without waiting. `more` leaves the last record open for
/// what is sent next.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    more: bool,
) -> io::Result<usize> {
    /// The most that the kernel takes (UIO_MAXIOV).
    const MOST: usize = 1024;
    let slices = &slices[..slices.len().min(MOST)];
    let mut message = empty_message();
    // `IoSlice` is an `iovec`; the kernel does not write to it here.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    let more = if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the message names `slices`, which outlive the call.
    unsafe { send_message(socket, &message, more) }
}

/// Has the socket send what it holds.
///
/// sendfile(2) takes sixteen pages of a file at a time, and before Linux 6.5 the kernel's
/// TLS lets the last of them send the records of all (`MSG_SENDPAGE_NOTLAST`). If the
/// socket is full before that one, and nothing is on its way whose acknowledgement
/// would send them, nobody does, and room that is waited for never comes.
pub(super) fn push(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Setting it does that, set or not (tcp(7)).
    Ok(rustix::net::sockopt::set_tcp_nodelay(socket, true)?)
}

/// Sends an alert, without waiting (RFC 8446 6).
pub(super) fn send_alert(socket: BorrowedFd<'_>, alert: [u8; 2]) -> io::Result<()> {
    let mut control = CONTROL;
    let mut slice = libc::iovec {
        iov_base: alert.as_ptr().cast_mut().cast(),
        iov_len: alert.len(),
    };
    let mut message = empty_message();
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the macros compute sizes; `control` has more than CMSG_SPACE(1) bytes,
    // is aligned as a header has to be, and outlives all uses of it, as do `slice`
    // and `alert`, which the kernel only reads.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(1) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = Content::ALERT;
        send_message(socket, &message, 0)?;
    }
    Ok(())
}

/// # Safety
/// All that the message names has to be readable.
unsafe fn send_message(
    socket: BorrowedFd<'_>,
    message: &libc::msghdr,
    flags: libc::c_int,
) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the caller vouches for the message.
    let result = unsafe { libc::sendmsg(socket.as_raw_fd(), message, flags) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Receives into the beginning of `buffer`, without waiting; that many bytes of it
/// are then initialized.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<Received> {
    let mut control = CONTROL;
    let mut slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut message = empty_message();
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the kernel writes to `buffer` and `control`, not more than they hold,
    // and both outlive the call.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let count = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel has filled `control` as `msg_controllen` now says, and a
    // message of this type carries one byte.
    let content = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let is_type = !header.is_null()
            && (*header).cmsg_level == libc::SOL_TLS
            && (*header).cmsg_type == TLS_GET_RECORD_TYPE;
        is_type.then(|| Content::of(*libc::CMSG_DATA(header)))
    };
    match (count, content) {
        // It always says what it has decrypted; this would be something else.
        (1.., None) => Err(io::ErrorKind::InvalidData.into()),
        (count, content) => Ok(Received { count, content }),
    }
}

/// Whether the send buffer has so much room that a record finds its place in it.
/// That it is not full is not enough: of the last record that was taken a part may
/// be waiting still, which the kernel forgets when the connection is closed.
pub(super) fn has_room(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid structure, as the count says; it does not wait.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // What has failed will tell so when it is written to.
        _ => Ok(poll.revents != 0),
    }
}

fn empty_message() -> libc::msghdr {
    // SAFETY: for a plain C structure zeroes are null pointers and no bytes.
    unsafe { mem::zeroed() }
}
