//! From plaintext to HTTPS: the same path on the HTTPS port.

use http::Method;
use http::header::{HOST, HeaderValue};
use http::request::Parts;

use super::response::{Audience, Refusal, Reply, permanent_redirect, refusal};
use super::{Asked, end_after_body, names_one_host};
use crate::config::PublicName;

/// Where redirects lead.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// What clients call the server; if unknown, the host that they used.
    public_name: Option<PublicName>,
    /// The HTTPS port, unless the public name has one.
    port: u16,
}

impl Redirect {
    /// Redirects to `port`, or to where `public_name` says.
    pub fn new(public_name: Option<PublicName>, port: u16) -> Self {
        Self { public_name, port }
    }

    /// 308 to the HTTPS address of the same target; 400 if there is no host to
    /// name in it, or a `Host` header that HTTP does not allow.
    ///
    /// The host is checked against the grammar of names and addresses and the
    /// path was by hyper, so nothing else can get into the header; a path that
    /// begins with `//` stays a path, because the host stands before it.
    pub fn answer(&self, head: &Parts) -> Reply {
        let mut reply = match self.location(head) {
            Some(location) => permanent_redirect(location),
            None => refusal(Refusal::BadRequest, Audience::Person),
        };
        end_after_body(&Asked::of(head), &mut reply);
        reply
    }

    fn location(&self, head: &Parts) -> Option<HeaderValue> {
        let path = head.uri.path_and_query()?.as_str();
        if head.method == Method::CONNECT || !path.starts_with('/') || !names_one_host(head) {
            return None;
        }
        let name = match &self.public_name {
            Some(name) => name.clone(),
            None => PublicName {
                port: None,
                ..requested_host(head)?
            },
        };
        let host = &name.host;
        let location = match name.port.unwrap_or(self.port) {
            443 => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
        HeaderValue::try_from(location).ok()
    }
}

/// The host of the request: from the target if it is absolute, which then wins
/// (RFC 9112, section 3.2.2), else from the one `Host` header.
fn requested_host(head: &Parts) -> Option<PublicName> {
    if let Some(authority) = head.uri.authority() {
        return authority.as_str().parse().ok();
    }
    let mut values = head.headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (Some(host), None) => host.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn location(redirect: &Redirect, target: &str, hosts: &[&str]) -> Option<String> {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let reply = redirect.answer(&head);
        let location = reply.headers().get(http::header::LOCATION);
        assert_eq!(location.is_some(), reply.status() == 308);
        assert_eq!(location.is_none(), reply.status() == 400);
        location.map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn locations() {
        let cases: [(&str, &[&str], Option<&str>); 18] = [
            ("/a/summary", &["h"], Some("https://h:8443/a/summary")),
            ("/a", &["h:8080"], Some("https://h:8443/a")),
            ("/a", &["192.0.2.1:8080"], Some("https://192.0.2.1:8443/a")),
            (
                "/a",
                &["[2001:db8::1]:8080"],
                Some("https://[2001:db8::1]:8443/a"),
            ),
            ("/a%20b+c?q=1", &["h"], Some("https://h:8443/a%20b+c?q=1")),
            (
                "//evil.example/",
                &["h"],
                Some("https://h:8443//evil.example/"),
            ),
            ("/", &["h"], Some("https://h:8443/")),
            ("http://other:1/a", &["h"], Some("https://other:8443/a")),
            ("http://other:1/a", &[], None),
            ("http://other:1/a", &["h", "h"], None),
            ("http://user@other/a", &["h"], None),
            ("*", &["h"], None),
            ("/a", &[], None),
            ("/a", &[""], None),
            ("/a", &["h", "h"], None),
            ("/a", &["h/evil"], None),
            ("/a", &["user@h"], None),
            ("/a", &["h:port"], None),
        ];
        for (target, hosts, expected) in cases {
            let redirect = Redirect::new(None, 8443);
            assert_eq!(
                location(&redirect, target, hosts).as_deref(),
                expected,
                "{target} {hosts:?}"
            );
        }
    }

    #[test]
    fn a_public_name_wins() {
        let cases = [
            ("repo.example", "https://repo.example:8443/a"),
            ("repo.example:443", "https://repo.example/a"),
            ("repo.example:1", "https://repo.example:1/a"),
        ];
        for (name, expected) in cases {
            let redirect = Redirect::new(Some(name.parse().unwrap()), 8443);
            assert_eq!(location(&redirect, "/a", &["h"]).as_deref(), Some(expected));
            assert_eq!(location(&redirect, "/a", &[""]).as_deref(), Some(expected));
            assert_eq!(location(&redirect, "/a", &["x y"]), None);
            assert_eq!(location(&redirect, "/a", &[]), None);
        }
    }
}
