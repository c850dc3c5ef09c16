//! Entries of the event-type catalogue.

use neo_events_domain::{
    catalogue::EventTypeEntry,
    event::JsonObject,
    event_type::{EventPattern, EventType},
};
use neo_events_store::{EventTypeQuery, Inserted, Page, PageRequest, Updated};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    columns::{Columns, Micros, key},
    failure::Failure,
    page::{Span, keys, limit_of, page},
    sql,
};

pub(crate) fn insert(conn: &Connection, entry: &EventTypeEntry) -> Result<Inserted, Failure> {
    let inserted = conn.prepare_cached(sql::EVENT_TYPES_INSERT)?.execute(params![
        key(entry.id),
        entry.revision,
        entry.event_type.as_str(),
        entry.event_type.category(),
        entry.display_name,
        entry.description,
        entry.is_enabled,
        entry.example_payload.as_ref().map(JsonObject::as_str),
        Micros::from(entry.created_at),
        Micros::from(entry.updated_at),
    ])?;
    Ok(if inserted == 1 { Inserted::New } else { Inserted::Exists })
}

/// Adds the entries, the first time.
pub(crate) fn seed(conn: &Connection, entries: &[EventTypeEntry]) -> Result<(), Failure> {
    if conn.prepare_cached(sql::STORE_SEED)?.execute([])? == 1 {
        for entry in entries {
            insert(conn, entry)?;
        }
    }
    Ok(())
}

pub(crate) fn by_type(conn: &Connection, of: &EventType) -> Result<Option<EventTypeEntry>, Failure> {
    Ok(conn.prepare_cached(sql::EVENT_TYPES_BY_TYPE)?.query_row([of.as_str()], entry).optional()?)
}

pub(crate) fn list(
    conn: &Connection,
    query: &EventTypeQuery,
    request: &PageRequest,
) -> Result<Page<EventTypeEntry>, Failure> {
    let span = Span::ALL.continued(request.cursor.as_ref())?;
    let nos = keys(
        conn,
        sql::EVENT_TYPES_LIST,
        &[
            (":before", &span.before),
            (":limit", &limit_of(request)),
            (":category", &query.category),
            (":is_enabled", &query.is_enabled),
        ],
    )?;
    let load = |no| Ok(conn.prepare_cached(sql::EVENT_TYPES_BY_NO)?.query_row([no], entry).optional()?);
    let bytes =
        |entry: &EventTypeEntry| entry.example_payload.as_ref().map_or(0, |payload| payload.as_str().len());
    page(&nos, request, load, bytes)
}

pub(crate) fn categories(conn: &Connection) -> Result<Vec<String>, Failure> {
    let mut statement = conn.prepare_cached(sql::EVENT_TYPES_CATEGORIES)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

pub(crate) fn update(conn: &Connection, entry: &EventTypeEntry) -> Result<Updated, Failure> {
    let updated = conn.prepare_cached(sql::EVENT_TYPES_UPDATE)?.execute(params![
        key(entry.id),
        entry.revision,
        entry.display_name,
        entry.description,
        entry.is_enabled,
        entry.example_payload.as_ref().map(JsonObject::as_str),
        Micros::from(entry.updated_at),
    ])?;
    if updated == 1 {
        return Ok(Updated::Written);
    }
    let exists =
        conn.prepare_cached(sql::EVENT_TYPES_EXISTS)?.query_row([key(entry.id)], |row| row.get(0))?;
    Ok(if exists { Updated::Stale } else { Updated::Missing })
}

pub(crate) fn delete(conn: &Connection, of: &EventType) -> Result<bool, Failure> {
    Ok(conn.prepare_cached(sql::EVENT_TYPES_DELETE)?.execute([of.as_str()])? == 1)
}

/// Whether the catalogue has the type disabled.
fn is_disabled(conn: &Connection, event_type: &str) -> Result<bool, Failure> {
    Ok(conn.prepare_cached(sql::EVENT_TYPES_IS_DISABLED)?.query_row([event_type], |row| row.get(0))?)
}

/// Whether the pattern is one type, and that is disabled.
pub(crate) fn pattern_is_disabled(conn: &Connection, pattern: &EventPattern) -> Result<bool, Failure> {
    match pattern {
        EventPattern::Exact(event_type) => is_disabled(conn, event_type.as_str()),
        EventPattern::Category(_) | EventPattern::All => Ok(false),
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<EventTypeEntry> {
    let mut columns = Columns::of(row);
    Ok(EventTypeEntry {
        id: columns.id()?,
        revision: columns.take()?,
        event_type: columns.parsed()?,
        display_name: columns.take()?,
        description: columns.take()?,
        is_enabled: columns.take()?,
        example_payload: columns.take::<Option<String>>()?.map(|text| JsonObject::from_stored(&text)),
        created_at: columns.time()?,
        updated_at: columns.time()?,
    })
}
