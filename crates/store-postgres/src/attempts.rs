//! Attempts: written once, read with what can be rebuilt from their event and their endpoint's revision.

use std::sync::Arc;

use futures_util::future::try_join;
use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{Attempt, Delivery, ReceivedResponse},
    event::DomainEvent,
    id::EndpointId,
    payload,
    request::{self, RequestFacts},
    signing::Signatures,
    stats::AttemptTally,
    tenant::Schema,
};
use neo_events_store::{Page, PageRequest};
use tokio_postgres::Row;

use crate::{
    columns::Columns,
    conn::{Connection, Param},
    events,
    failure::Failure,
    page::{before_number, limit_of, number_cursor, page, weight},
    sql,
};

/// A delivery's attempts, newest first: those that it counted when it was read. A cursor is the number of an attempt.
pub(crate) async fn list(
    conn: &Connection,
    schema: &Schema,
    delivery: &Delivery,
    request: &PageRequest,
) -> Result<Page<Attempt>, Failure> {
    let before = before_number(request)?.min(i64::from(delivery.current_attempt) + 1);
    let params: [Param<'_>; 5] = [
        &delivery.id.uuid(),
        &delivery.webhook_endpoint_id.uuid(),
        &delivery.webhook_event_id.uuid(),
        &before,
        &limit_of(request),
    ];
    let event_id = [delivery.webhook_event_id.uuid()];
    let statement = sql::ATTEMPTS_LIST.filling_a_page("weight");
    let (rows, events) =
        try_join(conn.query(statement, schema, &params), events::by_ids(conn, schema, &event_id)).await?;
    let Some(event) = events.get(&event_id[0]) else { return Ok(Page { items: Vec::new(), next: None }) };
    let body = Arc::from(payload::standard(event));
    let weighed = |row: &Row| {
        let mut columns = Columns::of(row);
        Ok((attempt(&mut columns, schema, event, &body)?, weight(&mut columns)?))
    };
    let attempts = rows.iter().map(weighed).collect::<Result<_, Failure>>()?;
    let cursor = |(attempt, _): &(Attempt, _)| number_cursor(attempt.attempt_number.into());
    let Page { items, next } = page(attempts, request, cursor, |(_, weight)| *weight);
    Ok(Page { items: items.into_iter().map(|(attempt, _)| attempt).collect(), next })
}

fn attempt(
    columns: &mut Columns<'_>,
    schema: &Schema,
    event: &DomainEvent,
    request_body: &Arc<str>,
) -> Result<Attempt, Failure> {
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
    let response = response(columns)?;
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
    let request_headers = request::shown(&facts, &columns.headers()?);
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
