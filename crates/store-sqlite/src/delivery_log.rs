//! Looking at deliveries, and repairing them.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    delivery::{Attempt, Delivery},
    id::{DeliveryId, EndpointId},
    stats::EndpointStats,
    tenant::Schema,
};
use neo_events_store::{
    Changed, DeliveryLog, DeliveryQuery, Page, PageRequest, StoreError, StoredDelivery, TimeRange, Usage,
};
use rusqlite::Connection;

use crate::{
    attempts::{self, Common},
    columns::Columns,
    deliveries::{self, TIMELINE},
    endpoints, events,
    failure::Failure,
    page::{limit_of, page},
    repair::{self, CancelDelivery},
    scope::Scope,
    sql,
    store::SqliteStore,
    subscriptions,
    writer::Scoped,
};

#[async_trait]
impl DeliveryLog for SqliteStore {
    async fn delivery(&self, schema: &Schema, id: DeliveryId) -> Result<Option<StoredDelivery>, StoreError> {
        let found = move |conn: &Connection| Ok(deliveries::by_id(conn, id)?.map(|row| row.stored));
        self.file(schema).await?.read(found).await
    }

    async fn attempts(
        &self,
        schema: &Schema,
        delivery: &Delivery,
        request: PageRequest,
    ) -> Result<Page<Attempt>, StoreError> {
        let (of, id, counted) = (schema.clone(), delivery.id, delivery.current_attempt);
        self.file(schema).await?.read(move |conn| attempts_of(conn, &of, (id, counted), &request)).await
    }

    async fn deliveries(
        &self,
        schema: &Schema,
        query: &DeliveryQuery,
        request: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let query = query.clone();
        let list = move |conn: &Connection| {
            let span = TIMELINE.span(conn, query.created)?.continued(request.cursor.as_ref())?;
            let seqs = deliveries::seqs(conn, &query, span, limit_of(&request))?;
            let load = |seq| Ok(deliveries::by_seq(conn, seq)?.map(|row| row.stored.delivery));
            page(&seqs, &request, load, deliveries::bytes)
        };
        self.file(schema).await?.read(list).await
    }

    async fn cancel_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        let file = self.file(schema).await?;
        file.write(CancelDelivery::new(&file.delivery_leases, id, reason, now)).await
    }

    async fn retry_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        self.file(schema)
            .await?
            .write(Scoped(move |scope: &mut Scope<'_>| repair::retry_delivery(scope, id, now)))
            .await
    }

    async fn endpoint_stats(
        &self,
        schema: &Schema,
        id: EndpointId,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        self.file(schema).await?.read(move |conn| stats(conn, id, since)).await
    }

    async fn note_usage(&self, schema: &Schema, usage: Usage) -> Result<(), StoreError> {
        let note = move |conn: &Connection| {
            usage.endpoints.iter().try_for_each(|(id, at)| endpoints::note_used(conn, *id, *at))?;
            usage.subscriptions.iter().try_for_each(|(id, at)| subscriptions::note_triggered(conn, *id, *at))
        };
        self.file(schema).await?.write(note).await
    }
}

fn attempts_of(
    conn: &Connection,
    schema: &Schema,
    (id, counted): (DeliveryId, u32),
    request: &PageRequest,
) -> Result<Page<Attempt>, Failure> {
    let none = Page { items: Vec::new(), next: None };
    let Some(row) = deliveries::by_id(conn, id)? else { return Ok(none) };
    let Some((_, event)) = events::by_seq(conn, row.event_seq)? else { return Ok(none) };
    let common = Common { schema, event: &event, endpoint_no: row.standing.endpoint_no };
    attempts::list(conn, (row.seq, counted), &common, request)
}

fn stats(conn: &Connection, id: EndpointId, since: Timestamp) -> Result<EndpointStats, Failure> {
    let Some(endpoint_no) = endpoints::any_no_by_id(conn, id)? else { return Ok(EndpointStats::default()) };
    let from_seq = TIMELINE.span(conn, TimeRange { from: Some(since), to: None })?.from;
    let tally = attempts::tally(conn, endpoint_no, from_seq)?;
    let counted = |row: &rusqlite::Row<'_>| {
        let mut columns = Columns::of(row);
        let mut count = || columns.take::<i64>().map(i64::unsigned_abs);
        Ok([count()?, count()?, count()?, count()?, count()?])
    };
    let mut statement = conn.prepare_cached(sql::DELIVERIES_COUNT_BY_STATUS)?;
    Ok(tally.into_stats(statement.query_row([endpoint_no, from_seq], counted)?))
}
