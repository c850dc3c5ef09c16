//! Endpoints, their secrets, and what requests of each revision looked like.
//!
//! Those that are inactive or deleted are also listed in `admin.held_endpoints`, by the same transaction: a claim looks
//! there instead of into every tenant's schema.

use futures_util::future::{try_join, try_join3, try_join4};
use neo_events_domain::{
    Timestamp, Uuid,
    endpoint::{DISABLED_REASON_GONE, Endpoint, SealedSecret},
    event_type::EventType,
    headers::CustomHeaders,
    id::EndpointId,
    retry::RetryPolicy,
    tenant::Schema,
};
use neo_events_store::{EndpointQuery, Inserted, Page, PageRequest, Updated};

use crate::{
    catalogue::{self, Change},
    columns::{Columns, headers_json, int},
    conn::{Connection, Param},
    failure::Failure,
    page::{before_number, limit_of, numbered_page, weight},
    sql::{self, Sql},
};

/// How many parameters an update has; an insert has those that never change after them.
const UPDATE_PARAMS: usize = 20;

/// Adds an endpoint.
pub(crate) async fn insert(
    conn: &mut Connection,
    schema: &Schema,
    endpoint: &Endpoint,
) -> Result<Inserted, Failure> {
    let tx = conn.begin().await?;
    let change = catalogue::advance(&tx, schema).await?;
    if write_row(&tx, schema, sql::ENDPOINTS_INSERT, (endpoint, &change)).await? {
        write_rest(&tx, schema, endpoint, &change).await?;
        tx.commit().await?;
        return Ok(Inserted::New);
    }
    tx.rollback().await?;
    Ok(Inserted::Exists)
}

/// Writes the next revision of an endpoint.
pub(crate) async fn update(
    conn: &mut Connection,
    schema: &Schema,
    endpoint: &Endpoint,
) -> Result<Updated, Failure> {
    let tx = conn.begin().await?;
    let change = catalogue::advance(&tx, schema).await?;
    if replace(&tx, schema, endpoint, &change).await? {
        tx.commit().await?;
        return Ok(Updated::Written);
    }
    let is_there = exists(&tx, schema, endpoint.id).await?;
    tx.rollback().await?;
    Ok(if is_there { Updated::Stale } else { Updated::Missing })
}

/// Writes a row over the revision before it, its secrets and its revision; `false` if that is not the one there.
async fn replace(
    tx: &Connection,
    schema: &Schema,
    endpoint: &Endpoint,
    change: &Change,
) -> Result<bool, Failure> {
    if !write_row(tx, schema, sql::ENDPOINTS_UPDATE, (endpoint, change)).await? {
        return Ok(false);
    }
    tx.execute(sql::ENDPOINT_SECRETS_DELETE, schema, &[&endpoint.id.uuid()]).await?;
    write_rest(tx, schema, endpoint, change).await?;
    Ok(true)
}

/// Inserts or updates the row alone; `false` if the statement wrote none.
async fn write_row(
    tx: &Connection,
    schema: &Schema,
    statement: Sql,
    (endpoint, change): (&Endpoint, &Change),
) -> Result<bool, Failure> {
    let headers: Vec<_> =
        endpoint.custom_headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let RetryPolicy { max_retry_attempts, backoff_seconds, backoff_multiplier } = endpoint.retry;
    let params: [Param<'_>; 24] = [
        &endpoint.id.uuid(),
        &int(endpoint.revision),
        &endpoint.name,
        &endpoint.description,
        &endpoint.endpoint_url,
        &endpoint.http_method.as_str(),
        &endpoint.signature_header,
        &headers_json(&headers)?,
        &int(endpoint.timeout_seconds),
        &endpoint.follow_redirects,
        &endpoint.verify_ssl,
        &int(max_retry_attempts),
        &int(backoff_seconds),
        &backoff_multiplier,
        &endpoint.is_active,
        &endpoint.is_verified,
        &endpoint.disabled_reason,
        &endpoint.updated_at,
        &endpoint.verified_at,
        &change.number,
        &endpoint.created_by_user_id,
        &endpoint.context_id,
        &endpoint.created_at,
        &endpoint.last_used_at,
    ];
    let is_update = statement.name == sql::ENDPOINTS_UPDATE.name;
    let params = if is_update { &params[..UPDATE_PARAMS] } else { &params[..] };
    Ok(tx.execute(statement, schema, params).await? == 1)
}

/// What stands beside a row that was written: secrets, of which none are there, its revision, whether it is held.
async fn write_rest(
    tx: &Connection,
    schema: &Schema,
    endpoint: &Endpoint,
    change: &Change,
) -> Result<(), Failure> {
    let id = endpoint.id.uuid();
    let (sealed, expires_at): (Vec<&[u8]>, Vec<Option<Timestamp>>) =
        endpoint.secrets.iter().map(|secret| (secret.sealed.as_slice(), secret.expires_at)).unzip();
    let redacted = headers_json(&endpoint.custom_headers.redacted())?;
    let method = endpoint.http_method.as_str();
    let revision = int(endpoint.revision);
    let secrets: [Param<'_>; 3] = [&id, &sealed, &expires_at];
    let look: [Param<'_>; 7] = [
        &id,
        &revision,
        &endpoint.endpoint_url,
        &method,
        &endpoint.signature_header,
        &redacted,
        &endpoint.is_active,
    ];
    let hold = if endpoint.is_active { sql::HELD_ENDPOINTS_DELETE } else { sql::HELD_ENDPOINTS_INSERT };
    let of_tenant: [Param<'_>; 2] = [&change.tenant_no, &id];
    try_join3(
        tx.execute(sql::ENDPOINT_SECRETS_INSERT, schema, &secrets),
        tx.execute(sql::ENDPOINT_REVISIONS_INSERT, schema, &look),
        tx.execute(hold, schema, &of_tenant),
    )
    .await?;
    Ok(())
}

/// Deletes an endpoint and its subscriptions; `false` if it was not there. What it is owed is held from the same moment
/// on, and ended by tending.
pub(crate) async fn delete(
    conn: &mut Connection,
    schema: &Schema,
    id: EndpointId,
    now: Timestamp,
) -> Result<bool, Failure> {
    let tx = conn.begin().await?;
    let Change { tenant_no, number } = catalogue::advance(&tx, schema).await?;
    let id = id.uuid();
    if tx.execute(sql::ENDPOINTS_DELETE, schema, &[&id, &now, &number]).await? == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    let (of_id, with_time, of_tenant): ([Param<'_>; 1], [Param<'_>; 2], [Param<'_>; 2]) =
        ([&id], [&id, &now], [&tenant_no, &id]);
    try_join4(
        // What was sealed for it is of no use to anybody.
        tx.execute(sql::ENDPOINT_SECRETS_DELETE, schema, &of_id),
        tx.execute(sql::SUBSCRIPTIONS_DELETE_OF_ENDPOINT, schema, &with_time),
        tx.execute(sql::HELD_ENDPOINTS_INSERT, schema, &of_tenant),
        tx.execute(sql::ENDPOINT_REMOVALS_INSERT, schema, &of_tenant),
    )
    .await?;
    tx.commit().await?;
    Ok(true)
}

/// Disables an endpoint whose receiver asked for no more in answer to a request of some revision; unless it was moved
/// or activated since, for then it was not asked. A part of the caller's transaction.
pub(crate) async fn disable_gone(
    tx: &Connection,
    schema: &Schema,
    id: EndpointId,
    attempt_revision: u32,
    at: Timestamp,
) -> Result<(), Failure> {
    // Before taking a number too: of a thousand that say so, all but the first find it disabled.
    if !still_stands(tx, schema, id, attempt_revision).await? {
        return Ok(());
    }
    let change = catalogue::advance(tx, schema).await?;
    let (stands, endpoint) =
        try_join(still_stands(tx, schema, id, attempt_revision), by_id(tx, schema, id)).await?;
    if let Some(endpoint) = endpoint.filter(|_| stands) {
        let is_written = replace(tx, schema, &endpoint.disabled(DISABLED_REASON_GONE, at), &change).await?;
        debug_assert!(is_written, "nobody else writes since the number was taken");
    }
    Ok(())
}

/// Whether what a receiver said to a request of some revision still concerns the endpoint.
async fn still_stands(
    conn: &Connection,
    schema: &Schema,
    id: EndpointId,
    revision: u32,
) -> Result<bool, Failure> {
    let params: [Param<'_>; 2] = [&id.uuid(), &int(revision)];
    Ok(conn.query_one(sql::ENDPOINT_REVISIONS_STILL_STANDS, schema, &params).await?.try_get(0)?)
}

/// Whether there is one that is not deleted.
pub(crate) async fn exists(conn: &Connection, schema: &Schema, id: EndpointId) -> Result<bool, Failure> {
    Ok(conn.query_one(sql::ENDPOINTS_EXISTS, schema, &[&id.uuid()]).await?.try_get(0)?)
}

/// One that is not deleted.
pub(crate) async fn by_id(
    conn: &Connection,
    schema: &Schema,
    id: EndpointId,
) -> Result<Option<Endpoint>, Failure> {
    Ok(by_ids(conn, schema, &[id]).await?.pop())
}

/// Those that are not deleted, in no order.
pub(crate) async fn by_ids(
    conn: &Connection,
    schema: &Schema,
    ids: &[EndpointId],
) -> Result<Vec<Endpoint>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = conn.query(sql::ENDPOINTS_BY_IDS, schema, &[&ids]).await?;
    rows.iter().map(|row| endpoint(&mut Columns::of(row))).collect()
}

/// Those that are bound to a context, deleted ones too.
pub(crate) async fn any_ids_by_context(
    conn: &Connection,
    schema: &Schema,
    context_id: Uuid,
) -> Result<Vec<Uuid>, Failure> {
    let rows = conn.query(sql::ENDPOINTS_ANY_IDS_BY_CONTEXT, schema, &[&context_id]).await?;
    rows.iter().map(|row| Columns::of(row).uuid()).collect()
}

/// Endpoints, newest first.
pub(crate) async fn list(
    conn: &Connection,
    schema: &Schema,
    query: &EndpointQuery,
    request: &PageRequest,
) -> Result<Page<Endpoint>, Failure> {
    let event_type = query.event_type.as_ref();
    let (exact, category) =
        (event_type.map(EventType::as_str), event_type.map(|of| format!("{}.*", of.category())));
    let params: [Param<'_>; 6] = [
        &before_number(request)?,
        &limit_of(request),
        &query.context_id,
        &query.is_active,
        &exact,
        &category,
    ];
    let rows = conn.query(sql::ENDPOINTS_LIST.filling_a_page("weight"), schema, &params).await?;
    let weighed = |columns: &mut Columns<'_>| Ok((endpoint(columns)?, weight(columns)?));
    let Page { items, next } = numbered_page(&rows, request, weighed, |(_, weight)| *weight)?;
    Ok(Page { items: items.into_iter().map(|(endpoint, _)| endpoint).collect(), next })
}

/// Notes when endpoints were last sent to.
pub(crate) async fn note_used(
    conn: &Connection,
    schema: &Schema,
    used: &[(EndpointId, Timestamp)],
) -> Result<(), Failure> {
    if used.is_empty() {
        return Ok(());
    }
    let (ids, times): (Vec<Uuid>, Vec<Timestamp>) = used.iter().map(|(id, at)| (id.uuid(), *at)).unzip();
    conn.execute(sql::ENDPOINTS_NOTE_USED, schema, &[&ids, &times]).await?;
    Ok(())
}

/// The secret that signs for the endpoint that was written last.
pub(crate) async fn newest_secret(
    conn: &Connection,
    schema: &Schema,
) -> Result<Option<(EndpointId, Vec<u8>)>, Failure> {
    let Some(row) = conn.query_opt(sql::ENDPOINT_SECRETS_NEWEST, schema, &[]).await? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some((columns.id()?, columns.take()?)))
}

fn endpoint(columns: &mut Columns<'_>) -> Result<Endpoint, Failure> {
    let mut endpoint = Endpoint {
        id: columns.id()?,
        revision: columns.number()?,
        name: columns.take()?,
        description: columns.take()?,
        endpoint_url: columns.take()?,
        http_method: columns.parsed()?,
        signature_header: columns.take()?,
        custom_headers: CustomHeaders::from_stored(columns.headers()?),
        timeout_seconds: columns.number()?,
        follow_redirects: columns.take()?,
        verify_ssl: columns.take()?,
        retry: RetryPolicy {
            max_retry_attempts: columns.number()?,
            backoff_seconds: columns.number()?,
            backoff_multiplier: columns.take()?,
        },
        is_active: columns.take()?,
        is_verified: columns.take()?,
        disabled_reason: columns.take()?,
        created_by_user_id: columns.take()?,
        context_id: columns.take()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        last_used_at: columns.take()?,
        verified_at: columns.take()?,
        secrets: Vec::new(),
    };
    let (sealed, expires_at): (Vec<Vec<u8>>, Vec<Option<Timestamp>>) = (columns.take()?, columns.take()?);
    endpoint.secrets = sealed
        .into_iter()
        .zip(expires_at)
        .map(|(sealed, expires_at)| SealedSecret { sealed, expires_at })
        .collect();
    Ok(endpoint)
}
