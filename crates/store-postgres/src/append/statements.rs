//! What appending is in SQL, on one connection: plain events in one statement, guarded ones each behind its aggregate's
//! lock, and why what was not stored was not.

use std::collections::HashMap;

use neo_events_domain::{
    Timestamp, Uuid,
    event::{AGGREGATE_VERSION_MAX, DomainEvent, JsonObject, NewEvent, VersionRule},
    time::to_micros,
};
use neo_events_store::Appended;
use tokio_postgres::Row;

use crate::{
    columns::{Columns, int},
    conn::{Connection, Param},
    direct::{self, Dispatches, Done, Stored},
    events,
    failure::Failure,
    optimistic::OptimisticWrites,
    sql::{self, Sql},
    tenants::TenantTerms,
};

/// What became of one event.
pub(super) struct Written {
    pub(super) appended: Appended,
    /// Of its dispatch, if this statement stored it.
    pub(super) done: Option<Done>,
}

impl Written {
    pub(super) fn has_lease(&self) -> bool {
        matches!(self.done, Some(Done::Dispatched { token: Some(_) }))
    }

    /// The same, of a node that may have been taken for dead since: what was leased to it is not in its hands.
    pub(super) fn without_lease(mut self) -> Self {
        if let Some(Done::Dispatched { token }) = &mut self.done {
            *token = None;
        }
        self
    }
}

/// Appends on one connection, in a transaction or not.
pub(super) struct Appender<'a> {
    pub(super) conn: &'a Connection,
    pub(super) terms: TenantTerms<'a>,
    pub(super) created_at: Timestamp,
    /// Whether a dispatch is owed.
    pub(super) owes: bool,
    /// Outside of transactions, which an error would end: whether events may be tried optimistically.
    pub(super) optimistic: Option<&'a OptimisticWrites>,
}

impl Appender<'_> {
    /// In order, guarded ones too: runs of plain events are one statement each.
    pub(super) async fn one_by_one(&self, events: &[&NewEvent]) -> Result<Vec<Written>, Failure> {
        let mut written = Vec::with_capacity(events.len());
        for run in events.chunk_by(|one, next| guard(one).is_none() && guard(next).is_none()) {
            match run {
                [event] if let Some(expected) = guard(event) => {
                    let appended = self.guarded(event, expected).await?;
                    let done = matches!(appended, Appended::Stored { .. }).then_some(Done::Owed);
                    written.push(Written { appended, done });
                }
                run => written.extend(self.together(run, &Dispatches::none()).await?),
            }
        }
        Ok(written)
    }

    /// One statement, if all goes well; a second one if the optimistic one was refused, and another one if something
    /// was there already.
    pub(super) async fn together(
        &self,
        events: &[&NewEvent],
        dispatches: &Dispatches<'_>,
    ) -> Result<Vec<Written>, Failure> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let versions: Vec<u32> = events.iter().map(|event| version_of(event)).collect();
        let mut stored = self.insert(events, &versions, dispatches).await?;
        // Of two with the same id, the first.
        let done: Vec<Option<Done>> = events.iter().map(|event| stored.remove(&event.id.uuid())).collect();
        let not_inserted =
            |(event, done): (&&NewEvent, &Option<Done>)| done.is_none().then(|| event.id.uuid());
        let unclear: Vec<Uuid> = events.iter().zip(&done).filter_map(not_inserted).collect();
        let there = if unclear.is_empty() {
            HashMap::new()
        } else {
            // What was stored is stored, whatever the server says now.
            let there = events::by_ids(self.conn, self.terms.schema, &unclear).await;
            there.map_err(|failure| Failure::Batch(failure.to_string()))?
        };
        let judge = |((event, aggregate_version), done): ((&&NewEvent, u32), Option<Done>)| {
            let appended = match done {
                Some(_) => Appended::Stored { created_at: self.created_at, aggregate_version },
                None => not_stored(event, there.get(&event.id.uuid()).map(|event| &**event)),
            };
            Written { appended, done }
        };
        Ok(events.iter().zip(versions).zip(done).map(judge).collect())
    }

    async fn guarded(&self, event: &NewEvent, expected: u32) -> Result<Appended, Failure> {
        let schema = self.terms.schema;
        if let Some(answer) = self.repeated(event).await? {
            return Ok(answer);
        }
        let (id, of) = (event.aggregate_id_or_default(), event.aggregate_type_or_default());
        self.conn.query_one(sql::STREAM_HEADS_LOCK, schema, &[&id, &of]).await?;
        let newest = events::newest_version(self.conn, schema, (of, id)).await?;
        if newest >= AGGREGATE_VERSION_MAX {
            return Ok(Appended::VersionsExhausted);
        }
        if newest != expected {
            // It may be what came while this one waited for its turn: the same publish, sent twice at once.
            return Ok(self.repeated(event).await?.unwrap_or(Appended::StaleVersion { newest }));
        }
        let next = newest + 1;
        if self.insert(&[event], &[next], &Dispatches::none()).await?.is_empty() {
            let there = events::by_ids(self.conn, schema, &[event.id.uuid()]).await?;
            return Ok(not_stored(event, there.get(&event.id.uuid()).map(|event| &**event)));
        }
        self.conn.execute(sql::STREAM_HEADS_ADVANCE, schema, &[&id, &of, &int(next)]).await?;
        Ok(Appended::Stored { created_at: self.created_at, aggregate_version: next })
    }

    /// What an event is told whose given id is there already.
    async fn repeated(&self, event: &NewEvent) -> Result<Option<Appended>, Failure> {
        if !event.id_is_given {
            return Ok(None);
        }
        let there = events::by_ids(self.conn, self.terms.schema, &[event.id.uuid()]).await?;
        Ok(there.get(&event.id.uuid()).map(|stored| not_stored(event, Some(stored))))
    }

    /// Those that are there now and were not before.
    async fn insert(
        &self,
        events: &[&NewEvent],
        versions: &[u32],
        dispatches: &Dispatches<'_>,
    ) -> Result<Stored, Failure> {
        let rows = Rows { events, versions, dispatches };
        if let (Some(optimistic), Some(catalogue)) = (self.optimistic, dispatches.of_one_catalogue())
            && optimistic.may_try(self.terms.tenant_no)
        {
            if let Some(stored) = self.insert_whole(&rows, catalogue).await? {
                return Ok(stored);
            }
            optimistic.refused(self.terms.tenant_no);
        }
        let catalogues = dispatches.catalogue_versions(events.len());
        let stored = self.insert_with(sql::EVENTS_APPEND, &rows, [&self.owes, &catalogues]).await?;
        stored.iter().map(Done::read).collect()
    }

    /// All of them with their dispatches, or nothing: one of them is there already or must not be, or the catalogue is
    /// another by now.
    async fn insert_whole(&self, rows: &Rows<'_>, catalogue: i64) -> Result<Option<Stored>, Failure> {
        let unwanted = rows.dispatches.unwanted(rows.events);
        let stored = match self.insert_with(sql::EVENTS_APPEND_WHOLE, rows, [&catalogue, &unwanted]).await {
            // Of two who repeat the same ids in different orders, each may come to stand before the other.
            Err(failure) if failure.is_a_key_twice() || failure.is_a_deadlock() => return Ok(None),
            stored => stored?,
        };
        let Some(row) = stored.first() else { return Ok(None) };
        let done = Done::Dispatched { token: Columns::of(row).take()? };
        Ok(Some(rows.events.iter().map(|event| (event.id.uuid(), done)).collect()))
    }

    /// With the columns that both statements take, and then the statement's own.
    async fn insert_with(&self, sql: Sql, rows: &Rows<'_>, own: [Param<'_>; 2]) -> Result<Vec<Row>, Failure> {
        let versions: Vec<i32> = rows.versions.iter().map(|version| int(*version)).collect();
        let now = to_micros(self.terms.now);
        let dispatches = rows.dispatches;
        let common: [Param<'_>; 27] = [
            &self.terms.tenant_no,
            &self.created_at,
            &rows.of(|event| event.id.uuid()),
            &rows.of(|event| event.event_type.as_str()),
            &rows.of(|event| event.event_name.as_deref()),
            &rows.of(NewEvent::aggregate_id_or_default),
            &rows.of(NewEvent::aggregate_type_or_default),
            &versions,
            &rows.of(|event| event.correlation_id),
            &rows.of(|event| event.causation_id),
            &rows.of(|event| event.triggered_by_user_id),
            &rows.of(|event| event.context_id),
            &rows.of(|event| event.occurred_at.unwrap_or(now)),
            &rows.of(|event| event.event_metadata.as_ref().map_or("{}", JsonObject::as_str)),
            &rows.of(|event| event.event_data.as_str()),
            &dispatches.event_ids(),
            &dispatches.column(|direct| direct.delivery.id.uuid()),
            &dispatches.column(|direct| direct.delivery.endpoint_id.uuid()),
            &dispatches.column(direct::subscriptions),
            &dispatches.column(|direct| int(direct.delivery.max_attempts)),
            &dispatches.column(direct::retries),
            &dispatches.column(|direct| int(direct.delivery.retry.backoff_seconds)),
            &dispatches.column(|direct| direct.delivery.retry.backoff_multiplier),
            &dispatches.column(|direct| direct.is_taken),
            &now,
            &dispatches.lease.session,
            &dispatches.lease.until,
        ];
        self.conn.query(sql, self.terms.schema, &[&common[..], &own].concat()).await
    }
}

/// Events with their versions and dispatches, to be turned into columns.
struct Rows<'a> {
    events: &'a [&'a NewEvent],
    versions: &'a [u32],
    dispatches: &'a Dispatches<'a>,
}

impl<'a> Rows<'a> {
    fn of<T>(&self, field: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
        self.events.iter().map(|event| field(event)).collect()
    }
}

/// The version that an event's aggregate must have, if it says one.
const fn guard(event: &NewEvent) -> Option<u32> {
    match event.version {
        VersionRule::Expect(expected) => Some(expected),
        VersionRule::Default | VersionRule::Given(_) => None,
    }
}

fn version_of(event: &NewEvent) -> u32 {
    match event.version {
        VersionRule::Given(version) => version,
        VersionRule::Default | VersionRule::Expect(_) => 1,
    }
}

/// Why an event was not stored: its id was there, or its type is disabled.
fn not_stored(event: &NewEvent, there: Option<&DomainEvent>) -> Appended {
    match there {
        None => Appended::TypeDisabled,
        // It was this very event: an answer was lost, and it is stored again in vain.
        Some(stored) if !event.id_is_given && event.repeats(stored) => {
            Appended::Stored { created_at: stored.created_at, aggregate_version: stored.aggregate_version }
        }
        Some(stored) if event.repeats(stored) => {
            Appended::Duplicate { created_at: stored.created_at, aggregate_version: stored.aggregate_version }
        }
        Some(_) => Appended::IdConflict,
    }
}
