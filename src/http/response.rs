//! Replies and their headers. Every reply is made here.

use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderMap, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};

use super::Body;
use super::conditional::EntityTag;
use super::range::Selection;
use crate::files::Content;
use crate::resource::Freshness;

/// A reply to a request.
pub type Reply = Response<Body>;

/// What is sent along with some content.
#[derive(Clone, Debug)]
pub struct Representation {
    /// Its validator.
    pub tag: EntityTag,
    /// How long it may be cached.
    pub freshness: Freshness,
    /// Its media type.
    pub media_type: HeaderValue,
}

/// Why a request gets no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is nothing of this name: 404.
    NotFound,
    /// Only GET and HEAD are possible: 405.
    MethodNotAllowed,
    /// The request is malformed or ambiguous: 400, and the connection ends.
    BadRequest,
    /// The target is longer than any that exists: 414, and the connection ends.
    TargetTooLong,
    /// A precondition failed: 412.
    PreconditionFailed,
    /// The range is outside a representation of this many bytes: 416.
    RangeNotSatisfiable(u64),
    /// The content is there and cannot be read: 500. The log tells more.
    Unreadable,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::RangeNotSatisfiable(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found.\n",
            Self::MethodNotAllowed => "Only GET and HEAD are possible here.\n",
            Self::BadRequest => "Bad request.\n",
            Self::TargetTooLong => "The address is too long.\n",
            Self::PreconditionFailed => "A precondition failed.\n",
            Self::RangeNotSatisfiable(_) => "The range is outside of the file.\n",
            Self::Unreadable => "The server cannot read this file; its log says why.\n",
        }
    }

    /// Whether what follows on the connection cannot be trusted.
    fn ends_connection(self) -> bool {
        matches!(self, Self::BadRequest | Self::TargetTooLong)
    }
}

/// Who reads an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A client that pulls. libostree 2022.7 writes the body of a 404 in front
    /// of the object that it then gets from the next mirror of a list, so there
    /// is no body.
    Client,
    /// Somebody with a browser.
    Person,
}

/// What replies with some content have in common. To be made once where the content
/// is asked for often.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is sent along.
    pub representation: Representation,
    /// The header of a reply with all of it.
    whole: HeaderMap,
}

impl Prepared {
    /// For content of this many bytes.
    pub fn new(representation: Representation, len: u64) -> Self {
        let mut whole = HeaderMap::with_capacity(6);
        whole.insert(CONTENT_TYPE, representation.media_type.clone());
        whole.insert(CONTENT_LENGTH, len.into());
        whole.insert(ETAG, representation.tag.header().clone());
        whole.insert(CACHE_CONTROL, cache_control(representation.freshness));
        whole.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        Self {
            representation,
            whole,
        }
    }
}

/// 200 or 206: all or a part of some content.
///
/// # Errors
/// [`Refusal::RangeNotSatisfiable`].
pub fn content(
    prepared: &Prepared,
    selection: Selection,
    content: Content,
) -> Result<Reply, Refusal> {
    let len = content.len();
    let (start, end) = match selection {
        Selection::Whole => (0, len),
        Selection::Part { start, end } => (start, end),
        Selection::Unsatisfiable => return Err(Refusal::RangeNotSatisfiable(len)),
    };
    let mut reply = Response::new(Body::part(content, start, end));
    *reply.headers_mut() = prepared.whole.clone();
    if selection != Selection::Whole {
        *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
        let headers = reply.headers_mut();
        headers.insert(CONTENT_LENGTH, (end - start).into());
        let range = format!("bytes {start}-{}/{len}", end - 1);
        headers.insert(CONTENT_RANGE, text_value(&range));
    }
    Ok(reply)
}

/// 304, with the headers that keep a cache up to date (RFC 9110, section
/// 15.4.5).
pub fn not_modified(representation: &Representation) -> Reply {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    let headers = reply.headers_mut();
    headers.insert(ETAG, representation.tag.header().clone());
    headers.insert(CACHE_CONTROL, cache_control(representation.freshness));
    reply
}

/// An error.
pub fn refusal(refusal: Refusal, audience: Audience) -> Reply {
    let text = match audience {
        Audience::Client => "",
        Audience::Person => refusal.text(),
    };
    let mut reply = plain(refusal.status(), text);
    let headers = reply.headers_mut();
    match refusal {
        Refusal::MethodNotAllowed => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        Refusal::RangeNotSatisfiable(len) => {
            headers.insert(CONTENT_RANGE, text_value(&format!("bytes */{len}")));
        }
        _ => {}
    }
    if refusal.ends_connection() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// 308: the same request, method and body, somewhere else for good.
pub fn permanent_redirect(location: HeaderValue) -> Reply {
    let mut reply = plain(StatusCode::PERMANENT_REDIRECT, "");
    // The target is right only until the operator moves a port.
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    headers.insert(LOCATION, location);
    reply
}

fn plain(status: StatusCode, text: &'static str) -> Reply {
    let mut reply = Response::new(Body::from(text));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_LENGTH, text.len().into());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !text.is_empty() {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    reply
}

fn cache_control(freshness: Freshness) -> HeaderValue {
    HeaderValue::from_static(match freshness {
        Freshness::Immutable => "public, max-age=31536000, immutable",
        Freshness::Brief => "public, max-age=300",
        Freshness::Revalidate => "no-cache",
    })
}

/// For text that this module made of digits and ASCII words.
fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
