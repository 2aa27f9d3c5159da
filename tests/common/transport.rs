//! The ways to the server that a real client can take, and the proof of which
//! one it took.

use super::command::Output;
use super::{Setup, TestServer};

/// A protocol, and what it runs over.
///
/// Debian's libcurl offers HTTP/2 over TLS whatever a remote's `http2` says, so
/// it is the server's side that decides: it can be told to offer HTTP/1.1 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Http2,
    Http1,
    /// HTTP/1.1 without TLS, as behind a proxy that ends it.
    Plaintext,
}

impl Transport {
    pub const ALL: [Self; 3] = [Self::Http2, Self::Http1, Self::Plaintext];
    pub const TLS: [Self; 2] = [Self::Http2, Self::Http1];

    /// Starts a server that clients reach in this way.
    pub fn start(self, setup: Setup) -> TestServer {
        match self {
            Self::Http2 | Self::Plaintext => setup.start(),
            Self::Http1 => setup.http1_only().start(),
        }
    }

    /// The beginning of the server's addresses, without a slash at the end.
    pub fn url(self, server: &TestServer) -> String {
        match self {
            Self::Http2 | Self::Http1 => server.url(),
            Self::Plaintext => format!("http://localhost:{}", server.http().port()),
        }
    }

    /// The protocol, as libcurl writes it.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Http2 => "HTTP/2",
            Self::Http1 | Self::Plaintext => "HTTP/1.1",
        }
    }
}

/// Runs a scenario once for each of these transports.
pub fn over_each(transports: &[Transport], scenario: impl Fn(Transport)) {
    for &transport in transports {
        // The test harness shows it when the scenario fails.
        eprintln!("=== over {transport:?}");
        scenario(transport);
    }
}

/// What a client and the server said to each other, as libcurl told when
/// `OSTREE_DEBUG_HTTP` was set.
#[derive(Debug)]
pub struct Traffic {
    /// The paths that were asked for, in order.
    pub requests: Vec<String>,
    /// The replies in their order, which over HTTP/2 need not be the requests'.
    pub replies: Vec<Reply>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub protocol: String,
    pub status: u16,
}

impl Traffic {
    /// Takes it from the client's output.
    pub fn of(output: &Output) -> Self {
        let lines = || output.stderr.lines().map(str::trim_end);
        let request = |line: &str| {
            let (path, _protocol) = line.strip_prefix("> GET ")?.rsplit_once(' ')?;
            Some(path.to_owned())
        };
        let reply = |line: &str| {
            let (protocol, rest) = line.strip_prefix("< ")?.split_once(' ')?;
            let status = rest.split(' ').next()?.parse().ok()?;
            protocol.starts_with("HTTP/").then(|| Reply {
                protocol: protocol.to_owned(),
                status,
            })
        };
        let traffic = Self {
            requests: lines().filter_map(request).collect(),
            replies: lines().filter_map(reply).collect(),
        };
        assert!(
            !traffic.requests.is_empty() && !traffic.replies.is_empty(),
            "no account of the traffic: {traffic:#?}\n{}",
            output.stderr
        );
        traffic
    }

    /// Panics unless every reply came in this protocol.
    pub fn assert_over(&self, transport: Transport) {
        let all = self
            .replies
            .iter()
            .all(|reply| reply.protocol == transport.protocol());
        assert!(all, "not all over {transport:?}: {self:#?}");
    }

    /// Whether a path that ends like this was asked for.
    pub fn asked_for(&self, suffix: &str) -> bool {
        self.requests.iter().any(|path| path.ends_with(suffix))
    }

    /// The replies' statuses, in order.
    pub fn statuses(&self) -> impl Iterator<Item = u16> {
        self.replies.iter().map(|reply| reply.status)
    }
}
