//! What a power loss has left, held against what callers were told.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use neo_events_domain::{
    delivery::{Delivery, DeliveryState},
    event::DomainEvent,
    id::{DeliveryId, EventId},
};
use neo_events_store::{
    DeliveryLog, DeliveryQuery, EndpointQuota, EventLog, EventQuery, Lease, Page, PageRequest, StoreError,
    WorkQueue,
};
use neo_events_store_sqlite::{SqliteOptions, SqliteStore, rusqlite::Connection};

use crate::{
    drafts::at,
    world::{Dispatch, Known, Place, Span, World},
};

/// More than there are.
const ALL: u32 = 100_000;

/// What a power loss at a moment contradicts.
pub(crate) async fn contradictions(world: &World, moment: usize, disk: &Path) -> Vec<String> {
    let path = disk.join("admin.db");
    let store = match SqliteStore::open(SqliteOptions::new(&path)) {
        Ok(store) => store,
        Err(error) => return vec![format!("it does not open: {error:?}")],
    };
    let left = match Left::on(&store, &world.places).await {
        Ok(left) => left,
        Err(error) => return vec![format!("it cannot be read: {error:?}")],
    };
    let mut found = vec![];
    for known in &world.events {
        let faults = Judge { left: &left, known, moment }.faults(&store).await;
        found.extend(faults.into_iter().map(|fault| format!("{} {fault}", known.id)));
    }
    store.close().await;
    for file in [path, disk.join(format!("admin.db.d/{}.db", world.places[1].schema))] {
        found.extend(integrity(&file));
    }
    found
}

/// What the file's own check has to say, if the file is there.
fn integrity(file: &Path) -> Option<String> {
    if !file.exists() {
        return None;
    }
    let check = |conn: Connection| conn.query_row("pragma integrity_check", [], |row| row.get(0));
    let verdict = Connection::open(file).and_then(check).unwrap_or_else(|error| error.to_string());
    (verdict != "ok").then_some(verdict)
}

/// What is there, and what is to be done.
#[derive(Default)]
struct Left {
    /// The data of each.
    events: HashMap<EventId, String>,
    deliveries: HashMap<DeliveryId, Delivery>,
    owed_dispatches: HashSet<EventId>,
    /// What would be sent, and as which attempt.
    owed_deliveries: HashMap<DeliveryId, (Arc<DomainEvent>, u32)>,
}

impl Left {
    async fn on(store: &SqliteStore, places: &[Place]) -> Result<Self, StoreError> {
        let mut left = Self::default();
        for Place { schema, .. } in places {
            // Reading a tenant also opens its file, without which nothing there is claimed.
            let stored = pages(async |page| store.events(schema, &EventQuery::default(), page).await).await?;
            let data = |event: DomainEvent| (event.id, event.event_data.as_str().to_owned());
            left.events.extend(stored.into_iter().map(|stored| data(stored.event)));
            let query = DeliveryQuery::default();
            let deliveries = pages(async |page| store.deliveries(schema, &query, page).await).await?;
            left.deliveries.extend(deliveries.into_iter().map(|delivery| (delivery.id, delivery)));
        }
        for claim in store.claim_dispatches(at(2000), ALL, at(3000)).await? {
            left.owed_dispatches.extend(claim.owed.iter().map(|lease| lease.work().event.id));
        }
        let quotas: Vec<_> = places.iter().flat_map(quotas).collect();
        for claim in store.claim_deliveries(at(2000), &quotas, at(3000)).await? {
            for work in claim.work.iter().map(Lease::work) {
                let next = (Arc::clone(&work.event), work.progress.attempt);
                left.owed_deliveries.insert(work.delivery_id, next);
            }
        }
        Ok(left)
    }
}

/// A whole list; nothing, if its tenant is not there.
async fn pages<T>(
    list: impl AsyncFn(PageRequest) -> Result<Page<T>, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let (mut all, mut page) = (Vec::new(), PageRequest::first(ALL));
    loop {
        match list(page).await {
            Err(StoreError::UnknownSchema(_)) => return Ok(all),
            Err(error) => return Err(error),
            Ok(Page { items, next }) => {
                all.extend(items);
                let Some(next) = next else { return Ok(all) };
                page = PageRequest { limit: ALL, cursor: Some(next) };
            }
        }
    }
}

fn quotas(place: &Place) -> impl Iterator<Item = EndpointQuota> {
    let quota = |endpoint_id| EndpointQuota { schema: place.schema.clone(), endpoint_id, max: ALL };
    place.endpoints.iter().map(move |endpoint| quota(endpoint.id))
}

/// Of one event.
struct Judge<'a> {
    left: &'a Left,
    known: &'a Known,
    moment: usize,
}

impl Judge<'_> {
    /// Everything that is wrong.
    async fn faults(&self, store: &SqliteStore) -> Vec<String> {
        let deliveries: Vec<_> =
            self.known.deliveries.iter().filter_map(|id| self.left.deliveries.get(id)).collect();
        let mut faults = vec![];
        match self.left.events.get(&self.known.id) {
            Some(data) if *data != self.known.data => faults.push("has other data".to_owned()),
            Some(_) => faults.extend(self.of_dispatch(deliveries.len())),
            None if !deliveries.is_empty() => faults.push("is lost and its deliveries are not".to_owned()),
            None if self.is_over(&self.known.stored) => faults.push("was answered and is lost".to_owned()),
            None => {}
        }
        for delivery in deliveries {
            faults.extend(self.of_attempts(delivery));
            faults.extend(self.of_queue(delivery));
            if delivery.current_attempt > 0 {
                let page = PageRequest::first(1000);
                let attempts = store.attempts(&self.known.schema, delivery, page).await;
                let attempts = attempts.map(|page| page.items.len());
                if !attempts.as_ref().is_ok_and(|attempts| *attempts == delivery.current_attempt as usize) {
                    faults.push(format!("has a delivery that counts other attempts than {attempts:?}"));
                }
            }
        }
        faults
    }

    /// Deliveries that come with their event are there with it; others once it was asked for them, and surely once that
    /// was answered. Until then the event owes them.
    fn of_dispatch(&self, deliveries: usize) -> Option<String> {
        let owes = self.left.owed_dispatches.contains(&self.known.id);
        let (may_owe, must_owe) = match &self.known.dispatch {
            Dispatch::WithTheEvent => (false, false),
            Dispatch::NotYet => (true, true),
            Dispatch::Later(span) => (!self.is_over(span), !self.has_begun(span)),
        };
        match (owes, deliveries) {
            (true, 0) if may_owe => None,
            (false, 2) if !must_owe => None,
            _ => Some(format!("has {deliveries} of its deliveries, and owes them: {owes}")),
        }
    }

    fn of_attempts(&self, delivery: &Delivery) -> Option<String> {
        let attempt = self.attempt(delivery);
        let (least, most) = attempt
            .map_or((0, 0), |(span, _)| (u32::from(self.is_over(span)), u32::from(self.has_begun(span))));
        let made = delivery.current_attempt;
        if !(least..=most).contains(&made) {
            return Some(format!("has a delivery with {made} attempts, of {least} to {most} that were made"));
        }
        let succeeded = made > 0 && attempt.is_some_and(|(_, succeeds)| *succeeds);
        (succeeded != (delivery.state == DeliveryState::Success))
            .then(|| format!("has a delivery that is {:?} after {made} attempts", delivery.state))
    }

    /// What has not succeeded is in the queue with the event as it was published, and nothing else is.
    fn of_queue(&self, delivery: &Delivery) -> Option<String> {
        let succeeded = delivery.state == DeliveryState::Success;
        match self.left.owed_deliveries.get(&delivery.id) {
            None if succeeded => None,
            None => Some("has a delivery that is there and not owed".to_owned()),
            Some(_) if succeeded => Some("has a delivery that has succeeded and is owed again".to_owned()),
            Some((event, next)) => {
                let is_same = event.id == self.known.id && event.event_data.as_str() == self.known.data;
                let is_next = *next == delivery.current_attempt + 1;
                (!is_same || !is_next).then(|| format!("would be sent as {event:?}, attempt {next}"))
            }
        }
    }

    fn attempt(&self, delivery: &Delivery) -> Option<&(Span, bool)> {
        self.known.attempt.as_ref().filter(|_| delivery.id == self.known.deliveries[0])
    }

    /// Whether somebody had been told before the power was lost.
    fn is_over(&self, span: &Span) -> bool {
        span.end <= self.moment
    }

    /// Whether somebody may have asked before.
    fn has_begun(&self, span: &Span) -> bool {
        span.start <= self.moment
    }
}
