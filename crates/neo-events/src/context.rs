//! A tenant's handle that is bound to a context, and what that changes: it sees and writes that context's rows alone.
//!
//! This is the only place that decides by context who sees what; the other modules of the handle ask it. Events,
//! endpoints and subscriptions carry their context; a delivery has its endpoint's, also once that is deleted. What is
//! another's, or nobody's in particular, is missing: it is answered as if it were not there. The catalogue of event
//! types is the whole tenant's.
//!
//! The heads of streams have no context, so an aggregate counts as a context's own if it has an event there. To others
//! its version is not told, but a guarded publish to it is refused all the same, and so is one that numbers its event
//! itself: it would change which version is the newest.

use neo_events_domain::{
    Uuid,
    event::{NewEvent, VersionRule},
    violation::{Rule, Violations},
};
use neo_events_store::{EventQuery, Page, PageRequest};
use neo_events_store_sqlite::rusqlite;

use crate::{Error, Tenant};

/// The caller asked for the rows of another context, of which it sees none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherContext;

impl Tenant {
    /// A handle that sees and writes this context's rows alone. One that is bound already is bound anew.
    #[must_use]
    pub fn in_context(&self, context_id: Uuid) -> Self {
        Self { context_id: Some(context_id), ..self.clone() }
    }

    /// The context that it is bound to.
    pub const fn context_id(&self) -> Option<Uuid> {
        self.context_id
    }

    /// Whether a row of this context is there for the caller.
    pub(crate) fn sees(&self, context_id: Option<Uuid>) -> bool {
        self.context_id.is_none() || self.context_id == context_id
    }

    /// The context of a list, given the one that was asked for.
    pub(crate) fn listed_context(&self, asked: Option<Uuid>) -> Result<Option<Uuid>, OtherContext> {
        match (self.context_id, asked) {
            (Some(ours), Some(asked)) if ours != asked => Err(OtherContext),
            (ours, asked) => Ok(ours.or(asked)),
        }
    }

    /// The context of a new row, given the one that was written.
    pub(crate) fn written_context(&self, given: Option<Uuid>) -> Result<Option<Uuid>, Violations> {
        let differs = Rule::Conflict("differs from the context that the caller is bound to");
        self.listed_context(given).map_err(|OtherContext| Violations::one("/context_id", differs))
    }

    /// Refuses an event whose version its publisher gave, where that is another's to count.
    pub(crate) async fn judge_version(&self, event: &NewEvent) -> Result<(), Error> {
        let Some(aggregate) = self.numbered_by_the_caller(event) else { return Ok(()) };
        if self.sees_aggregate(aggregate).await? || !self.has_events(&anybodys(aggregate)).await? {
            return Ok(());
        }
        Err(anothers_aggregate())
    }

    /// The same in the caller's own transaction.
    pub(crate) fn judge_version_in(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        event: &NewEvent,
    ) -> Result<(), Error> {
        let Some(aggregate) = self.numbered_by_the_caller(event) else { return Ok(()) };
        let sees_it = self.sees_aggregate_in(transaction, aggregate)?;
        if sees_it || !self.has_events_in(transaction, &anybodys(aggregate))? {
            return Ok(());
        }
        Err(anothers_aggregate())
    }

    /// The aggregate of which a caller that is bound to a context says the version. The first is nobody's news.
    fn numbered_by_the_caller<'a>(&self, event: &'a NewEvent) -> Option<(&'a str, Uuid)> {
        let is_numbered = matches!(event.version, VersionRule::Given(version) if version > 1);
        let aggregate = (event.aggregate_type_or_default(), event.aggregate_id_or_default());
        (self.context_id.is_some() && is_numbered).then_some(aggregate)
    }

    /// Whether an aggregate has an event that is there for the caller.
    pub(crate) async fn sees_aggregate(&self, aggregate: (&str, Uuid)) -> Result<bool, Error> {
        Ok(self.context_id.is_none() || self.has_events(&self.events_of(aggregate)).await?)
    }

    async fn has_events(&self, query: &EventQuery) -> Result<bool, Error> {
        let found = self.store().events(&self.schema, query, PageRequest::first(1)).await?;
        Ok(!found.items.is_empty())
    }

    /// The same in the caller's own transaction.
    pub(crate) fn sees_aggregate_in(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        aggregate: (&str, Uuid),
    ) -> Result<bool, Error> {
        Ok(self.context_id.is_none() || self.has_events_in(transaction, &self.events_of(aggregate))?)
    }

    fn has_events_in(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        query: &EventQuery,
    ) -> Result<bool, Error> {
        Ok(self.shared.backend.sqlite()?.has_events_in(&self.schema, transaction, query)?)
    }

    fn events_of(&self, aggregate: (&str, Uuid)) -> EventQuery {
        EventQuery { context_id: self.context_id, ..anybodys(aggregate) }
    }
}

/// The events of an aggregate, whatever their context.
fn anybodys((aggregate_type, aggregate_id): (&str, Uuid)) -> EventQuery {
    EventQuery {
        aggregate_type: Some(aggregate_type.to_owned()),
        aggregate_id: Some(aggregate_id),
        ..EventQuery::default()
    }
}

/// What is told of an aggregate that has no event there for the caller.
pub(crate) fn anothers_aggregate() -> Error {
    let another = Rule::Conflict("names an aggregate of another context");
    Violations::one("/aggregate_id", another).into()
}

/// A list of nothing.
pub(crate) const fn no_rows<T>() -> Page<T> {
    Page { items: Vec::new(), next: None }
}
