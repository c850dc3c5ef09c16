//! API keys: what each may do, found by the digest of the key.

use neo_events_domain::{
    Timestamp,
    api_key::{ApiKey, Scope, Scopes, UnknownScope},
    id::ApiKeyId,
};
use neo_events_store::{ApiKeyQuery, Inserted, KeyDigest, Page, PageRequest};
use rusqlite::{Connection, OptionalExtension, Row, ToSql};

use crate::{
    columns::{Columns, Micros, key, optional_key, optional_micros},
    failure::Failure,
    page::{Named, Span, bind, keys, limit_of, page, small},
    sql, tenants,
};

/// Adds a key to a tenant that is there.
pub(crate) fn insert(conn: &Connection, of: &ApiKey, digest: KeyDigest) -> Result<Inserted, Failure> {
    if tenants::by_schema(conn, &of.schema)?.is_none() {
        return Err(Failure::Schema(of.schema.clone()));
    }
    let parameters: [Named<'_>; 9] = [
        (":id", &key(of.id)),
        (":digest", &digest.0),
        (":name", &of.name),
        (":schema", &of.schema.as_str()),
        (":context_id", &optional_key(of.context_id)),
        (":scopes", &of.scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")),
        (":created_at", &Micros::from(of.created_at)),
        (":expires_at", &optional_micros(of.expires_at)),
        (":last_used_at", &optional_micros(of.last_used_at)),
    ];
    let mut statement = conn.prepare_cached(sql::API_KEYS_INSERT)?;
    bind(&mut statement, &parameters)?;
    Ok(if statement.raw_execute()? == 1 { Inserted::New } else { Inserted::Exists })
}

/// The key with this digest.
pub(crate) fn by_digest(conn: &Connection, digest: KeyDigest) -> Result<Option<ApiKey>, Failure> {
    Ok(conn.prepare_cached(sql::API_KEYS_BY_DIGEST)?.query_row([digest.0], api_key).optional()?)
}

fn by_no(conn: &Connection, no: i64) -> Result<Option<ApiKey>, Failure> {
    Ok(conn.prepare_cached(sql::API_KEYS_BY_NO)?.query_row([no], api_key).optional()?)
}

pub(crate) fn list(
    conn: &Connection,
    query: &ApiKeyQuery,
    request: &PageRequest,
) -> Result<Page<ApiKey>, Failure> {
    let span = Span::ALL.continued(request.cursor.as_ref())?;
    let schema = query.schema.as_ref().map(ToString::to_string);
    let statement = if schema.is_some() { sql::API_KEYS_LIST_BY_SCHEMA } else { sql::API_KEYS_LIST };
    let parameters: [Named<'_>; 3] =
        [(":before", &span.before), (":limit", &limit_of(request)), (":schema", &schema)];
    let nos = keys(conn, statement, &parameters)?;
    page(&nos, request, |no| by_no(conn, no), small)
}

/// Removes a key; `false` if it was not there.
pub(crate) fn delete(conn: &Connection, id: ApiKeyId) -> Result<bool, Failure> {
    Ok(conn.prepare_cached(sql::API_KEYS_DELETE)?.execute([key(id)])? == 1)
}

/// Notes when it was last used.
pub(crate) fn note_used(conn: &Connection, id: ApiKeyId, at: Timestamp) -> Result<(), Failure> {
    let parameters: [&dyn ToSql; 2] = [&key(id), &Micros::from(at)];
    conn.prepare_cached(sql::API_KEYS_NOTE_USED)?.execute(parameters)?;
    Ok(())
}

fn api_key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    let mut columns = Columns::of(row);
    Ok(ApiKey {
        id: columns.id()?,
        name: columns.take()?,
        schema: columns.parsed()?,
        context_id: columns.optional_uuid()?,
        scopes: columns.text(scopes)?,
        created_at: columns.time()?,
        expires_at: columns.optional_time()?,
        last_used_at: columns.optional_time()?,
    })
}

fn scopes(names: &str) -> Result<Scopes, UnknownScope> {
    names.split_terminator(' ').map(str::parse::<Scope>).collect()
}
