//! Looking at deliveries, and repairing them.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    delivery::{Attempt, AttemptRecord, AttemptStatus, Delivery, DeliveryState, DeliveryStatus, is_answered},
    endpoint::Endpoint,
    event::DomainEvent,
    id::{DeliveryId, EndpointId},
    payload,
    request::{self, RequestFacts},
    stats::{EndpointStats, ResponseTimeHistogram},
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{
    Changed, DeliveryLog, DeliveryQuery, EndpointStanding, Page, PageRequest, SUBSCRIPTION_ID_WEIGHT,
    StoreError, StoredDelivery, Usage,
};

use super::{
    MemoryStore,
    page::{newest_first, page_weighed},
    tables::{DeliveryRow, Tables, is_live},
};
use crate::effect::Watcher;

#[async_trait]
impl DeliveryLog for MemoryStore {
    async fn delivery(&self, schema: &Schema, id: DeliveryId) -> Result<Option<StoredDelivery>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        let row = tables.deliveries_by_id.get(&id).map(|at| &tables.deliveries[*at]);
        Ok(row.map(|row| tables.stored(&row.delivery)))
    }

    async fn attempts(
        &self,
        schema: &Schema,
        delivery: &Delivery,
        request: PageRequest,
    ) -> Result<Page<Attempt>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        let row = tables.deliveries_by_id.get(&delivery.id).map(|at| &tables.deliveries[*at]);
        let attempts = row.map(|row| tables.attempts(row)).unwrap_or_default().into_iter().rev();
        let counted = attempts.filter(|attempt| attempt.attempt_number <= delivery.current_attempt);
        page_weighed(counted.map(|attempt| (attempt.attempt_number.into(), attempt)), &request, bytes)
    }

    async fn deliveries(
        &self,
        schema: &Schema,
        query: &DeliveryQuery,
        request: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        let rows = newest_first(&tables.deliveries);
        let wanted = rows.filter(|(_, row)| tables.meets(&row.delivery, query));
        let bytes = |delivery: &Delivery| delivery.subscription_ids.len() * SUBSCRIPTION_ID_WEIGHT;
        page_weighed(wanted.map(|(no, row)| (no, row.delivery.clone())), &request, bytes)
    }

    async fn cancel_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        let tables = database.of(schema)?;
        let Some(at) = tables.deliveries_by_id.get(&id).copied() else { return Ok(Changed::Missing) };
        Ok(tables.cancel(at, reason, now, &watcher))
    }

    async fn retry_delivery(
        &self,
        schema: &Schema,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Changed, StoreError> {
        let changed = {
            let mut database = self.database();
            let watcher = database.watcher.clone();
            let tables = database.of(schema)?;
            let Some(at) = tables.deliveries_by_id.get(&id).copied() else { return Ok(Changed::Missing) };
            tables.retry(at, to_micros(now), &watcher)
        };
        self.hint(|hints| &hints.to_deliver);
        Ok(changed)
    }

    async fn endpoint_stats(
        &self,
        schema: &Schema,
        id: EndpointId,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        let mut database = self.database();
        let of_it =
            |row: &&DeliveryRow| row.delivery.webhook_endpoint_id == id && row.delivery.created_at >= since;
        Ok(statistics(database.of(schema)?.deliveries.iter().filter(of_it)))
    }

    async fn note_usage(&self, schema: &Schema, usage: Usage) -> Result<(), StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        for (id, at) in usage.endpoints {
            if let Some(row) = tables.endpoints.get_mut(&id) {
                row.endpoint.last_used_at = row.endpoint.last_used_at.max(Some(at));
            }
        }
        for (id, at) in usage.subscriptions {
            if let Some(row) = tables.subscriptions.get_mut(&id) {
                let last = &mut row.subscription.last_triggered_at;
                *last = (*last).max(Some(at));
            }
        }
        Ok(())
    }
}

impl Tables {
    /// Cancels a delivery, after the attempt in flight if there is one.
    pub(super) fn cancel(&mut self, at: usize, reason: &str, now: Timestamp, watcher: &Watcher) -> Changed {
        let row = &self.deliveries[at];
        let due_at = row.due_at;
        match row.delivery.clone().cancelled(reason, is_live(row.hold, now)) {
            Err(illegal) => Changed::Illegal(illegal),
            Ok(delivery) => {
                self.move_to(at, delivery.clone(), due_at, watcher);
                Changed::Done(delivery)
            }
        }
    }

    fn retry(&mut self, at: usize, now: Timestamp, watcher: &Watcher) -> Changed {
        match self.stored(&self.deliveries[at].delivery).retried_now(now) {
            Err(illegal) => Changed::Illegal(illegal),
            Ok(delivery) => {
                self.move_to(at, delivery.clone(), now, watcher);
                Changed::Done(delivery)
            }
        }
    }

    fn stored(&self, delivery: &Delivery) -> StoredDelivery {
        let to = delivery.webhook_endpoint_id;
        let endpoint = match self.endpoint(to) {
            None => EndpointStanding::Deleted,
            Some(row) if row.endpoint.is_active => EndpointStanding::Active,
            Some(_) => EndpointStanding::Inactive,
        };
        let context_id = self.endpoints.get(&to).and_then(|row| row.endpoint.context_id);
        StoredDelivery { delivery: delivery.clone(), endpoint, context_id }
    }

    fn meets(&self, delivery: &Delivery, query: &DeliveryQuery) -> bool {
        let to = delivery.webhook_endpoint_id;
        let context_id = || self.endpoints.get(&to).and_then(|row| row.endpoint.context_id);
        query.event_id.is_none_or(|id| id == delivery.webhook_event_id)
            && query.endpoint_id.is_none_or(|id| id == to)
            && (query.context_id.is_none() || query.context_id == context_id())
            && query.status.is_none_or(|status| status == delivery.state.status())
            && query.created.from.is_none_or(|from| from <= delivery.created_at)
            && query.created.to.is_none_or(|to| delivery.created_at < to)
    }

    fn attempts(&self, row: &DeliveryRow) -> Vec<Attempt> {
        let event = &self.events[row.event].event;
        let body: Arc<str> = payload::standard(event).into();
        let Some(endpoint) = self.endpoints.get(&row.delivery.webhook_endpoint_id) else { return Vec::new() };
        let as_of = |revision: u32| {
            let known = endpoint.revisions.iter().rev().find(|known| known.revision <= revision);
            known.unwrap_or(&endpoint.endpoint)
        };
        let look = |attempt: &AttemptRecord| {
            shown(attempt, (self.schema(), event), as_of(attempt.endpoint_revision), &body)
        };
        row.attempts.iter().map(look).collect()
    }
}

/// What an attempt weighs in a page.
fn bytes(attempt: &Attempt) -> usize {
    let response = attempt.response.as_ref();
    let headers = response.into_iter().flat_map(|response| &response.headers);
    attempt.request_body.len()
        + headers.map(|(name, value)| name.len() + value.len()).sum::<usize>()
        + response.map_or(0, |response| response.body.len())
}

fn shown(
    attempt: &AttemptRecord,
    (schema, event): (&Schema, &DomainEvent),
    endpoint: &Endpoint,
    body: &Arc<str>,
) -> Attempt {
    let facts = RequestFacts {
        schema,
        event_id: event.id,
        event_type: event.event_type.as_str(),
        attempt_number: attempt.attempt_number,
        request_id: attempt.request_id,
        sent_at: attempt.attempted_at,
        signatures: attempt.signatures.as_ref(),
        signature_header: &endpoint.signature_header,
    };
    Attempt {
        attempt_number: attempt.attempt_number,
        delivery_status: AttemptStatus::of(&attempt.outcome),
        request_url: endpoint.endpoint_url.clone(),
        request_method: endpoint.http_method.as_str().to_owned(),
        request_headers: request::shown(&facts, &endpoint.custom_headers.redacted()),
        request_body: Arc::clone(body),
        signature: attempt.signatures.as_ref().map(|signatures| signatures.standard.clone()),
        response: attempt.response.clone(),
        response_time_ms: u64::try_from(attempt.response_time.as_millis()).unwrap_or(u64::MAX),
        error_message: attempt.error_message.clone(),
        error_code: attempt.outcome.error_code(),
        connection_reused: attempt.connection_reused,
        attempted_at: attempt.attempted_at,
        completed_at: attempt.completed_at,
    }
}

fn statistics<'a>(rows: impl Iterator<Item = &'a DeliveryRow>) -> EndpointStats {
    let (mut stats, mut times) = (EndpointStats::default(), ResponseTimeHistogram::default());
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        *match row.delivery.state.status() {
            DeliveryStatus::Pending => &mut stats.pending,
            DeliveryStatus::Retrying => &mut stats.retrying,
            DeliveryStatus::Success => &mut stats.success,
            DeliveryStatus::Failed => &mut stats.failed,
            DeliveryStatus::Cancelled => &mut stats.cancelled,
        } += 1;
        for attempt in &row.attempts {
            stats.attempts += 1;
            let code = attempt.outcome.error_code();
            if is_answered(code.as_deref()) {
                times.add(u64::try_from(attempt.response_time.as_millis()).unwrap_or(u64::MAX));
            }
            if let Some(code) = code {
                *errors.entry(code).or_default() += 1;
            }
        }
    }
    stats.response_times = times.summary();
    stats.most_common_error = errors.into_iter().rev().max_by_key(|(_, count)| *count);
    stats
}

/// Whether nobody wants it claimed any more.
pub(super) const fn is_ending(delivery: &Delivery) -> bool {
    delivery.cancel_requested.is_some() || delivery.state.is_final()
}

/// When a delivery that was put off is due instead.
pub(super) fn brought_back(delivery: &Delivery, now: Timestamp) -> Delivery {
    let state = match delivery.state {
        DeliveryState::Retrying { .. } => DeliveryState::Retrying { next_retry_at: now },
        ref other => other.clone(),
    };
    Delivery { state, ..delivery.clone() }
}
