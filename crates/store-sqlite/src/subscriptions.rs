//! Subscriptions.

use neo_events_domain::{Timestamp, filter::Filter, id::SubscriptionId, subscription::Subscription};
use neo_events_store::{Inserted, Page, PageRequest, SubscriptionQuery, Updated};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use crate::{
    catalogue,
    columns::{Columns, Micros, key, optional_key, optional_micros},
    endpoints, event_types,
    failure::Failure,
    page::{Span, keys, limit_of, page},
    sql,
};

pub(crate) fn insert(conn: &Connection, subscription: &Subscription) -> Result<Inserted, Failure> {
    let Some(endpoint_no) = endpoints::no_by_id(conn, subscription.endpoint_id)? else {
        return Ok(Inserted::EndpointMissing);
    };
    if event_types::pattern_is_disabled(conn, &subscription.pattern)? {
        return Ok(Inserted::TypeDisabled);
    }
    if exists(conn, subscription.id)? {
        return Ok(Inserted::Exists);
    }
    conn.prepare_cached(sql::SUBSCRIPTIONS_INSERT)?.execute(params![
        key(subscription.id),
        subscription.revision,
        endpoint_no,
        subscription.pattern.to_string(),
        subscription.filter.as_json(),
        subscription.is_active,
        optional_key(subscription.context_id),
        subscription.subscription_name,
        subscription.description,
        Micros::from(subscription.created_at),
        Micros::from(subscription.updated_at),
        optional_micros(subscription.last_triggered_at),
        catalogue::advance(conn)?,
    ])?;
    Ok(Inserted::New)
}

/// Whether there is, or was, one with this id.
fn exists(conn: &Connection, id: SubscriptionId) -> Result<bool, Failure> {
    Ok(conn.prepare_cached(sql::SUBSCRIPTIONS_EXISTS)?.query_row([key(id)], |row| row.get(0))?)
}

/// A pattern that stays may name a type that was disabled since: whoever deactivates a subscription must be able to.
pub(crate) fn update(conn: &Connection, subscription: &Subscription) -> Result<Updated, Failure> {
    let stored = conn
        .prepare_cached(sql::SUBSCRIPTIONS_GUARD)?
        .query_row([key(subscription.id)], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let pattern = subscription.pattern.to_string();
    match stored {
        None => return Ok(Updated::Missing),
        Some((revision, _)) if revision + 1 != subscription.revision => return Ok(Updated::Stale),
        Some((_, before))
            if before != pattern && event_types::pattern_is_disabled(conn, &subscription.pattern)? =>
        {
            return Ok(Updated::TypeDisabled);
        }
        Some(_) => {}
    }
    conn.prepare_cached(sql::SUBSCRIPTIONS_UPDATE)?.execute(params![
        key(subscription.id),
        subscription.revision,
        pattern,
        subscription.filter.as_json(),
        subscription.is_active,
        optional_key(subscription.context_id),
        subscription.subscription_name,
        subscription.description,
        Micros::from(subscription.updated_at),
        catalogue::advance(conn)?,
    ])?;
    Ok(Updated::Written)
}

pub(crate) fn delete(conn: &Connection, id: SubscriptionId) -> Result<bool, Failure> {
    if by_id(conn, id)?.is_none() {
        return Ok(false);
    }
    let changed = catalogue::advance(conn)?;
    conn.prepare_cached(sql::SUBSCRIPTIONS_DELETE)?.execute(params![key(id), changed])?;
    Ok(true)
}

/// One that is not deleted.
pub(crate) fn by_id(conn: &Connection, id: SubscriptionId) -> Result<Option<Subscription>, Failure> {
    Ok(conn.prepare_cached(sql::SUBSCRIPTIONS_BY_ID)?.query_row([key(id)], subscription).optional()?)
}

/// One that is not deleted.
pub(crate) fn by_no(conn: &Connection, no: i64) -> Result<Option<Subscription>, Failure> {
    Ok(conn.prepare_cached(sql::SUBSCRIPTIONS_BY_NO)?.query_row([no], subscription).optional()?)
}

pub(crate) fn list(
    conn: &Connection,
    query: &SubscriptionQuery,
    request: &PageRequest,
) -> Result<Page<Subscription>, Failure> {
    let span = Span::ALL.continued(request.cursor.as_ref())?;
    let (statement, endpoint_no) = match query.endpoint_id {
        None => (sql::SUBSCRIPTIONS_LIST, None),
        // No endpoint has number 0.
        Some(id) => (sql::SUBSCRIPTIONS_LIST_BY_ENDPOINT, Some(endpoints::no_by_id(conn, id)?.unwrap_or(0))),
    };
    let nos = keys(
        conn,
        statement,
        &[
            (":before", &span.before),
            (":limit", &limit_of(request)),
            (":endpoint_no", &endpoint_no),
            (":context_id", &optional_key(query.context_id)),
            (":is_active", &query.is_active),
        ],
    )?;
    page(&nos, request, |no| by_no(conn, no), |subscription| subscription.filter.as_json().len())
}

/// Notes when it last matched an event.
pub(crate) fn note_triggered(conn: &Connection, id: SubscriptionId, at: Timestamp) -> Result<(), Failure> {
    let parameters: [&dyn ToSql; 2] = [&key(id), &Micros::from(at)];
    conn.prepare_cached(sql::SUBSCRIPTIONS_NOTE_TRIGGERED)?.execute(parameters)?;
    Ok(())
}

fn subscription(row: &Row<'_>) -> rusqlite::Result<Subscription> {
    let mut columns = Columns::of(row);
    Ok(Subscription {
        id: columns.id()?,
        revision: columns.take()?,
        endpoint_id: columns.id()?,
        event_type_id: columns.optional_id()?,
        pattern: columns.parsed()?,
        filter: columns.text(Filter::parse_stored)?,
        is_active: columns.take()?,
        context_id: columns.optional_uuid()?,
        subscription_name: columns.take()?,
        description: columns.take()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        last_triggered_at: columns.optional_time()?,
    })
}
