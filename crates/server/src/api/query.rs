//! Query parameters: each is asked for by name, and what nobody asked for is refused, as is a value of the wrong form.
//! A filter that is misspelt would otherwise answer with everything.
//!
//! A cursor is a row's key in the store. What callers get has a tag in front that binds it to its list, to its filters,
//! and to the tenant and context of whoever asked: anywhere else it would silently answer with another part of another
//! list. A key that was cut or changed does not fit its tag either, and would look like the end. The tag is no secret. It keeps nobody out, since a cursor says where to go on, not what may be seen.

use std::{convert::Infallible, str::FromStr};

use axum::extract::FromRequestParts;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Uri, request::Parts};
use neo_events::{
    Cursor, Page, PageRequest, Schema, Tenant, TimeRange, Timestamp, Uuid,
    domain::{time, violation::shortened},
};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::{
    problem::{Refusal, TENANT_FORM},
    wire::List,
};

/// Items of a page unless the caller says otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// Most items of a page.
const LIMIT_MAX: u32 = 1000;

/// Bytes of a cursor's tag, and characters of their base64.
const TAG_BYTES: usize = 9;
const TAG_CHARS: usize = TAG_BYTES / 3 * 4;

const UUID: &str = "a UUID";
const BOOLEAN: &str = "true or false";
const TIME: &str = "an RFC 3339 time such as 2026-11-21T12:00:00Z (a + in it is written %2B)";

/// The parameters that nobody has asked for yet.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    cursor_tag: CursorTag,
}

/// Binds cursors to one list as one caller asked for it.
pub(super) struct CursorTag(Sha256);

/// There are none, and there must be none.
pub(super) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let pairs: Vec<_> = pairs.into_owned().collect();
        let cursor_tag = CursorTag::new(parts.uri.path(), parts.extensions.get(), &pairs);
        Ok(Self { pairs, cursor_tag })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        judge_absence(&parts.uri).map(|()| Self)
    }
}

/// Refuses the first parameter by name.
pub(super) fn judge_absence(uri: &Uri) -> Result<(), Refusal> {
    let parameter = uri.query().and_then(|query| form_urlencoded::parse(query.as_bytes()).next());
    match parameter {
        None => Ok(()),
        Some((name, _)) => Err(Refusal::unknown_parameter(&shortened(&name))),
    }
}

impl Query {
    /// The parameter, if it is there; `expected` says what it must be.
    pub(super) fn take<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.take_text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Refusal::invalid_parameter(name, expected))
    }

    /// The parameter as it stands.
    pub(super) fn take_text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(position) = self.pairs.iter().position(|(given, _)| given == name) else { return Ok(None) };
        let (_, text) = self.pairs.remove(position);
        if self.pairs.iter().any(|(given, _)| given == name) {
            return Err(Refusal::repeated_parameter(name));
        }
        Ok(Some(text))
    }

    pub(super) fn take_uuid(&mut self, name: &str) -> Result<Option<Uuid>, Refusal> {
        self.take(name, UUID)
    }

    pub(super) fn take_bool(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        self.take(name, BOOLEAN)
    }

    /// A tenant, named as in `X-Neo-Tenant-ID`.
    pub(super) fn take_tenant(&mut self, name: &str) -> Result<Option<Schema>, Refusal> {
        let Some(text) = self.take_text(name)? else { return Ok(None) };
        let schema = Schema::from_tenant_header(&text);
        schema.map(Some).map_err(|_| Refusal::invalid_parameter(name, TENANT_FORM))
    }

    /// `from` and `to`.
    pub(super) fn take_range(&mut self) -> Result<TimeRange, Refusal> {
        Ok(TimeRange { from: self.take_time("from")?, to: self.take_time("to")? })
    }

    fn take_time(&mut self, name: &str) -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = self.take_text(name)? else { return Ok(None) };
        time::parse(&text).map(Some).map_err(|_| Refusal::invalid_parameter(name, TIME))
    }

    /// The parameters of a list that another answer also has cursors of.
    pub(super) fn of_list(self, list: CursorTag) -> Self {
        Self { cursor_tag: list, ..self }
    }

    /// `limit`, 1…1000, 100 if absent.
    fn take_limit(&mut self) -> Result<u32, Refusal> {
        let limit = self.take::<u32>("limit", "between 1 and 1000")?.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            return Ok(limit);
        }
        Err(Refusal::invalid_parameter("limit", "between 1 and 1000"))
    }

    /// `limit` and `cursor`, the last parameters of a list: refuses what nobody asked for.
    pub(super) fn end_with_page(mut self) -> Result<(PageRequest, CursorTag), Refusal> {
        let limit = self.take_limit()?;
        let cursor = self.take_text("cursor")?;
        if let Some((name, _)) = self.pairs.first() {
            return Err(Refusal::unknown_parameter(&shortened(name)));
        }
        let cursor = cursor.map(|text| self.cursor_tag.take_back(&text)).transpose()?;
        Ok((PageRequest { limit, cursor }, self.cursor_tag))
    }

    /// Refuses what nobody asked for.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::unknown_parameter(&shortened(name))),
        }
    }
}

impl CursorTag {
    /// Of a list without filters.
    pub(super) fn of(path: &str, tenant: &Tenant) -> Self {
        Self::new(path, Some(tenant), &[])
    }

    fn new(path: &str, tenant: Option<&Tenant>, pairs: &[(String, String)]) -> Self {
        let mut filters: Vec<_> =
            pairs.iter().filter(|(name, _)| !matches!(name.as_str(), "limit" | "cursor")).collect();
        filters.sort();
        let schema = tenant.map(|tenant| tenant.schema().as_str()).unwrap_or_default();
        let context_id = tenant.and_then(Tenant::context_id).map(|id| id.to_string()).unwrap_or_default();
        let mut parts = vec![path, schema, &context_id];
        parts.extend(filters.into_iter().flat_map(|(name, value)| [name.as_str(), value]));
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that two lists of parts never read the same.
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Self(hash)
    }

    fn of_key(&self, key: &str) -> String {
        URL_SAFE_NO_PAD.encode(&self.0.clone().chain_update(key).finalize()[..TAG_BYTES])
    }

    fn take_back(&self, text: &str) -> Result<Cursor, Refusal> {
        match text.split_at_checked(TAG_CHARS) {
            Some((tag, key)) if tag == self.of_key(key) => Ok(Cursor::new(key)),
            _ => Err(Refusal::foreign_cursor()),
        }
    }

    /// A cursor as it is answered.
    pub(super) fn hand_out(&self, cursor: &Cursor) -> String {
        format!("{}{}", self.of_key(cursor.as_str()), cursor.as_str())
    }

    /// A page as it is answered.
    pub(super) fn list<T: From<D>, D>(&self, page: Page<D>) -> List<T> {
        List::of(page, |cursor| self.hand_out(&cursor))
    }
}
