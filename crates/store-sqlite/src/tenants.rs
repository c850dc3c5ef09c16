//! The list of tenants, the keys to them, and which master key is in use: rows of the admin file.

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
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    api_keys,
    columns::{Columns, Micros},
    failure::Failure,
    page::{Span, keys, limit_of, page, small},
    sql,
    store::SqliteStore,
};

#[async_trait]
impl Tenants for SqliteStore {
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Inserted, StoreError> {
        self.create(tenant).await
    }

    async fn tenant(&self, schema: &Schema) -> Result<Option<Tenant>, StoreError> {
        let schema = schema.clone();
        self.admin().look_up(move |conn| by_schema(conn, &schema)).await
    }

    async fn tenants(&self, request: PageRequest) -> Result<Page<Tenant>, StoreError> {
        self.admin().read(move |conn| list(conn, &request)).await
    }

    async fn insert_api_key(&self, key: &ApiKey, digest: KeyDigest) -> Result<Inserted, StoreError> {
        let key = key.clone();
        self.admin().write(move |conn: &Connection| api_keys::insert(conn, &key, digest)).await
    }

    async fn api_key(&self, digest: KeyDigest) -> Result<Option<ApiKey>, StoreError> {
        self.admin().look_up(move |conn| api_keys::by_digest(conn, digest)).await
    }

    async fn api_keys(&self, query: &ApiKeyQuery, request: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let query = query.clone();
        self.admin().read(move |conn| api_keys::list(conn, &query, &request)).await
    }

    async fn delete_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        self.admin().write(move |conn: &Connection| api_keys::delete(conn, id)).await
    }

    async fn note_key_usage(&self, used: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreError> {
        let used = used.to_vec();
        let note =
            move |conn: &Connection| used.iter().try_for_each(|(id, at)| api_keys::note_used(conn, *id, *at));
        self.admin().write(note).await
    }

    async fn master_key(&self) -> Result<Option<MasterKeyFingerprint>, StoreError> {
        self.admin().look_up(master_key).await
    }

    async fn note_master_key(
        &self,
        known: Option<MasterKeyFingerprint>,
        fingerprint: MasterKeyFingerprint,
    ) -> Result<bool, StoreError> {
        self.admin().write(move |conn: &Connection| note_master_key(conn, known, fingerprint)).await
    }
}

fn master_key(conn: &Connection) -> Result<Option<MasterKeyFingerprint>, Failure> {
    let mut statement = conn.prepare_cached(sql::MASTER_KEY_FINGERPRINT)?;
    let noted: Option<[u8; 16]> = statement.query_row([], |row| row.get(0))?;
    Ok(noted.map(MasterKeyFingerprint))
}

fn note_master_key(
    conn: &Connection,
    known: Option<MasterKeyFingerprint>,
    fingerprint: MasterKeyFingerprint,
) -> Result<bool, Failure> {
    let noted = params![known.map(|known| known.0), fingerprint.0];
    Ok(conn.prepare_cached(sql::MASTER_KEY_NOTE)?.execute(noted)? == 1)
}

/// Adds `admin` to a list that does not have it yet.
pub(crate) fn insert_admin(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached(sql::TENANTS_INSERT_ADMIN)?.execute([])?;
    Ok(())
}

/// Adds a tenant whose file is there.
pub(crate) fn insert(conn: &Connection, tenant: &Tenant) -> Result<Inserted, Failure> {
    let inserted = conn.prepare_cached(sql::TENANTS_INSERT)?.execute(params![
        tenant.schema.as_str(),
        tenant.name,
        Micros::from(tenant.created_at)
    ])?;
    Ok(if inserted == 1 { Inserted::New } else { Inserted::Exists })
}

/// Every schema of the list.
pub(crate) fn schemas(conn: &Connection) -> rusqlite::Result<Vec<Schema>> {
    let mut statement = conn.prepare_cached(sql::TENANTS_SCHEMAS)?;
    statement.query_map([], |row| Columns::of(row).parsed())?.collect()
}

/// One tenant.
pub(crate) fn by_schema(conn: &Connection, schema: &Schema) -> Result<Option<Tenant>, Failure> {
    let mut statement = conn.prepare_cached(sql::TENANTS_BY_SCHEMA)?;
    Ok(statement.query_row([schema.as_str()], tenant).optional()?)
}

fn by_no(conn: &Connection, no: i64) -> Result<Option<Tenant>, Failure> {
    Ok(conn.prepare_cached(sql::TENANTS_BY_NO)?.query_row([no], tenant).optional()?)
}

fn list(conn: &Connection, request: &PageRequest) -> Result<Page<Tenant>, Failure> {
    let span = Span::ALL.continued(request.cursor.as_ref())?;
    let nos = keys(conn, sql::TENANTS_LIST, &[(":before", &span.before), (":limit", &limit_of(request))])?;
    page(&nos, request, |no| by_no(conn, no), small)
}

fn tenant(row: &Row<'_>) -> rusqlite::Result<Tenant> {
    let mut columns = Columns::of(row);
    Ok(Tenant { schema: columns.parsed()?, name: columns.take()?, created_at: columns.time()? })
}
