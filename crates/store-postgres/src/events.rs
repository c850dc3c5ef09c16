//! The event log.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    event::{DomainEvent, JsonObject, NewEvent},
    id::EventId,
    tenant::Schema,
};
use neo_events_store::{
    AggregateQuery, Appended, Arrival, EventLog, EventQuery, Page, PageRequest, StoreError, StoredEvent,
    TimeRange, WorkQueue,
};
use tokio_postgres::Row;

use crate::{
    cache::Found,
    columns::{Columns, int},
    conn::{Connection, Param},
    damage::all_but_damaged,
    failure::Failure,
    page::{after_place, before_time, beginning, limit_of, page, place_cursor, time_cursor},
    sql::{self, Sql},
    store::PostgresStore,
};

/// Columns of an event; `processed_at` stands behind them.
const EVENT_COLUMNS: usize = 14;

/// What an event's own texts weigh in a page, in the database; [`bytes`] is the same here.
const WEIGHT: &str = "octet_length(event_metadata) + octet_length(event_data)";

#[async_trait]
impl EventLog for PostgresStore {
    async fn append(
        &self,
        schema: &Schema,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        self.append_arrivals(schema, events.into_iter().map(Arrival::from).collect(), now).await
    }

    async fn event(&self, schema: &Schema, id: EventId) -> Result<Option<StoredEvent>, StoreError> {
        let conn = self.reading(schema).await?;
        let row = conn.query_opt(sql::EVENTS_BY_ID, schema, &[&id.uuid()]).await?;
        Ok(row.as_ref().map(stored).transpose()?)
    }

    async fn events(
        &self,
        schema: &Schema,
        query: &EventQuery,
        request: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let before = before_time(&request)?;
        if cannot_hold(query) {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let conn = self.reading(schema).await?;
        let statement = list_statement(query).filling_a_page(WEIGHT);
        let rows = list(&conn, schema, statement, query, (before, Some(limit_of(&request)))).await?;
        let events = rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        let cursor = |StoredEvent { event, .. }: &StoredEvent| time_cursor(event.created_at, event.id.uuid());
        Ok(page(events, &request, cursor, bytes))
    }

    async fn count_events(&self, schema: &Schema, query: &EventQuery) -> Result<u64, StoreError> {
        let conn = self.reading(schema).await?;
        if cannot_hold(query) {
            return Ok(0);
        }
        let rows = list(&conn, schema, list_statement(query).counting(), query, (None, None)).await?;
        let count: i64 =
            rows.first().map(|row| row.try_get(0)).transpose().map_err(Failure::from)?.unwrap_or(0);
        Ok(count.unsigned_abs())
    }

    async fn aggregate_events(
        &self,
        schema: &Schema,
        query: &AggregateQuery,
        request: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let after = after_place(&request, query.after_version)?;
        let conn = self.reading(schema).await?;
        if query.aggregate_type.contains('\0') {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let params: [Param<'_>; 7] = [
            &query.aggregate_id,
            &query.aggregate_type,
            &int(after.0),
            &after.1,
            &after.2,
            &query.context_id,
            &limit_of(&request),
        ];
        let rows = conn.query(sql::EVENTS_BY_AGGREGATE.filling_a_page(WEIGHT), schema, &params).await?;
        let events = rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        let cursor = |StoredEvent { event, .. }: &StoredEvent| {
            place_cursor((event.aggregate_version, event.created_at, event.id.uuid()))
        };
        Ok(page(events, &request, cursor, bytes))
    }

    async fn newest_version(&self, schema: &Schema, aggregate: (&str, Uuid)) -> Result<u32, StoreError> {
        let conn = self.reading(schema).await?;
        if aggregate.0.contains('\0') {
            return Ok(0);
        }
        Ok(newest_version(&conn, schema, aggregate).await?)
    }

    async fn belong_to_others(
        &self,
        schema: &Schema,
        aggregates: &[(String, Uuid)],
        context_id: Uuid,
    ) -> Result<Vec<bool>, StoreError> {
        let (conn, _, _place) = self.changing(schema).await?;
        let (types, ids): (Vec<&str>, Vec<Uuid>) =
            aggregates.iter().map(|(of, id)| (of.as_str(), *id)).unzip();
        let rows = conn.query(sql::EVENTS_BELONG_TO_OTHERS, schema, &[&types, &ids, &context_id]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(Failure::from)?)
    }

    async fn mark_processed(
        &self,
        schema: &Schema,
        ids: &[EventId],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (conn, tenant_no, _place) = self.changing(schema).await?;
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let row = conn.query_one(sql::DISPATCHES_MARK_PROCESSED, schema, &[&tenant_no, &ids, &now]).await?;
        Ok(row.try_get::<_, i64>(0).map_err(Failure::from)?.unsigned_abs())
    }
}

/// Events by their ids, each once; those that are not there are left out.
pub(crate) async fn by_ids(
    conn: &Connection,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Arc<DomainEvent>>, Failure> {
    let rows = conn.query(sql::EVENTS_BY_IDS, schema, &[&ids]).await?;
    let read = |row: &Row| {
        let event = event(row)?;
        Ok((event.id.uuid(), Arc::new(event)))
    };
    rows.iter().map(read).collect()
}

/// The same for the passes, from memory as far as they are there, and without those whose rows are damaged.
pub(crate) async fn in_hand(
    store: &PostgresStore,
    conn: &Connection,
    (schema, tenant_no): (&Schema, i32),
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Arc<DomainEvent>>, Failure> {
    let Found { mut events, missing } = store.inner.cache.find(tenant_no, ids);
    if !missing.is_empty() {
        let read = all_but_damaged(schema, &missing, |ids| Box::pin(by_ids(conn, schema, ids))).await?;
        store.inner.cache.keep(tenant_no, read.values().cloned());
        events.extend(read);
    }
    Ok(events)
}

/// An aggregate's newest version, 0 if it has none.
pub(crate) async fn newest_version(
    conn: &Connection,
    schema: &Schema,
    (of, id): (&str, Uuid),
) -> Result<u32, Failure> {
    let row = conn.query_one(sql::EVENTS_NEWEST_VERSION, schema, &[&id, &of]).await?;
    Columns::of(&row).number()
}

/// No row has text with NUL, and the database would refuse to look for it.
fn cannot_hold(query: &EventQuery) -> bool {
    query.aggregate_type.as_ref().is_some_and(|of| of.contains('\0'))
}

/// The list that visits the fewest rows for what the query fixes.
fn list_statement(query: &EventQuery) -> Sql {
    match query {
        EventQuery { aggregate_id: Some(_), .. } => sql::EVENTS_LIST_BY_AGGREGATE,
        EventQuery { correlation_id: Some(_), .. } => sql::EVENTS_LIST_BY_CORRELATION,
        EventQuery { processed: Some(false), .. } => sql::EVENTS_LIST_OWED,
        EventQuery { context_id: Some(_), .. } => sql::EVENTS_LIST_BY_CONTEXT,
        EventQuery { event_type: Some(_), .. } => sql::EVENTS_LIST_BY_TYPE,
        _ => sql::EVENTS_LIST,
    }
}

async fn list(
    conn: &Connection,
    schema: &Schema,
    statement: Sql,
    query: &EventQuery,
    (before, limit): (Option<(Timestamp, Uuid)>, Option<i64>),
) -> Result<Vec<Row>, Failure> {
    let TimeRange { from, to } = storable(query.created);
    let (before_at, before_id) = before.unwrap_or((Timestamp::MAX, Uuid::max()));
    let event_type = query.event_type.as_ref().map(neo_events_domain::event_type::EventType::as_str);
    let name = schema.as_str();
    let params: [Param<'_>; 12] = [
        &from,
        &to,
        &before_at,
        &before_id,
        &limit,
        &event_type,
        &query.aggregate_type,
        &query.aggregate_id,
        &query.correlation_id,
        &query.context_id,
        &query.processed,
        &name,
    ];
    // What is owed lies in a table of all tenants: that list alone asks whose.
    let needed = if statement.name == sql::EVENTS_LIST_OWED.name { 12 } else { 11 };
    conn.query(statement, schema, &params[..needed]).await
}

/// Times before the database's calendar begins are as good as its beginning.
pub(crate) fn storable(range: TimeRange) -> TimeRange {
    let storable = |at: Timestamp| at.max(beginning());
    TimeRange { from: range.from.map(storable), to: range.to.map(storable) }
}

/// What an event's own texts weigh.
fn bytes(StoredEvent { event, .. }: &StoredEvent) -> usize {
    event.event_data.as_str().len() + event.event_metadata.as_str().len()
}

fn stored(row: &Row) -> Result<StoredEvent, Failure> {
    Ok(StoredEvent { event: event(row)?, processed_at: Columns::from(row, EVENT_COLUMNS).take()? })
}

fn event(row: &Row) -> Result<DomainEvent, Failure> {
    let mut columns = Columns::of(row);
    Ok(DomainEvent {
        id: columns.id()?,
        event_type: columns.parsed()?,
        event_name: columns.take()?,
        aggregate_id: columns.uuid()?,
        aggregate_type: columns.take()?,
        aggregate_version: columns.number()?,
        correlation_id: columns.take()?,
        causation_id: columns.take()?,
        triggered_by_user_id: columns.take()?,
        context_id: columns.take()?,
        occurred_at: columns.time()?,
        created_at: columns.time()?,
        event_metadata: JsonObject::from_stored(columns.take()?),
        event_data: JsonObject::from_stored(columns.take()?),
    })
}

#[cfg(test)]
mod tests {
    use neo_events_store::PAGE_BYTES_MAX;
    use neo_events_test_postgres::database;

    use super::*;
    use crate::{migrate, open::Address};

    #[tokio::test]
    async fn the_database_sends_what_fills_a_page_and_one_row_more() {
        const EACH: usize = 100_000;
        let database = database().await;
        let mut conn = Address::parse(&database.url()).unwrap().connect().await.unwrap();
        assert!(migrate::up(&mut conn, |_| {}).await.unwrap().is_empty());
        // Texts that are kept outside of their rows, and such as can be compressed.
        conn.batch(&format!(
            r#"insert into admin.events (
                id, event_type, aggregate_id, aggregate_type, aggregate_version, occurred_at, created_at,
                event_metadata, event_data
            )
            select gen_random_uuid(), 'a.b', gen_random_uuid(), 'a', 1, now(), now() + n * interval '1 ms', '{{}}',
                rpad('{{"a":"' || (
                    select string_agg(md5(n::text || i), '') from generate_series(0, n % 2 * {EACH} / 40) i
                ), {EACH} - 2, 'x') || '"}}'
            from generate_series(1, 120) n"#
        ))
        .await
        .unwrap();
        let statement = sql::EVENTS_LIST.filling_a_page(WEIGHT);
        let rows = list(&conn, &Schema::admin(), statement, &EventQuery::default(), (None, Some(121))).await;
        let events = rows.unwrap().iter().map(stored).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(events.len(), PAGE_BYTES_MAX.div_ceil(EACH + "{}".len()) + 1);
        assert!(events.is_sorted_by_key(|StoredEvent { event, .. }| std::cmp::Reverse(event.created_at)));
    }
}
