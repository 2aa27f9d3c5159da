//! Nothing leaves before its time, and nothing stays behind.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::task::Waker;

use proptest::prelude::*;

use super::super::activity::Activity;
use super::*;
use crate::config::ZeroCopy;
use crate::listener::stream::Stream;

/// A stage, and the other end of its connection.
fn pair() -> (Staged, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    let stream = Stream::Tcp(tokio::net::TcpStream::from_std(server).unwrap());
    let transport = Transport::plain(stream, Arc::<Activity>::default(), ZeroCopy::Off);
    (Staged::new(transport), client)
}

fn write(staged: &Staged, bytes: &[u8], cx: &mut Context<'_>) -> Poll<usize> {
    let written = Pin::new(&mut staged.clone()).poll_write(cx, bytes);
    written.map(Result::unwrap)
}

fn ask_for_flush(staged: &Staged, cx: &mut Context<'_>) {
    let flushed = Pin::new(&mut staged.clone()).poll_flush(cx);
    assert!(matches!(flushed, Poll::Ready(Ok(()))));
}

fn polled(staged: &Staged, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
    staged.polled(Poll::Pending, cx)
}

/// Polls until all has left that is to be flushed; only the socket wakes it.
async fn settle(staged: &Staged) -> io::Result<()> {
    std::future::poll_fn(|cx| match polled(staged, cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending if staged.lock().flush => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await
}

/// Reads what has come by now, until nothing comes for a moment.
fn received(client: &mut TcpStream) -> Vec<u8> {
    use std::io::Read as _;
    client.set_nonblocking(true).unwrap();
    let (mut all, mut buffer) = (Vec::new(), [0; 65_536]);
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
    }
    all
}

#[tokio::test]
async fn what_is_written_leaves_when_the_connection_was_polled() {
    let (staged, mut client) = pair();
    let mut cx = Context::from_waker(Waker::noop());
    for word in ["one ", "two ", "three"] {
        assert_eq!(
            write(&staged, word.as_bytes(), &mut cx),
            Poll::Ready(word.len())
        );
        ask_for_flush(&staged, &mut cx);
    }
    assert!(received(&mut client).is_empty());
    settle(&staged).await.unwrap();
    assert_eq!(received(&mut client), b"one two three");
    // Its memory is for others to use.
    assert_eq!(staged.lock().staged.capacity(), 0);
}

#[tokio::test]
async fn a_shutdown_takes_the_rest_along() {
    let (staged, mut client) = pair();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(write(&staged, b"the end", &mut cx).is_ready());
    let shutdown = std::future::poll_fn(|cx| Pin::new(&mut staged.clone()).poll_shutdown(cx));
    shutdown.await.unwrap();
    assert_eq!(received(&mut client), b"the end");
}

/// Who does not read makes hyper wait, and this process hold one stage.
#[tokio::test]
async fn a_full_socket_is_waited_for() {
    let (staged, mut client) = pair();
    let expected: Vec<u8> = (0..64 << 20).map(|at| (at % 251) as u8).collect();
    let mut sent = 0;
    let blocked = std::future::poll_fn(|cx| {
        while let Poll::Ready(count) = write(&staged, &expected[sent..], cx) {
            sent += count;
            assert!(sent < expected.len(), "the socket takes all");
            assert!(staged.lock().staged.len() <= STAGE);
        }
        ask_for_flush(&staged, cx);
        assert!(polled(&staged, cx).is_pending());
        Poll::Ready(())
    });
    blocked.await;
    let reader = std::thread::spawn(move || {
        use std::io::Read as _;
        let mut all = Vec::new();
        client.set_nonblocking(false).unwrap();
        client.read_to_end(&mut all).unwrap();
        all
    });
    settle(&staged).await.unwrap();
    drop(staged);
    let all = tokio::task::spawn_blocking(|| reader.join().unwrap())
        .await
        .unwrap();
    assert!(all == expected[..sent]);
}

#[tokio::test]
async fn a_broken_stream_ends_the_connection() {
    let (staged, mut client) = pair();
    let mut cx = Context::from_waker(Waker::noop());
    // Unread bytes make the close a reset.
    client.write_all(b"x").unwrap();
    drop(client);
    let error = loop {
        assert!(write(&staged, b"to nobody", &mut cx).is_ready());
        ask_for_flush(&staged, &mut cx);
        if let Err(error) = settle(&staged).await {
            break error;
        }
    };
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Flush,
    Poll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1_usize..100_000).prop_map(Step::Write),
        Just(Step::Flush),
        Just(Step::Poll),
    ];
    proptest::collection::vec(step, 1..20)
}

proptest! {
    /// However hyper writes and flushes, after a flush and a poll all has left, in
    /// its order.
    #[test]
    fn all_that_was_flushed_leaves_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let (staged, mut client) = pair();
        let mut cx = Context::from_waker(Waker::noop());
        let (mut sent, mut got, mut next) = (Vec::new(), Vec::new(), 0_u8);
        for step in steps {
            match step {
                Step::Write(len) => {
                    next = next.wrapping_add(1);
                    let bytes = vec![next; len];
                    if let Poll::Ready(count) = write(&staged, &bytes, &mut cx) {
                        sent.extend_from_slice(&bytes[..count]);
                    }
                }
                Step::Flush => ask_for_flush(&staged, &mut cx),
                Step::Poll => prop_assert!(polled(&staged, &mut cx).is_pending()),
            }
            got.append(&mut received(&mut client));
            prop_assert!(sent.starts_with(&got));
        }
        let done = runtime.block_on(async {
            let all = async {
                loop {
                    std::future::poll_fn(|cx| {
                        ask_for_flush(&staged, cx);
                        let _ = polled(&staged, cx);
                        Poll::Ready(())
                    }).await;
                    got.append(&mut received(&mut client));
                    if got.len() == sent.len() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), all).await
        });
        prop_assert!(done.is_ok());
        prop_assert!(got == sent);
    }
}

/// A client whose TLS gets the frames of several streams in one record may not look at
/// all of them at once (libcurl 7.88).
#[tokio::test]
async fn what_leaves_together_stays_in_records_of_its_own() {
    use rustls::pki_types::{PrivateKeyDer, ServerName};

    use crate::tls::kernel::Traced;

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let certificate = made.cert.der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.send_tls13_tickets = 0;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async {
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, stream.unwrap()).await.unwrap()
    };
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let stream = Traced::new(Stream::Tcp(stream), false);
        acceptor.accept(stream).await.unwrap()
    };
    let (client, server) = tokio::join!(connect, accept);
    let staged = Staged::new(Transport::tls(Box::new(server), Arc::default()));

    std::future::poll_fn(|cx| {
        for word in ["one", "two", "three"] {
            assert!(write(&staged, word.as_bytes(), cx).is_ready());
        }
        ask_for_flush(&staged, cx);
        Poll::Ready(())
    })
    .await;
    settle(&staged).await.unwrap();
    let mut socket = client.into_inner().0.into_std().unwrap();
    let raw = received(&mut socket);
    let (mut rest, mut records) = (&raw[..], 0);
    // A header of five bytes ends with the length of what follows.
    while let [_, _, _, high, low, tail @ ..] = rest {
        rest = &tail[usize::from(u16::from_be_bytes([*high, *low]))..];
        records += 1;
    }
    assert_eq!(records, 3);
}
