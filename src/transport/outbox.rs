//! Files on their way through hyper, which knows only memory.
//!
//! A body puts a part of a file into the connection's [`Outbox`], and gives hyper a
//! [`Placeholder`]: a slice of a memory region that nobody reads. hyper passes it
//! on in a vectored write, untouched, and the transport knows it by its address,
//! and sends the file in its place.
//!
//! It depends on hyper handing over slices without looking at them, which its
//! HTTP/1 side does if the transport says that it writes vectors. If hyper ever
//! copied them, by [`Buf::chunk`], that panics: the connection ends, and no wrong
//! byte is sent. `tests/real_kernel.rs` holds it against the hyper in use.

use std::collections::VecDeque;
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};

use crate::files::FileContent;

/// How much of a file one placeholder stands for, at most: a large part makes
/// little work, a small one makes the sender look at other connections sooner.
const LONGEST: usize = 2 * 1024 * 1024;

/// Placeholders of a connection are told apart by this many numbers. hyper queues
/// no more than 16.
const NUMBERS: usize = 256;

/// Where placeholders point. The memory is never written, so the kernel never has
/// to provide it; a process has one of it, for it is nothing but addresses.
static REGION: LazyLock<Box<[u8]>> =
    LazyLock::new(|| vec![0; LONGEST + NUMBERS].into_boxed_slice());

/// What is under way on one connection, in the order in which it is to be sent.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    next: u8,
    parts: VecDeque<Part>,
}

/// A part of a file, from `position` on.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) number: u8,
    pub(super) file: FileContent,
    pub(super) position: u64,
    left: usize,
}

impl Outbox {
    /// Takes the `len` bytes of a file from `position` on, or the beginning of
    /// them, and gives what stands for them.
    pub(super) fn put(&self, file: FileContent, position: u64, len: u64) -> Placeholder {
        let remaining = len.min(LONGEST as u64) as usize;
        let mut queue = self.lock();
        let number = queue.next;
        queue.next = number.wrapping_add(1);
        queue.parts.push_back(Part {
            number,
            file,
            position,
            left: remaining,
        });
        Placeholder { number, remaining }
    }

    /// The part that a placeholder stands for. Those before it have been sent.
    ///
    /// # Errors
    /// If there is none, which is a fault in this program.
    pub(super) fn part(&self, number: u8) -> io::Result<Part> {
        let mut queue = self.lock();
        while queue.parts.front().is_some_and(|it| it.number != number) {
            queue.parts.pop_front();
        }
        let front = queue.parts.front();
        front
            .cloned()
            .ok_or_else(|| io::Error::other("a placeholder stands for no file"))
    }

    /// So many bytes of the first part were sent. Its file is let go of with the last
    /// of them.
    pub(super) fn sent(&self, count: usize) {
        let mut queue = self.lock();
        if let Some(front) = queue.parts.front_mut() {
            front.position += count as u64;
            front.left = front.left.saturating_sub(count);
        }
        if queue.parts.front().is_some_and(|front| front.left == 0) {
            queue.parts.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // What is locked here is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands for a part of a file.
#[derive(Debug)]
pub struct Placeholder {
    number: u8,
    remaining: usize,
}

impl Placeholder {
    /// How many bytes it stands for.
    pub(super) fn len(&self) -> usize {
        self.remaining
    }

    fn slice(&self) -> &'static [u8] {
        let start = usize::from(self.number);
        &REGION[start..start + self.remaining]
    }
}

/// The number of the placeholder that a slice is of; `None` if it is memory.
pub(super) fn number_of(slice: &[u8]) -> Option<u8> {
    if slice.is_empty() {
        return None;
    }
    let region = REGION.as_ptr().addr();
    let offset = slice.as_ptr().addr().checked_sub(region)?;
    u8::try_from(offset).ok()
}

/// A piece of a body, for hyper.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes.
    Memory(Bytes),
    /// A part of a file, which lies in the connection's outbox.
    File(Placeholder),
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(placeholder) => placeholder.remaining,
        }
    }

    #[expect(clippy::panic, reason = "no other bytes than the file's may be sent")]
    fn chunk(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::File(Placeholder { remaining: 0, .. }) => &[],
            Self::File(_) => panic!("a file's placeholder was read instead of sent"),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [io::IoSlice<'a>]) -> usize {
        let slice = match self {
            Self::Memory(bytes) => &bytes[..],
            Self::File(placeholder) => placeholder.slice(),
        };
        match slices.first_mut() {
            Some(first) if !slice.is_empty() => {
                *first = io::IoSlice::new(slice);
                1
            }
            _ => 0,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Memory(bytes) => bytes.advance(count),
            // The transport has sent them, and hyper counts what it is told.
            Self::File(placeholder) => {
                placeholder.remaining = placeholder.remaining.saturating_sub(count);
            }
        }
    }
}

#[cfg(test)]
mod tests;
