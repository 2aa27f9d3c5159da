//! How far a fault in a stream's future reaches.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;
use crate::reactors::Reactors;

type Sender = SendRequest<Full<Bytes>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    match request.uri().path() {
        "/at-once" => panic!("before it had to wait"),
        "/later" => {
            tokio::task::yield_now().await;
            panic!("after it had to wait");
        }
        _ => Ok(Response::new(Full::from("content"))),
    }
}

/// A connection to a server on one of these threads.
async fn connect(reactors: &Reactors) -> Sender {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    reactors.spawn(async move {
        let http = http2::Builder::new(Inline);
        // How it ends is for the client to see.
        _ = http
            .serve_connection(TokioIo::new(theirs), service_fn(answer))
            .await;
    });
    let handshake = client::handshake(TokioExecutor::new(), TokioIo::new(ours));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(sender: &mut Sender, path: &str) -> hyper::Result<Bytes> {
    let request = Request::get(format!("http://localhost{path}"));
    sender.ready().await?;
    let reply = sender.send_request(request.body(Full::default()).unwrap());
    let body = reply.await?.into_body().collect().await?;
    Ok(body.to_bytes())
}

/// It ends its connection if it shows at once, and only its stream if that had
/// become a task; others on the same thread go on in any case.
#[tokio::test]
async fn a_panic_ends_a_connection_at_most() {
    let reactors = Reactors::start(std::num::NonZero::<usize>::MIN).unwrap();
    // Some for each thread.
    let mut others = Vec::new();
    for _ in 0..3 * std::thread::available_parallelism().unwrap().get() {
        others.push(connect(&reactors).await);
    }
    for (path, goes_on) in [("/at-once", false), ("/later", true)] {
        let mut sender = connect(&reactors).await;
        assert_eq!(get(&mut sender, "/").await.unwrap(), "content");
        get(&mut sender, path).await.expect_err("it panics");
        assert_eq!(get(&mut sender, "/").await.is_ok(), goes_on, "{path}");
        for other in &mut others {
            assert_eq!(get(other, "/").await.unwrap(), "content", "{path}");
        }
        let mut new = connect(&reactors).await;
        assert_eq!(get(&mut new, "/").await.unwrap(), "content", "{path}");
    }
}
