//! Attempts: written once, read with what can be rebuilt from their event and their endpoint's revision.

use std::sync::Arc;

use neo_events_domain::{
    delivery::{ATTEMPTS_MAX, Attempt, AttemptRecord, AttemptStatus, ReceivedResponse},
    event::DomainEvent,
    id::RequestId,
    payload,
    request::{self, RequestFacts},
    signing::Signatures,
    stats::AttemptTally,
    tenant::Schema,
};
use neo_events_store::{Cursor, Page, PageRequest};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    columns::{Columns, Micros, headers_json, key},
    endpoints::{self, RequestLook},
    failure::Failure,
    page::{Span, limit_of, page_by},
    scope::{KeptStatement, Scope},
    sql,
};

/// A slot is delivery × this + attempt number.
const SLOTS_PER_DELIVERY: i64 = 65_536;

/// What a byte of an answer's body weighs in a page: a control character is six in JSON.
const BODY_BYTE_WEIGHT: usize = 6;

/// Records an attempt of a delivery.
pub(crate) fn insert(
    scope: &mut Scope<'_>,
    delivery_seq: i64,
    attempt: &AttemptRecord,
) -> Result<(), Failure> {
    let response = attempt.response.as_ref();
    let response_headers = response.map(|response| headers_json(&response.headers)).transpose()?;
    let signatures = attempt.signatures.as_ref();
    let response_time_ms = i64::try_from(attempt.response_time.as_millis()).unwrap_or(i64::MAX);
    scope.statement(KeptStatement::AttemptsInsert)?.execute(params![
        delivery_seq * SLOTS_PER_DELIVERY + i64::from(attempt.attempt_number),
        key(attempt.request_id),
        attempt.endpoint_revision,
        AttemptStatus::of(&attempt.outcome).as_str(),
        attempt.outcome.error_code(),
        Micros::from(attempt.attempted_at),
        Micros::from(attempt.completed_at),
        response_time_ms,
        attempt.connection_reused,
        signatures.map(|signatures| &signatures.standard),
        signatures.map(|signatures| &signatures.body),
        signatures.and_then(|signatures| signatures.body_previous.as_ref()),
        attempt.error_message,
        response.map(|response| response.status),
        response_headers,
        response.map(|response| response.body_truncated),
        response.map(|response| response.body.as_slice()),
    ])?;
    Ok(())
}

/// What the attempts of one delivery have in common.
pub(crate) struct Common<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) event: &'a DomainEvent,
    pub(crate) endpoint_no: i64,
}

/// A delivery's attempts, newest first: those that it counted when it was read. A cursor is the number of an attempt.
pub(crate) fn list(
    conn: &Connection,
    (delivery_seq, counted): (i64, u32),
    common: &Common<'_>,
    request: &PageRequest,
) -> Result<Page<Attempt>, Failure> {
    let span = Span { before: i64::from(counted) + 1, ..Span::ALL }.continued(request.cursor.as_ref())?;
    let mut slots = conn.prepare_cached(sql::ATTEMPTS_LIST)?;
    let slots = slots.query_map([delivery_seq, span.before, limit_of(request)], |row| row.get(0))?;
    let slots = slots.collect::<Result<Vec<i64>, _>>()?;
    let body = Arc::from(payload::standard(common.event));
    let load = |slot| {
        let found = conn.prepare_cached(sql::ATTEMPTS_BY_SLOT)?.query_row([slot], stored).optional()?;
        found.map(|found| shown(conn, found, common, &body)).transpose()
    };
    page_by(&slots, request, load, bytes, |slot| Cursor::new((slot % SLOTS_PER_DELIVERY).to_string()))
}

/// What an attempt weighs in a page.
fn bytes(attempt: &Attempt) -> usize {
    let headers = |headers: &[(String, String)]| {
        headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    };
    let response = attempt
        .response
        .as_ref()
        .map_or(0, |response| headers(&response.headers) + response.body.len() * BODY_BYTE_WEIGHT);
    attempt.request_url.len()
        + headers(&attempt.request_headers)
        + attempt.request_body.len()
        + attempt.error_message.as_ref().map_or(0, String::len)
        + response
}

/// An attempt's row.
struct Stored {
    attempt_number: u32,
    request_id: RequestId,
    endpoint_revision: u32,
    signatures: Option<Signatures>,
    /// Everything but what the request looked like.
    attempt: Attempt,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let mut columns = Columns::of(row);
    let slot: i64 = columns.take()?;
    let attempt_number = u32::try_from(slot % SLOTS_PER_DELIVERY).unwrap_or(ATTEMPTS_MAX);
    let (request_id, endpoint_revision) = (columns.id()?, columns.take()?);
    let mut attempt = Attempt {
        attempt_number,
        delivery_status: columns.parsed()?,
        error_code: columns.take()?,
        attempted_at: columns.time()?,
        completed_at: columns.time()?,
        response_time_ms: columns.take::<i64>()?.unsigned_abs(),
        connection_reused: columns.take()?,
        request_url: String::new(),
        request_method: String::new(),
        request_headers: Vec::new(),
        request_body: Arc::default(),
        signature: None,
        response: None,
        error_message: None,
    };
    let (standard, body, body_previous) =
        (columns.take::<Option<String>>()?, columns.take()?, columns.take()?);
    attempt.error_message = columns.take()?;
    attempt.signature.clone_from(&standard);
    attempt.response = response(&mut columns)?;
    let signatures = standard.zip(body).map(|(standard, body): (String, String)| Signatures {
        standard,
        body,
        body_previous,
    });
    Ok(Stored { attempt_number, request_id, endpoint_revision, signatures, attempt })
}

fn response(columns: &mut Columns<'_>) -> rusqlite::Result<Option<ReceivedResponse>> {
    let Some(status) = columns.take::<Option<u16>>()? else { return Ok(None) };
    Ok(Some(ReceivedResponse {
        status,
        headers: columns.headers()?,
        body_truncated: columns.take()?,
        body: columns.take()?,
    }))
}

/// Adds what the request looked like.
fn shown(
    conn: &Connection,
    stored: Stored,
    common: &Common<'_>,
    body: &Arc<str>,
) -> Result<Attempt, Failure> {
    let look = endpoints::look_as_of(conn, common.endpoint_no, stored.endpoint_revision)?;
    let facts = RequestFacts {
        schema: common.schema,
        event_id: common.event.id,
        event_type: common.event.event_type.as_str(),
        attempt_number: stored.attempt_number,
        request_id: stored.request_id,
        sent_at: stored.attempt.attempted_at,
        signatures: stored.signatures.as_ref(),
        signature_header: &look.signature_header,
    };
    let request_headers = request::shown(&facts, &look.custom_headers_redacted);
    let RequestLook { url: request_url, method: request_method, .. } = look;
    let request_body = Arc::clone(body);
    Ok(Attempt { request_url, request_method, request_headers, request_body, ..stored.attempt })
}

/// Of the endpoint's deliveries from a key on.
pub(crate) fn tally(conn: &Connection, endpoint_no: i64, from_seq: i64) -> Result<AttemptTally, Failure> {
    let mut tally = AttemptTally::default();
    let mut statement = conn.prepare_cached(sql::ATTEMPTS_OF_ENDPOINT)?;
    let mut rows = statement.query([endpoint_no, from_seq])?;
    while let Some(row) = rows.next()? {
        let (ms, code): (i64, Option<String>) = (row.get(0)?, row.get(1)?);
        tally.add(ms.unsigned_abs(), code.as_deref(), 1);
    }
    Ok(tally)
}
