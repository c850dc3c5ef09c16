//! Query parameters: each is asked for by name, and what nobody asked for is refused, as is a value of the wrong form.
//! A filter that is misspelt would otherwise answer with everything.

use std::{borrow::Cow, convert::Infallible, str::FromStr};

use axum::extract::FromRequestParts;
use http::{Uri, request::Parts};
use neo_events::{Cursor, PageRequest, TimeRange, Timestamp, Uuid};
use url::form_urlencoded;

use crate::problem::Refusal;

/// Items of a page unless the caller says otherwise.
const LIMIT_DEFAULT: u32 = 100;
/// Most items of a page.
const LIMIT_MAX: u32 = 1000;

const UUID: &str = "a UUID";
const BOOLEAN: &str = "true or false";
const TIME: &str = "an RFC 3339 time such as 2026-11-21T12:00:00Z (a + in it is written %2B)";

/// The parameters that nobody has asked for yet.
pub(super) struct Query(Vec<(String, String)>);

/// There are none, and there must be none.
pub(super) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self(pairs.into_owned().collect()))
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
        let Some(position) = self.0.iter().position(|(given, _)| given == name) else { return Ok(None) };
        let (_, text) = self.0.remove(position);
        if self.0.iter().any(|(given, _)| given == name) {
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

    /// `from` and `to`.
    pub(super) fn take_range(&mut self) -> Result<TimeRange, Refusal> {
        let from: Option<Timestamp> = self.take("from", TIME)?;
        let to: Option<Timestamp> = self.take("to", TIME)?;
        Ok(TimeRange { from, to })
    }

    /// `limit`, 1…1000, 100 if absent.
    pub(super) fn take_limit(&mut self) -> Result<u32, Refusal> {
        let limit = self.take::<u32>("limit", "between 1 and 1000")?.unwrap_or(LIMIT_DEFAULT);
        if (1..=LIMIT_MAX).contains(&limit) {
            return Ok(limit);
        }
        Err(Refusal::invalid_parameter("limit", "between 1 and 1000"))
    }

    /// `limit` and `cursor`.
    pub(super) fn take_page(&mut self) -> Result<PageRequest, Refusal> {
        let limit = self.take_limit()?;
        let cursor = self.take_text("cursor")?.map(Cursor::new);
        Ok(PageRequest { limit, cursor })
    }

    /// Refuses what nobody asked for.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::unknown_parameter(&shortened(name))),
        }
    }
}

/// A name that goes into an answer.
fn shortened(name: &str) -> Cow<'_, str> {
    const CHARS_MAX: usize = 100;
    match name.char_indices().nth(CHARS_MAX) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
    }
}
