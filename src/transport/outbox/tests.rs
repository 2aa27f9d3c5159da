//! Placeholders are known by their address, and nothing reads them.

use std::convert::Infallible;
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::super::Transport;
use super::super::activity::{Activity, Request};
use super::super::body::Tracked;
use super::*;
use crate::config::ZeroCopy;
use crate::files::{Content, Directory, Links, Opened, Patience};
use crate::http::Body;
use crate::listener::stream::Accepted;
use crate::reactors::Reactors;

fn file(len: usize) -> FileContent {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), vec![7; len]).unwrap();
    let opened = Directory::open(directory.path()).unwrap();
    match opened.open_file("file", Links::Refused, Patience::Wait) {
        Ok(Opened::File(file)) => FileContent::new(file, PathBuf::from("file")),
        other => panic!("{other:?}"),
    }
}

fn number(chunk: &Chunk) -> Option<u8> {
    let mut slices = [IoSlice::new(&[])];
    let count = chunk.chunks_vectored(&mut slices);
    assert_eq!(count, usize::from(chunk.has_remaining()));
    assert_eq!(slices[0].len(), chunk.remaining());
    number_of(&slices[0])
}

#[test]
fn placeholders_are_told_from_memory() {
    let outbox = Outbox::default();
    for count in 0..600 {
        let chunk = Chunk::File(outbox.put(file(10), 0, 10));
        assert_eq!(number(&chunk), Some((count % 256) as u8));
    }
    for memory in [&b""[..], b"x", &[0; 70_000]] {
        assert_eq!(number(&Chunk::Memory(Bytes::copy_from_slice(memory))), None);
    }
}

#[test]
fn a_placeholder_stays_the_same_while_it_is_sent() {
    let outbox = Outbox::default();
    let mut chunk = Chunk::File(outbox.put(file(10), 3, u64::MAX));
    assert_eq!(chunk.remaining(), LONGEST, "a placeholder is for a piece");
    chunk.advance(1000);
    outbox.sent(1000);
    assert_eq!(
        (number(&chunk), chunk.remaining()),
        (Some(0), LONGEST - 1000)
    );
    assert_eq!(outbox.part(0).unwrap().position, 1003);
    chunk.advance(LONGEST - 1000);
    outbox.sent(LONGEST - 1000);
    assert_eq!(number(&chunk), None);
    assert!(chunk.chunk().is_empty());
    outbox.part(0).expect_err("its file was let go of");
}

#[test]
fn parts_that_were_sent_make_way() {
    let outbox = Outbox::default();
    for position in 0..3 {
        outbox.put(file(10), position, 1);
    }
    assert_eq!(outbox.part(1).unwrap().position, 1);
    assert_eq!(outbox.part(1).unwrap().position, 1);
    assert_eq!(outbox.part(2).unwrap().position, 2);
    outbox.part(0).expect_err("it was sent");
    outbox.part(2).expect_err("nothing is left");
}

#[test]
#[should_panic(expected = "read instead of sent")]
fn a_placeholder_is_never_read() {
    Chunk::File(Outbox::default().put(file(10), 0, 10)).chunk();
}

/// A client whose request hyper answers with a file, on one of these threads; by
/// vectored writes, or all in one buffer of its own.
fn ask(reactors: &Reactors, file: FileContent, vectored: bool) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    reactors.spawn(async move {
        let stream = Accepted::Tcp(server.into()).into_stream().unwrap();
        let activity = Arc::<Activity>::default();
        let transport = Transport::plain(stream, Arc::clone(&activity), ZeroCopy::Automatic);
        let outbox = transport.outbox();
        let service = service_fn(move |_| {
            let body = Body::part(Content::File(file.clone()), 0, file.len());
            let body = Tracked::new(body, Request::start(&activity), Some(Arc::clone(&outbox)));
            async move { Ok::<_, Infallible>(hyper::Response::new(body)) }
        });
        let mut http = http1::Builder::new();
        if !vectored {
            http.writev(false);
        }
        // How it ends is for the client to see.
        _ = http.serve_connection(transport, service).await;
    });
    let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    client.write_all(request).unwrap();
    client
}

/// If hyper ever read what it is to pass on, no wrong byte would leave: the
/// connection ends, and others on the same thread go on.
#[test]
fn what_hyper_reads_ends_its_connection_and_no_other() {
    const LEN: usize = 100_000;
    let (reactors, file) = (
        Reactors::start(std::num::NonZero::<usize>::MIN).unwrap(),
        file(LEN),
    );
    for vectored in [false, true, false, true, true] {
        let mut reply = Vec::new();
        ask(&reactors, file.clone(), vectored)
            .read_to_end(&mut reply)
            .unwrap();
        match vectored {
            true => assert!(reply.ends_with(&[7; LEN]), "{} bytes", reply.len()),
            false => assert_eq!(reply, b""),
        }
    }
}
