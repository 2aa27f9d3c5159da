//! A client that speaks HTTP/2 as well: hyper's, over TLS as a rule.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::TestServer;
use super::client::tls_config;

/// What requests may carry.
pub type RequestBody = Full<Bytes>;

/// A connection that takes requests, one at a time or, over HTTP/2, many.
pub enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Sender {
    /// Connects over TLS with this protocol, `h2` or `http/1.1`. The connection
    /// is looked after by a task of the runtime.
    pub async fn connect(server: &TestServer, protocol: &str) -> Self {
        Self::connect_to(server.https(), &server.certificate(), protocol).await
    }

    /// Connects in plaintext, with HTTP/1.1.
    pub async fn plain(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.http()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    /// The same to whoever listens there with this certificate.
    pub async fn connect_to(address: SocketAddr, certificate: &Path, protocol: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let config = Arc::new(tls_config(certificate, &[protocol]));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .unwrap();
        let stream = TokioIo::new(stream);
        match protocol {
            "h2" => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    // A download is to wait for the server, not for the client's window.
                    .initial_stream_window_size(4 * 1024 * 1024)
                    .initial_connection_window_size(16 * 1024 * 1024)
                    .handshake(stream)
                    .await
                    .unwrap();
                tokio::spawn(connection);
                Self::Http2(sender)
            }
            _ => {
                let (sender, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                Self::Http1(sender)
            }
        }
    }

    /// Sends a request, when the connection is ready for one.
    pub async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// The same connection once more, for another request at the same time.
    pub fn another(&self) -> Self {
        match self {
            Self::Http1(_) => panic!("HTTP/1.1 has one request at a time"),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }

    /// A request without a body, as this protocol wants its target.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let request = http::Request::builder().method(method);
        match self {
            Self::Http1(_) => request.uri(path).header("host", "localhost"),
            Self::Http2(_) => request.uri(format!("https://localhost{path}")),
        }
    }

    /// Reads a file, and gives its length.
    pub async fn download(&mut self, path: &str) -> usize {
        let request = self.request("GET", path).body(RequestBody::default());
        let reply = self.send(request.unwrap()).await.unwrap();
        assert_eq!(reply.status(), 200, "{path}");
        let mut body = reply.into_body();
        let mut len = 0;
        while let Some(frame) = body.frame().await {
            len += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        len
    }
}
