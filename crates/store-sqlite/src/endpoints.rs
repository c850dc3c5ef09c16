//! Endpoints, their secrets, and what requests of each revision looked like.

use neo_events_domain::{
    Timestamp, Uuid,
    endpoint::{Endpoint, SealedSecret},
    headers::CustomHeaders,
    id::EndpointId,
    retry::RetryPolicy,
};
use neo_events_store::{EndpointQuery, Inserted, Page, PageRequest, Updated};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use crate::{
    catalogue,
    columns::{Columns, Micros, headers_json, key, optional_key, optional_micros},
    failure::Failure,
    page::{Named, Span, bind, keys, limit_of, page},
    sql,
};

pub(crate) fn insert(conn: &Connection, endpoint: &Endpoint) -> Result<Inserted, Failure> {
    if any_no_by_id(conn, endpoint.id)?.is_some() {
        return Ok(Inserted::Exists);
    }
    write(conn, sql::ENDPOINTS_INSERT, endpoint)?;
    Ok(Inserted::New)
}

pub(crate) fn update(conn: &Connection, endpoint: &Endpoint) -> Result<Updated, Failure> {
    let Some((_, stored)) = by_id(conn, endpoint.id)? else { return Ok(Updated::Missing) };
    if stored.revision + 1 != endpoint.revision {
        return Ok(Updated::Stale);
    }
    write(conn, sql::ENDPOINTS_UPDATE, endpoint)?;
    Ok(Updated::Written)
}

/// Writes the row, its secrets and its revision, as one change of the catalogue.
fn write(conn: &Connection, sql: &str, endpoint: &Endpoint) -> Result<(), Failure> {
    let headers: Vec<_> =
        endpoint.custom_headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (headers, changed) = (headers_json(&headers)?, catalogue::advance(conn)?);
    let RetryPolicy { max_retry_attempts, backoff_seconds, backoff_multiplier } = endpoint.retry;
    let parameters: [Named<'_>; 24] = [
        (":id", &key(endpoint.id)),
        (":revision", &endpoint.revision),
        (":name", &endpoint.name),
        (":description", &endpoint.description),
        (":endpoint_url", &endpoint.endpoint_url),
        (":http_method", &endpoint.http_method.as_str()),
        (":signature_header", &endpoint.signature_header),
        (":custom_headers", &headers),
        (":timeout_seconds", &endpoint.timeout_seconds),
        (":follow_redirects", &endpoint.follow_redirects),
        (":verify_ssl", &endpoint.verify_ssl),
        (":max_retry_attempts", &max_retry_attempts),
        (":retry_backoff_seconds", &backoff_seconds),
        (":retry_backoff_multiplier", &backoff_multiplier),
        (":is_active", &endpoint.is_active),
        (":is_verified", &endpoint.is_verified),
        (":disabled_reason", &endpoint.disabled_reason),
        (":created_by_user_id", &optional_key(endpoint.created_by_user_id)),
        (":context_id", &optional_key(endpoint.context_id)),
        (":created_at", &Micros::from(endpoint.created_at)),
        (":updated_at", &Micros::from(endpoint.updated_at)),
        (":last_used_at", &optional_micros(endpoint.last_used_at)),
        (":verified_at", &optional_micros(endpoint.verified_at)),
        (":changed", &changed),
    ];
    let mut statement = conn.prepare_cached(sql)?;
    bind(&mut statement, &parameters)?;
    let mut rows = statement.raw_query();
    let no = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)?;
    drop(rows);
    write_secrets(conn, no, &endpoint.secrets)?;
    write_revision(conn, no, endpoint)
}

fn write_secrets(conn: &Connection, no: i64, secrets: &[SealedSecret]) -> Result<(), Failure> {
    conn.prepare_cached(sql::ENDPOINT_SECRETS_DELETE)?.execute([no])?;
    let mut insert = conn.prepare_cached(sql::ENDPOINT_SECRETS_INSERT)?;
    for (position, SealedSecret { sealed, expires_at }) in (0_i64..).zip(secrets) {
        insert.execute(params![no, position, sealed, optional_micros(*expires_at)])?;
    }
    Ok(())
}

fn write_revision(conn: &Connection, no: i64, endpoint: &Endpoint) -> Result<(), Failure> {
    conn.prepare_cached(sql::ENDPOINT_REVISIONS_INSERT)?.execute(params![
        no,
        endpoint.revision,
        endpoint.endpoint_url,
        endpoint.http_method.as_str(),
        endpoint.signature_header,
        headers_json(&endpoint.custom_headers.redacted())?,
        endpoint.is_active,
    ])?;
    Ok(())
}

/// Deletes an endpoint and its subscriptions; its number if it was there.
pub(crate) fn delete(conn: &Connection, id: EndpointId, now: Timestamp) -> Result<Option<i64>, Failure> {
    let Some(no) = no_by_id(conn, id)? else { return Ok(None) };
    let changed = catalogue::advance(conn)?;
    conn.prepare_cached(sql::ENDPOINTS_DELETE)?.execute(params![no, Micros::from(now), changed])?;
    conn.prepare_cached(sql::SUBSCRIPTIONS_DELETE_OF_ENDPOINT)?.execute(params![no, Micros::from(now)])?;
    // What was sealed for it is of no use to anybody.
    conn.prepare_cached(sql::ENDPOINT_SECRETS_DELETE)?.execute([no])?;
    Ok(Some(no))
}

/// One that is not deleted, with its number.
pub(crate) fn by_id(conn: &Connection, id: EndpointId) -> Result<Option<(i64, Endpoint)>, Failure> {
    let found = conn.prepare_cached(sql::ENDPOINTS_BY_ID)?.query_row([key(id)], endpoint).optional()?;
    found.map(|found| with_secrets(conn, found)).transpose()
}

/// One that is not deleted.
pub(crate) fn by_no(conn: &Connection, no: i64) -> Result<Option<Endpoint>, Failure> {
    let found = conn.prepare_cached(sql::ENDPOINTS_BY_NO)?.query_row([no], endpoint).optional()?;
    Ok(found.map(|found| with_secrets(conn, found)).transpose()?.map(|(_, endpoint)| endpoint))
}

/// The number of one that is not deleted.
pub(crate) fn no_by_id(conn: &Connection, id: EndpointId) -> Result<Option<i64>, Failure> {
    Ok(conn.prepare_cached(sql::ENDPOINTS_NO_BY_ID)?.query_row([key(id)], |row| row.get(0)).optional()?)
}

/// The number of one that may be deleted.
pub(crate) fn any_no_by_id(conn: &Connection, id: EndpointId) -> Result<Option<i64>, Failure> {
    Ok(conn.prepare_cached(sql::ENDPOINTS_ANY_NO_BY_ID)?.query_row([key(id)], |row| row.get(0)).optional()?)
}

/// The numbers of those that are bound to a context, deleted ones too.
pub(crate) fn any_nos_by_context(conn: &Connection, context_id: Uuid) -> Result<Vec<i64>, Failure> {
    let mut statement = conn.prepare_cached(sql::ENDPOINTS_ANY_NOS_BY_CONTEXT)?;
    Ok(statement.query_map([context_id.into_bytes()], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

pub(crate) fn list(
    conn: &Connection,
    query: &EndpointQuery,
    request: &PageRequest,
) -> Result<Page<Endpoint>, Failure> {
    let span = Span::ALL.continued(request.cursor.as_ref())?;
    let event_type = query.event_type.as_ref();
    let nos = keys(
        conn,
        sql::ENDPOINTS_LIST,
        &[
            (":before", &span.before),
            (":limit", &limit_of(request)),
            (":context_id", &optional_key(query.context_id)),
            (":is_active", &query.is_active),
            (":event_type", &event_type.map(|of| of.as_str().to_owned())),
            (":category_pattern", &event_type.map(|of| format!("{}.*", of.category()))),
        ],
    )?;
    page(&nos, request, |no| by_no(conn, no), bytes)
}

/// What an endpoint weighs in a page.
fn bytes(endpoint: &Endpoint) -> usize {
    endpoint.custom_headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        + endpoint.endpoint_url.len()
        + endpoint.description.as_ref().map_or(0, String::len)
}

/// Notes when it was last sent to.
pub(crate) fn note_used(conn: &Connection, id: EndpointId, at: Timestamp) -> Result<(), Failure> {
    let parameters: [&dyn ToSql; 2] = [&key(id), &Micros::from(at)];
    conn.prepare_cached(sql::ENDPOINTS_NOTE_USED)?.execute(parameters)?;
    Ok(())
}

/// What a request of some revision looked like.
pub(crate) struct RequestLook {
    pub(crate) url: String,
    pub(crate) method: String,
    pub(crate) signature_header: String,
    pub(crate) custom_headers_redacted: Vec<(String, String)>,
}

/// The look of a revision, or of the newest before it.
pub(crate) fn look_as_of(conn: &Connection, no: i64, revision: u32) -> Result<RequestLook, Failure> {
    let look = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok(RequestLook {
            url: columns.take()?,
            method: columns.take()?,
            signature_header: columns.take()?,
            custom_headers_redacted: columns.headers()?,
        })
    };
    Ok(conn.prepare_cached(sql::ENDPOINT_REVISIONS_AS_OF)?.query_row(params![no, revision], look)?)
}

/// Whether what a receiver said to a request of some revision still concerns the endpoint.
pub(crate) fn still_stands(conn: &Connection, no: i64, revision: u32) -> Result<bool, Failure> {
    let stands = params![no, revision];
    Ok(conn.prepare_cached(sql::ENDPOINT_REVISIONS_STILL_STANDS)?.query_row(stands, |row| row.get(0))?)
}

/// The secret that signs for the endpoint that was written last.
pub(crate) fn newest_secret(conn: &Connection) -> Result<Option<(EndpointId, Vec<u8>)>, Failure> {
    let secret = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok((columns.id()?, columns.take()?))
    };
    Ok(conn.prepare_cached(sql::ENDPOINT_SECRETS_NEWEST)?.query_row([], secret).optional()?)
}

fn with_secrets(conn: &Connection, (no, endpoint): (i64, Endpoint)) -> Result<(i64, Endpoint), Failure> {
    let secret = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok(SealedSecret { sealed: columns.take()?, expires_at: columns.optional_time()? })
    };
    let mut statement = conn.prepare_cached(sql::ENDPOINT_SECRETS_BY_ENDPOINT)?;
    let secrets = statement.query_map([no], secret)?.collect::<Result<_, _>>()?;
    Ok((no, Endpoint { secrets, ..endpoint }))
}

fn endpoint(row: &Row<'_>) -> rusqlite::Result<(i64, Endpoint)> {
    let mut columns = Columns::of(row);
    let no = columns.take()?;
    let endpoint = Endpoint {
        id: columns.id()?,
        revision: columns.take()?,
        name: columns.take()?,
        description: columns.take()?,
        endpoint_url: columns.take()?,
        http_method: columns.parsed()?,
        signature_header: columns.take()?,
        custom_headers: CustomHeaders::from_stored(columns.headers()?),
        timeout_seconds: columns.take()?,
        follow_redirects: columns.take()?,
        verify_ssl: columns.take()?,
        retry: RetryPolicy {
            max_retry_attempts: columns.take()?,
            backoff_seconds: columns.take()?,
            backoff_multiplier: columns.take()?,
        },
        is_active: columns.take()?,
        is_verified: columns.take()?,
        disabled_reason: columns.take()?,
        created_by_user_id: columns.optional_uuid()?,
        context_id: columns.optional_uuid()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        last_used_at: columns.optional_time()?,
        verified_at: columns.optional_time()?,
        secrets: Vec::new(),
    };
    Ok((no, endpoint))
}
