//! Looking at deliveries and repairing them.

use neo_events_domain::{
    delivery::{Attempt, CANCEL_REASON_CHARS_MAX, Delivery},
    id::DeliveryId,
    violation::Faults,
};
use neo_events_store::{Changed, DeliveryQuery, EndpointStanding, Page, PageRequest, StoredDelivery};

use crate::{
    Conflict, Error, Tenant,
    context::no_rows,
    history::{DeliveryHistory, HISTORY_ATTEMPTS_MAX},
};

impl Tenant {
    /// One delivery, without its attempts.
    pub async fn delivery(&self, id: DeliveryId) -> Result<StoredDelivery, Error> {
        let found = self.store().delivery(&self.schema, id).await?;
        found.filter(|found| self.sees(found.context_id)).ok_or(Error::NotFound("delivery"))
    }

    /// One delivery with its newest attempts. Whether there are earlier ones is said there.
    pub async fn delivery_history(&self, id: DeliveryId) -> Result<DeliveryHistory, Error> {
        let found = self.delivery(id).await?;
        let (is_held, newest) = (found.is_held(), PageRequest::first(HISTORY_ATTEMPTS_MAX));
        let attempts = self.store().attempts(&self.schema, &found.delivery, newest).await?;
        Ok(DeliveryHistory::new(found.delivery, is_held, attempts))
    }

    /// A delivery's attempts, newest first.
    pub async fn attempts(&self, id: DeliveryId, page: PageRequest) -> Result<Page<Attempt>, Error> {
        let found = self.delivery(id).await?;
        Ok(self.store().attempts(&self.schema, &found.delivery, page).await?)
    }

    /// Deliveries, newest first.
    pub async fn deliveries(
        &self,
        query: &DeliveryQuery,
        page: PageRequest,
    ) -> Result<Page<Delivery>, Error> {
        let Ok(context_id) = self.listed_context(query.context_id) else { return Ok(no_rows()) };
        let query = DeliveryQuery { context_id, ..query.clone() };
        Ok(self.store().deliveries(&self.schema, &query, page).await?)
    }

    /// Attempts a delivery again now: one that waits for its retry, that failed or that was cancelled. While its
    /// endpoint is inactive it would be held, so that is refused.
    pub async fn retry_delivery(&self, id: DeliveryId) -> Result<Delivery, Error> {
        let StoredDelivery { delivery, endpoint, .. } = self.delivery(id).await?;
        if delivery.can_retry() {
            match endpoint {
                EndpointStanding::Deleted => return Err(Conflict::EndpointDeleted.into()),
                EndpointStanding::Inactive => return Err(Conflict::EndpointInactive.into()),
                EndpointStanding::Active => {}
            }
        }
        let delivery = done(self.store().retry_delivery(&self.schema, id, self.sources().now()).await?)?;
        self.shared.engine.due_now(&self.schema, delivery.webhook_endpoint_id);
        Ok(delivery)
    }

    /// Ends a delivery that is not over. One in flight ends after its attempt.
    pub async fn cancel_delivery(&self, id: DeliveryId, reason: &str) -> Result<Delivery, Error> {
        let mut faults = Faults::new();
        let reason = faults.name("/reason", reason, CANCEL_REASON_CHARS_MAX);
        faults.found()?;
        self.judge_sight(id).await?;
        let cancelled = self.store().cancel_delivery(&self.schema, id, &reason, self.sources().now()).await?;
        let delivery = done(cancelled)?;
        self.shared.engine.delivery_cancelled(&self.schema, delivery.webhook_endpoint_id, id);
        Ok(delivery)
    }

    /// Refuses a delivery of another context. What its endpoint's context is never changes.
    async fn judge_sight(&self, id: DeliveryId) -> Result<(), Error> {
        if self.context_id.is_some() { self.delivery(id).await.map(drop) } else { Ok(()) }
    }
}

fn done(changed: Changed) -> Result<Delivery, Error> {
    match changed {
        Changed::Done(delivery) => Ok(delivery),
        Changed::Missing => Err(Error::NotFound("delivery")),
        Changed::Illegal(illegal) => Err(Conflict::Illegal(illegal).into()),
    }
}
