//! Looking at deliveries and repairing them.

use neo_events_domain::{
    delivery::{CANCEL_REASON_CHARS_MAX, Delivery, DeliveryHistory},
    id::DeliveryId,
    violation::Faults,
};
use neo_events_store::{Changed, DeliveryQuery, Page, PageRequest};

use crate::{Conflict, Error, Tenant, context::no_rows};

impl Tenant {
    /// One delivery with its attempts.
    pub async fn delivery(&self, id: DeliveryId) -> Result<DeliveryHistory, Error> {
        match self.store().delivery(&self.schema, id).await? {
            Some(history) if self.sees_delivery(&history.delivery).await? => Ok(history),
            _ => Err(Error::NotFound("delivery")),
        }
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

    /// Attempts a delivery again now: one that waits for its retry, that failed or that was cancelled. While its endpoint
    /// is inactive it would be held, so that is refused.
    pub async fn retry_delivery(&self, id: DeliveryId) -> Result<Delivery, Error> {
        let delivery = self.delivery(id).await?.delivery;
        if delivery.can_retry() {
            match self.store().endpoint(&self.schema, delivery.webhook_endpoint_id).await? {
                None => return Err(Conflict::EndpointDeleted.into()),
                Some(endpoint) if !endpoint.is_active => return Err(Conflict::EndpointInactive.into()),
                Some(_) => {}
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

    /// Whether a delivery that is not over waits because its endpoint is inactive.
    pub async fn is_held(&self, delivery: &Delivery) -> Result<bool, Error> {
        if delivery.state.is_final() {
            return Ok(false);
        }
        let endpoint = self.store().endpoint(&self.schema, delivery.webhook_endpoint_id).await?;
        Ok(endpoint.is_some_and(|endpoint| !endpoint.is_active))
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
