//! Where to listen, and the name under which clients know the server.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A place to listen: `0.0.0.0:8443`, `[::]:8443` or `unix:/run/x.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP. The IPv6 wildcard accepts IPv4 as well.
    Tcp(SocketAddr),
    /// A Unix socket with this name.
    Unix(PathBuf),
}

impl Address {
    /// Whether binding both of them is bound to fail.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a == b,
            (Self::Tcp(a), Self::Tcp(b)) => {
                // The kernel gives each port 0 a number of its own.
                a.port() == b.port()
                    && a.port() != 0
                    && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
            }
            _ => false,
        }
    }
}

/// Whether a socket bound to `a` also gets what is sent to `b`.
fn covers(a: IpAddr, b: IpAddr) -> bool {
    match a {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        IpAddr::V4(v4) if v4.is_unspecified() => b.is_ipv4(),
        _ => a == b,
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("a Unix socket needs a name after `unix:`".into()),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "`{text}` is no address to listen at; write it like \"[::]:8443\", \
                 \"192.0.2.1:8443\" or \"unix:/run/ostree-serve/http.sock\""
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host name or address, with a port if clients see another one than the
/// server does: `repo.example.com`, `repo.example.com:443`, `[2001:db8::1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicName {
    /// The host; an IPv6 address is in brackets.
    pub host: String,
    /// The port, if one was given.
    pub port: Option<u16>,
}

impl FromStr for PublicName {
    type Err = String;

    /// Reads the host and port of an HTTP authority (RFC 3986, section 3.2).
    ///
    /// What it accepts can be put into a `Location` header as it is: the host
    /// consists of letters, digits, dots, hyphens and underscores, or is an
    /// IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text).ok_or("is no host name or address")?;
        let valid = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => is_host_name(host),
        };
        if !valid {
            return Err("is no host name or address".into());
        }
        let port = match port {
            None | Some("") => None,
            Some(digits) => Some(parse_port(digits).ok_or("has no valid port")?),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Splits at the colon before the port, which is outside brackets.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let host_end = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    match rest {
        "" => Some((host, None)),
        _ => Some((host, Some(rest.strip_prefix(':')?))),
    }
}

/// Letters, digits and hyphens in dotted labels, 253 characters at most
/// (RFC 1123, section 2.1), with `_`, which occurs. An IPv4 address is one too.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && host.split('.').all(is_label)
}

fn parse_port(digits: &str) -> Option<u16> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            ("[::]:8443", true),
            ("0.0.0.0:80", true),
            ("127.0.0.1:0", true),
            ("unix:/run/x", true),
            ("unix:relative", true),
            ("unix:", false),
            ("localhost:80", false),
            (":80", false),
            ("8443", false),
            ("::1:80", false),
            ("[::1]", false),
            ("1.2.3.4:99999", false),
        ];
        for (text, valid) in cases {
            let parsed = text.parse::<Address>();
            assert_eq!(parsed.is_ok(), valid, "{text}: {parsed:?}");
            if let Ok(address) = parsed {
                assert_eq!(address.to_string(), text);
            }
        }
    }

    #[test]
    fn overlaps() {
        let cases = [
            ("[::]:80", "[::]:80", true),
            ("[::]:80", "[::]:81", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "[::]:80", false),
        ];
        for (a, b, expected) in cases {
            let [left, right] = [a, b].map(|text| text.parse::<Address>().unwrap());
            assert_eq!(left.overlaps(&right), expected, "{a} {b}");
        }
    }

    #[test]
    fn public_names() {
        let cases = [
            ("example.com", Some(("example.com", None))),
            ("Example.com.", Some(("Example.com.", None))),
            ("localhost:8080", Some(("localhost", Some(8080)))),
            ("a_b-c", Some(("a_b-c", None))),
            ("192.0.2.1:80", Some(("192.0.2.1", Some(80)))),
            ("[2001:db8::1]:80", Some(("[2001:db8::1]", Some(80)))),
            ("[::1]", Some(("[::1]", None))),
            ("host:", Some(("host", None))),
            ("", None),
            (":80", None),
            ("a..b", None),
            ("a b", None),
            ("a/b", None),
            ("user@host", None),
            ("host:80:80", None),
            ("host:port", None),
            ("host:+80", None),
            ("host:70000", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[fe80::1%eth0]", None),
            ("::1", None),
            ("a\r\nb", None),
            ("prüfung.de", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(host, port): (&str, _)| PublicName {
                host: host.into(),
                port,
            });
            assert_eq!(text.parse::<PublicName>().ok(), expected, "{text:?}");
        }
    }
}
