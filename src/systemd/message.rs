//! One message to the service manager, as sd_notify(3) sends it.
//!
//! `sd_notify` would connect its socket first, and a confined process
//! ([`crate::sandbox`]) connects nowhere. A datagram needs no connection: it names
//! whom it is for.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use sd_notify::NotifyState;

/// Descriptors in one message: nobody here sends more than one.
const MOST: usize = 1;

/// Sends these states, and descriptors with them; nothing if nobody wants to know.
///
/// # Errors
/// As sendmsg(2).
pub(super) fn send(states: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some(name) = env::var_os(super::NOTIFY_SOCKET) else {
        return Ok(());
    };
    let mut text = String::new();
    for state in states {
        // Writing to a string does not fail.
        _ = writeln!(text, "{state}");
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    rustix::net::sendmsg_addr(
        &socket,
        &address(&name)?,
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// A path, or with `@` in front an abstract name (unix(7)).
fn address(name: &OsStr) -> io::Result<SocketAddrUnix> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(rest) => SocketAddrUnix::new_abstract_name(rest),
        None => SocketAddrUnix::new(name),
    };
    Ok(address?)
}
