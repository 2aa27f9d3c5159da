//! A request becomes a reply: the hot path on one screen.
//!
//! Nothing here knows sockets or TLS, so tests and benchmarks need neither.

pub mod body;
pub mod conditional;
pub mod range;
pub mod redirect;
pub mod response;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Version};

pub use body::Body;
pub use response::Reply;

use crate::config::PublicName;
use crate::files::{Content, Unreadable};
use crate::repo::Found;
use crate::repo::visitor::Visitor;
use crate::resource::path::{decode, parse};
use crate::resource::{Checksum, Freshness, Resource};
use crate::routes::{Routes, Site};
use crate::statics::Statics;
use conditional::{EntityTag, Verdict};
use response::{Audience, Prepared, Refusal, Representation};

/// Answers requests for content.
#[derive(Debug)]
pub struct Service {
    routes: ArcSwap<Routes>,
}

impl Service {
    /// Answers from what these routes lead to.
    pub fn new(routes: impl Into<Arc<Routes>>) -> Self {
        Self {
            routes: ArcSwap::new(routes.into()),
        }
    }

    /// What it answers from.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Answers from other routes; requests that began before keep theirs.
    pub fn reroute(&self, routes: impl Into<Arc<Routes>>) {
        self.routes.store(routes.into());
    }

    /// The reply to a request, if what it needs is at hand. Most replies are made
    /// here, without a future that would have to be kept for the case of waiting.
    pub fn answer_at_once(&self, head: &Parts, visitor: &Visitor) -> Option<Reply> {
        let path = decode(head.uri.path())?;
        let routes = self.routes.load();
        let (Site::Repo(repo), rest) = routes.find(&path)? else {
            return None;
        };
        let asked = Asked::of(head);
        require_simple(head, &asked).ok()?;
        let resource = parse(rest)?;
        let found = repo.lookup_at_hand(&resource, visitor).ok().flatten()?;
        let reply = reply_with(head, &asked, &resource, found);
        Some(finish(head, &asked, reply, Audience::Client))
    }

    /// The reply to a request. There is always one; what goes wrong on this
    /// side is logged here, and the client sees a status.
    pub async fn answer(&self, head: &Parts, visitor: &Visitor) -> Reply {
        match self.answer_at_once(head, visitor) {
            Some(reply) => reply,
            None => self.answer_later(head, visitor).await,
        }
    }

    /// The same, for what cannot be answered at once.
    pub async fn answer_later(&self, head: &Parts, visitor: &Visitor) -> Reply {
        let path = decode(head.uri.path());
        let routes = self.routes.load_full();
        let site = path.as_deref().and_then(|path| routes.find(path));
        let audience = match (&path, site) {
            (Some(_), Some((Site::Statics(_), _)) | None) => Audience::Person,
            // What cannot be decoded may be meant for a repository.
            (Some(_), Some((Site::Repo(_), _))) | (None, _) => Audience::Client,
        };
        let asked = Asked::of(head);
        let reply = self.try_answer(head, &asked, site, visitor).await;
        finish(head, &asked, reply, audience)
    }

    async fn try_answer(
        &self,
        head: &Parts,
        asked: &Asked,
        site: Option<(&Site, &str)>,
        visitor: &Visitor,
    ) -> Result<Reply, Refusal> {
        require_simple(head, asked)?;
        match site {
            None => Err(Refusal::NotFound),
            Some((Site::Repo(repo), rest)) => {
                let resource = parse(rest).ok_or(Refusal::NotFound)?;
                let found = repo.lookup(&resource, visitor).await.map_err(logged)?;
                let found = found.ok_or(Refusal::NotFound)?;
                reply_with(head, asked, &resource, found)
            }
            Some((Site::Statics(statics), rest)) => {
                let (prepared, content) = represent_static(statics, rest).await?;
                reply(head, asked, &prepared, content)
            }
        }
    }
}

/// What is true of each reply, whether there is content or not.
fn finish(head: &Parts, asked: &Asked, reply: Result<Reply, Refusal>, audience: Audience) -> Reply {
    let mut reply = reply.unwrap_or_else(|refusal| response::refusal(refusal, audience));
    if head.method == Method::HEAD {
        *reply.body_mut() = Body::empty();
    }
    end_after_body(asked, &mut reply);
    reply
}

/// The reply to a request for a resource that was found.
fn reply_with(
    head: &Parts,
    asked: &Asked,
    resource: &Resource<'_>,
    found: Found,
) -> Result<Reply, Refusal> {
    let prepare = || represent(resource, found.digest, found.content.len());
    match &found.margin {
        Some(margin) => {
            let kept = margin.read_or_write(prepare).and_then(Option::as_ref);
            let prepared = kept.ok_or(Refusal::Unreadable)?;
            reply(head, asked, prepared, found.content)
        }
        None => {
            let prepared = prepare().ok_or(Refusal::Unreadable)?;
            reply(head, asked, &prepared, found.content)
        }
    }
}

/// The reply to a request for content that is there.
fn reply(
    head: &Parts,
    asked: &Asked,
    prepared: &Prepared,
    content: Content,
) -> Result<Reply, Refusal> {
    let representation = &prepared.representation;
    if asked.conditionally {
        match conditional::evaluate(&head.headers, &representation.tag) {
            Verdict::NotModified => return Ok(response::not_modified(representation)),
            Verdict::Failed => return Err(Refusal::PreconditionFailed),
            Verdict::Proceed => {}
        }
    }
    // Ranges are defined for GET alone (RFC 9110, section 14.2).
    let ranged = asked.for_range
        && head.method == Method::GET
        && conditional::permits_range(&head.headers, &representation.tag);
    let selection = match ranged {
        true => range::select(&head.headers, content.len()),
        false => range::Selection::Whole,
    };
    response::content(prepared, selection, content)
}

/// Which headers of a request are to be looked at. Most requests have few, and none
/// of these but `Host`: to see that once costs less than to look each of them up.
#[derive(Debug, Default)]
struct Asked {
    /// It has preconditions.
    conditionally: bool,
    for_range: bool,
    /// It has a body, or may be thought to have one.
    has_body: bool,
}

impl Asked {
    fn of(head: &Parts) -> Self {
        let mut asked = Self::default();
        for (name, value) in &head.headers {
            if name == IF_NONE_MATCH || name == IF_MATCH {
                asked.conditionally = true;
            } else if name == RANGE {
                asked.for_range = true;
            } else if name == TRANSFER_ENCODING || (name == CONTENT_LENGTH && value != "0") {
                asked.has_body = true;
            }
        }
        asked
    }
}

/// Refuses what another server on the way might have understood differently
/// (request smuggling): a request without exactly one host in HTTP/1.1 (RFC
/// 9112, section 3.2), or a GET with a body, which no client of a repository
/// sends (RFC 9110, section 9.3.1). And what is too long to be a file's name.
fn require_simple(head: &Parts, asked: &Asked) -> Result<(), Refusal> {
    /// A path of the longest length that Linux knows, every byte escaped.
    const LONGEST_TARGET: usize = 3 * 4096;
    if !names_one_host(head) {
        return Err(Refusal::BadRequest);
    }
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Refusal::MethodNotAllowed);
    }
    if asked.has_body {
        return Err(Refusal::BadRequest);
    }
    if head.uri.path().len() > LONGEST_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    Ok(())
}

/// Whether the `Host` header is as RFC 9112, section 3.2 has it: one in
/// HTTP/1.1, at most one elsewhere; a name, an address, or nothing.
fn names_one_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => head.version != Version::HTTP_11,
        (Some(host), None) => host
            .to_str()
            .is_ok_and(|host| host.is_empty() || host.parse::<PublicName>().is_ok()),
        (Some(_), Some(_)) => false,
    }
}

/// Makes the reply the connection's last one if its request has a body: nobody
/// reads it, and where it ends may be a matter of opinion.
fn end_after_body(asked: &Asked, reply: &mut Reply) {
    if asked.has_body {
        let close = HeaderValue::from_static("close");
        reply.headers_mut().insert(CONNECTION, close);
    }
}

/// What replies with a resource of a repository have in common. There is always
/// something: `lookup` gives a digest for what needs one.
fn represent(resource: &Resource<'_>, digest: Option<Checksum>, len: u64) -> Option<Prepared> {
    let representation = Representation {
        tag: EntityTag::new(resource.identity(), digest, len)?,
        freshness: resource.freshness(),
        media_type: HeaderValue::from_static("application/octet-stream"),
    };
    Some(Prepared::new(representation, len))
}

async fn represent_static(statics: &Statics, path: &str) -> Result<(Prepared, Content), Refusal> {
    let found = statics.lookup(path).await.map_err(logged)?;
    let found = found.ok_or(Refusal::NotFound)?;
    let representation = Representation {
        tag: EntityTag::of_bytes(found.digest),
        freshness: Freshness::Revalidate,
        media_type: HeaderValue::from_static(found.media_type),
    };
    let prepared = Prepared::new(representation, found.content.len());
    Ok((prepared, found.content))
}

/// The place where an error becomes a reply, and where it is logged.
fn logged(error: Unreadable) -> Refusal {
    tracing::error!(%error, remedy = error.remedy(), "a file cannot be served");
    Refusal::Unreadable
}
