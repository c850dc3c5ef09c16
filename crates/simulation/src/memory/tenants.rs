//! Tenants, and the keys to them.

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

use super::{MemoryStore, page::page, tables::KeyRow};

#[async_trait]
impl Tenants for MemoryStore {
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Inserted, StoreError> {
        let mut database = self.database();
        if database.tenants.contains_key(&tenant.schema) {
            return Ok(Inserted::Exists);
        }
        database.add_tenant(tenant.clone());
        Ok(Inserted::New)
    }

    async fn tenant(&self, schema: &Schema) -> Result<Option<Tenant>, StoreError> {
        Ok(self.database().tenants.get(schema).map(|tables| tables.tenant.clone()))
    }

    async fn tenants(&self, request: PageRequest) -> Result<Page<Tenant>, StoreError> {
        let database = self.database();
        let mut rows: Vec<_> = database.tenants.values().collect();
        rows.sort_unstable_by_key(|tables| std::cmp::Reverse(tables.no));
        page(rows.into_iter().map(|tables| (tables.no, tables.tenant.clone())), &request)
    }

    async fn insert_api_key(&self, key: &ApiKey, digest: KeyDigest) -> Result<Inserted, StoreError> {
        let mut database = self.database();
        database.of(&key.schema)?;
        if database.keys.iter().any(|row| row.key.id == key.id || row.digest == digest) {
            return Ok(Inserted::Exists);
        }
        let no = database.number();
        database.keys.push(KeyRow { no, key: key.clone(), digest });
        Ok(Inserted::New)
    }

    async fn api_key(&self, digest: KeyDigest) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.database().keys.iter().find(|row| row.digest == digest).map(|row| row.key.clone()))
    }

    async fn api_keys(&self, query: &ApiKeyQuery, request: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let database = self.database();
        let of_tenant = |row: &&KeyRow| query.schema.as_ref().is_none_or(|schema| *schema == row.key.schema);
        let rows = database.keys.iter().rev().filter(of_tenant);
        page(rows.map(|row| (row.no, row.key.clone())), &request)
    }

    async fn delete_api_key(&self, id: ApiKeyId) -> Result<bool, StoreError> {
        let keys = &mut self.database().keys;
        let before = keys.len();
        keys.retain(|row| row.key.id != id);
        Ok(keys.len() < before)
    }

    async fn note_key_usage(&self, used: &[(ApiKeyId, Timestamp)]) -> Result<(), StoreError> {
        let mut database = self.database();
        for (id, at) in used {
            for row in database.keys.iter_mut().filter(|row| row.key.id == *id) {
                row.key.last_used_at = row.key.last_used_at.max(Some(*at));
            }
        }
        Ok(())
    }

    async fn master_key(&self) -> Result<Option<MasterKeyFingerprint>, StoreError> {
        Ok(self.database().master_key)
    }

    async fn note_master_key(
        &self,
        known: Option<MasterKeyFingerprint>,
        fingerprint: MasterKeyFingerprint,
    ) -> Result<bool, StoreError> {
        let noted = &mut self.database().master_key;
        let is_known = *noted == known;
        if is_known {
            *noted = Some(fingerprint);
        }
        Ok(is_known)
    }
}
