//! The ways to publish, each as a caller of the load generator: HTTP one by one, HTTP in batches, library, SQL.

use std::{net::SocketAddr, ops::Range};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use neo_events::{EventDraft, Tenant};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_postgres::{NoTls, Statement};

use super::{
    connection::Connection,
    load::Caller,
    payload::{EVENT_TYPE, event, payload},
};
use crate::cli::failure::{Failure, with_causes};

/// `POST /v1/events` or `POST /v1/events/batch` on a connection of its own.
pub(crate) struct HttpPublisher {
    connection: Connection,
    host: String,
    authorization: HeaderValue,
    payload_bytes: usize,
    is_batch: bool,
}

/// What of a batch's answer is of interest.
#[derive(Deserialize)]
struct Counts {
    accepted: u64,
}

impl HttpPublisher {
    /// Connects; `authorization` is the header's value.
    pub(crate) async fn connect(
        address: SocketAddr,
        authorization: HeaderValue,
        payload_bytes: usize,
        is_batch: bool,
    ) -> Result<Self, Failure> {
        let connection = Connection::open(address).await?;
        Ok(Self { connection, host: address.to_string(), authorization, payload_bytes, is_batch })
    }

    fn request(&self, numbers: Range<u64>) -> Result<Request<Full<Bytes>>, Failure> {
        let events: Vec<String> = numbers.map(|number| event(number, self.payload_bytes)).collect();
        let (path, body) = if self.is_batch {
            ("/v1/events/batch", format!(r#"{{"events":[{}]}}"#, events.join(",")))
        } else {
            ("/v1/events", events.concat())
        };
        Request::post(path)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(&error.to_string()))
    }
}

impl Caller for HttpPublisher {
    async fn call(&mut self, numbers: Range<u64>) -> Result<(), Failure> {
        let count = numbers.end - numbers.start;
        let request = self.request(numbers)?;
        let (status, answer) = self.connection.send(request).await?;
        if status != StatusCode::ACCEPTED {
            return Err(refused(&format!("{status} {}", String::from_utf8_lossy(&answer))));
        }
        if self.is_batch {
            let counts: Counts =
                serde_json::from_slice(&answer).map_err(|error| refused(&error.to_string()))?;
            if counts.accepted != count {
                return Err(refused(&format!("{} of {count} events of a batch were taken", counts.accepted)));
            }
        }
        Ok(())
    }
}

/// `Tenant::publish` in this process.
pub(crate) struct LibraryPublisher {
    /// Where it publishes.
    pub(crate) tenant: Tenant,
    /// Of each event's data.
    pub(crate) payload_bytes: usize,
}

impl Caller for LibraryPublisher {
    async fn call(&mut self, numbers: Range<u64>) -> Result<(), Failure> {
        for number in numbers {
            let draft = EventDraft::new(EVENT_TYPE, payload(number, self.payload_bytes));
            self.tenant.publish(draft).await.map_err(|error| refused(&with_causes(&error)))?;
        }
        Ok(())
    }
}

/// `select admin.publish_event(…)` on a database connection of its own, each in a transaction of its own.
pub(crate) struct SqlPublisher {
    client: tokio_postgres::Client,
    statement: Statement,
    payload_bytes: usize,
    _driver: JoinSet<()>,
}

/// The cast lets the data be sent as text.
const PUBLISH: &str = "select admin.publish_event($1::text, ($2::text)::json)";

impl SqlPublisher {
    /// Connects without TLS and prepares the statement.
    pub(crate) async fn connect(url: &str, payload_bytes: usize) -> Result<Self, Failure> {
        let unusable = |error: tokio_postgres::Error| Failure::Serve {
            message: format!("publishing by SQL: {}", with_causes(&error)),
            advice: Some("The bench connects to the database itself, without TLS.".to_owned()),
        };
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(unusable)?;
        let mut driver = JoinSet::new();
        // How it ends is seen by the statement that is under way.
        driver.spawn(async move { drop(connection.await) });
        let statement = client.prepare(PUBLISH).await.map_err(unusable)?;
        Ok(Self { client, statement, payload_bytes, _driver: driver })
    }
}

impl Caller for SqlPublisher {
    async fn call(&mut self, numbers: Range<u64>) -> Result<(), Failure> {
        for number in numbers {
            let data = payload(number, self.payload_bytes);
            let published = self.client.execute(&self.statement, &[&EVENT_TYPE, &data]).await;
            published.map_err(|error| refused(&with_causes(&error)))?;
        }
        Ok(())
    }
}

fn refused(reason: &str) -> Failure {
    Failure::Serve { message: format!("an event could not be published: {reason}"), advice: None }
}
