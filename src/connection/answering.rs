//! From a request, as hyper has read it, to a reply for hyper to send.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use hyper::body::Incoming;

use crate::http::redirect::Redirect;
use crate::http::{Reply, Service};
use crate::repo::visitor::Visitor;
use crate::transport::activity::{Activity, Request};
use crate::transport::body::Tracked;
use crate::transport::outbox::Outbox;

/// Who answers requests.
#[derive(Clone)]
pub enum Answerer {
    /// With content.
    Content(Arc<Service>),
    /// With a redirect to HTTPS.
    Redirect(Arc<Redirect>),
}

impl Answerer {
    /// The reply to a request: at once, if what it needs is at hand.
    fn answer(&self, head: Parts, visitor: &Arc<Visitor>) -> Answer {
        let service = match self {
            Self::Redirect(redirect) => {
                let reply = redirect.answer(&head);
                note(&head, visitor, &reply);
                return Answer::Now(Some(reply));
            }
            Self::Content(service) => service,
        };
        if let Some(reply) = service.answer_at_once(&head, visitor) {
            note(&head, visitor, &reply);
            return Answer::Now(Some(reply));
        }
        let (service, visitor) = (Arc::clone(service), Arc::clone(visitor));
        Answer::Later(Box::pin(async move {
            let reply = service.answer_later(&head, &visitor).await;
            note(&head, &visitor, &reply);
            reply
        }))
    }
}

fn note(head: &Parts, visitor: &Visitor, reply: &Reply) {
    tracing::debug!(
        peer = %visitor,
        method = %head.method,
        path = head.uri.path(),
        status = reply.status().as_u16(),
        "request"
    );
}

/// A reply, or what it will come from. In a box, so that replies at once, which are
/// most of them, need not carry around what only the others need.
enum Answer {
    Now(Option<Reply>),
    Later(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

/// The requests of one connection: answered, and counted.
pub(super) struct Requests {
    pub(super) answerer: Answerer,
    pub(super) visitor: Arc<Visitor>,
    pub(super) activity: Arc<Activity>,
    /// Present if the transport can send files.
    pub(super) outbox: Option<Arc<Outbox>>,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Requests {
    type Response = hyper::Response<Tracked>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: hyper::Request<Incoming>) -> Answering {
        let request_is_under_way = Request::start(&self.activity);
        Answering {
            answer: self.answerer.answer(request.into_parts().0, &self.visitor),
            tracker: Some((request_is_under_way, self.outbox.clone())),
        }
    }
}

/// A request that is being answered.
pub(super) struct Answering {
    answer: Answer,
    /// What the reply's body is to have; there until the reply is.
    tracker: Option<(Request, Option<Arc<Outbox>>)>,
}

impl Future for Answering {
    type Output = Result<hyper::Response<Tracked>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = match &mut self.answer {
            Answer::Now(reply) => reply.take(),
            Answer::Later(future) => Some(ready!(future.as_mut().poll(cx))),
        };
        let (Some(mut reply), Some((request, outbox))) = (reply, self.tracker.take()) else {
            // It is polled after its end, which nobody does.
            return Poll::Pending;
        };
        if request.activity().is_spent() {
            let close = HeaderValue::from_static("close");
            reply.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(reply.map(|body| Tracked::new(body, request, outbox))))
    }
}
