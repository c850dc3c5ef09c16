//! Attempts: written once, read with what can be rebuilt from their event and their endpoint's revision.

use std::sync::Arc;

use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{Attempt, Delivery, ReceivedResponse},
    event::DomainEvent,
    id::EndpointId,
    payload,
    request::{RequestFacts, headers},
    signing::Signatures,
    stats::AttemptTally,
    tenant::Schema,
};
use tokio_postgres::Row;

use crate::{
    columns::{Columns, int},
    conn::Connection,
    failure::Failure,
    sql,
};

/// A delivery's attempts, oldest first: as many as it counted when it was read, so that both are of one moment.
pub(crate) async fn of_delivery(
    conn: &Connection,
    schema: &Schema,
    delivery: &Delivery,
) -> Result<Vec<Row>, Failure> {
    let (id, endpoint_id) = (delivery.id.uuid(), delivery.webhook_endpoint_id.uuid());
    let counted = int(delivery.current_attempt);
    conn.query(sql::ATTEMPTS_BY_DELIVERY, schema, &[&id, &endpoint_id, &counted]).await
}

/// The rows of a delivery, with what their requests looked like.
pub(crate) fn shown(rows: &[Row], schema: &Schema, event: &DomainEvent) -> Result<Vec<Attempt>, Failure> {
    let body = Arc::from(payload::standard(event));
    rows.iter().map(|row| attempt(row, schema, event, &body)).collect()
}

fn attempt(
    row: &Row,
    schema: &Schema,
    event: &DomainEvent,
    request_body: &Arc<str>,
) -> Result<Attempt, Failure> {
    let mut columns = Columns::of(row);
    let (attempt_number, request_id) = (columns.number()?, columns.id()?);
    let (delivery_status, error_code) = (columns.parsed()?, columns.take()?);
    let (attempted_at, completed_at) = (columns.time()?, columns.time()?);
    let response_time_ms = columns.take::<i64>()?.unsigned_abs();
    let connection_reused = columns.take()?;
    let (standard, of_body, body_previous): (Option<String>, Option<String>, _) =
        (columns.take()?, columns.take()?, columns.take()?);
    let signature = standard.clone();
    let signatures =
        standard.zip(of_body).map(|(standard, body)| Signatures { standard, body, body_previous });
    let error_message = columns.take()?;
    let response = response(&mut columns)?;
    let (request_url, request_method, signature_header) = (columns.take()?, columns.take()?, columns.take()?);
    let facts = RequestFacts {
        schema,
        event_id: event.id,
        event_type: event.event_type.as_str(),
        attempt_number,
        request_id,
        sent_at: attempted_at,
        signatures: signatures.as_ref(),
        signature_header,
    };
    let custom = columns.headers()?;
    let custom = custom.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let request_headers = headers(&facts, custom)
        .into_iter()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let request_body = Arc::clone(request_body);
    Ok(Attempt {
        attempt_number,
        delivery_status,
        request_url,
        request_method,
        request_headers,
        request_body,
        signature,
        response,
        response_time_ms,
        error_message,
        error_code,
        connection_reused,
        attempted_at,
        completed_at,
    })
}

fn response(columns: &mut Columns<'_>) -> Result<Option<ReceivedResponse>, Failure> {
    let (status, headers): (Option<i32>, Option<&str>) = (columns.take()?, columns.take()?);
    let (truncated, body): (Option<bool>, Option<Vec<u8>>) = (columns.take()?, columns.take()?);
    // The table's checks promise headers and body with a status.
    let (Some(status), Some(headers), Some(body)) = (status, headers, body) else { return Ok(None) };
    Ok(Some(ReceivedResponse {
        status: u16::try_from(status).map_err(|error| Failure::Stored(error.into()))?,
        headers: serde_json::from_str(headers).map_err(|error| Failure::Stored(error.into()))?,
        body,
        body_truncated: truncated.unwrap_or_default(),
    }))
}

/// Of the endpoint's deliveries created since a time, whose ids begin with one.
pub(crate) async fn tally(
    conn: &Connection,
    schema: &Schema,
    id: EndpointId,
    (first_id, since): (Uuid, Timestamp),
) -> Result<AttemptTally, Failure> {
    let rows = conn.query(sql::ATTEMPTS_OF_ENDPOINT, schema, &[&id.uuid(), &first_id, &since]).await?;
    let mut tally = AttemptTally::default();
    for row in rows {
        let mut columns = Columns::of(&row);
        let (ms, code): (i64, Option<&str>) = (columns.take()?, columns.take()?);
        tally.add(ms.unsigned_abs(), code, columns.take::<i64>()?.unsigned_abs());
    }
    Ok(tally)
}
