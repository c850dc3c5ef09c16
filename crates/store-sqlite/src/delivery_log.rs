//! Looking at deliveries, and repairing them.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    delivery::{Delivery, DeliveryHistory},
    id::{DeliveryId, EndpointId},
    stats::EndpointStats,
    tenant::Schema,
};
use neo_events_store::{
    Changed, DeliveryLog, DeliveryQuery, Page, PageRequest, StoreError, TimeRange, Usage,
};
use rusqlite::Connection;

use crate::{
    attempts::{self, Common},
    columns::Columns,
    deliveries::{self, TIMELINE},
    endpoints, events,
    failure::Failure,
    page::{limit_of, page, small},
    repair::{self, CancelDelivery},
    scope::Scope,
    sql,
    store::SqliteStore,
    subscriptions,
    writer::Scoped,
};

#[async_trait]
impl DeliveryLog for SqliteStore {
    async fn delivery(&self, schema: &Schema, id: DeliveryId) -> Result<Option<DeliveryHistory>, StoreError> {
        let of = schema.clone();
        self.file(schema).await?.read(move |conn| history(conn, &of, id)).await
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
            page(&seqs, &request, |seq| Ok(deliveries::by_seq(conn, seq)?.map(|row| row.delivery)), small)
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

fn history(conn: &Connection, schema: &Schema, id: DeliveryId) -> Result<Option<DeliveryHistory>, Failure> {
    let Some(row) = deliveries::by_id(conn, id)? else { return Ok(None) };
    let Some((_, event)) = events::by_seq(conn, row.event_seq)? else { return Ok(None) };
    let common = Common { schema, event: &event, endpoint_no: row.standing.endpoint_no };
    let attempts = attempts::of_delivery(conn, row.seq, &common)?;
    Ok(Some(DeliveryHistory { delivery: row.delivery, attempts }))
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
