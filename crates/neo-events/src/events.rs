//! Reading events.

use neo_events_domain::{
    Uuid,
    event::normalise_aggregate_type,
    id::EventId,
    violation::{Rule, Violations},
};
use neo_events_store::{AggregateQuery, EventQuery, Page, PageRequest, StoredEvent};

use crate::{BATCH_EVENTS_MAX, Error, Tenant, context::no_rows};

impl Tenant {
    /// One event.
    pub async fn event(&self, id: EventId) -> Result<StoredEvent, Error> {
        let stored = self.store().event(&self.schema, id).await?;
        stored.filter(|stored| self.sees(stored.event.context_id)).ok_or(Error::NotFound("event"))
    }

    /// Events, newest first.
    pub async fn events(&self, query: &EventQuery, page: PageRequest) -> Result<Page<StoredEvent>, Error> {
        let Ok(context_id) = self.listed_context(query.context_id) else { return Ok(no_rows()) };
        let query = EventQuery { context_id, ..query.clone() };
        Ok(self.store().events(&self.schema, &query, page).await?)
    }

    /// All events of a query, page by page, newest first, in memory for one page.
    pub fn event_pages(&self, query: EventQuery, events_per_page: u32) -> EventPages {
        EventPages { tenant: self.clone(), query, next: Some(PageRequest::first(events_per_page)) }
    }

    /// How many events a query has.
    pub async fn count_events(&self, query: &EventQuery) -> Result<u64, Error> {
        let Ok(context_id) = self.listed_context(query.context_id) else { return Ok(0) };
        let query = EventQuery { context_id, ..query.clone() };
        Ok(self.store().count_events(&self.schema, &query).await?)
    }

    /// An aggregate's events after a version, by version ascending, and those of equal versions as they were stored.
    pub async fn aggregate_events(
        &self,
        aggregate_type: &str,
        aggregate_id: Uuid,
        after_version: u32,
        page: PageRequest,
    ) -> Result<Page<StoredEvent>, Error> {
        let query = AggregateQuery {
            aggregate_type: normalised(aggregate_type)?,
            aggregate_id,
            after_version,
            context_id: self.context_id,
        };
        Ok(self.store().aggregate_events(&self.schema, &query, page).await?)
    }

    /// The version that an aggregate's next event gets; 1 if the caller sees none of its events.
    pub async fn next_version(&self, aggregate_type: &str, aggregate_id: Uuid) -> Result<u32, Error> {
        let aggregate_type = normalised(aggregate_type)?;
        let aggregate = (aggregate_type.as_str(), aggregate_id);
        if !self.sees_aggregate(aggregate).await? {
            return Ok(1);
        }
        Ok(self.store().newest_version(&self.schema, aggregate).await? + 1)
    }

    /// Ends the owed dispatch of these events, at most [`BATCH_EVENTS_MAX`], without delivering them. Answers how many
    /// were owed.
    pub async fn mark_processed(&self, ids: &[EventId]) -> Result<u64, Error> {
        if ids.len() > BATCH_EVENTS_MAX {
            let rule = Rule::TooMany { actual: ids.len(), max: BATCH_EVENTS_MAX, unit: "events" };
            return Err(Violations::one("/ids", rule).into());
        }
        let mut seen = Vec::with_capacity(ids.len());
        for id in ids {
            let found = if self.context_id.is_some() { self.event(*id).await.map(drop) } else { Ok(()) };
            match found {
                Err(Error::NotFound(_)) => {}
                found => seen.push(found.map(|()| *id)?),
            }
        }
        Ok(self.store().mark_processed(&self.schema, &seen, self.sources().now()).await?)
    }
}

fn normalised(aggregate_type: &str) -> Result<String, Violations> {
    normalise_aggregate_type(aggregate_type).map_err(|rule| Violations::one("/aggregate_type", rule))
}

/// Pages of events; see [`Tenant::event_pages`].
pub struct EventPages {
    tenant: Tenant,
    query: EventQuery,
    next: Option<PageRequest>,
}

impl EventPages {
    /// The next page; `None` after the last. Where the call fails, or its future is dropped, the next call asks for the
    /// same page again.
    pub async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>, Error> {
        let Some(request) = self.next.clone() else { return Ok(None) };
        let limit = request.limit;
        let page = self.tenant.events(&self.query, request).await?;
        self.next = page.next.map(|cursor| PageRequest { limit, cursor: Some(cursor) });
        Ok(Some(page.items))
    }
}
