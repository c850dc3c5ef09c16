//! Changing a delivery by hand: cancelling it, or making it due now.
//!
//! The row of the queue is what all who change a delivery take turns on: whoever settles it deletes that row, so a
//! change locks it first. If it is not there any more, the delivery moved on meanwhile, and is looked at again.

use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{Delivery, DeliveryState, IllegalTransition},
    id::DeliveryId,
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{Changed, EndpointStanding};

use crate::{
    columns::int,
    conn::{Connection, Param},
    deliveries::{self, DeliveryRow},
    failure::Failure,
    sql,
    store::PostgresStore,
};

/// How often a delivery is looked at again that moves on while it is being changed.
const TRIES_MAX: usize = 10;

/// Ends a delivery with a reason, after the attempt in flight if there is one.
pub(crate) async fn cancel_delivery(
    store: &PostgresStore,
    schema: &Schema,
    id: DeliveryId,
    reason: &str,
    now: Timestamp,
) -> Result<Changed, Failure> {
    let (mut conn, tenant_no, _place) = store.changing(schema).await?;
    for _ in 0..TRIES_MAX {
        let tx = conn.begin().await?;
        let Some(row) = deliveries::by_id(&tx, schema, id).await? else {
            tx.rollback().await?;
            return Ok(Changed::Missing);
        };
        let place = Place { conn: &tx, schema, tenant_no };
        let locked = place.lock(&row, now).await?;
        let changed = match (row.stored.delivery.state.is_final(), locked) {
            (false, None) => None,
            (_, locked) => {
                let in_flight = locked.unwrap_or(false);
                Some(place.apply(&row, row.stored.delivery.clone().cancelled(reason, in_flight)).await?)
            }
        };
        match changed {
            Some(Some(changed)) => {
                tx.commit().await?;
                return Ok(changed);
            }
            _ => tx.rollback().await?,
        }
    }
    Err(Failure::KeptMoving)
}

/// Makes a delivery due now.
pub(crate) async fn retry_delivery(
    store: &PostgresStore,
    schema: &Schema,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Changed, Failure> {
    let (mut conn, tenant_no, _place) = store.changing(schema).await?;
    let now = to_micros(now);
    for _ in 0..TRIES_MAX {
        let tx = conn.begin().await?;
        let Some(row) = deliveries::by_id(&tx, schema, id).await? else {
            tx.rollback().await?;
            return Ok(Changed::Missing);
        };
        let place = Place { conn: &tx, schema, tenant_no };
        let is_deleted = row.stored.endpoint == EndpointStanding::Deleted;
        let is_gone = row.due_at.is_some() && !is_deleted && place.lock(&row, now).await?.is_none();
        let retried = row.stored.clone().retried_now(now);
        let changed = if is_gone { None } else { place.apply(&row, retried).await? };
        match changed {
            Some(changed) => {
                tx.commit().await?;
                let endpoint_id = row.stored.delivery.webhook_endpoint_id.uuid();
                store.inner.floors.lower((tenant_no, endpoint_id), now);
                return Ok(changed);
            }
            None => tx.rollback().await?,
        }
    }
    Err(Failure::KeptMoving)
}

/// Ends a cancellation that was asked for, if the attempt it waited for is over one way or the other.
pub(crate) async fn finish_request(
    store: &PostgresStore,
    (schema, tenant_no): (&Schema, i32),
    id: DeliveryId,
    now: Timestamp,
) -> Result<(), Failure> {
    let mut conn = store.inner.connections.brief().await?;
    let tx = conn.begin().await?;
    let place = Place { conn: &tx, schema, tenant_no };
    let row = deliveries::by_id(&tx, schema, id).await?;
    let waiting = row.as_ref().and_then(|row| Some((row, row.stored.delivery.cancel_requested.clone()?)));
    let Some((row, reason)) = waiting else {
        // It landed, or somebody took the cancellation back.
        place.forget_request(id.uuid()).await?;
        return tx.commit().await;
    };
    if place.lock(row, now).await? == Some(false) {
        place.apply(row, row.stored.delivery.clone().cancelled(&reason, false)).await?;
    }
    tx.commit().await
}

/// Where a delivery is changed.
struct Place<'a> {
    conn: &'a Connection,
    schema: &'a Schema,
    tenant_no: i32,
}

impl Place<'_> {
    /// Whether it is in flight; `None` if it is over, or has moved on.
    async fn lock(&self, row: &DeliveryRow, now: Timestamp) -> Result<Option<bool>, Failure> {
        let Some(due_at) = row.due_at else { return Ok(None) };
        let (endpoint_id, id) =
            (row.stored.delivery.webhook_endpoint_id.uuid(), row.stored.delivery.id.uuid());
        let params: [Param<'_>; 5] = [&self.tenant_no, &endpoint_id, &due_at, &id, &now];
        let locked = self.conn.query_opt(sql::DELIVERY_QUEUE_LOCK, &Schema::admin(), &params).await?;
        Ok(locked.map(|row| row.try_get(0)).transpose()?)
    }

    /// Writes a transition; `None` if the row is not as it was read.
    async fn apply(
        &self,
        before: &DeliveryRow,
        after: Result<Delivery, IllegalTransition>,
    ) -> Result<Option<Changed>, Failure> {
        let after = match after {
            Ok(after) => after,
            Err(illegal) => return Ok(Some(Changed::Illegal(illegal))),
        };
        let due_at = match after.state {
            DeliveryState::Retrying { next_retry_at } => Some(next_retry_at),
            DeliveryState::Pending => before.due_at,
            _ => None,
        };
        if !self.write(before, &after, due_at).await? {
            return Ok(None);
        }
        self.requeue(before, &after, due_at).await?;
        let (id, status) = (after.id.uuid(), after.state.status().as_str());
        if matches!(after.state, DeliveryState::Cancelled { .. } | DeliveryState::Retrying { .. }) {
            let endpoint_id = after.webhook_endpoint_id.uuid();
            self.conn.execute(sql::DELIVERIES_TROUBLE, self.schema, &[&id, &endpoint_id, &status]).await?;
        }
        match (&before.stored.delivery.cancel_requested, &after.cancel_requested) {
            (None, Some(_)) => {
                let admin = Schema::admin();
                self.conn.execute(sql::CANCEL_REQUESTS_INSERT, &admin, &[&self.tenant_no, &id]).await?;
            }
            (Some(_), None) => self.forget_request(id).await?,
            _ => {}
        }
        Ok(Some(Changed::Done(after)))
    }

    async fn write(
        &self,
        before: &DeliveryRow,
        after: &Delivery,
        due_at: Option<Timestamp>,
    ) -> Result<bool, Failure> {
        let (reason, reached) = match &after.state {
            DeliveryState::Cancelled { reason } => (Some(reason.as_str()), false),
            DeliveryState::Failed { max_attempts_reached } => (None, *max_attempts_reached),
            _ => (None, false),
        };
        let params: [Param<'_>; 10] = [
            &after.id.uuid(),
            &before.stored.delivery.state.status().as_str(),
            &int(before.stored.delivery.current_attempt),
            &before.due_at,
            &after.state.status().as_str(),
            &due_at,
            &int(after.max_attempts),
            &reached,
            &reason,
            &after.cancel_requested,
        ];
        Ok(self.conn.query_opt(sql::DELIVERIES_CHANGE, self.schema, &params).await?.is_some())
    }

    /// Keeps the queue's row where the delivery's is.
    async fn requeue(
        &self,
        before: &DeliveryRow,
        after: &Delivery,
        due_at: Option<Timestamp>,
    ) -> Result<(), Failure> {
        let (endpoint_id, id) = (after.webhook_endpoint_id.uuid(), after.id.uuid());
        let (tenant_no, admin) = (self.tenant_no, Schema::admin());
        match (before.due_at, due_at) {
            (Some(was), Some(is)) => {
                let is_ending = after.cancel_requested.is_some();
                let params: [Param<'_>; 6] = [&tenant_no, &endpoint_id, &was, &id, &is, &is_ending];
                self.conn.execute(sql::DELIVERY_QUEUE_MOVE, &admin, &params).await?;
            }
            (Some(was), None) => {
                let params: [Param<'_>; 4] = [&tenant_no, &endpoint_id, &was, &id];
                self.conn.execute(sql::DELIVERY_QUEUE_DELETE, &admin, &params).await?;
            }
            (None, Some(is)) => {
                let event_id = after.webhook_event_id.uuid();
                let params: [Param<'_>; 5] = [&tenant_no, &endpoint_id, &is, &id, &event_id];
                self.conn.execute(sql::DELIVERY_QUEUE_INSERT, &admin, &params).await?;
            }
            (None, None) => {}
        }
        Ok(())
    }

    async fn forget_request(&self, id: Uuid) -> Result<(), Failure> {
        let admin = Schema::admin();
        self.conn.execute(sql::CANCEL_REQUESTS_DELETE, &admin, &[&self.tenant_no, &id]).await?;
        Ok(())
    }
}
