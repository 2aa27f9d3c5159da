//! The barest of clients: bytes out, bytes in, on blocking sockets. What it does
//! not understand it shows.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::TestServer;

/// Anything that bytes can be sent over.
pub trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// A connection that speaks HTTP/1.1.
pub struct Client {
    wire: Box<dyn Wire + Send>,
    /// What was read beyond the last response.
    ahead: VecDeque<u8>,
    /// Whether a byte of the current response has come.
    begun: bool,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that is there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(it, _)| it == name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice");
        value.map(|(_, value)| value.as_str())
    }
}

/// How long a test waits for bytes: far longer than it ever takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A TCP connection on which no read waits forever.
pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap()
}

/// The same, if somebody listens.
pub fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A client's side of TLS that trusts one certificate.
pub fn tls_config(certificate: &Path, protocols: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = fs::read(certificate).unwrap();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

impl Client {
    /// Over any wire.
    pub fn over(wire: impl Wire + Send + 'static) -> Self {
        Self {
            wire: Box::new(wire),
            ahead: VecDeque::new(),
            begun: false,
        }
    }

    /// In plaintext.
    pub fn plain(server: &TestServer) -> Self {
        Self::over(connect(server.http()))
    }

    /// Over TLS, with HTTP/1.1 chosen by ALPN.
    pub fn tls(server: &TestServer) -> Self {
        Self::tls_over(connect(server.https()), &server.certificate())
    }

    /// The same over a connection to a server with this certificate.
    pub fn tls_over(stream: TcpStream, certificate: &Path) -> Self {
        let config = tls_config(certificate, &["http/1.1"]);
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        Self::over(StreamOwned::new(session, stream))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write_all(bytes.as_ref()).unwrap();
        self.wire.flush().unwrap();
    }

    /// Sends bytes to a server that may have gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write_all(bytes.as_ref())?;
        self.wire.flush()
    }

    /// Sends a GET request with more header lines, each ending in CRLF.
    pub fn get_with(&mut self, path: &str, lines: &str) -> Response {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
        ));
        self.response("GET")
    }

    /// Sends a GET request.
    pub fn get(&mut self, path: &str) -> Response {
        self.get_with(path, "")
    }

    /// Sends a HEAD request with more header lines, each ending in CRLF.
    pub fn head_with(&mut self, path: &str, lines: &str) -> Response {
        self.send(format!(
            "HEAD {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
        ));
        self.response("HEAD")
    }

    /// Reads a response to a request with this method; panics if there is none.
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method)
            .unwrap_or_else(|error| panic!("no whole response: {error}"))
    }

    /// Reads a response; UnexpectedEof if the server ends the connection first.
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        self.begun = !self.ahead.is_empty();
        let head = self.read_head()?;
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head:?}"));
        let headers: Vec<(String, String)> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line
                    .split_once(':')
                    .unwrap_or_else(|| panic!("no header: {line:?}"));
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        let has_body = method != "HEAD" && status != 304 && status != 204;
        let len = response
            .header("content-length")
            .map_or(0, |len| len.parse().unwrap());
        if has_body {
            response.body = self.read_exactly(len)?;
        }
        Ok(response)
    }

    /// Whether the response that could not be read had begun.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Reads up to the end of a header.
    pub fn read_head(&mut self) -> io::Result<String> {
        const END: &[u8] = b"\r\n\r\n";
        let len = loop {
            let ahead = self.ahead.make_contiguous();
            match ahead.windows(END.len()).position(|it| it == END) {
                Some(at) => break at + END.len(),
                None => self.read_ahead()?,
            }
        };
        Ok(String::from_utf8(self.read_exactly(len)?).expect("an ASCII header"))
    }

    /// Reads so many bytes.
    pub fn read_exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < len {
            self.read_ahead()?;
        }
        let rest = self.ahead.split_off(len);
        Ok(std::mem::replace(&mut self.ahead, rest).into())
    }

    /// Reads what comes next.
    fn read_ahead(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        match self.wire.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.begun = true;
                self.ahead.extend(&buffer[..count]);
                Ok(())
            }
        }
    }

    /// Reads until the server ends the connection: all bytes, and the error if
    /// the end was not clean.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Option<io::Error>) {
        let mut bytes: Vec<u8> = self.ahead.drain(..).collect();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.wire.read(&mut buffer) {
                Ok(0) => return (bytes, None),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (bytes, Some(error)),
            }
        }
    }
}
