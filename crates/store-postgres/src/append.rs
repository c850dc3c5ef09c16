//! Appending events: what many publishers bring at once is one statement, with the deliveries or the rows that owe the
//! dispatches. What was matched is tried as a whole first (module `wholes`).
//!
//! Where the database refuses a statement because of one publisher's events, each publisher's are stored alone. Where
//! somebody's lock was in the way it may be one event's (an open transaction has inserted its id) or the whole table's.
//! Which of the two is found out without waiting for it again: alone, each stands before a lock for
//! [`LOCK_WAIT_ALONE`](crate::conn::LOCK_WAIT_ALONE) only, and after a few that did so in vain the others are not tried
//! ([`OneByOne`]).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events_domain::{
    Timestamp, Uuid,
    event::{AGGREGATE_VERSION_MAX, DomainEvent, JsonObject, NewEvent, VersionRule, to_micros},
    tenant::Schema,
};
use neo_events_store::{Appended, Arrival, NewDelivery, StoreError};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_postgres::Row;

use crate::{
    batch::{Batcher, GroupEnd, Job, Places, Rhythm, Trip},
    cache::EventCache,
    columns::{Columns, int},
    conn::{Connection, LockWait, Param},
    connections::Connections,
    direct::{self, Dispatches, Done, Stored},
    dispatches, events,
    failure::{Failure, OneByOne},
    lease::{LeaseEnds, LeaseTerms},
    lost::{LostClaims, taken},
    sessions::Session,
    sql::{self, Sql},
    tenants::TenantTerms,
    wholes::Wholes,
};

/// Publishers wait for it.
const RHYTHM: Rhythm = Rhythm { gathering: Duration::from_millis(4), distance: Duration::ZERO };

/// Guarded publishes at work at once: less than there are connections.
const GUARDED_MAX: usize = 3;
/// Of one tenant: fewer, so that a lock on its tables leaves a place for others.
const GUARDED_OF_TENANT_MAX: usize = 2;

/// What a delivery that comes with its event takes up in a batch, in bytes: some two thousand fill one.
const DELIVERY_BYTES: usize = 2048;

/// Where publishers leave their events.
pub(crate) struct Appends {
    batcher: Batcher<Append>,
    writer: Writer,
    guarded: Semaphore,
    guarded_of_tenant: Places,
    clock: Arc<StorageClock>,
}

/// The newest `created_at` that this node gave: it never gives an older one, whatever its clock does.
#[derive(Default)]
pub(crate) struct StorageClock(AtomicI64);

impl StorageClock {
    fn not_before_the_last(&self, now: Timestamp) -> Timestamp {
        let micros = now.as_microsecond();
        let newest = self.0.fetch_max(micros, Ordering::Relaxed).max(micros);
        Timestamp::from_microsecond(newest).unwrap_or(now)
    }
}

/// One publisher's events.
struct Append {
    schema: Schema,
    tenant_no: i32,
    arrivals: Vec<Arrival>,
    now: Timestamp,
    came_at: Instant,
    reply: oneshot::Sender<Result<Answers, Failure>>,
}

/// For each event of a publisher, in order.
pub(crate) struct Answers {
    pub(crate) appended: Vec<Appended>,
    /// Whether any of them owes its dispatch.
    pub(crate) owe: bool,
}

impl Job for Append {
    fn bytes(&self) -> usize {
        let bytes = |event: &NewEvent| {
            event.event_data.as_str().len()
                + event.event_metadata.as_ref().map_or(0, |text| text.as_str().len())
                + 256
        };
        let dispatches = self.arrivals.iter().filter_map(|arrival| arrival.dispatch.as_ref());
        let deliveries: usize = dispatches.map(|dispatch| dispatch.deliveries.len()).sum();
        self.events().map(bytes).sum::<usize>() + deliveries * DELIVERY_BYTES
    }

    fn tenant_no(&self) -> i32 {
        self.tenant_no
    }
}

impl Append {
    fn events(&self) -> impl Iterator<Item = &NewEvent> {
        self.arrivals.iter().map(|arrival| &arrival.event)
    }

    fn lease_ends(&self) -> impl Iterator<Item = Timestamp> {
        self.arrivals.iter().filter_map(|arrival| Some(arrival.dispatch.as_ref()?.lease_until))
    }

    fn is_guarded(&self) -> bool {
        self.events().any(|event| matches!(event.version, VersionRule::Expect(_)))
    }
}

impl Appends {
    /// So many groups may be left behind that somebody's lock holds up.
    pub(crate) fn start(writer: Writer, left_behind_max: usize, workers: &mut JoinSet<()>) -> Self {
        let clock = Arc::clone(&writer.clock);
        let of_workers = writer.clone();
        let run = move |group, trip| of_workers.clone().store_together(group, trip);
        let batcher = Batcher::start(left_behind_max, RHYTHM, workers, run);
        let guarded = Semaphore::new(GUARDED_MAX);
        Self { batcher, writer, guarded, guarded_of_tenant: Places::of_each(GUARDED_OF_TENANT_MAX), clock }
    }

    /// Stores events, or says for each why not.
    pub(crate) async fn append(
        &self,
        terms: TenantTerms<'_>,
        arrivals: Vec<Arrival>,
    ) -> Result<Answers, StoreError> {
        let (reply, answer) = oneshot::channel();
        let TenantTerms { schema, tenant_no, now } = terms;
        let job = Append { schema: schema.clone(), tenant_no, arrivals, now, came_at: Instant::now(), reply };
        if job.is_guarded() {
            // It may have to wait for whoever is at the same aggregate, and that nobody else has to.
            let _of_tenant = self.guarded_of_tenant.take(tenant_no).await.ok_or(Failure::Closed)?;
            let _place = self.guarded.acquire().await.map_err(|_| Failure::Closed)?;
            // Who takes the last place keeps others waiting.
            let is_last = self.guarded.available_permits() == 0;
            self.writer.store_alone(job, if is_last { LockWait::Alone } else { LockWait::Whole }).await;
        } else {
            self.batcher.leave(job).await.map_err(|_| Failure::Closed)?;
        }
        // Who leaves a job unanswered may have sent it.
        Ok(answer.await.map_err(|_| Failure::NoWord)??)
    }

    /// Takes no more; what it has is stored yet.
    pub(crate) fn close(&self) {
        self.batcher.close();
    }

    /// Stores an event that goes to one endpoint alone, with its delivery.
    pub(crate) async fn append_directed(
        &self,
        connections: &Connections,
        terms: TenantTerms<'_>,
        event: &NewEvent,
        delivery: &NewDelivery,
    ) -> Result<Appended, Failure> {
        let mut conn = connections.work().await?;
        let tx = conn.begin().await?;
        let created_at = self.clock.not_before_the_last(terms.now);
        let on_tx = Appender { conn: &tx, terms, created_at, owes: false, wholes: None };
        let written = on_tx.one_by_one(&[event]).await?;
        let appended = written.into_iter().next().ok_or(Failure::Closed)?.appended;
        if let Appended::Stored { .. } = appended {
            dispatches::write_directed(&tx, terms, event.id, delivery).await?;
        }
        tx.commit().await?;
        Ok(appended)
    }
}

/// What a worker stores with.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) connections: Connections,
    pub(crate) clock: Arc<StorageClock>,
    pub(crate) cache: Arc<EventCache>,
    pub(crate) session: Arc<Session>,
    pub(crate) lease_ends: Arc<LeaseEnds>,
    pub(crate) lost: Arc<LostClaims>,
    pub(crate) wholes: Arc<Wholes>,
}

impl Writer {
    /// Stores a tenant's events in one statement, or each publisher's alone if it may be the fault of one that they
    /// cannot be stored together.
    async fn store_together(self, mut group: Vec<Append>, trip: Arc<Trip>) -> GroupEnd {
        let now = group.iter().map(|append| append.now).max().unwrap_or(Timestamp::UNIX_EPOCH);
        let until = group.iter().flat_map(Append::lease_ends).max().map(|until| self.lease_ends.next(until));
        let failure = match self.write(&group, now, until).await {
            Ok(written) => {
                trip.is_answered().await;
                let mut written = written.into_iter();
                for append in group {
                    let of_it = written.by_ref().take(append.arrivals.len()).collect();
                    self.finish(append, of_it, (now, until));
                }
                return GroupEnd::Through;
            }
            Err(failure) => failure,
        };
        if let Some(until) = until.filter(|_| failure.may_have_happened()) {
            let leases = group.iter().flat_map(|append| taken(append.tenant_no, &append.arrivals));
            self.lost.note(until, leases);
        }
        // What had been taken for them is free again, long before the last of them had its turn.
        group.iter_mut().flat_map(|append| &mut append.arrivals).for_each(|one| one.dispatch = None);
        // One publisher's events may be what the database cannot take: the others must not suffer for it.
        if group.len() > 1 && failure.is_one_jobs() {
            return self.store_each_alone(group).await;
        }
        let (end, last) = (failure.group_end(), group.pop());
        refuse(group, &failure);
        if let Some(last) = last {
            let _ = last.reply.send(Err(failure));
        }
        end
    }

    /// One publisher's after the other's, for as long as it is not everybody's fault.
    async fn store_each_alone(&self, group: Vec<Append>) -> GroupEnd {
        let (mut left, mut one_by_one) = (group.into_iter(), OneByOne::default());
        while let Some(append) = left.next() {
            let stored = self.in_a_transaction(&append, LockWait::Alone).await;
            let given_up = one_by_one.gives_up(stored.as_ref().err());
            self.finish_alone(append, stored);
            if let Some(failure) = given_up {
                refuse(left, &failure);
                break;
            }
        }
        one_by_one.group_end()
    }

    /// All of a tenant's in one statement.
    async fn write(
        &self,
        group: &[Append],
        now: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Vec<Written>, Failure> {
        let Some(first) = group.first() else { return Ok(Vec::new()) };
        let events: Vec<&NewEvent> = group.iter().flat_map(Append::events).collect();
        let dispatches = match until {
            Some(until) => {
                let terms = LeaseTerms { session: self.session.no(), until };
                Dispatches::of(group.iter().flat_map(|append| &append.arrivals), terms)
            }
            None => Dispatches::none(),
        };
        let conn = self.connections.work_since(first.came_at).await?;
        let terms = TenantTerms { schema: &first.schema, tenant_no: first.tenant_no, now };
        let created_at = self.clock.not_before_the_last(now);
        let appender = Appender { conn: &conn, terms, created_at, owes: true, wholes: Some(&self.wholes) };
        appender.together(&events, &dispatches).await
    }

    /// What cannot go with others: its dispatches are owed.
    async fn store_alone(&self, mut append: Append, lock_wait: LockWait) {
        // What had been taken for them is free again.
        append.arrivals.iter_mut().for_each(|arrival| arrival.dispatch = None);
        let stored = self.in_a_transaction(&append, lock_wait).await;
        self.finish_alone(append, stored);
    }

    fn finish_alone(&self, append: Append, stored: Result<Vec<Written>, Failure>) {
        match stored {
            Ok(written) => {
                let now = append.now;
                self.finish(append, written, (now, None));
            }
            Err(failure) => drop(append.reply.send(Err(failure))),
        }
    }

    /// Hands over what was taken, keeps the events for whoever delivers the others, here most likely and soon, and
    /// answers the publisher; who may have gone away.
    fn finish(&self, append: Append, written: Vec<Written>, (now, until): (Timestamp, Option<Timestamp>)) {
        let Append { schema, tenant_no, arrivals, reply, .. } = append;
        let (mut answers, mut kept) = (Answers { appended: Vec::new(), owe: false }, Vec::new());
        for (Arrival { event, dispatch }, Written { appended, done }) in arrivals.into_iter().zip(written) {
            answers.appended.push(appended);
            let (Some(done), Appended::Stored { created_at, aggregate_version }) = (done, appended) else {
                continue;
            };
            let event = Arc::new(event.stored(created_at, aggregate_version, now));
            let (Done::Dispatched { token }, Some(dispatch), Some(until)) = (done, dispatch, until) else {
                answers.owe = true;
                kept.push(event);
                continue;
            };
            if token.is_none() || dispatch.deliveries.iter().any(|direct| !direct.is_taken) {
                kept.push(Arc::clone(&event));
            }
            direct::hand_over(&schema, &event, dispatch, (token, now, until));
        }
        self.cache.keep(tenant_no, kept);
        let _ = reply.send(Ok(answers));
    }

    async fn in_a_transaction(&self, append: &Append, lock_wait: LockWait) -> Result<Vec<Written>, Failure> {
        let mut conn = self.connections.work_since(append.came_at).await?;
        let terms = TenantTerms { schema: &append.schema, tenant_no: append.tenant_no, now: append.now };
        let created_at = self.clock.not_before_the_last(append.now);
        let tx = conn.begin_waiting(lock_wait).await?;
        let events: Vec<&NewEvent> = append.events().collect();
        let appender = Appender { conn: &tx, terms, created_at, owes: true, wholes: None };
        let written = appender.one_by_one(&events).await?;
        if written.iter().any(|written| matches!(written.appended, Appended::Stored { .. })) {
            tx.commit().await?;
        } else {
            // What was refused leaves nothing behind, not even the row that it waited for.
            tx.rollback().await?;
        }
        Ok(written)
    }
}

/// Tells publishers that nothing of theirs was stored.
fn refuse(group: impl IntoIterator<Item = Append>, failure: &Failure) {
    for append in group {
        let _ = append.reply.send(Err(failure.again()));
    }
}

/// What became of one event.
struct Written {
    appended: Appended,
    /// Of its dispatch, if this statement stored it.
    done: Option<Done>,
}

/// Appends on one connection, in a transaction or not.
struct Appender<'a> {
    conn: &'a Connection,
    terms: TenantTerms<'a>,
    created_at: Timestamp,
    /// Whether a dispatch is owed.
    owes: bool,
    /// Outside of transactions, which an error would end: whether events may be tried as a whole.
    wholes: Option<&'a Wholes>,
}

impl Appender<'_> {
    /// In order, guarded ones too: runs of plain events are one statement each.
    async fn one_by_one(&self, events: &[&NewEvent]) -> Result<Vec<Written>, Failure> {
        let mut written = Vec::with_capacity(events.len());
        let is_guarded = |event: &NewEvent| matches!(event.version, VersionRule::Expect(_));
        for run in events.chunk_by(|one, next| !is_guarded(one) && !is_guarded(next)) {
            match run {
                [event] if is_guarded(event) => {
                    let appended = self.guarded(event).await?;
                    let done = matches!(appended, Appended::Stored { .. }).then_some(Done::Owed);
                    written.push(Written { appended, done });
                }
                run => written.extend(self.together(run, &Dispatches::none()).await?),
            }
        }
        Ok(written)
    }

    /// One statement, if all goes well; a second one if they could not be stored as a whole, and another one if something
    /// was there already.
    async fn together(
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

    async fn guarded(&self, event: &NewEvent) -> Result<Appended, Failure> {
        let VersionRule::Expect(expected) = event.version else { return Err(Failure::Closed) };
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
        if let (Some(wholes), Some(catalogue)) = (self.wholes, dispatches.of_one_catalogue())
            && wholes.next(self.terms.tenant_no)
        {
            if let Some(stored) = self.insert_whole(&rows, catalogue).await? {
                return Ok(stored);
            }
            wholes.refused(self.terms.tenant_no);
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
