//! How the files in an [`outbox`] are sent: by the kernel where it can,
//! else read and written. Neither waits for the disk: what is not in memory is read
//! by the blocking pool first.

use std::cell::RefCell;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncWrite, Interest};
use tokio::task::JoinHandle;

use super::activity::Way;
use super::outbox::{self, Part};
use super::{Layer, Transport, forward};
use crate::files::FileContent;
use crate::listener::stream::{Stream, poll_io, send_room};

/// What the kernel is told to send at a time, after a look whether that much is in
/// memory.
const PIECE: usize = 512 * 1024;

/// What is read and encrypted at a time: it stays in the processor's cache from one
/// to the other.
const AT_ONCE: usize = 64 * 1024;

/// The longest content of a TLS record (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// How many slices hyper has in front of a file at most: a header, and 16 chunks of
/// a body.
const MOST_SLICES: usize = 18;

thread_local! {
    /// Where bytes are read for a moment, on their way to encryption or a socket.
    /// One for each thread, since no connection needs it from one call to the next.
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> = RefCell::new(Box::new_uninit_slice(AT_ONCE));
}

/// How files of a connection are sent.
#[derive(Debug)]
pub(super) struct Sender {
    by_kernel: bool,
    /// What is being read so that it is in memory.
    warming: Option<JoinHandle<io::Result<()>>>,
    /// What was read so for the part of this number, up to which position; it need not
    /// be asked for once more.
    warm: (u8, u64),
}

impl Sender {
    pub(super) fn new(by_kernel: bool) -> Self {
        Self {
            by_kernel,
            warming: None,
            warm: (0, 0),
        }
    }
}

impl Sender {
    /// This part is what is sent now. What was read for others is of no use any more:
    /// numbers come again.
    fn turn_to(&mut self, part: &Part) {
        if self.warm.0 != part.number {
            self.warm = (part.number, 0);
        }
    }

    /// How much of the next `len` bytes of a part to send at a time: not what was
    /// read for it together with what may have to be read.
    fn warm_len(&self, part: &Part, len: usize) -> usize {
        let (number, end) = self.warm;
        match usize::try_from(end.saturating_sub(part.position)) {
            Ok(warm @ 1..) if number == part.number => len.min(warm),
            _ => len,
        }
    }

    /// Whether the next `len` bytes of a part were just read.
    fn is_warm(&self, part: &Part, len: usize) -> bool {
        let (number, end) = self.warm;
        number == part.number && part.position + len as u64 <= end
    }
}

impl Transport {
    /// Writes what is memory, sends what stands for a file. As a vectored write.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_file = |slice: &IoSlice<'_>| outbox::number_of(slice);
        let found = slices
            .iter()
            .enumerate()
            .find_map(|(at, it)| Some((at, is_file(it)?)));
        let (at, number) = match found {
            Some((at, number)) if at < MOST_SLICES => (at, number),
            // As much of the memory as there is before a file.
            found => {
                let memory = found.map_or(slices, |(at, _)| &slices[..at]);
                return self.poll_memory(cx, memory);
            }
        };
        let part = self.outbox.part(number)?;
        self.sender.turn_to(&part);
        let sent = ready!(self.poll_send_part(cx, &slices[..at], &part, slices[at].len()));
        Poll::Ready(sent.map_err(|failure| match failure {
            Failure::Socket(error) => error,
            Failure::File(error) => {
                let error = part.file.unreadable(error);
                tracing::error!(%error, remedy = error.remedy(), "a transfer was aborted");
                io::Error::other(error)
            }
        }))
    }

    /// Writes memory.
    fn poll_memory(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_taken(cx))?;
        match slices {
            [slice] if slice.len() > RECORD => {
                let bytes = &slice[..slice.len().min(self.room())];
                forward!(self.stream, poll_write, cx, bytes)
            }
            slices => forward!(self.stream, poll_write_vectored, cx, slices),
        }
    }

    /// Writes what is in `bytes` from `start` on, each piece as records of its own, and
    /// sends them together. `ends` are where the pieces end. As a write otherwise.
    pub(super) fn poll_send_each(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        start: usize,
        ends: &[usize],
    ) -> Poll<io::Result<usize>> {
        let result = self.poll_send_pieces(cx, bytes, start, ends);
        self.counted(result)
    }

    fn poll_send_pieces(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        start: usize,
        ends: &[usize],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_taken(cx))?;
        let room = self.room();
        let Layer::Tls(stream) = &mut self.stream else {
            return forward!(self.stream, poll_write, cx, &bytes[start..]);
        };
        let (_, session) = stream.get_mut();
        let mut taken = 0;
        for &end in ends {
            let piece = &bytes[start + taken..end];
            let count = session.writer().write(piece)?;
            taken += count;
            if count < piece.len() || taken >= room {
                break;
            }
        }
        // What has to wait is waited for before anything more is written, or flushed.
        match Pin::new(stream.as_mut()).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// How much to encrypt at a time. What is encrypted and does not fit into the
    /// socket has to be kept for as long as the client does not read; so no more
    /// than fits, if that is more than a record.
    fn room(&self) -> usize {
        match &self.stream {
            Layer::Tls(_) => send_room(self.stream.socket()).clamp(RECORD, AT_ONCE),
            _ => AT_ONCE,
        }
    }

    /// Waits until the client has taken what was encrypted for it. Nothing more is
    /// read and encrypted for a slow one.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Layer::Tls(stream) if stream.get_ref().1.wants_write() => {
                Pin::new(stream.as_mut()).poll_flush(cx)
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Sends the head and the first of `len` bytes of a part of a file.
    fn poll_send_part(
        &mut self,
        cx: &mut Context<'_>,
        head: &[IoSlice<'_>],
        part: &Part,
        len: usize,
    ) -> Poll<Result<usize, Failure>> {
        loop {
            if let Some(warming) = &mut self.sender.warming {
                let read = ready!(Pin::new(warming).poll(cx));
                self.sender.warming = None;
                let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
                read.map_err(Failure::File)?;
            }
            let sent = match self.sender.by_kernel {
                true => self.poll_sendfile(cx, head, part, len),
                false => self.poll_copy(cx, head, part, len),
            };
            match ready!(sent)? {
                Sent::Some { head, file, way } => {
                    self.outbox.sent(file);
                    self.activity.went(way, file);
                    return Poll::Ready(Ok(head + file));
                }
                Sent::Cold(len) if head.is_empty() => {
                    self.sender.warming = Some(part.file.warm_in_pool(part.position, len));
                    self.sender.warm = (part.number, part.position + len as u64);
                }
                // It can leave meanwhile.
                Sent::Cold(_) => {
                    return self.poll_memory(cx, head).map_err(Failure::Socket);
                }
                Sent::NotByKernel => self.sender.by_kernel = false,
            }
        }
    }

    /// Has the kernel send it.
    fn poll_sendfile(
        &mut self,
        cx: &mut Context<'_>,
        head: &[IoSlice<'_>],
        part: &Part,
        len: usize,
    ) -> Poll<Result<Sent, Failure>> {
        let len = self.sender.warm_len(part, len.min(PIECE));
        if !self.sender.is_warm(part, len)
            && !is_cached(&part.file, part.position, len).map_err(Failure::File)?
        {
            return Poll::Ready(Ok(Sent::Cold(len)));
        }
        let way = match self.stream {
            Layer::Kernel(_) => Way::KernelTls,
            _ => Way::Sendfile,
        };
        let head_len: usize = head.iter().map(|slice| slice.len()).sum();
        if head_len > 0 {
            // The file follows at once, in the same packet.
            let count = ready!(self.poll_send_more(cx, head)).map_err(Failure::Socket)?;
            if count < head_len {
                return Poll::Ready(Ok(Sent::Some {
                    head: count,
                    file: 0,
                    way,
                }));
            }
        }
        let sent = match &mut self.stream {
            Layer::Plain(Stream::Tcp(socket)) => {
                let mut position = part.position;
                poll_io(cx, socket, Interest::WRITABLE, || {
                    let sent = rustix::fs::sendfile(&*socket, &part.file, Some(&mut position), len);
                    Ok(sent?)
                })
            }
            Layer::Kernel(stream) => stream.poll_send_file(cx, &part.file, part.position, len),
            Layer::Plain(Stream::Unix(_)) | Layer::Tls(_) => {
                return Poll::Ready(Ok(Sent::NotByKernel));
            }
        };
        let sent = match sent {
            Poll::Pending if head_len == 0 => return Poll::Pending,
            Poll::Pending => 0,
            // It became shorter.
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(Failure::File(io::ErrorKind::UnexpectedEof.into())));
            }
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => match Errno::from_io_error(&error) {
                // A file system that cannot do it (sendfile(2), ERRORS).
                Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.sender.by_kernel = false;
                    0
                }
                Some(errno) => return Poll::Ready(Err(Failure::of_sendfile(errno))),
                None => return Poll::Ready(Err(Failure::Socket(error))),
            },
        };
        Poll::Ready(Ok(match head_len + sent {
            0 => Sent::NotByKernel,
            _ => Sent::Some {
                head: head_len,
                file: sent,
                way,
            },
        }))
    }

    /// Writes memory that something follows at once.
    fn poll_send_more(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Layer::Plain(Stream::Tcp(socket)) => {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                let nothing = &mut SendAncillaryBuffer::default();
                poll_io(cx, socket, Interest::WRITABLE, || {
                    Ok(rustix::net::sendmsg(&*socket, slices, nothing, flags)?)
                })
            }
            Layer::Kernel(stream) => stream.poll_send(cx, slices, true),
            layer => forward!(*layer, poll_write_vectored, cx, slices),
        }
    }

    /// Reads it into memory of this thread, and writes it from there.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        head: &[IoSlice<'_>],
        part: &Part,
        len: usize,
    ) -> Poll<Result<Sent, Failure>> {
        ready!(self.poll_taken(cx)).map_err(Failure::Socket)?;
        let len = match len > RECORD {
            true => len.min(self.room()),
            false => len,
        };
        let head_len: usize = head.iter().map(|slice| slice.len()).sum();
        let len = self.sender.warm_len(part, len);
        SCRATCH.with_borrow_mut(|scratch| {
            let scratch = &mut scratch[..len];
            let is_cached = part.file.fill_cached(part.position, scratch);
            if !is_cached.map_err(Failure::File)? {
                if !self.sender.is_warm(part, len) {
                    return Poll::Ready(Ok(Sent::Cold(len)));
                }
                // A kernel or a file system that never tells, or no memory to spare.
                let read = part.file.fill_waiting(part.position, scratch);
                read.map_err(Failure::File)?;
            }
            // SAFETY: all of it was just filled, and it stays borrowed. (`MaybeUninit`
            // can say so itself only since Rust 1.93.)
            let bytes = unsafe { std::slice::from_raw_parts(scratch.as_ptr().cast(), len) };
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            slices[..head.len()].copy_from_slice(head);
            slices[head.len()] = IoSlice::new(bytes);
            let slices = &slices[..=head.len()];
            let count = ready!(forward!(self.stream, poll_write_vectored, cx, slices))
                .map_err(Failure::Socket)?;
            let head = head_len.min(count);
            Poll::Ready(Ok(Sent::Some {
                head,
                file: count - head,
                way: Way::Read,
            }))
        })
    }
}

/// What came of sending.
enum Sent {
    /// So many bytes of both were sent.
    Some { head: usize, file: usize, way: Way },
    /// Nothing: the file's next bytes, so many, are not in memory.
    Cold(usize),
    /// Nothing: the kernel cannot send this file.
    NotByKernel,
}

/// Why a transfer has to be aborted.
enum Failure {
    /// The file cannot be read: the operator should know.
    File(io::Error),
    /// The client is gone.
    Socket(io::Error),
}

impl Failure {
    /// sendfile(2) has one error for both of its ends.
    fn of_sendfile(errno: Errno) -> Self {
        match errno {
            Errno::IO | Errno::STALE | Errno::BADMSG | Errno::ACCESS | Errno::PERM => {
                Self::File(errno.into())
            }
            errno => Self::Socket(errno.into()),
        }
    }
}

/// Whether a part of a file is in memory, as far as a byte every now and then tells:
/// files are read ahead, but somebody may have asked for other parts of it before.
fn is_cached(file: &FileContent, position: u64, len: usize) -> io::Result<bool> {
    const STRIDE: usize = 128 * 1024;
    let last = len.saturating_sub(1);
    for offset in (0..last).step_by(STRIDE).chain([last]) {
        let mut byte = [MaybeUninit::uninit()];
        if !file.fill_cached(position + offset as u64, &mut byte)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
