//! Event types, endpoints and subscriptions, with the count of their changes.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    catalogue::EventTypeEntry,
    delivery::CANCEL_REASON_ENDPOINT_DELETED,
    endpoint::Endpoint,
    event_type::{EventPattern, EventType},
    id::{EndpointId, SubscriptionId},
    subscription::Subscription,
    tenant::Schema,
};
use neo_events_store::{
    Catalogue, CatalogueChanges, CatalogueVersion, EndpointQuery, EventTypeQuery, Inserted, Page,
    PageRequest, StoreError, SubscriptionQuery, Updated,
};

use super::{
    MemoryStore,
    page::{page, page_weighed},
    tables::{Change, Database, EndpointRow, SubscriptionRow, Tables},
};
use crate::effect::{Effect, Watcher};

#[async_trait]
impl Catalogue for MemoryStore {
    async fn insert_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Inserted, StoreError> {
        self.database().insert_type(schema, entry)
    }

    async fn seed_event_types(&self, schema: &Schema, entries: &[EventTypeEntry]) -> Result<(), StoreError> {
        let mut database = self.database();
        if std::mem::replace(&mut database.of(schema)?.is_seeded, true) {
            return Ok(());
        }
        entries.iter().try_for_each(|entry| database.insert_type(schema, entry).map(drop))
    }

    async fn event_type(
        &self,
        schema: &Schema,
        of: &EventType,
    ) -> Result<Option<EventTypeEntry>, StoreError> {
        Ok(self.database().of(schema)?.entry(of).cloned())
    }

    async fn event_types(
        &self,
        schema: &Schema,
        query: &EventTypeQuery,
        request: PageRequest,
    ) -> Result<Page<EventTypeEntry>, StoreError> {
        let mut database = self.database();
        let rows = database.of(schema)?.types.iter().rev().filter(|(_, entry)| {
            query.category.as_deref().is_none_or(|category| category == entry.event_type.category())
                && query.is_enabled.is_none_or(|is_enabled| is_enabled == entry.is_enabled)
        });
        page(rows.cloned(), &request)
    }

    async fn categories(&self, schema: &Schema) -> Result<Vec<String>, StoreError> {
        let mut database = self.database();
        let types = &database.of(schema)?.types;
        let mut found: Vec<_> =
            types.iter().map(|(_, entry)| entry.event_type.category().to_owned()).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    async fn update_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Updated, StoreError> {
        let mut database = self.database();
        let types = &mut database.of(schema)?.types;
        let Some((_, there)) = types.iter_mut().find(|(_, there)| there.event_type == entry.event_type)
        else {
            return Ok(Updated::Missing);
        };
        if there.revision + 1 != entry.revision {
            return Ok(Updated::Stale);
        }
        *there = entry.clone();
        Ok(Updated::Written)
    }

    async fn delete_event_type(&self, schema: &Schema, of: &EventType) -> Result<bool, StoreError> {
        let mut database = self.database();
        let types = &mut database.of(schema)?.types;
        let before = types.len();
        types.retain(|(_, entry)| entry.event_type != *of);
        Ok(types.len() < before)
    }

    async fn insert_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Inserted, StoreError> {
        let mut database = self.database();
        let (no, watcher) = (database.number(), database.watcher.clone());
        let tables = database.of(schema)?;
        if tables.endpoints.contains_key(&endpoint.id) {
            return Ok(Inserted::Exists);
        }
        let row = EndpointRow {
            no,
            endpoint: endpoint.clone(),
            revisions: Vec::new(),
            is_deleted: false,
            secret_no: no,
            change: 0,
        };
        tables.endpoints.insert(endpoint.id, row);
        tables.set_endpoint(endpoint, &watcher);
        Ok(Inserted::New)
    }

    async fn endpoint(&self, schema: &Schema, id: EndpointId) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.database().of(schema)?.endpoint(id).map(|row| row.endpoint.clone()))
    }

    async fn endpoints(
        &self,
        schema: &Schema,
        query: &EndpointQuery,
        request: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        let mut rows: Vec<_> = tables.endpoints.values().filter(|row| tables.answers(row, query)).collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.no));
        let bytes = |endpoint: &Endpoint| {
            endpoint.custom_headers.iter().map(|(name, value)| name.len() + value.len()).sum()
        };
        page_weighed(rows.into_iter().map(|row| (row.no, row.endpoint.clone())), &request, bytes)
    }

    async fn update_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Updated, StoreError> {
        let mut database = self.database();
        let (no, watcher) = (database.number(), database.watcher.clone());
        let tables = database.of(schema)?;
        let Some(row) = tables.endpoints.get_mut(&endpoint.id).filter(|row| !row.is_deleted) else {
            return Ok(Updated::Missing);
        };
        if row.endpoint.revision + 1 != endpoint.revision {
            return Ok(Updated::Stale);
        }
        if row.endpoint.secrets != endpoint.secrets {
            row.secret_no = no;
        }
        let last_used_at = row.endpoint.last_used_at.max(endpoint.last_used_at);
        tables.set_endpoint(&Endpoint { last_used_at, ..endpoint.clone() }, &watcher);
        Ok(Updated::Written)
    }

    async fn delete_endpoint(
        &self,
        schema: &Schema,
        id: EndpointId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        Ok(database.of(schema)?.delete_endpoint(id, now, &watcher))
    }

    async fn insert_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Inserted, StoreError> {
        let mut database = self.database();
        let (no, watcher) = (database.number(), database.watcher.clone());
        let tables = database.of(schema)?;
        if tables.subscriptions.contains_key(&subscription.id) {
            return Ok(Inserted::Exists);
        }
        if tables.endpoint(subscription.endpoint_id).is_none() {
            return Ok(Inserted::EndpointMissing);
        }
        if tables.names_disabled(&subscription.pattern) {
            return Ok(Inserted::TypeDisabled);
        }
        let row = SubscriptionRow { no, subscription: subscription.clone(), change: 0 };
        tables.subscriptions.insert(subscription.id, row);
        tables.set_subscription(subscription, &watcher);
        Ok(Inserted::New)
    }

    async fn subscription(
        &self,
        schema: &Schema,
        id: SubscriptionId,
    ) -> Result<Option<Subscription>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        Ok(tables.subscriptions.get(&id).map(|row| tables.shown(row)))
    }

    async fn subscriptions(
        &self,
        schema: &Schema,
        query: &SubscriptionQuery,
        request: PageRequest,
    ) -> Result<Page<Subscription>, StoreError> {
        let mut database = self.database();
        let tables = database.of(schema)?;
        let mut rows: Vec<_> = tables.subscriptions.values().collect();
        rows.retain(|SubscriptionRow { subscription, .. }| {
            query.endpoint_id.is_none_or(|id| id == subscription.endpoint_id)
                && (query.context_id.is_none() || query.context_id == subscription.context_id)
                && query.is_active.is_none_or(|is_active| is_active == subscription.is_active)
        });
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.no));
        page(rows.into_iter().map(|row| (row.no, tables.shown(row))), &request)
    }

    async fn update_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Updated, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        let tables = database.of(schema)?;
        let Some(there) = tables.subscriptions.get(&subscription.id).map(|row| &row.subscription) else {
            return Ok(Updated::Missing);
        };
        if there.revision + 1 != subscription.revision {
            return Ok(Updated::Stale);
        }
        if there.pattern != subscription.pattern && tables.names_disabled(&subscription.pattern) {
            return Ok(Updated::TypeDisabled);
        }
        let last_triggered_at = there.last_triggered_at.max(subscription.last_triggered_at);
        tables.set_subscription(&Subscription { last_triggered_at, ..subscription.clone() }, &watcher);
        Ok(Updated::Written)
    }

    async fn delete_subscription(&self, schema: &Schema, id: SubscriptionId) -> Result<bool, StoreError> {
        let mut database = self.database();
        let watcher = database.watcher.clone();
        let tables = database.of(schema)?;
        let Some(row) = tables.subscriptions.remove(&id) else { return Ok(false) };
        tables.changed(row.change, Change::SubscriptionDeleted(id));
        watcher.tell(schema, Effect::SubscriptionDeleted(id));
        Ok(true)
    }

    async fn any_sealed_secret(&self, schema: &Schema) -> Result<Option<(EndpointId, Vec<u8>)>, StoreError> {
        let mut database = self.database();
        let there = database.of(schema)?.endpoints.values().filter(|row| !row.is_deleted);
        let newest = there.max_by_key(|row| row.secret_no).map(|row| &row.endpoint);
        Ok(newest.and_then(|endpoint| Some((endpoint.id, endpoint.secrets.first()?.sealed.clone()))))
    }

    async fn catalogue_changes(
        &self,
        schema: &Schema,
        since: CatalogueVersion,
        limit: u32,
    ) -> Result<CatalogueChanges, StoreError> {
        Ok(self.database().of(schema)?.changes_since(since, limit))
    }
}

impl Database {
    fn insert_type(&mut self, schema: &Schema, entry: &EventTypeEntry) -> Result<Inserted, StoreError> {
        let no = self.number();
        let tables = self.of(schema)?;
        if tables.entry(&entry.event_type).is_some() {
            return Ok(Inserted::Exists);
        }
        tables.types.push((no, entry.clone()));
        Ok(Inserted::New)
    }
}

impl Tables {
    fn entry(&self, of: &EventType) -> Option<&EventTypeEntry> {
        self.types.iter().map(|(_, entry)| entry).find(|entry| entry.event_type == *of)
    }

    fn names_disabled(&self, pattern: &EventPattern) -> bool {
        matches!(pattern, EventPattern::Exact(event_type) if self.is_disabled(event_type))
    }

    fn answers(&self, row: &EndpointRow, query: &EndpointQuery) -> bool {
        let listens = |event_type: &EventType| {
            self.subscriptions.values().any(|SubscriptionRow { subscription, .. }| {
                subscription.endpoint_id == row.endpoint.id
                    && subscription.is_active
                    && subscription.pattern.matches(event_type)
            })
        };
        !row.is_deleted
            && (query.context_id.is_none() || query.context_id == row.endpoint.context_id)
            && query.is_active.is_none_or(|is_active| is_active == row.endpoint.is_active)
            && query.event_type.as_ref().is_none_or(listens)
    }

    fn shown(&self, row: &SubscriptionRow) -> Subscription {
        let event_type_id = match &row.subscription.pattern {
            EventPattern::Exact(event_type) => self.entry(event_type).map(|entry| entry.id),
            EventPattern::Category(_) | EventPattern::All => None,
        };
        Subscription { event_type_id, ..row.subscription.clone() }
    }

    /// Writes an endpoint whose row is there.
    pub(super) fn set_endpoint(&mut self, endpoint: &Endpoint, watcher: &Watcher) {
        let id = endpoint.id;
        let before = self.endpoints[&id].change;
        let change = self.changed(before, Change::Endpoint(id));
        if let Some(row) = self.endpoints.get_mut(&id) {
            row.change = change;
            row.endpoint = endpoint.clone();
            row.revisions.push(endpoint.clone());
        }
        watcher.tell(self.schema(), Effect::Endpoint(Box::new(endpoint.clone())));
    }

    fn set_subscription(&mut self, subscription: &Subscription, watcher: &Watcher) {
        let id = subscription.id;
        let before = self.subscriptions[&id].change;
        let change = self.changed(before, Change::Subscription(id));
        if let Some(row) = self.subscriptions.get_mut(&id) {
            row.change = change;
            row.subscription = subscription.clone();
        }
        watcher.tell(self.schema(), Effect::Subscription(Box::new(subscription.clone())));
    }

    fn delete_endpoint(&mut self, id: EndpointId, now: Timestamp, watcher: &Watcher) -> bool {
        let Some(row) = self.endpoints.get_mut(&id).filter(|row| !row.is_deleted) else { return false };
        row.is_deleted = true;
        let before = row.change;
        self.changed(before, Change::EndpointDeleted(id));
        let (gone, kept) = std::mem::take(&mut self.subscriptions)
            .into_iter()
            .partition(|(_, row)| row.subscription.endpoint_id == id);
        self.subscriptions = kept;
        for row in std::collections::BTreeMap::<SubscriptionId, SubscriptionRow>::into_values(gone) {
            self.changes.remove(&row.change);
        }
        watcher.tell(self.schema(), Effect::EndpointDeleted(id));
        let of_it: Vec<_> = self.open.iter().filter(|(of, ..)| *of == id).map(|(.., at)| *at).collect();
        for at in of_it {
            self.cancel(at, CANCEL_REASON_ENDPOINT_DELETED, now, watcher);
        }
        true
    }

    fn changes_since(&self, since: CatalogueVersion, limit: u32) -> CatalogueChanges {
        let mut answer = CatalogueChanges { version: since, ..CatalogueChanges::default() };
        let mut later = self.changes.range(since.0 + 1..);
        for (version, change) in later.by_ref().take(limit as usize) {
            answer.version = CatalogueVersion(*version);
            match *change {
                Change::Endpoint(id) => answer.endpoints.push(self.endpoints[&id].endpoint.clone()),
                Change::EndpointDeleted(id) => answer.deleted_endpoints.push(id),
                Change::Subscription(id) => answer.subscriptions.push(self.shown(&self.subscriptions[&id])),
                Change::SubscriptionDeleted(id) => answer.deleted_subscriptions.push(id),
            }
        }
        answer.more = later.next().is_some();
        if !answer.more {
            answer.version = answer.version.max(CatalogueVersion(self.version));
        }
        answer
    }
}
