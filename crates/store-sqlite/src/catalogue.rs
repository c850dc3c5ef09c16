//! Event types, endpoints and subscriptions, and what changed in the latter two.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    catalogue::EventTypeEntry,
    endpoint::Endpoint,
    event_type::EventType,
    id::{EndpointId, Id, SubscriptionId},
    subscription::Subscription,
    tenant::Schema,
};
use neo_events_store::{
    Catalogue, CatalogueChanges, CatalogueVersion, EndpointQuery, EventTypeQuery, Inserted, Page,
    PageRequest, StoreError, SubscriptionQuery, Updated,
};
use rusqlite::{Connection, Row};

use crate::{
    endpoints, event_types, failure::Failure, sql, store::SqliteStore, subscriptions, tend::DeleteEndpoint,
};

#[async_trait]
impl Catalogue for SqliteStore {
    async fn insert_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Inserted, StoreError> {
        let entry = entry.clone();
        self.file(schema).await?.write(move |conn: &Connection| event_types::insert(conn, &entry)).await
    }

    async fn seed_event_types(&self, schema: &Schema, entries: &[EventTypeEntry]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.file(schema).await?.write(move |conn: &Connection| event_types::seed(conn, &entries)).await
    }

    async fn event_type(
        &self,
        schema: &Schema,
        of: &EventType,
    ) -> Result<Option<EventTypeEntry>, StoreError> {
        let of = of.clone();
        self.file(schema).await?.read(move |conn| event_types::by_type(conn, &of)).await
    }

    async fn event_types(
        &self,
        schema: &Schema,
        query: &EventTypeQuery,
        page: PageRequest,
    ) -> Result<Page<EventTypeEntry>, StoreError> {
        let query = query.clone();
        self.file(schema).await?.read(move |conn| event_types::list(conn, &query, &page)).await
    }

    async fn categories(&self, schema: &Schema) -> Result<Vec<String>, StoreError> {
        self.file(schema).await?.read(event_types::categories).await
    }

    async fn update_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Updated, StoreError> {
        let entry = entry.clone();
        self.file(schema).await?.write(move |conn: &Connection| event_types::update(conn, &entry)).await
    }

    async fn delete_event_type(&self, schema: &Schema, of: &EventType) -> Result<bool, StoreError> {
        let of = of.clone();
        self.file(schema).await?.write(move |conn: &Connection| event_types::delete(conn, &of)).await
    }

    async fn insert_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Inserted, StoreError> {
        let endpoint = endpoint.clone();
        self.file(schema).await?.write(move |conn: &Connection| endpoints::insert(conn, &endpoint)).await
    }

    async fn endpoint(&self, schema: &Schema, id: EndpointId) -> Result<Option<Endpoint>, StoreError> {
        let found = self.file(schema).await?.read(move |conn| endpoints::by_id(conn, id)).await?;
        Ok(found.map(|(_, endpoint)| endpoint))
    }

    async fn endpoints(
        &self,
        schema: &Schema,
        query: &EndpointQuery,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        let query = query.clone();
        self.file(schema).await?.read(move |conn| endpoints::list(conn, &query, &page)).await
    }

    async fn update_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Updated, StoreError> {
        let endpoint = endpoint.clone();
        self.file(schema).await?.write(move |conn: &Connection| endpoints::update(conn, &endpoint)).await
    }

    async fn delete_endpoint(
        &self,
        schema: &Schema,
        id: EndpointId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let file = self.file(schema).await?;
        file.write(DeleteEndpoint::new(&file.delivery_leases, id, now)).await
    }

    async fn insert_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Inserted, StoreError> {
        let subscription = subscription.clone();
        self.file(schema)
            .await?
            .write(move |conn: &Connection| subscriptions::insert(conn, &subscription))
            .await
    }

    async fn subscription(
        &self,
        schema: &Schema,
        id: SubscriptionId,
    ) -> Result<Option<Subscription>, StoreError> {
        self.file(schema).await?.read(move |conn| subscriptions::by_id(conn, id)).await
    }

    async fn subscriptions(
        &self,
        schema: &Schema,
        query: &SubscriptionQuery,
        page: PageRequest,
    ) -> Result<Page<Subscription>, StoreError> {
        let query = query.clone();
        self.file(schema).await?.read(move |conn| subscriptions::list(conn, &query, &page)).await
    }

    async fn update_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Updated, StoreError> {
        let subscription = subscription.clone();
        self.file(schema)
            .await?
            .write(move |conn: &Connection| subscriptions::update(conn, &subscription))
            .await
    }

    async fn delete_subscription(&self, schema: &Schema, id: SubscriptionId) -> Result<bool, StoreError> {
        self.file(schema).await?.write(move |conn: &Connection| subscriptions::delete(conn, id)).await
    }

    async fn any_sealed_secret(&self, schema: &Schema) -> Result<Option<(EndpointId, Vec<u8>)>, StoreError> {
        self.file(schema).await?.read(endpoints::newest_secret).await
    }

    async fn catalogue_changes(
        &self,
        schema: &Schema,
        since: CatalogueVersion,
        limit: u32,
    ) -> Result<CatalogueChanges, StoreError> {
        self.file(schema).await?.look(move |conn| changes(conn, since, limit)).await
    }
}

/// The number of the newest change.
pub(crate) fn version(conn: &Connection) -> Result<CatalogueVersion, Failure> {
    Ok(conn.prepare_cached(sql::CATALOGUE_VERSION)?.query_row([], version_of)?)
}

pub(crate) fn version_of(row: &Row<'_>) -> rusqlite::Result<CatalogueVersion> {
    Ok(CatalogueVersion(row.get::<_, i64>(0)?.unsigned_abs()))
}

/// Takes the number of a change.
pub(crate) fn advance(conn: &Connection) -> Result<i64, Failure> {
    Ok(conn.prepare_cached(sql::CATALOGUE_ADVANCE)?.query_row([], |row| row.get(0))?)
}

struct Change {
    version: i64,
    is_subscription: bool,
    no: i64,
    id: Uuid,
    is_deleted: bool,
}

fn changes(conn: &Connection, since: CatalogueVersion, limit: u32) -> Result<CatalogueChanges, Failure> {
    let limit = limit.max(1);
    let mut listed = list_changes(conn, since, i64::from(limit) + 1)?;
    let more = listed.len() > limit as usize;
    listed.truncate(limit as usize);
    let version = match listed.last() {
        Some(last) if more => CatalogueVersion(last.version.unsigned_abs()),
        _ => version(conn)?,
    };
    let mut changes = CatalogueChanges { version, more, ..CatalogueChanges::default() };
    for Change { is_subscription, no, id, is_deleted, .. } in listed {
        match (is_subscription, is_deleted) {
            (false, false) => changes.endpoints.extend(endpoints::by_no(conn, no)?),
            (true, false) => changes.subscriptions.extend(subscriptions::by_no(conn, no)?),
            (false, true) => changes.deleted_endpoints.push(Id::from_uuid(id)),
            (true, true) => changes.deleted_subscriptions.push(Id::from_uuid(id)),
        }
    }
    Ok(changes)
}

fn list_changes(conn: &Connection, since: CatalogueVersion, limit: i64) -> Result<Vec<Change>, Failure> {
    let since = i64::try_from(since.0).unwrap_or(i64::MAX);
    let change = |row: &Row<'_>| {
        Ok(Change {
            version: row.get(0)?,
            is_subscription: row.get(1)?,
            no: row.get(2)?,
            id: Uuid::from_bytes(row.get(3)?),
            is_deleted: row.get(4)?,
        })
    };
    let mut statement = conn.prepare_cached(sql::CATALOGUE_CHANGES)?;
    Ok(statement.query_map([since, limit], change)?.collect::<Result<_, _>>()?)
}
