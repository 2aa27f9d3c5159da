//! A connected socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket that was accepted, and belongs to no runtime yet.
#[derive(Debug)]
pub enum Accepted {
    /// TCP.
    Tcp(OwnedFd),
    /// A Unix socket.
    Unix(OwnedFd),
}

impl Accepted {
    /// Makes it the business of the runtime around it.
    ///
    /// # Errors
    /// If the kernel or the runtime cannot watch another socket.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(socket) => TcpStream::from_std(socket.into()).map(Stream::Tcp),
            Self::Unix(socket) => UnixStream::from_std(socket.into()).map(Stream::Unix),
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Waits until something can be read, or the peer has gone.
    ///
    /// # Errors
    /// If the runtime ends.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Calls `act` when the socket is ready for it, until it does not have to wait.
pub(crate) fn poll_io<T>(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut act: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        match interest {
            Interest::READABLE => ready!(socket.poll_read_ready(cx))?,
            _ => ready!(socket.poll_write_ready(cx))?,
        }
        match socket.try_io(interest, &mut act) {
            Err(error) if is_transient(&error) => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Whether the same call may succeed another time.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Bytes that were written to a connected socket and that the peer's kernel has not
/// confirmed.
pub fn unacknowledged(socket: impl AsFd) -> u64 {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ of tcp(7) and unix(7)) writes one int to the
    // pointer, which is valid, and the descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    match result {
        0 => u64::try_from(count).unwrap_or(0),
        _ => 0,
    }
}

/// Bytes that a connected socket would take now, roughly; 0 if it does not tell.
pub fn send_room(socket: impl AsFd) -> usize {
    /// `SK_MEMINFO_SNDBUF` and `SK_MEMINFO_WMEM_QUEUED` of linux/sock_diag.h.
    const SEND_BUFFER: usize = 3;
    const QUEUED: usize = 5;
    const COUNT: usize = 9;
    let mut figures = [0_u32; COUNT];
    let mut len = size_of_val(&figures) as libc::socklen_t;
    // SAFETY: SO_MEMINFO (Linux 4.12) writes at most `len` bytes of numbers to the
    // pointer, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            figures.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match result {
        // The kernel counts its own bookkeeping as well: about a quarter.
        0 => figures[SEND_BUFFER].saturating_sub(figures[QUEUED]) as usize / 4 * 3,
        _ => 0,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer in this process.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        });
        match result {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}
