//! The list of tenants and what this node has seen of it, the keys to them, and which master key is in use: rows in
//! schema `admin`.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    api_key::ApiKey,
    id::ApiKeyId,
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    ApiKeyQuery, Inserted, KeyDigest, MasterKeyFingerprint, Page, PageRequest, StoreError, Tenants,
};
use tokio_postgres::error::SqlState;

use crate::{
    api_keys,
    columns::Columns,
    conn::{Connection, Param},
    failure::Failure,
    migrate,
    page::{before_number, limit_of, numbered_page, small},
    sql,
    store::PostgresStore,
};

/// Whose rows a statement writes, and when.
#[derive(Clone, Copy)]
pub(crate) struct TenantTerms<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) tenant_no: i32,
    pub(crate) now: Timestamp,
}

/// The tenants seen so far. A tenant is never removed, so what was seen once stays true.
#[derive(Default)]
pub(crate) struct TenantList(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    nos: HashMap<Schema, i32>,
    schemas: HashMap<i32, Schema>,
}

impl TenantList {
    pub(crate) fn no(&self, schema: &Schema) -> Option<i32> {
        self.seen().nos.get(schema).copied()
    }

    pub(crate) fn schema(&self, no: i32) -> Option<Schema> {
        self.seen().schemas.get(&no).cloned()
    }

    pub(crate) fn learn(&self, schema: Schema, no: i32) {
        let mut seen = self.seen();
        seen.nos.insert(schema.clone(), no);
        seen.schemas.insert(no, schema);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tenants for PostgresStore {
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Inserted, StoreError> {
        if self.inner.tenants.no(&tenant.schema).is_some() {
            return Ok(Inserted::Exists);
        }
        let mut conn = self.inner.connections.work().await?;
        match create(&mut conn, tenant).await {
            Ok(Some(no)) => {
                self.inner.tenants.learn(tenant.schema.clone(), no);
                Ok(Inserted::New)
            }
            Ok(None) => Ok(Inserted::Exists),
            Err(failure) if failure.code() == Some(&SqlState::DUPLICATE_SCHEMA) => {
                Err(StoreError::Broken(ForeignSchema(tenant.schema.clone()).into()))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn tenant(&self, schema: &Schema) -> Result<Option<Tenant>, StoreError> {
        let conn = self.inner.connections.read().await?;
        Ok(by_schema(&conn, schema).await?)
    }

    async fn tenants(&self, request: PageRequest) -> Result<Page<Tenant>, StoreError> {
        let conn = self.inner.connections.read().await?;
        Ok(list(&conn, &request).await?)
    }

    async fn insert_api_key(&self, key: &ApiKey, digest: KeyDigest) -> Result<Inserted, StoreError> {
        let (conn, tenant_no, _place) = self.changing(&key.schema).await?;
        Ok(api_keys::insert(&conn, tenant_no, key, digest).await?)
    }

    /// Not in line with users' lists: every request may begin with it.
    async fn api_key(&self, digest: KeyDigest) -> Result<Option<ApiKey>, StoreError> {
        let conn = self.inner.connections.work().await?;
        Ok(api_keys::by_digest(&conn, digest).await?)
    }

    async fn api_keys(&self, query: &ApiKeyQuery, request: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let conn = self.inner.connections.read().await?;
        Ok(api_keys::list(&conn, query, &request).await?)
    }

    async fn delete_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        let conn = self.inner.connections.work().await?;
        Ok(api_keys::delete(&conn, id).await?)
    }

    async fn note_key_usage(&self, used: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreError> {
        let conn = self.inner.connections.work().await?;
        Ok(api_keys::note_used(&conn, used).await?)
    }

    async fn master_key(&self) -> Result<Option<MasterKeyFingerprint>, StoreError> {
        let conn = self.inner.connections.work().await?;
        Ok(master_key(&conn).await?)
    }

    async fn note_master_key(
        &self,
        known: Option<MasterKeyFingerprint>,
        fingerprint: MasterKeyFingerprint,
    ) -> Result<bool, StoreError> {
        let conn = self.inner.connections.work().await?;
        let known = known.as_ref().map(|known| known.0.as_slice());
        let params: [Param<'_>; 2] = [&known, &fingerprint.0.as_slice()];
        Ok(conn.execute(sql::MASTER_KEY_NOTE, &Schema::admin(), &params).await? == 1)
    }
}

impl PostgresStore {
    /// A tenant's number; [`Failure::Schema`] if there is no such tenant.
    pub(crate) async fn tenant_no(&self, schema: &Schema) -> Result<i32, Failure> {
        if let Some(no) = self.inner.tenants.no(schema) {
            return Ok(no);
        }
        let mut conn = match self.inner.connections.work().await {
            // Its tenants can be read all the same.
            Err(Failure::ReadOnly) => self.inner.connections.read().await?,
            conn => conn?,
        };
        let row = conn.query_opt(sql::TENANTS_NO_BY_SCHEMA, &Schema::admin(), &[&schema.as_str()]).await?;
        let Some(row) = row else { return Err(Failure::Schema(schema.clone())) };
        // It may have been made by a node of an earlier version, after this one had migrated all it found.
        if migrate::is_behind(&conn, schema).await? {
            if !self.inner.migrates {
                return Err(Failure::Outdated(schema.clone()));
            }
            migrate::tenant_up(&mut conn, schema).await?;
        }
        let no = row.try_get(0)?;
        self.inner.tenants.learn(schema.clone(), no);
        Ok(no)
    }

    /// Finds the schemas of tenants that this node has not met, and brings up to date what an older node made. One that
    /// cannot be served is left alone for a while: every pass would stand before its locks.
    pub(crate) async fn learn_tenants(&self, conn: &Connection, nos: &[i32]) -> Result<(), Failure> {
        let (tenants, left_alone) = (&self.inner.tenants, &self.inner.backed_off.learning);
        let is_unknown = |no: &i32| tenants.schema(*no).is_none() && !left_alone.has(*no);
        let mut unknown: Vec<i32> = nos.iter().copied().filter(is_unknown).collect();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        for row in conn.query(sql::TENANTS_BY_NOS, &Schema::admin(), &[&unknown]).await? {
            let mut columns = Columns::of(&row);
            let (no, schema): (i32, Schema) = (columns.take()?, columns.parsed()?);
            if let Err(failure) = self.tenant_no(&schema).await {
                tracing::error!(%schema, %failure, "this tenant cannot be served");
                if failure.is_a_lock() {
                    // All of them would stand before the one of whoever migrates.
                    for no in unknown {
                        left_alone.note(no);
                    }
                    break;
                }
                if failure.is_one_tenants() || matches!(failure, Failure::Outdated(_)) {
                    left_alone.note(no);
                }
            }
        }
        Ok(())
    }
}

pub(crate) async fn master_key(conn: &Connection) -> Result<Option<MasterKeyFingerprint>, Failure> {
    let row = conn.query_one(sql::MASTER_KEY_FINGERPRINT, &Schema::admin(), &[]).await?;
    let noted: Option<&[u8]> = Columns::of(&row).take()?;
    let noted = noted.map(<[u8; 16]>::try_from).transpose();
    Ok(noted.map_err(|error| Failure::Stored(error.into()))?.map(MasterKeyFingerprint))
}

/// What stands in a tenant's place, and is not ours to use or to remove.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database has a schema {0} that no tenant owns: rename or drop it, or give the tenant another name"
)]
struct ForeignSchema(Schema);

/// Adds a tenant to the list and makes its tables; its number, or `None` if it is there.
async fn create(conn: &mut Connection, tenant: &Tenant) -> Result<Option<i32>, Failure> {
    let Tenant { schema, name, created_at } = tenant;
    let tx = conn.begin().await?;
    let params: [Param<'_>; 3] = [&schema.as_str(), name, created_at];
    let Some(row) = tx.query_opt(sql::TENANTS_INSERT, schema, &params).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    let no = row.try_get(0)?;
    if let Err(failure) = migrate::create(&tx, schema).await {
        tx.rollback().await?;
        return Err(failure);
    }
    tx.commit().await?;
    Ok(Some(no))
}

async fn by_schema(conn: &Connection, schema: &Schema) -> Result<Option<Tenant>, Failure> {
    let row = conn.query_opt(sql::TENANTS_BY_SCHEMA, schema, &[&schema.as_str()]).await?;
    row.map(|row| tenant(&mut Columns::of(&row))).transpose()
}

async fn list(conn: &Connection, request: &PageRequest) -> Result<Page<Tenant>, Failure> {
    let params: [Param<'_>; 2] = [&before_number(request)?, &limit_of(request)];
    let rows = conn.query(sql::TENANTS_LIST, &Schema::admin(), &params).await?;
    numbered_page(&rows, request, tenant, small)
}

fn tenant(columns: &mut Columns<'_>) -> Result<Tenant, Failure> {
    Ok(Tenant { schema: columns.parsed()?, name: columns.take()?, created_at: columns.time()? })
}
