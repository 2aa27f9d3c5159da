//! The barest client of HTTP/1.1: it must cost less than the servers do, so that
//! they and not the client are what everybody waits for.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::load::{Protocol, Task, Tls, connect};
use crate::servers::Server;

/// What it speaks over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection that stays.
pub struct PlainClient {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
}

impl PlainClient {
    pub async fn open(server: &Server, protocol: Protocol, tls: &Tls) -> Self {
        let wire: Box<dyn Wire> = if protocol == Protocol::Plain {
            Box::new(connect(server.http()).await)
        } else {
            let name = ServerName::try_from("localhost").unwrap();
            let connector = TlsConnector::from(Arc::clone(&tls.0));
            let stream = connect(server.https()).await;
            Box::new(connector.connect(name, stream).await.unwrap())
        };
        Self {
            wire,
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Does one request, and looks whether the reply is as it has to be.
    pub async fn perform(&mut self, task: &Task) {
        let path = &task.path;
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(tag) = &task.tag {
            request += &format!("If-None-Match: {}\r\n", tag.to_str().unwrap());
        }
        request += "\r\n";
        self.wire.write_all(request.as_bytes()).await.unwrap();
        self.wire.flush().await.unwrap();

        let mut filled = 0;
        let head_len = loop {
            filled += self.read(filled, path).await;
            let end = self.buffer[..filled]
                .windows(4)
                .position(|it| it == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..head_len]).unwrap();
        let status: u16 = head[9..12].parse().unwrap();
        assert_eq!(status, task.status, "{path}");
        let len = match status {
            304 => 0,
            _ => content_length(head).unwrap_or_else(|| panic!("{path}: no length: {head}")),
        };
        assert!(
            task.len.is_none_or(|it| it == len),
            "{path} has {len} bytes"
        );
        let mut left = len - (filled - head_len) as u64;
        while left > 0 {
            left -= self.read(0, path).await as u64;
        }
    }

    async fn read(&mut self, at: usize, path: &str) -> usize {
        let count = self.wire.read(&mut self.buffer[at..]).await.unwrap();
        assert!(count > 0, "{path} ended too early");
        count
    }

    /// Ends it, and says so.
    pub async fn close(mut self) {
        // The server may have been faster.
        _ = self.wire.shutdown().await;
    }
}

fn content_length(head: &str) -> Option<u64> {
    const NAME: &str = "content-length:";
    let value = |line: &str| {
        let name = line.get(..NAME.len())?;
        let value = name
            .eq_ignore_ascii_case(NAME)
            .then_some(&line[NAME.len()..])?;
        value.trim().parse().ok()
    };
    head.lines().find_map(value)
}
