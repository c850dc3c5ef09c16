//! The bare client: what the machine can do without neo-events.
//!
//! The same webhooks, signed beforehand, posted to the same receiver over as many kept-alive connections as there are
//! publishers: nothing is stored, matched or retried. The ratio to it says more than figures alone, because it is
//! taken in the same minutes on the same machine. A real delivery is the model: its headers and its body, with
//! another number and signatures that fit.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use neo_events::{SigningSecret, Timestamp};

use super::{connection::Connection, load::Caller, payload::with_number, receiver::path};
use crate::{cli::failure::Failure, webhook_receiver::Received};

/// Most different webhooks; then they begin anew. Bounds memory, whatever the number of events.
pub(crate) const WEBHOOKS_MAX: u64 = 2048;

/// A webhook that is ready to be sent.
pub(crate) struct Prepared {
    headers: HeaderMap,
    body: Bytes,
}

/// What webhooks are made of.
pub(crate) struct Mould<'a> {
    /// A real one.
    pub(crate) model: &'a Received,
    /// Signs.
    pub(crate) secret: &'a SigningSecret,
    /// Where they will go.
    pub(crate) receiver: SocketAddr,
    /// When.
    pub(crate) sent_at: Timestamp,
}

impl Mould<'_> {
    /// Makes `count` of them.
    pub(crate) fn prepare(&self, count: u64) -> Result<Arc<Vec<Prepared>>, Failure> {
        let made: Option<Vec<Prepared>> = (0..count).map(|number| self.make(number)).collect();
        let unusable = || Failure::Serve {
            message: "a delivery does not look as the bench expects: it has no number".to_owned(),
            advice: None,
        };
        made.map(Arc::new).ok_or_else(unusable)
    }

    fn make(&self, number: u64) -> Option<Prepared> {
        let body = with_number(&self.model.body, number)?;
        let sent_at = self.sent_at.as_second();
        let mut headers = self.model.headers.clone();
        // The client sets it by the body.
        headers.remove(header::CONTENT_LENGTH);
        for (name, value) in [
            ("host", self.receiver.to_string()),
            ("webhook-timestamp", sent_at.to_string()),
            ("webhook-signature", self.secret.sign_message(self.model.id(), sent_at, &body)),
            ("x-neo-signature", self.secret.sign_body(&body)),
        ] {
            headers.insert(name, HeaderValue::from_str(&value).ok()?);
        }
        Some(Prepared { headers, body: body.into() })
    }
}

/// Posts prepared webhooks on a connection of its own.
pub(crate) struct BareClient {
    connection: Connection,
    webhooks: Arc<Vec<Prepared>>,
}

impl BareClient {
    /// Connects.
    pub(crate) async fn connect(receiver: SocketAddr, webhooks: Arc<Vec<Prepared>>) -> Result<Self, Failure> {
        Ok(Self { connection: Connection::open(receiver).await?, webhooks })
    }
}

impl Caller for BareClient {
    async fn call(&mut self, numbers: Range<u64>) -> Result<(), Failure> {
        for number in numbers {
            let place = usize::try_from(number).unwrap_or(0) % self.webhooks.len().max(1);
            let Some(webhook) = self.webhooks.get(place) else { continue };
            let mut request = Request::new(Full::new(webhook.body.clone()));
            *request.method_mut() = http::Method::POST;
            *request.uri_mut() = path(0).parse().unwrap_or_default();
            request.headers_mut().clone_from(&webhook.headers);
            let (status, _) = self.connection.send(request).await?;
            if status != StatusCode::OK {
                let message = format!("the receiver answered {status} to the bare client");
                return Err(Failure::Serve { message, advice: None });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use neo_events::Sources;

    use super::*;
    use crate::bench::{
        load::{Load, Pace, drive},
        payload::event,
        receiver::{Epoch, Ledger, Receiver},
    };

    #[tokio::test]
    async fn its_webhooks_are_as_large_as_the_model_and_signed_validly() {
        let secret = SigningSecret::generate([3; 32]);
        let now = Sources::system().now();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "evt"),
            ("webhook-timestamp", "1"),
            ("webhook-signature", "of another body"),
            ("x-neo-signature", "of another body"),
            ("content-length", "4"),
            ("traceparent", "00"),
        ] {
            headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let model = Received {
            at: now,
            instant: Instant::now(),
            method: http::Method::POST,
            path: path(0),
            headers,
            body: event(77, 200).into(),
            answered: StatusCode::OK,
        };
        let epoch = Epoch::start();
        let ledger = Arc::new(Ledger::new(epoch, 0..20, 1));
        let receiver = Receiver::start(Arc::clone(&ledger)).await.unwrap();
        let mould = Mould { model: &model, secret: &secret, receiver: receiver.address(), sent_at: now };
        let webhooks = mould.prepare(20).unwrap();
        assert!(webhooks.iter().all(|webhook| webhook.body.len() == model.body.len()));
        let client = BareClient::connect(receiver.address(), webhooks).await.unwrap();
        let load = Load { numbers: 0..20, per_call: 1, pace: Pace::Closed };
        drive(&load, vec![client], epoch).await.unwrap();
        assert!(ledger.wait(Duration::from_secs(30), |_| ()).await);
        let (samples, valid) = ledger.check_samples(&secret);
        assert!(samples >= 10 && samples == valid, "{samples} {valid}");
        assert_eq!([ledger.unsigned(), ledger.duplicates()], [0, 0]);
        assert_eq!(ledger.sample().unwrap().headers.len(), model.headers.len() + 1, "host");
        let blank = Received { body: "{}".into(), ..model.clone() };
        assert!(Mould { model: &blank, ..mould }.prepare(1).is_err());
    }
}
