//! The catalogue of event types. It is the whole tenant's: a handle that is bound to a context reads it, no more.

use neo_events_domain::{
    catalogue::{EventTypeDraft, EventTypeEntry, EventTypePatch},
    event_type::EventType,
};
use neo_events_store::{EventTypeQuery, Inserted, Page, PageRequest, Updated};

use crate::{Conflict, Error, Tenant, endpoints::UPDATE_TRIES_MAX};

impl Tenant {
    /// Adds an entry.
    pub async fn create_event_type(&self, draft: EventTypeDraft) -> Result<EventTypeEntry, Error> {
        self.judge_catalogue_change()?;
        let entry = draft.validate(self.sources().new_id(), self.sources().now())?;
        match self.store().insert_event_type(&self.schema, &entry).await? {
            Inserted::New => Ok(entry),
            Inserted::Exists | Inserted::EndpointMissing | Inserted::TypeDisabled => {
                Err(Conflict::Exists.into())
            }
        }
    }

    /// The entry of a type.
    pub async fn event_type(&self, event_type: &EventType) -> Result<EventTypeEntry, Error> {
        self.store().event_type(&self.schema, event_type).await?.ok_or(Error::NotFound("event type"))
    }

    /// Entries, newest first.
    pub async fn event_types(
        &self,
        query: &EventTypeQuery,
        page: PageRequest,
    ) -> Result<Page<EventTypeEntry>, Error> {
        Ok(self.store().event_types(&self.schema, query, page).await?)
    }

    /// The categories of all entries, sorted.
    pub async fn categories(&self) -> Result<Vec<String>, Error> {
        Ok(self.store().categories(&self.schema).await?)
    }

    /// Changes an entry; enabling and disabling are changes of `is_enabled`.
    pub async fn update_event_type(
        &self,
        of: &EventType,
        patch: EventTypePatch,
    ) -> Result<EventTypeEntry, Error> {
        self.judge_catalogue_change()?;
        for _ in 0..UPDATE_TRIES_MAX {
            let entry = self.event_type(of).await?.patched(patch.clone(), self.sources().now())?;
            match self.store().update_event_type(&self.schema, &entry).await? {
                Updated::Written => return Ok(entry),
                Updated::Stale | Updated::TypeDisabled => {}
                Updated::Missing => return Err(Error::NotFound("event type")),
            }
        }
        Err(Conflict::Contended.into())
    }

    /// Removes an entry. Events and subscriptions of the type stay.
    pub async fn delete_event_type(&self, event_type: &EventType) -> Result<(), Error> {
        self.judge_catalogue_change()?;
        let was_there = self.store().delete_event_type(&self.schema, event_type).await?;
        if was_there { Ok(()) } else { Err(Error::NotFound("event type")) }
    }

    fn judge_catalogue_change(&self) -> Result<(), Error> {
        if self.context_id.is_some() { Err(Error::BeyondContext("event types")) } else { Ok(()) }
    }
}
