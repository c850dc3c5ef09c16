//! Event types, endpoints and subscriptions, and what changed in the latter two.
//!
//! Every change to endpoints and subscriptions begins by taking its number, [`advance`], which locks the tenant's row
//! until the commit: a tenant's catalogue has one writer at a time, on however many nodes, and what a writer reads
//! after that stays true until it is done.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::future::try_join;
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
use tokio_postgres::Row;

use crate::{
    columns::{Columns, long},
    conn::Connection,
    endpoints, event_types,
    failure::Failure,
    sql,
    store::PostgresStore,
    subscriptions,
};

#[async_trait]
impl Catalogue for PostgresStore {
    async fn insert_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Inserted, StoreError> {
        let (conn, _, _place) = self.changing(schema).await?;
        Ok(event_types::insert(&conn, schema, entry).await?)
    }

    async fn seed_event_types(&self, schema: &Schema, entries: &[EventTypeEntry]) -> Result<(), StoreError> {
        let (mut conn, _, _place) = self.changing(schema).await?;
        Ok(event_types::seed(&mut conn, schema, entries).await?)
    }

    async fn event_type(
        &self,
        schema: &Schema,
        of: &EventType,
    ) -> Result<Option<EventTypeEntry>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(event_types::by_type(&conn, schema, of).await?)
    }

    async fn event_types(
        &self,
        schema: &Schema,
        query: &EventTypeQuery,
        page: PageRequest,
    ) -> Result<Page<EventTypeEntry>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(event_types::list(&conn, schema, query, &page).await?)
    }

    async fn categories(&self, schema: &Schema) -> Result<Vec<String>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(event_types::categories(&conn, schema).await?)
    }

    async fn update_event_type(
        &self,
        schema: &Schema,
        entry: &EventTypeEntry,
    ) -> Result<Updated, StoreError> {
        let (conn, _, _place) = self.changing(schema).await?;
        Ok(event_types::update(&conn, schema, entry).await?)
    }

    async fn delete_event_type(&self, schema: &Schema, of: &EventType) -> Result<bool, StoreError> {
        let (conn, _, _place) = self.changing(schema).await?;
        Ok(event_types::delete(&conn, schema, of).await?)
    }

    async fn insert_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Inserted, StoreError> {
        let (mut conn, _, _place) = self.changing(schema).await?;
        Ok(endpoints::insert(&mut conn, schema, endpoint).await?)
    }

    async fn endpoint(&self, schema: &Schema, id: EndpointId) -> Result<Option<Endpoint>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(endpoints::by_id(&conn, schema, id).await?)
    }

    async fn endpoints(
        &self,
        schema: &Schema,
        query: &EndpointQuery,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(endpoints::list(&conn, schema, query, &page).await?)
    }

    async fn update_endpoint(&self, schema: &Schema, endpoint: &Endpoint) -> Result<Updated, StoreError> {
        let (mut conn, tenant_no, _place) = self.changing(schema).await?;
        let updated = endpoints::update(&mut conn, schema, endpoint).await?;
        // What it was owed while it was inactive can be claimed again.
        self.inner.floors.forget((tenant_no, endpoint.id.uuid()));
        Ok(updated)
    }

    async fn delete_endpoint(
        &self,
        schema: &Schema,
        id: EndpointId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (mut conn, _, _place) = self.changing(schema).await?;
        Ok(endpoints::delete(&mut conn, schema, id, now).await?)
    }

    async fn insert_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Inserted, StoreError> {
        let (mut conn, _, _place) = self.changing(schema).await?;
        Ok(subscriptions::insert(&mut conn, schema, subscription).await?)
    }

    async fn subscription(
        &self,
        schema: &Schema,
        id: SubscriptionId,
    ) -> Result<Option<Subscription>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(subscriptions::by_ids(&conn, schema, &[id]).await?.pop())
    }

    async fn subscriptions(
        &self,
        schema: &Schema,
        query: &SubscriptionQuery,
        page: PageRequest,
    ) -> Result<Page<Subscription>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(subscriptions::list(&conn, schema, query, &page).await?)
    }

    async fn update_subscription(
        &self,
        schema: &Schema,
        subscription: &Subscription,
    ) -> Result<Updated, StoreError> {
        let (mut conn, _, _place) = self.changing(schema).await?;
        Ok(subscriptions::update(&mut conn, schema, subscription).await?)
    }

    async fn delete_subscription(&self, schema: &Schema, id: SubscriptionId) -> Result<bool, StoreError> {
        let (mut conn, _, _place) = self.changing(schema).await?;
        Ok(subscriptions::delete(&mut conn, schema, id).await?)
    }

    async fn any_sealed_secret(&self, schema: &Schema) -> Result<Option<(EndpointId, Vec<u8>)>, StoreError> {
        let conn = self.reading(schema).await?;
        Ok(endpoints::newest_secret(&conn, schema).await?)
    }

    /// Beside claims and settlements, not in line with users' lists: dispatching waits for it.
    async fn catalogue_changes(
        &self,
        schema: &Schema,
        since: CatalogueVersion,
        limit: u32,
    ) -> Result<CatalogueChanges, StoreError> {
        let is_known = self.inner.catalogue_reads.is_since(schema, self.inner.session.losses());
        if since > CatalogueVersion::default() && !is_known {
            return Ok(CatalogueChanges::default());
        }
        let (conn, _) = self.writing(schema).await?;
        Ok(changes(&conn, schema, since, limit).await?)
    }
}

/// How often the session's connection had been lost when each tenant's catalogue was read last. After a failover the
/// database may have forgotten a change, and whoever knows of that change cannot be told so by its number.
#[derive(Default)]
pub(crate) struct CatalogueReads(Mutex<HashMap<Schema, u64>>);

impl CatalogueReads {
    /// Whether it was as often as now. From here on it is.
    pub(crate) fn is_since(&self, schema: &Schema, losses: u64) -> bool {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reads.insert(schema.clone(), losses) == Some(losses)
    }
}

/// The number that a change has taken, and whose it is.
pub(crate) struct Change {
    pub(crate) tenant_no: i32,
    pub(crate) number: i64,
}

/// Takes the number of a change, first thing in its transaction.
pub(crate) async fn advance(tx: &Connection, schema: &Schema) -> Result<Change, Failure> {
    let row = tx.query_opt(sql::CATALOGUE_ADVANCE, schema, &[&schema.as_str()]).await?;
    let row = row.ok_or_else(|| Failure::Schema(schema.clone()))?;
    let mut columns = Columns::of(&row);
    Ok(Change { tenant_no: columns.take()?, number: columns.take()? })
}

/// A change as it is listed.
struct Listed {
    number: i64,
    is_subscription: bool,
    id: Uuid,
    is_deleted: bool,
}

async fn changes(
    conn: &Connection,
    schema: &Schema,
    since: CatalogueVersion,
    limit: u32,
) -> Result<CatalogueChanges, Failure> {
    let limit = limit.max(1);
    let (newest, mut listed) = list(conn, schema, since, i64::from(limit) + 1).await?;
    let more = listed.len() > limit as usize;
    listed.truncate(limit as usize);
    let reached = listed.last().filter(|_| more).map_or(newest, |last| last.number);
    let mut changes = CatalogueChanges {
        version: CatalogueVersion(reached.unsigned_abs()),
        more,
        ..CatalogueChanges::default()
    };
    let (mut endpoint_ids, mut subscription_ids) = (Vec::new(), Vec::new());
    for Listed { is_subscription, id, is_deleted, .. } in listed {
        match (is_subscription, is_deleted) {
            (false, false) => endpoint_ids.push(Id::from_uuid(id)),
            (true, false) => subscription_ids.push(Id::from_uuid(id)),
            (false, true) => changes.deleted_endpoints.push(Id::from_uuid(id)),
            (true, true) => changes.deleted_subscriptions.push(Id::from_uuid(id)),
        }
    }
    // What changed again since it was listed is newer than the version says, and comes once more.
    (changes.endpoints, changes.subscriptions) = try_join(
        endpoints::by_ids(conn, schema, &endpoint_ids),
        subscriptions::by_ids(conn, schema, &subscription_ids),
    )
    .await?;
    Ok(changes)
}

/// The number of the newest change, and the changes since a version.
async fn list(
    conn: &Connection,
    schema: &Schema,
    since: CatalogueVersion,
    limit: i64,
) -> Result<(i64, Vec<Listed>), Failure> {
    let rows =
        conn.query(sql::CATALOGUE_CHANGES, schema, &[&schema.as_str(), &long(since.0), &limit]).await?;
    let newest = rows.first().ok_or_else(|| Failure::Schema(schema.clone()))?.try_get(0)?;
    let listed = rows.iter().filter_map(|row| change(row).transpose()).collect::<Result<_, _>>()?;
    Ok((newest, listed))
}

/// A row's change; where there are none, the newest number stands in a row alone.
fn change(row: &Row) -> Result<Option<Listed>, Failure> {
    let mut columns = Columns::from(row, 1);
    let Some(number) = columns.take()? else { return Ok(None) };
    Ok(Some(Listed {
        number,
        is_subscription: columns.take()?,
        id: columns.uuid()?,
        is_deleted: columns.take()?,
    }))
}
