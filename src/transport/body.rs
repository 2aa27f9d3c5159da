//! A reply's body as hyper takes it from here: counted, and with files that the
//! transport will send itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};

use super::activity::{Request, Way};
use super::outbox::{Chunk, Outbox};
use crate::http::Body;

/// The body of a request's reply; the request is finished when it is dropped.
#[derive(Debug)]
pub struct Tracked {
    body: Body,
    request: Request,
    /// Present if the connection's transport can send files.
    outbox: Option<Arc<Outbox>>,
}

impl Tracked {
    /// The body of the reply to a request.
    pub fn new(body: Body, request: Request, outbox: Option<Arc<Outbox>>) -> Self {
        Self {
            body,
            request,
            outbox,
        }
    }
}

impl http_body::Body for Tracked {
    type Data = Chunk;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Chunk>>>> {
        let this = &mut *self;
        if let Some(outbox) = &this.outbox
            && let Some(chunks) = this.body.file_mut()
            && chunks.remaining() > 0
        {
            let (file, position) = (chunks.file().clone(), chunks.position());
            let placeholder = outbox.put(file, position, chunks.remaining());
            chunks.skip(placeholder.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(Chunk::File(placeholder)))));
        }
        let way = match this.body.file_mut() {
            Some(_) => Way::Read,
            None => Way::Memory,
        };
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(bytes) = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref()) {
            this.request.activity().went(way, bytes.len());
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(Chunk::Memory))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
