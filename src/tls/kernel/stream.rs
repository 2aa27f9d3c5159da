//! A connection whose records the kernel does.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::socket::{self, Content, Received};
use crate::listener::stream::{is_transient, poll_io};

/// The plaintext side of a connection whose records the kernel does.
#[derive(Debug)]
pub struct KernelStream {
    socket: TcpStream,
    /// What rustls had decrypted, in reverse order.
    ahead: Vec<u8>,
    /// An upper bound of the records that were sent under this key.
    records: u64,
    reading: Reading,
    writing: Writing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The socket may hold whole records that came before the kernel knew of
    /// records. It promises nobody to be woken for them, so they are looked for.
    Untried,
    Open,
    /// The peer has said that it sends nothing more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// The peer was told that nothing more comes, or that something is wrong.
    Ended,
}

/// Alerts (RFC 8446 6.1, 6.2).
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const UNEXPECTED_MESSAGE: [u8; 2] = [2, 10];

impl KernelStream {
    /// Nobody counts the kernel's records. AES-GCM is safe for 2^24.5 of them under
    /// one key (RFC 8446 5.5); more are refused from here on.
    const MOST_RECORDS: u64 = 1 << 24;
    /// By then the connection has to come to its end. What is left is enough for a
    /// last reply of 32 GiB, however small the kernel makes the records.
    const SPENT: u64 = 1 << 23;
    /// The least of a long stretch of bytes that the kernel puts into one record;
    /// in general it is four times that.
    const LEAST_RECORD: u64 = 4096;

    pub(super) fn new(socket: TcpStream, mut ahead: Vec<u8>, records: u64) -> Self {
        ahead.reverse();
        Self {
            socket,
            ahead,
            records,
            reading: Reading::Untried,
            writing: Writing::Open,
        }
    }

    /// The socket, to look at it and to wait until it can be read from or written to.
    /// To do that, or to shut it down, is not for others.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// An upper bound of the records that were sent.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the key has protected so much that no further request should come on
    /// this connection.
    pub fn is_spent(&self) -> bool {
        self.records >= Self::SPENT
    }

    /// Notes that one sendfile(2) took this many bytes.
    pub(super) fn count_file(&mut self, bytes: u64) {
        self.records += 1 + bytes / Self::LEAST_RECORD;
    }

    /// Whether anything may be sent.
    ///
    /// # Errors
    /// If the key has protected as much as it may, or the writing side has ended.
    pub(super) fn may_send(&self) -> io::Result<()> {
        if self.writing == Writing::Ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.records >= Self::MOST_RECORDS {
            return Err(io::Error::other(
                "as many records were sent as may be under one key",
            ));
        }
        Ok(())
    }

    /// Writes what it can of the slices. `more` means that something follows at
    /// once, as a file after its reply's header, and that no record needs to end
    /// here.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        self.may_send()?;
        if slices.iter().all(|it| it.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let socket = &self.socket;
        let sent = ready!(poll_io(cx, socket, Interest::WRITABLE, || {
            socket::send(socket.as_fd(), slices, more)
        }))?;
        // The kernel may end a record where a slice ends.
        self.records += (slices.len() + 1) as u64 + sent as u64 / Self::LEAST_RECORD;
        Poll::Ready(Ok(sent))
    }

    /// Has the kernel send up to `len` bytes of a file, from `position` on. 0 bytes are
    /// what it sends beyond the file's end.
    ///
    /// # Errors
    /// As of sendfile(2), with its number. Without one, if nothing may be sent any more.
    pub fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: impl AsFd,
        mut position: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        self.may_send()?;
        let (socket, file) = (&self.socket, file.as_fd());
        let sent = ready!(poll_io(cx, socket, Interest::WRITABLE, || {
            match rustix::fs::sendfile(socket, file, Some(&mut position), len) {
                Err(Errno::AGAIN) => {
                    socket::push(socket.as_fd())?;
                    Err(Errno::AGAIN.into())
                }
                sent => Ok(sent?),
            }
        }))?;
        self.count_file(sent as u64);
        Poll::Ready(Ok(sent))
    }

    /// Receives bytes of any kind into the unfilled part of `buffer`.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Received>> {
        let socket = &self.socket;
        // SAFETY: nothing is made uninitialized here.
        let unfilled = unsafe { buffer.unfilled_mut() };
        let mut receive = || socket::receive(socket.as_fd(), unfilled);
        if self.reading == Reading::Untried {
            self.reading = Reading::Open;
            match receive() {
                Err(error) if is_transient(&error) => {}
                result => return Poll::Ready(result),
            }
        }
        poll_io(cx, socket, Interest::READABLE, receive)
    }

    /// Ends both directions; the peer is told why, if that goes at once.
    fn fail(&mut self, alert: [u8; 2], reason: &'static str) -> io::Error {
        self.reading = Reading::Ended;
        if self.writing == Writing::Open {
            self.writing = Writing::Ended;
            _ = socket::send_alert(self.socket.as_fd(), alert);
        }
        io::Error::new(io::ErrorKind::InvalidData, reason)
    }
}

impl AsyncRead for KernelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let count = buffer.remaining().min(this.ahead.len());
            let rest = this.ahead.len() - count;
            this.ahead[rest..].reverse();
            buffer.put_slice(&this.ahead[rest..]);
            this.ahead.truncate(rest);
            if rest == 0 {
                this.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        if this.reading == Reading::Ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let Received { count, content } = ready!(this.poll_receive(cx, buffer))?;
            match content {
                // A record without content.
                Some(Content::Data) if count == 0 => {}
                Some(Content::Data) => {
                    // SAFETY: so many bytes were just received there.
                    unsafe { buffer.assume_init(count) };
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Some(Content::Alert) => {
                    let mut alert = buffer.take(count);
                    // SAFETY: as above.
                    unsafe { alert.assume_init(count) };
                    alert.advance(count);
                    return Poll::Ready(match alert.filled() {
                        [_, description] if *description == CLOSE_NOTIFY[1] => {
                            this.reading = Reading::Ended;
                            Ok(())
                        }
                        _ => {
                            // It is not to be answered.
                            this.writing = Writing::Ended;
                            Err(this.fail(CLOSE_NOTIFY, "the peer sent an alert"))
                        }
                    });
                }
                // As a KeyUpdate: kernels before 6.13 take no second key.
                Some(Content::Other(_)) => {
                    let reason = "the peer sent what only a handshake has";
                    return Poll::Ready(Err(this.fail(UNEXPECTED_MESSAGE, reason)));
                }
                // The transport ended without a goodbye.
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }
}

impl AsyncWrite for KernelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(bytes)], false)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, slices, false)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What the kernel has taken it sends by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.writing == Writing::Open {
            let socket = &this.socket;
            ready!(poll_io(cx, socket, Interest::WRITABLE, || {
                match socket::has_room(socket.as_fd())? {
                    true => socket::send_alert(socket.as_fd(), CLOSE_NOTIFY),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                }
            }))?;
            this.writing = Writing::Ended;
            this.records += 1;
        }
        match ready!(Pin::new(&mut this.socket).poll_shutdown(cx)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}
