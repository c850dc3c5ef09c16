//! Publishing: one event, many, or inside the caller's own transaction.

use neo_events_domain::{
    Timestamp, Uuid,
    event::{EventDraft, NewEvent},
    event_type::EventType,
    id::EventId,
    violation::{Rule, Violations},
};
use neo_events_store::{Appended, StoreError};
use neo_events_store_sqlite::rusqlite;

use crate::{Conflict, Error, Tenant, context::anothers_aggregate};

/// Most events in one batch.
pub const BATCH_EVENTS_MAX: usize = 1000;
/// Most bytes of one batch: of its types, names, data and metadata together.
pub const BATCH_BYTES_MAX: usize = 10 * 1024 * 1024;

/// A durable event.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Given, or made.
    pub id: EventId,
    /// `category.action`.
    pub event_type: EventType,
    /// When it was stored; of a duplicate, when the first one was.
    pub created_at: Timestamp,
    /// Its aggregate's version after it.
    pub aggregate_version: u32,
    /// Whether it had been published before: this call stored nothing.
    pub duplicate: bool,
}

impl Tenant {
    /// Publishes an event. When this returns, it is durable and will be delivered.
    pub async fn publish(&self, draft: EventDraft) -> Result<Published, Error> {
        let event = self.validate(draft)?;
        let receipt = self.receipt(&event);
        let events = vec![event];
        self.judge_aggregates(&events).await?;
        let now = self.sources().now();
        let appended = self.shared.engine.append(&self.schema, events, now).await?;
        let appended = appended.into_iter().next().ok_or_else(lost_answer)?;
        self.published(receipt, appended).await
    }

    /// Makes an event of the two fields that must be given, and publishes it.
    pub async fn create_and_publish(
        &self,
        event_type: impl Into<String>,
        event_data: impl Into<String>,
    ) -> Result<Published, Error> {
        self.publish(EventDraft::new(event_type, event_data)).await
    }

    /// Publishes up to [`BATCH_EVENTS_MAX`] events of up to [`BATCH_BYTES_MAX`] in one transaction. Each has its own
    /// answer, in order: a faulty one does not hold up the others.
    pub async fn publish_batch(
        &self,
        drafts: Vec<EventDraft>,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let now = self.sources().now();
        let (answers, events) = self.judge_each(drafts).await?;
        let mut appended = self.shared.engine.append(&self.schema, events, now).await?.into_iter();
        let mut filled = Vec::with_capacity(answers.len());
        for answer in answers {
            filled.push(match answer {
                Answer::Refused(error) => Err(error),
                Answer::Appended(receipt) => {
                    self.published(receipt, appended.next().ok_or_else(lost_answer)?).await
                }
            });
        }
        Ok(filled)
    }

    /// Publishes inside the caller's own transaction on the tenant's file. If the caller commits, the events will
    /// be delivered; if not, nothing happened. Begin it `IMMEDIATE` and keep it short: writers wait for each other.
    /// After the commit [`Self::announce`] them, or they are found within a fifth of a second.
    ///
    /// All or nothing: the first event that is refused is the error of the whole call, and none of the others is
    /// published. The caller's transaction is as it was before, and may go on.
    pub fn publish_in(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        drafts: Vec<EventDraft>,
    ) -> Result<Vec<Published>, Error> {
        let events = self.validate_all(drafts)?;
        let store = self.shared.backend.sqlite()?;
        all_or_nothing(transaction, || {
            if self.are_of_others_in(transaction, &events)?.contains(&true) {
                return Err(anothers_aggregate());
            }
            let mut appended =
                store.append_in(&self.schema, transaction, &events, self.sources().now())?.into_iter();
            let answer = |event: &NewEvent| {
                let (receipt, appended) = (self.receipt(event), appended.next().ok_or_else(lost_answer)?);
                match receipt.reveals_version_of(appended) {
                    Some(aggregate) if !self.sees_aggregate_in(transaction, aggregate)? => {
                        Err(anothers_aggregate())
                    }
                    _ => published_from(receipt.id, &receipt.event_type, appended),
                }
            };
            events.iter().map(answer).collect()
        })
    }

    /// Says that events were committed in a transaction of the caller's own: they are dispatched at once.
    pub fn announce(&self) {
        self.shared.backend.announce();
    }

    pub(crate) fn validate(&self, draft: EventDraft) -> Result<NewEvent, Violations> {
        let context_id = self.written_context(draft.context_id);
        let draft = EventDraft { context_id: context_id.clone().unwrap_or(draft.context_id), ..draft };
        let sources = self.sources();
        let validated = draft.validate_by_either(sources.now(), sources.wall(), sources.bytes());
        match (validated, context_id) {
            (validated, Ok(_)) => validated,
            (Ok(_), Err(violations)) => Err(violations),
            (Err(violations), Err(more)) => Err(violations.and(more)),
        }
    }

    /// The events of a batch of which none may be faulty.
    pub(crate) fn validate_all(&self, drafts: Vec<EventDraft>) -> Result<Vec<NewEvent>, Violations> {
        check_batch_limits(&drafts)?;
        drafts.into_iter().map(|draft| self.validate(draft)).collect()
    }

    fn receipt(&self, event: &NewEvent) -> Receipt {
        let aggregate = || (event.aggregate_type_or_default().to_owned(), event.aggregate_id_or_default());
        Receipt {
            id: event.id,
            event_type: event.event_type.clone(),
            aggregate: self.context_id.is_some().then(aggregate),
        }
    }

    /// The answer to a publish. How far an aggregate of another context has come is not told.
    async fn published(&self, receipt: Receipt, appended: Appended) -> Result<Published, Error> {
        if let Some(aggregate) = receipt.reveals_version_of(appended)
            && !self.sees_aggregate(aggregate).await?
        {
            return Err(anothers_aggregate());
        }
        published_from(receipt.id, &receipt.event_type, appended)
    }

    /// Judges draft by draft: a faulty one has its answer already, and the others are the events to store.
    async fn judge_each(&self, drafts: Vec<EventDraft>) -> Result<(Vec<Answer>, Vec<NewEvent>), Error> {
        check_batch_limits(&drafts)?;
        let mut events = Vec::with_capacity(drafts.len());
        let answer = |draft| match self.validate(draft) {
            Ok(event) => {
                let receipt = self.receipt(&event);
                events.push(event);
                Answer::Appended(receipt)
            }
            Err(violations) => Answer::Refused(violations.into()),
        };
        let mut answers: Vec<_> = drafts.into_iter().map(answer).collect();
        let are_of_others = self.are_of_others(&events).await?;
        let mut of_others = are_of_others.iter();
        events.retain(|_| of_others.next() != Some(&true));
        let valid = answers.iter_mut().filter(|answer| matches!(answer, Answer::Appended(_)));
        for (answer, _) in valid.zip(are_of_others).filter(|(_, is_of_others)| *is_of_others) {
            *answer = Answer::Refused(anothers_aggregate());
        }
        Ok((answers, events))
    }

    /// Refuses events of which one is of another context's aggregate.
    pub(crate) async fn judge_aggregates(&self, events: &[NewEvent]) -> Result<(), Error> {
        if self.are_of_others(events).await?.contains(&true) { Err(anothers_aggregate()) } else { Ok(()) }
    }
}

/// What is kept of an event while the store has it: with the store's answer it becomes a [`Published`].
struct Receipt {
    id: EventId,
    event_type: EventType,
    /// Only if the caller is bound to a context: then it may be an aggregate that it must not see.
    aggregate: Option<(String, Uuid)>,
}

impl Receipt {
    /// The aggregate whose version the store's answer would reveal to a caller that is bound to a context. Such an
    /// answer is given only if the caller sees that aggregate. `None` if it says nothing of a version, or the caller is
    /// bound to none.
    fn reveals_version_of(&self, appended: Appended) -> Option<(&str, Uuid)> {
        let says_how_far = matches!(appended, Appended::StaleVersion { .. } | Appended::VersionsExhausted);
        let aggregate = self.aggregate.as_ref().filter(|_| says_how_far);
        aggregate.map(|(aggregate_type, id)| (aggregate_type.as_str(), *id))
    }
}

enum Answer {
    Appended(Receipt),
    Refused(Error),
}

/// Of what fails nothing stays in the caller's transaction, which goes on.
fn all_or_nothing<T>(
    transaction: &rusqlite::Transaction<'_>,
    write: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let run =
        |sql| transaction.execute_batch(sql).map_err(|error| Error::Store(StoreError::Broken(error.into())));
    run("savepoint neo_events_publish")?;
    match write() {
        Ok(written) => run("release neo_events_publish").map(|()| written),
        Err(error) => {
            // A failure that ended the whole transaction has left no savepoint to go back to.
            let _ = run("rollback to neo_events_publish; release neo_events_publish");
            Err(error)
        }
    }
}

/// Refuses what is more than one batch may be, in events or in bytes.
fn check_batch_limits(drafts: &[EventDraft]) -> Result<(), Violations> {
    if drafts.len() > BATCH_EVENTS_MAX {
        let rule = Rule::TooMany { actual: drafts.len(), max: BATCH_EVENTS_MAX, unit: "events" };
        return Err(Violations::one("/events", rule));
    }
    let actual = drafts.iter().map(bytes).sum();
    if actual > BATCH_BYTES_MAX {
        let rule = Rule::TooLong { actual, max: BATCH_BYTES_MAX, unit: "bytes" };
        return Err(Violations::one("/events", rule));
    }
    Ok(())
}

/// What a draft's texts weigh.
fn bytes(draft: &EventDraft) -> usize {
    let optional = [&draft.event_name, &draft.aggregate_type, &draft.event_metadata];
    let optional: usize = optional.into_iter().flatten().map(String::len).sum();
    draft.event_type.len() + draft.event_data.len() + optional
}

/// The caller's answer, made from the store's.
pub(crate) fn published_from(
    id: EventId,
    event_type: &EventType,
    appended: Appended,
) -> Result<Published, Error> {
    let (created_at, aggregate_version, duplicate) = match appended {
        Appended::Stored { created_at, aggregate_version } => (created_at, aggregate_version, false),
        Appended::Duplicate { created_at, aggregate_version } => (created_at, aggregate_version, true),
        Appended::IdConflict => return Err(Conflict::IdReused.into()),
        Appended::StaleVersion { newest } => return Err(Conflict::StaleVersion { newest }.into()),
        Appended::VersionsExhausted => return Err(Conflict::VersionsExhausted.into()),
        Appended::TypeDisabled => return Err(Error::type_disabled()),
    };
    Ok(Published { id, event_type: event_type.clone(), created_at, aggregate_version, duplicate })
}

pub(crate) fn lost_answer() -> Error {
    Error::Store(StoreError::Broken("the store answered for fewer events than it was given".into()))
}
