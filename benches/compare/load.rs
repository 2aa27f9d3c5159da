//! The client: so many connections, so many requests on each at a time, a fixed
//! list of requests, and a look at every reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, HeaderValue, IF_NONE_MATCH};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;

use crate::plain_client::PlainClient;
use crate::reluctant::Reluctant;
use crate::repository::Object;
use crate::servers::Server;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 without TLS.
    Plain,
    /// HTTP/1.1 over TLS.
    Http1,
    /// HTTP/2 over TLS.
    Http2,
}

/// How many do it at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub protocol: Protocol,
    pub connections: usize,
    /// Requests under way on each; HTTP/1.1 has one.
    pub streams: usize,
}

/// One request, and what has to come of it.
#[derive(Clone, Debug)]
pub struct Task {
    pub path: String,
    pub tag: Option<HeaderValue>,
    pub status: u16,
    /// Bytes of the body; `None` where it does not matter.
    pub len: Option<u64>,
}

impl From<&Object> for Task {
    fn from(object: &Object) -> Self {
        let (path, len) = (object.path.clone(), Some(object.len));
        Self {
            path,
            tag: None,
            status: 200,
            len,
        }
    }
}

/// What TLS the clients speak: one cipher and one key exchange, so that every
/// server does the same work.
#[derive(Clone)]
pub struct Tls(pub Arc<ClientConfig>);

impl Tls {
    /// Every session is a new one.
    pub fn new(server: &Server, protocol: Protocol) -> Self {
        Self::with(server, protocol, Resumption::disabled())
    }

    /// Sessions go on where they can.
    pub fn resuming(server: &Server, protocol: Protocol) -> Self {
        Self::with(server, protocol, Resumption::in_memory_sessions(16))
    }

    fn with(server: &Server, protocol: Protocol, resumption: Resumption) -> Self {
        let certificate = CertificateDer::from_pem_file(server.certificate()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = resumption;
        config.alpn_protocols = vec![match protocol {
            Protocol::Http2 => b"h2".to_vec(),
            Protocol::Plain | Protocol::Http1 => b"http/1.1".to_vec(),
        }];
        Self(Arc::new(config))
    }
}

/// A request's end of a connection.
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    /// The same connection once more, for another request at the same time.
    fn another(&self) -> Self {
        match self {
            Self::Http1(_) => panic!("HTTP/1.1 has one request at a time"),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }
}

/// A connection that waits for requests.
pub struct Connection {
    sender: Sender,
    driver: JoinHandle<()>,
    /// How the handshake went, if there was one.
    pub handshake: Option<HandshakeKind>,
}

impl Connection {
    pub async fn open(server: &Server, protocol: Protocol, tls: &Tls) -> Self {
        Self::open_to_read(server, protocol, tls, usize::MAX).await
    }

    /// The same, but only about so many bytes are ever read after the handshake.
    pub async fn open_to_read(server: &Server, protocol: Protocol, tls: &Tls, most: usize) -> Self {
        if protocol == Protocol::Plain {
            let stream = Reluctant::new(connect(server.http()).await, most);
            return Self::over(stream, protocol, None).await;
        }
        let stream = connect(server.https()).await;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(&tls.0));
        let stream = connector.connect(name, stream).await.unwrap();
        let handshake = stream.get_ref().1.handshake_kind();
        Self::over(Reluctant::new(stream, most), protocol, handshake).await
    }

    async fn over<S>(stream: S, protocol: Protocol, handshake: Option<HandshakeKind>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        let (sender, driver) = if protocol == Protocol::Http2 {
            let (sender, connection) = http2_builder().handshake(stream).await.unwrap();
            (
                Sender::Http2(sender),
                tokio::spawn(async { _ = connection.await }),
            )
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            (
                Sender::Http1(sender),
                tokio::spawn(async { _ = connection.await }),
            )
        };
        Self {
            sender,
            driver,
            handshake,
        }
    }

    /// Does one request, and looks whether the reply is as it has to be.
    pub async fn perform(&mut self, task: &Task) {
        perform(&mut self.sender, task).await;
    }

    /// Sends a request, and waits for the head of its reply.
    pub async fn begin(&mut self, task: &Task) -> Response<Incoming> {
        begin(&mut self.sender, task).await
    }

    /// The tag of a file.
    pub async fn tag(&mut self, path: &str) -> HeaderValue {
        let task = Task {
            path: path.to_owned(),
            tag: None,
            status: 200,
            len: None,
        };
        let reply = perform(&mut self.sender, &task).await;
        reply["etag"].clone()
    }

    /// Ends it as browsers do, and waits until that is said.
    pub async fn close(self) {
        drop(self.sender);
        self.driver.await.unwrap();
    }
}

/// HTTP/2 with the windows that libcurl has: the server is not to wait for them.
pub fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(10 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024);
    builder
}

pub async fn connect(address: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A request as this protocol wants its target.
fn request(sender: &Sender, task: &Task) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = match sender {
        Sender::Http1(_) => {
            let host = HeaderValue::from_static("localhost");
            request.headers_mut().insert(HOST, host);
            task.path.parse().unwrap()
        }
        Sender::Http2(_) => Uri::builder()
            .scheme("https")
            .authority("localhost")
            .path_and_query(task.path.as_str())
            .build()
            .unwrap(),
    };
    if let Some(tag) = &task.tag {
        request.headers_mut().insert(IF_NONE_MATCH, tag.clone());
    }
    request
}

async fn begin(sender: &mut Sender, task: &Task) -> Response<Incoming> {
    let request = request(sender, task);
    let reply = match sender {
        Sender::Http1(sender) => {
            sender.ready().await.unwrap();
            sender.send_request(request).await.unwrap()
        }
        Sender::Http2(sender) => {
            sender.ready().await.unwrap();
            sender.send_request(request).await.unwrap()
        }
    };
    assert_eq!(reply.status().as_u16(), task.status, "{}", task.path);
    reply
}

async fn perform(sender: &mut Sender, task: &Task) -> http::HeaderMap {
    let path = &task.path;
    let reply = begin(sender, task).await;
    let (head, mut body) = reply.into_parts();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        len += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
    }
    assert!(
        task.len.is_none_or(|it| it == len),
        "{path} came with {len} bytes"
    );
    head.headers
}

/// All connections of a load.
pub struct Clients {
    connections: Vec<Client>,
    streams: usize,
}

enum Client {
    Http1(PlainClient),
    Http2(Connection),
}

impl Clients {
    /// Connects, one after the other.
    pub async fn connect(server: &Server, load: Load) -> Self {
        let protocol = load.protocol;
        let tls = Tls::new(server, protocol);
        let mut connections = Vec::with_capacity(load.connections);
        for _ in 0..load.connections {
            connections.push(match protocol {
                Protocol::Http2 => Client::Http2(Connection::open(server, protocol, &tls).await),
                Protocol::Plain | Protocol::Http1 => {
                    Client::Http1(PlainClient::open(server, protocol, &tls).await)
                }
            });
        }
        Self {
            connections,
            streams: load.streams,
        }
    }

    /// Does all of these, each lane taking the next one when it is done with the
    /// one before; gives how long each of them took.
    pub async fn run(&mut self, tasks: &Arc<Vec<Task>>) -> Vec<Duration> {
        let next = Arc::new(AtomicUsize::new(0));
        let list = || List {
            tasks: Arc::clone(tasks),
            next: Arc::clone(&next),
        };
        let mut lanes = JoinSet::new();
        for client in std::mem::take(&mut self.connections) {
            match client {
                Client::Http1(mut client) => {
                    let list = list();
                    lanes.spawn(async move {
                        let took = http1_lane(&mut client, list).await;
                        (Some(Client::Http1(client)), took)
                    });
                }
                Client::Http2(connection) => {
                    for _ in 0..self.streams {
                        let (sender, list) = (connection.sender.another(), list());
                        lanes.spawn(async move { (None, http2_lane(sender, list).await) });
                    }
                    self.connections.push(Client::Http2(connection));
                }
            }
        }
        let mut all = Vec::new();
        while let Some(done) = lanes.join_next().await {
            let (client, took) = done.expect("a lane without a failure");
            self.connections.extend(client);
            all.extend(took);
        }
        all
    }

    /// Ends all connections.
    pub async fn close(self) {
        for client in self.connections {
            match client {
                Client::Http1(client) => client.close().await,
                Client::Http2(connection) => connection.close().await,
            }
        }
    }
}

/// What is to be done, and how far that is.
struct List {
    tasks: Arc<Vec<Task>>,
    next: Arc<AtomicUsize>,
}

impl List {
    fn next(&self) -> Option<&Task> {
        self.tasks.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

async fn http1_lane(client: &mut PlainClient, list: List) -> Vec<Duration> {
    let mut took = Vec::new();
    while let Some(task) = list.next() {
        let started = Instant::now();
        client.perform(task).await;
        took.push(started.elapsed());
    }
    took
}

async fn http2_lane(mut sender: Sender, list: List) -> Vec<Duration> {
    let mut took = Vec::new();
    while let Some(task) = list.next() {
        let started = Instant::now();
        perform(&mut sender, task).await;
        took.push(started.elapsed());
    }
    took
}
