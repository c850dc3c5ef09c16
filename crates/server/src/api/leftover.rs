//! What is left of a request's body when it is refused.
//!
//! A connection that is closed while its peer still sends is reset, and a peer that sends everything before it reads
//! never sees why it was refused. So what is left of a large body is read and thrown away before the answer leaves,
//! within limits. Small ones need none of this: they fit into what the system keeps for a connection.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::timeout;

use super::RequestBody;

/// A body of so many bytes is not waited for.
const BUFFERED_BYTES_MAX: u64 = 64 * 1024;
/// What is still read of a body: some of the largest batches.
const DISCARDED_BYTES_MAX: usize = 64 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a body that was lent comes back to.
pub(super) struct Leftover(Option<Arc<Mutex<Option<Body>>>>);

/// A body that goes back when whoever had it is done with it.
struct Lent {
    body: Body,
    back_to: Arc<Mutex<Option<Body>>>,
}

impl Leftover {
    /// Lends a request's body. Small ones are given away, and so are those that the peer will not send unless it is
    /// asked to.
    pub(super) fn of<B: RequestBody>(request: Request<B>) -> (Request<Body>, Self) {
        if !is_sent_anyway(&request) {
            return (request.map(Body::new), Self(None));
        }
        let place: Arc<Mutex<Option<Body>>> = Arc::default();
        let lend = |body| Body::new(Lent { body: Body::new(body), back_to: Arc::clone(&place) });
        (request.map(lend), Self(Some(place)))
    }

    /// To be called before an answer leaves and after the request is gone.
    pub(super) async fn discard_if_refused(self, status: StatusCode) {
        // Who took too long to send it is not waited for again.
        let is_refused = status.is_client_error() || status.is_server_error();
        let left = self.0.and_then(|place| place.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(body) = left.filter(|_| is_refused && status != StatusCode::REQUEST_TIMEOUT) {
            discard(body).await;
        }
    }
}

/// The body of a request that nobody is to read.
pub(super) async fn discard_all<B: RequestBody>(request: Request<B>) {
    if is_sent_anyway(&request) {
        discard(request.into_body()).await;
    }
}

/// Whether a body is large, and on its way whatever is answered: who says `Expect: 100-continue` waits to be asked.
fn is_sent_anyway<B: HttpBody>(request: &Request<B>) -> bool {
    let is_large = request.body().size_hint().upper().is_none_or(|bytes| bytes > BUFFERED_BYTES_MAX);
    is_large && !request.headers().contains_key(header::EXPECT)
}

async fn discard(body: impl RequestBody) {
    let mut body = pin!(body);
    let discarding = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARDED_BYTES_MAX {
                return;
            }
        }
    };
    // Whatever happens, the answer is the same.
    let _ = timeout(DISCARD_TIMEOUT, discarding).await;
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.body);
        if !left.is_end_stream() {
            *self.back_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
        }
    }
}
