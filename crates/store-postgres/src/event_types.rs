//! Entries of the event-type catalogue.

use neo_events_domain::{
    catalogue::EventTypeEntry,
    event::JsonObject,
    event_type::{EventPattern, EventType},
    tenant::Schema,
};
use neo_events_store::{EventTypeQuery, Inserted, Page, PageRequest, Updated};

use crate::{
    columns::{Columns, int},
    conn::{Connection, Param},
    failure::Failure,
    page::{before_number, limit_of, numbered_page},
    sql,
};

/// Adds an entry.
pub(crate) async fn insert(
    conn: &Connection,
    schema: &Schema,
    entry: &EventTypeEntry,
) -> Result<Inserted, Failure> {
    let params: [Param<'_>; 10] = [
        &entry.id.uuid(),
        &int(entry.revision),
        &entry.event_type.as_str(),
        &entry.event_type.category(),
        &entry.display_name,
        &entry.description,
        &entry.is_enabled,
        &entry.example_payload.as_ref().map(JsonObject::as_str),
        &entry.created_at,
        &entry.updated_at,
    ];
    let inserted = conn.execute(sql::EVENT_TYPES_INSERT, schema, &params).await?;
    Ok(if inserted == 1 { Inserted::New } else { Inserted::Exists })
}

/// Adds the entries, the first time. Whoever comes second waits for the first.
pub(crate) async fn seed(
    conn: &mut Connection,
    schema: &Schema,
    entries: &[EventTypeEntry],
) -> Result<(), Failure> {
    let tx = conn.begin().await?;
    if tx.execute(sql::TENANTS_SEED, schema, &[&schema.as_str()]).await? == 1 {
        for entry in entries {
            insert(&tx, schema, entry).await?;
        }
    }
    tx.commit().await
}

/// The entry of a type.
pub(crate) async fn by_type(
    conn: &Connection,
    schema: &Schema,
    of: &EventType,
) -> Result<Option<EventTypeEntry>, Failure> {
    let row = conn.query_opt(sql::EVENT_TYPES_BY_TYPE, schema, &[&of.as_str()]).await?;
    row.map(|row| entry(&mut Columns::of(&row))).transpose()
}

/// Entries, newest first.
pub(crate) async fn list(
    conn: &Connection,
    schema: &Schema,
    query: &EventTypeQuery,
    request: &PageRequest,
) -> Result<Page<EventTypeEntry>, Failure> {
    let before = before_number(request)?;
    // No row has text with NUL, and the database would refuse to look for it.
    if query.category.as_ref().is_some_and(|category| category.contains('\0')) {
        return Ok(Page { items: Vec::new(), next: None });
    }
    let params: [Param<'_>; 4] = [&before, &limit_of(request), &query.category, &query.is_enabled];
    let statement = sql::EVENT_TYPES_LIST.filling_a_page("octet_length(example_payload)");
    let rows = conn.query(statement, schema, &params).await?;
    let bytes =
        |entry: &EventTypeEntry| entry.example_payload.as_ref().map_or(0, |payload| payload.as_str().len());
    numbered_page(&rows, request, entry, bytes)
}

/// The categories of all entries, sorted.
pub(crate) async fn categories(conn: &Connection, schema: &Schema) -> Result<Vec<String>, Failure> {
    let rows = conn.query(sql::EVENT_TYPES_CATEGORIES, schema, &[]).await?;
    rows.iter().map(|row| Columns::of(row).take()).collect()
}

/// Writes the next revision of an entry.
pub(crate) async fn update(
    conn: &Connection,
    schema: &Schema,
    entry: &EventTypeEntry,
) -> Result<Updated, Failure> {
    let id = entry.id.uuid();
    let params: [Param<'_>; 7] = [
        &id,
        &int(entry.revision),
        &entry.display_name,
        &entry.description,
        &entry.is_enabled,
        &entry.example_payload.as_ref().map(JsonObject::as_str),
        &entry.updated_at,
    ];
    if conn.execute(sql::EVENT_TYPES_UPDATE, schema, &params).await? == 1 {
        return Ok(Updated::Written);
    }
    let exists = conn.query_one(sql::EVENT_TYPES_EXISTS, schema, &[&id]).await?.try_get(0)?;
    Ok(if exists { Updated::Stale } else { Updated::Missing })
}

/// Removes an entry; `false` if there was none.
pub(crate) async fn delete(conn: &Connection, schema: &Schema, of: &EventType) -> Result<bool, Failure> {
    Ok(conn.execute(sql::EVENT_TYPES_DELETE, schema, &[&of.as_str()]).await? == 1)
}

/// Whether the pattern is one type, and the catalogue has that disabled.
pub(crate) async fn pattern_is_disabled(
    conn: &Connection,
    schema: &Schema,
    pattern: &EventPattern,
) -> Result<bool, Failure> {
    match pattern {
        EventPattern::Exact(of) => {
            Ok(conn.query_one(sql::EVENT_TYPES_IS_DISABLED, schema, &[&of.as_str()]).await?.try_get(0)?)
        }
        EventPattern::Category(_) | EventPattern::All => Ok(false),
    }
}

fn entry(columns: &mut Columns<'_>) -> Result<EventTypeEntry, Failure> {
    Ok(EventTypeEntry {
        id: columns.id()?,
        revision: columns.number()?,
        event_type: columns.parsed()?,
        display_name: columns.take()?,
        description: columns.take()?,
        is_enabled: columns.take()?,
        example_payload: columns.take::<Option<&str>>()?.map(JsonObject::from_stored),
        created_at: columns.time()?,
        updated_at: columns.time()?,
    })
}
