//! API keys: what each may do, found by the digest of the key.

use neo_events_domain::{
    Timestamp, Uuid,
    api_key::{ApiKey, Scope, Scopes},
    id::ApiKeyId,
    tenant::Schema,
};
use neo_events_store::{ApiKeyQuery, Inserted, KeyDigest, Page, PageRequest};

use crate::{
    columns::Columns,
    conn::{Connection, Param},
    failure::Failure,
    page::{before_number, limit_of, numbered_page, small},
    sql,
};

/// Adds a key to a tenant.
pub(crate) async fn insert(
    conn: &Connection,
    tenant_no: i32,
    key: &ApiKey,
    digest: KeyDigest,
) -> Result<Inserted, Failure> {
    let scopes: Vec<&str> = key.scopes.iter().map(Scope::as_str).collect();
    let params: [Param<'_>; 9] = [
        &key.id.uuid(),
        &digest.0.as_slice(),
        &tenant_no,
        &key.name,
        &key.context_id,
        &scopes,
        &key.created_at,
        &key.expires_at,
        &key.last_used_at,
    ];
    let inserted = conn.execute(sql::API_KEYS_INSERT, &Schema::admin(), &params).await?;
    Ok(if inserted == 1 { Inserted::New } else { Inserted::Exists })
}

/// The key with this digest.
pub(crate) async fn by_digest(conn: &Connection, digest: KeyDigest) -> Result<Option<ApiKey>, Failure> {
    let digest = digest.0.as_slice();
    let row = conn.query_opt(sql::API_KEYS_BY_DIGEST, &Schema::admin(), &[&digest]).await?;
    row.map(|row| api_key(&mut Columns::of(&row))).transpose()
}

/// Keys, newest first.
pub(crate) async fn list(
    conn: &Connection,
    query: &ApiKeyQuery,
    request: &PageRequest,
) -> Result<Page<ApiKey>, Failure> {
    let (before, limit) = (before_number(request)?, limit_of(request));
    let schema = query.schema.as_ref().map(Schema::as_str);
    let mut params: Vec<Param<'_>> = vec![&before, &limit];
    let statement = match &schema {
        None => sql::API_KEYS_LIST,
        Some(schema) => {
            params.push(schema);
            sql::API_KEYS_LIST_BY_SCHEMA
        }
    };
    let rows = conn.query(statement, &Schema::admin(), &params).await?;
    numbered_page(&rows, request, api_key, small)
}

/// Removes a key; `false` if it was not there.
pub(crate) async fn delete(conn: &Connection, id: ApiKeyId) -> Result<bool, Failure> {
    Ok(conn.execute(sql::API_KEYS_DELETE, &Schema::admin(), &[&id.uuid()]).await? == 1)
}

/// Notes when keys were last used.
pub(crate) async fn note_used(conn: &Connection, used: &[(ApiKeyId, Timestamp)]) -> Result<(), Failure> {
    if used.is_empty() {
        return Ok(());
    }
    let (ids, times): (Vec<Uuid>, Vec<Timestamp>) = used.iter().map(|(id, at)| (id.uuid(), *at)).unzip();
    conn.execute(sql::API_KEYS_NOTE_USED, &Schema::admin(), &[&ids, &times]).await?;
    Ok(())
}

fn api_key(columns: &mut Columns<'_>) -> Result<ApiKey, Failure> {
    Ok(ApiKey {
        id: columns.id()?,
        name: columns.take()?,
        schema: columns.parsed()?,
        context_id: columns.take()?,
        scopes: scopes(&columns.take::<Vec<&str>>()?)?,
        created_at: columns.time()?,
        expires_at: columns.take()?,
        last_used_at: columns.take()?,
    })
}

fn scopes(names: &[&str]) -> Result<Scopes, Failure> {
    let scope = |name: &&str| name.parse::<Scope>().map_err(|error| Failure::Stored(error.into()));
    names.iter().map(scope).collect()
}
