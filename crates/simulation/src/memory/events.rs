//! The event log.

use std::sync::Arc;

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    event::{AGGREGATE_VERSION_MAX, DomainEvent, JsonObject, NewEvent, VersionRule},
    event_type::EventType,
    id::EventId,
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{
    AggregateQuery, Appended, Cursor, EventLog, EventQuery, Page, PageRequest, StoreError, StoredEvent,
};

use super::{
    MemoryStore,
    page::{newest_first, page},
    tables::{EventRow, Tables},
};
use crate::effect::{Effect, Watcher};

#[async_trait]
impl EventLog for MemoryStore {
    async fn append(
        &self,
        schema: &Schema,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let appended = {
            let mut database = self.database();
            let watcher = database.watcher.clone();
            let tables = database.of(schema)?;
            events.iter().map(|event| tables.append(event, now, &watcher)).collect()
        };
        self.hint(|hints| &hints.to_dispatch);
        Ok(appended)
    }

    async fn event(&self, schema: &Schema, id: EventId) -> Result<Option<StoredEvent>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        Ok(tables.events_by_id.get(&id).map(|at| tables.events[*at].shown()))
    }

    async fn events(
        &self,
        schema: &Schema,
        query: &EventQuery,
        request: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let mut database = self.database();
        let rows = newest_first(&database.of(schema)?.events);
        page(rows.filter(|(_, row)| meets(row, query)).map(|(no, row)| (no, row.shown())), &request)
    }

    async fn count_events(&self, schema: &Schema, query: &EventQuery) -> Result<u64, StoreError> {
        let mut database = self.database();
        Ok(database.of(schema)?.events.iter().filter(|row| meets(row, query)).count() as u64)
    }

    async fn aggregate_events(
        &self,
        schema: &Schema,
        query: &AggregateQuery,
        request: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let mut database = self.database();
        let after = request.cursor.as_ref().map(place).transpose()?;
        let rows = database.of(schema)?.events.iter().enumerate().filter(|(no, row)| {
            let DomainEvent { aggregate_type, aggregate_id, aggregate_version, context_id, .. } = &*row.event;
            *aggregate_type == query.aggregate_type
                && *aggregate_id == query.aggregate_id
                && *aggregate_version > query.after_version
                && (query.context_id.is_none() || query.context_id == *context_id)
                && after.is_none_or(|after| (*aggregate_version, *no) > after)
        });
        let mut found: Vec<_> = rows.collect();
        found.sort_by_key(|(_, row)| row.event.aggregate_version);
        let is_cut = found.len() > request.limit as usize;
        found.truncate(request.limit as usize);
        let last = found.last().filter(|_| is_cut);
        let next = last.map(|(no, row)| Cursor::new(format!("{}-{no}", row.event.aggregate_version)));
        Ok(Page { items: found.into_iter().map(|(_, row)| row.shown()).collect(), next })
    }

    async fn newest_version(&self, schema: &Schema, (kind, id): (&str, Uuid)) -> Result<u32, StoreError> {
        Ok(self.database().of(schema)?.newest_version(kind, id))
    }

    async fn belong_to_others(
        &self,
        schema: &Schema,
        aggregates: &[(String, Uuid)],
        context_id: Uuid,
    ) -> Result<Vec<bool>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        let is_others = |(kind, id): &(String, Uuid)| {
            let of_it = |row: &&EventRow| row.event.aggregate_id == *id && row.event.aggregate_type == *kind;
            let mut contexts = tables.events.iter().filter(of_it).map(|row| row.event.context_id).peekable();
            contexts.peek().is_some() && contexts.all(|context| context != Some(context_id))
        };
        Ok(aggregates.iter().map(is_others).collect())
    }

    async fn mark_processed(
        &self,
        schema: &Schema,
        ids: &[EventId],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        let tables = database.of(schema)?;
        let mut marked = 0;
        for id in ids {
            marked += u64::from(tables.owed(*id).is_some());
            tables.end_dispatch(*id, to_micros(now), &watcher);
        }
        Ok(marked)
    }
}

/// The version and the number of the last event shown.
fn place(cursor: &Cursor) -> Result<(u32, usize), StoreError> {
    let place = cursor.as_str().split_once('-');
    let place = place.and_then(|(version, no)| Some((version.parse().ok()?, no.parse().ok()?)));
    place.ok_or(StoreError::BadCursor)
}

impl EventRow {
    pub(super) fn shown(&self) -> StoredEvent {
        StoredEvent { event: DomainEvent::clone(&self.event), processed_at: self.processed_at }
    }
}

impl Tables {
    fn newest_version(&self, kind: &str, id: Uuid) -> u32 {
        self.heads.get(&(kind.to_owned(), id)).copied().unwrap_or(0)
    }

    pub(super) fn is_disabled(&self, event_type: &EventType) -> bool {
        self.types.iter().any(|(_, entry)| entry.event_type == *event_type && !entry.is_enabled)
    }

    /// Appends an event that owes its dispatch.
    pub(super) fn append(&mut self, new: &NewEvent, now: Timestamp, watcher: &Watcher) -> Appended {
        if let Some(at) = self.events_by_id.get(&new.id) {
            let DomainEvent { created_at, aggregate_version, .. } = *self.events[*at].event;
            return if new.repeats(&self.events[*at].event) {
                Appended::Duplicate { created_at, aggregate_version }
            } else {
                Appended::IdConflict
            };
        }
        if self.is_disabled(&new.event_type) {
            return Appended::TypeDisabled;
        }
        let aggregate = (new.aggregate_type_or_default().to_owned(), new.aggregate_id_or_default());
        let newest = self.newest_version(&aggregate.0, aggregate.1);
        let aggregate_version = match new.version {
            VersionRule::Default => 1,
            VersionRule::Given(version) => version,
            VersionRule::Expect(_) if newest >= AGGREGATE_VERSION_MAX => return Appended::VersionsExhausted,
            VersionRule::Expect(expected) if expected != newest => return Appended::StaleVersion { newest },
            VersionRule::Expect(_) => newest + 1,
        };
        self.heads.insert(aggregate.clone(), newest.max(aggregate_version));
        let last = self.events.last().map_or(Timestamp::MIN, |row| row.event.created_at);
        let created_at = to_micros(now).max(last);
        let event = Arc::new(stored(new, aggregate, aggregate_version, created_at));
        self.events_by_id.insert(new.id, self.events.len());
        self.events.push(EventRow { event: Arc::clone(&event), processed_at: None, hold: None });
        watcher.tell(self.schema(), Effect::Stored(event));
        Appended::Stored { created_at, aggregate_version }
    }
}

fn stored(
    new: &NewEvent,
    (aggregate_type, aggregate_id): (String, Uuid),
    aggregate_version: u32,
    created_at: Timestamp,
) -> DomainEvent {
    let new = new.clone();
    DomainEvent {
        id: new.id,
        event_type: new.event_type,
        event_name: new.event_name,
        aggregate_id,
        aggregate_type,
        aggregate_version,
        event_data: new.event_data,
        event_metadata: new.event_metadata.unwrap_or_else(JsonObject::empty),
        correlation_id: new.correlation_id,
        causation_id: new.causation_id,
        triggered_by_user_id: new.triggered_by_user_id,
        context_id: new.context_id,
        occurred_at: new.occurred_at.unwrap_or(created_at),
        created_at,
    }
}

fn meets(row: &EventRow, query: &EventQuery) -> bool {
    fn agrees<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
        wanted.is_none() || wanted == found
    }
    let event = &row.event;
    agrees(query.event_type.as_ref(), Some(&event.event_type))
        && agrees(query.aggregate_type.as_ref(), Some(&event.aggregate_type))
        && agrees(query.aggregate_id.as_ref(), Some(&event.aggregate_id))
        && agrees(query.correlation_id.as_ref(), event.correlation_id.as_ref())
        && agrees(query.context_id.as_ref(), event.context_id.as_ref())
        && agrees(query.processed.as_ref(), Some(&row.processed_at.is_some()))
        && query.created.from.is_none_or(|from| from <= event.created_at)
        && query.created.to.is_none_or(|to| event.created_at < to)
}
