//! Publishers, and people who repair deliveries.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use neo_events_domain::{
    event::{EventDraft, NewEvent},
    id::EventId,
    tenant::Schema,
};
use neo_events_store::{Appended, Changed, DeliveryLog, StoreError};
use tokio::time::timeout;

use super::{World, catalogue::CONTEXTS, nodes::Door};
use crate::{
    happening::Happening,
    judge::{Judge, Wish},
    random::Dice,
    weather::{Moment, Rows},
};

const TYPES: [&str; 3] = ["user.created", "user.deleted", "order.placed"];
const PLANS: [&str; 3] = ["free", "pro", "team"];
/// How often a publisher tries.
const TRIES_MAX: u32 = 4;
/// How long a publisher pauses before it tries again, at most.
const PAUSE_MS_MAX: u64 = 2000;
/// How long a publisher waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl World {
    /// Somebody publishes some events, and again with the same ids while it is not acknowledged.
    pub(super) fn publish(&mut self, dice: &Dice) {
        let Some(schema) = dice.pick(&self.schemas).cloned() else { return };
        let count = if dice.per_mille(900) { dice.between(1, 4) } else { dice.between(5, 40) };
        self.publish_to(schema, count, dice);
    }

    /// The same for a tenant, so many.
    pub(super) fn publish_to(&mut self, schema: Schema, count: u64, dice: &Dice) {
        let events: Vec<_> = (0..count).map(|_| self.event(&schema, dice)).collect();
        let publisher = Publisher {
            doors: self.doors(),
            judge: self.judge.clone(),
            accepted: Arc::clone(&self.accepted),
            dice: dice.clone(),
        };
        self.publishers.spawn(async move { publisher.publish(schema, events).await });
    }

    fn event(&self, schema: &Schema, dice: &Dice) -> NewEvent {
        let (n, plan) = (dice.below(10), dice.pick(&PLANS).copied().unwrap_or("free"));
        let data = format!(r#"{{"n":{n},"plan":"{plan}","of":"{schema}"}}"#);
        let draft = EventDraft {
            context_id: *dice.pick(&CONTEXTS).unwrap_or(&None),
            ..EventDraft::new(*dice.pick(&TYPES).unwrap_or(&"user.created"), data)
        };
        draft.validate(self.wall(), dice.bytes()).expect("a valid draft")
    }

    /// Somebody cancels a delivery, whatever its state.
    pub(super) async fn cancel(&self, dice: &Dice) {
        let (Some(running), Some((schema, id))) = (self.any_running(dice), self.judge.any_delivery(dice))
        else {
            return;
        };
        let (now, node) = (running.sources.now(), running.life.node);
        if !self.is_let_through(node, &schema) {
            return;
        }
        self.judge.is_asked(Wish::Cancel(id));
        let cancelled = self.memory.cancel_delivery(&schema, id, "not wanted", now).await;
        self.judge.is_asked_no_more(Wish::Cancel(id));
        self.judge.note(|| format!("{schema}: cancelled by hand: {}", is_done(&cancelled)));
        if let Ok(Changed::Done(delivery)) = cancelled
            && self.is_answered(node)
            && dice.per_mille(500)
        {
            running.handle.delivery_cancelled(&schema, delivery.webhook_endpoint_id, id);
        }
    }

    /// Somebody retries a delivery, whatever its state, and the node may tell its engine.
    pub(super) async fn retry(&self, dice: &Dice) {
        let (Some(running), Some((schema, id))) = (self.any_running(dice), self.judge.any_delivery(dice))
        else {
            return;
        };
        let node = running.life.node;
        if !self.is_let_through(node, &schema) {
            return;
        }
        self.judge.is_asked(Wish::Retry(id));
        let retried = self.memory.retry_delivery(&schema, id, running.sources.now()).await;
        self.judge.is_asked_no_more(Wish::Retry(id));
        self.judge.note(|| format!("{schema}: retried by hand: {}", is_done(&retried)));
        if let Ok(Changed::Done(delivery)) = retried
            && self.is_answered(node)
            && dice.per_mille(500)
        {
            running.handle.due_now(&schema, delivery.webhook_endpoint_id);
        }
    }
}

impl World {
    /// Whether somebody's change of a tenant's rows, made through a node, comes through to the store.
    pub(super) fn is_let_through(&self, node: usize, schema: &Schema) -> bool {
        let failing = self.weather.fails(node, Moment::Before(Rows::Written(schema)));
        if let Some(how) = failing {
            self.tally.note(Happening::AskedInVain);
            self.judge.note(|| format!("{schema}: something was asked for in vain: {how:?}"));
        }
        failing.is_none()
    }

    /// Whether the node hears that the change was made. If not, the engine is not told of it.
    pub(super) fn is_answered(&self, node: usize) -> bool {
        self.weather.fails(node, Moment::After).is_none()
    }
}

const fn is_done(changed: &Result<Changed, StoreError>) -> bool {
    matches!(changed, Ok(Changed::Done(_)))
}

/// Somebody with events to publish.
struct Publisher {
    doors: Vec<Door>,
    judge: Judge,
    accepted: Arc<Mutex<BTreeSet<EventId>>>,
    dice: Dice,
}

impl Publisher {
    async fn publish(self, schema: Schema, events: Vec<NewEvent>) {
        for _ in 0..TRIES_MAX {
            let Some((handle, sources)) = self.dice.pick(&self.doors) else { return };
            let published = handle.append(&schema, events.clone(), sources.now());
            let Ok(Ok(appended)) = timeout(PATIENCE, published).await else {
                self.judge.note(|| format!("{schema}: {} published in vain", events.len()));
                tokio::time::sleep(Duration::from_millis(self.dice.below(PAUSE_MS_MAX))).await;
                continue;
            };
            self.judge.note(|| format!("{schema}: {} published", events.len()));
            let is_there = |appended: &Appended| {
                matches!(appended, Appended::Stored { .. } | Appended::Duplicate { .. })
            };
            let accepted = events.iter().zip(&appended).filter(|(_, appended)| is_there(appended));
            let mut known = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            known.extend(accepted.map(|(event, _)| event.id));
            return;
        }
    }
}
