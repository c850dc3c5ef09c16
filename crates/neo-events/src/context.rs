//! A tenant's handle that is bound to a context, and what that changes: it sees and writes that context's rows alone.
//!
//! This is the only place that decides by context who sees what; the other modules of the handle ask it. Events,
//! endpoints and subscriptions carry their context; a delivery has its endpoint's, also once that is deleted. What is
//! another's, or nobody's in particular, is missing: it is answered as if it were not there. The catalogue of event
//! types is the whole tenant's.
//!
//! The heads of streams have no context, so an aggregate counts as a context's own if it has an event there. To others
//! its version is not told, and what they publish to it is refused: it would change which version is the newest, and
//! make the aggregate theirs. Two contexts that begin an aggregate in the same moment both have it.

use neo_events_domain::{
    Uuid,
    event::NewEvent,
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

    /// Of each event, whether it is of another context's aggregate; nothing if there is none to ask about.
    pub(crate) async fn are_of_others(&self, events: &[NewEvent]) -> Result<Vec<bool>, Error> {
        let Some((named, context_id)) = self.to_be_judged(events) else { return Ok(Vec::new()) };
        let belong = self.store().belong_to_others(&self.schema, &named, context_id).await?;
        Ok(of_each(events, &named, &belong))
    }

    /// The same in the caller's own transaction.
    pub(crate) fn are_of_others_in(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        events: &[NewEvent],
    ) -> Result<Vec<bool>, Error> {
        let Some((named, context_id)) = self.to_be_judged(events) else { return Ok(Vec::new()) };
        let store = self.shared.backend.sqlite()?;
        let belong = store.belong_to_others_in(&self.schema, transaction, &named, context_id)?;
        Ok(of_each(events, &named, &belong))
    }

    /// The aggregates of events, each once in order, and the caller's context; `None` if it is bound to none. One that is
    /// named after its event is somebody else's only if the event's id was chosen.
    fn to_be_judged(&self, events: &[NewEvent]) -> Option<(Vec<(String, Uuid)>, Uuid)> {
        let context_id = self.context_id?;
        let named = events.iter().filter(|event| event.aggregate_id.is_some() || event.id_is_given);
        let mut named: Vec<_> = named.map(aggregate_of).collect();
        named.sort_unstable();
        named.dedup();
        (!named.is_empty()).then_some((named, context_id))
    }

    /// Whether an aggregate has an event that is there for the caller.
    pub(crate) async fn sees_aggregate(&self, aggregate: (&str, Uuid)) -> Result<bool, Error> {
        if self.context_id.is_none() {
            return Ok(true);
        }
        let query = self.events_of(aggregate);
        let found = self.store().events(&self.schema, &query, PageRequest::first(1)).await?;
        Ok(!found.items.is_empty())
    }

    /// The same in the caller's own transaction.
    pub(crate) fn sees_aggregate_in(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        aggregate: (&str, Uuid),
    ) -> Result<bool, Error> {
        if self.context_id.is_none() {
            return Ok(true);
        }
        let query = self.events_of(aggregate);
        Ok(self.shared.backend.sqlite()?.has_events_in(&self.schema, transaction, &query)?)
    }

    fn events_of(&self, (aggregate_type, aggregate_id): (&str, Uuid)) -> EventQuery {
        EventQuery {
            aggregate_type: Some(aggregate_type.to_owned()),
            aggregate_id: Some(aggregate_id),
            context_id: self.context_id,
            ..EventQuery::default()
        }
    }
}

fn aggregate_of(event: &NewEvent) -> (String, Uuid) {
    (event.aggregate_type_or_default().to_owned(), event.aggregate_id_or_default())
}

/// What is so of the aggregates, in their order, for each event.
fn of_each(events: &[NewEvent], aggregates: &[(String, Uuid)], are: &[bool]) -> Vec<bool> {
    let of = |event: &NewEvent| {
        let found = aggregates.binary_search(&aggregate_of(event)).ok();
        found.and_then(|place| are.get(place).copied()).unwrap_or(false)
    };
    events.iter().map(of).collect()
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
