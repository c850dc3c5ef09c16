//! Looking at deliveries, and repairing them.

use async_trait::async_trait;
use futures_util::future::try_join;
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

use crate::{
    attempts,
    columns::Columns,
    conn::{Connection, Param},
    deliveries::{self, Span},
    endpoints,
    failure::Failure,
    repair, sql,
    store::PostgresStore,
    subscriptions,
};

#[async_trait]
impl DeliveryLog for PostgresStore {
    async fn delivery(&self, schema: &Schema, id: DeliveryId) -> Result<Option<StoredDelivery>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(deliveries::by_id(&conn, schema, id).await?.map(|row| row.stored))
    }

    async fn attempts(
        &self,
        schema: &Schema,
        delivery: &Delivery,
        request: PageRequest,
    ) -> Result<Page<Attempt>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(attempts::list(&conn, schema, delivery, &request).await?)
    }

    async fn deliveries(
        &self,
        schema: &Schema,
        query: &DeliveryQuery,
        request: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let tenant_no = self.tenant_no(schema).await?;
        let conn = self.reading(schema).await?;
        Ok(deliveries::list(&conn, (schema, tenant_no), query, &request).await?)
    }

    async fn cancel_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        Ok(repair::cancel_delivery(self, schema, id, reason, now).await?)
    }

    async fn retry_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        Ok(repair::retry_delivery(self, schema, id, now).await?)
    }

    async fn endpoint_stats(
        &self,
        schema: &Schema,
        id: EndpointId,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(stats(&conn, schema, id, since).await?)
    }

    /// Two statements, each its own transaction: locks of one are never waited for with those of the other in hand.
    async fn note_usage(&self, schema: &Schema, usage: Usage) -> Result<(), StoreError> {
        self.tenant_no(schema).await?;
        let conn = self.inner.connections.brief().await?;
        endpoints::note_used(&conn, schema, &usage.endpoints).await?;
        Ok(subscriptions::note_triggered(&conn, schema, &usage.subscriptions).await?)
    }
}

async fn stats(
    conn: &Connection,
    schema: &Schema,
    id: EndpointId,
    since: Timestamp,
) -> Result<EndpointStats, Failure> {
    let Span { from_id, created_from, .. } = Span::of(TimeRange { from: Some(since), to: None });
    let params: [Param<'_>; 3] = [&id.uuid(), &from_id, &created_from];
    let (row, tally) = try_join(
        conn.query_one(sql::DELIVERIES_COUNT_BY_STATUS, schema, &params),
        attempts::tally(conn, schema, id, (from_id, created_from)),
    )
    .await?;
    let mut columns = Columns::of(&row);
    let mut count = || columns.take::<i64>().map(i64::unsigned_abs);
    Ok(tally.into_stats([count()?, count()?, count()?, count()?, count()?]))
}
