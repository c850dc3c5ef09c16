//! Appending events: what many publishers bring at once is one statement, with the rows that owe the dispatches.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use futures_util::future::join_all;
use neo_events_domain::{
    Timestamp, Uuid,
    event::{AGGREGATE_VERSION_MAX, DomainEvent, JsonObject, NewEvent, VersionRule, to_micros},
    tenant::Schema,
};
use neo_events_store::{Appended, NewDelivery, StoreError};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::Instant,
};

use crate::{
    batch::{Batcher, Job},
    cache::EventCache,
    columns::int,
    conn::{Connection, Transaction},
    dispatches, events,
    failure::Failure,
    sql,
    store::Connections,
};

/// Batches that may be on their way at once: while one waits for the disk another is sent.
const WORKERS: usize = 2;

/// Guarded publishes at work at once: less than there are connections.
const GUARDED_MAX: usize = 3;

/// Who the events belong to, and when they are stored.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) tenant_no: i32,
    pub(crate) now: Timestamp,
}

/// Where publishers leave their events.
pub(crate) struct Appends {
    batcher: Batcher<Append>,
    writer: Writer,
    guarded: Semaphore,
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
    events: Vec<NewEvent>,
    now: Timestamp,
    came_at: Instant,
    reply: oneshot::Sender<Result<Vec<Appended>, Failure>>,
}

impl Job for Append {
    fn bytes(&self) -> usize {
        let bytes = |event: &NewEvent| {
            event.event_data.as_str().len()
                + event.event_metadata.as_ref().map_or(0, |text| text.as_str().len())
                + 256
        };
        self.events.iter().map(bytes).sum()
    }
}

impl Append {
    fn is_guarded(&self) -> bool {
        self.events.iter().any(|event| matches!(event.version, VersionRule::Expect(_)))
    }

    fn answer(self, answer: Result<Vec<Appended>, Failure>) {
        // The publisher may have gone away: its events are stored all the same.
        let _ = self.reply.send(answer);
    }
}

impl Appends {
    pub(crate) fn start(
        connections: &Connections,
        cache: &Arc<EventCache>,
        background: &mut JoinSet<()>,
    ) -> Self {
        let clock = Arc::new(StorageClock::default());
        let (connections, cache) = (connections.clone(), Arc::clone(cache));
        let writer = Writer { connections, clock: Arc::clone(&clock), cache };
        let of_workers = writer.clone();
        let run = move |batch| of_workers.clone().run(batch);
        let batcher = Batcher::start(WORKERS, background, run);
        Self { batcher, writer, guarded: Semaphore::new(GUARDED_MAX), clock }
    }

    /// Stores events, or says for each why not.
    pub(crate) async fn append(
        &self,
        terms: Terms<'_>,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Appended>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let Terms { schema, tenant_no, now } = terms;
        let job = Append { schema: schema.clone(), tenant_no, events, now, came_at: Instant::now(), reply };
        if job.is_guarded() {
            // It may have to wait for whoever is at the same aggregate, and that nobody else has to.
            let _place = self.guarded.acquire().await.map_err(|_| Failure::Closed)?;
            self.writer.store_alone(job).await;
        } else {
            self.batcher.leave(job).await.map_err(|_| Failure::Closed)?;
        }
        Ok(answer.await.map_err(|_| Failure::Closed)??)
    }

    /// Stores an event that goes to one endpoint alone, with its delivery.
    pub(crate) async fn append_directed(
        &self,
        connections: &Connections,
        terms: Terms<'_>,
        event: &NewEvent,
        delivery: &NewDelivery,
    ) -> Result<Appended, Failure> {
        let mut conn = connections.work().await?;
        let tx = conn.begin().await?;
        let created_at = self.clock.not_before_the_last(terms.now);
        let on_tx = Appender { conn: &tx, terms, created_at, owes: false };
        let answers = on_tx.one_by_one(std::slice::from_ref(event)).await?;
        let appended = answers.into_iter().next().ok_or(Failure::Closed)?;
        if let Appended::Stored { .. } = appended {
            dispatches::write_directed(&tx, terms, event.id, delivery).await?;
        }
        tx.commit().await?;
        Ok(appended)
    }
}

/// What a worker stores with.
#[derive(Clone)]
struct Writer {
    connections: Connections,
    clock: Arc<StorageClock>,
    cache: Arc<EventCache>,
}

impl Writer {
    /// Stores a batch: each tenant's events in one statement.
    async fn run(self, batch: Vec<Append>) {
        let mut groups: HashMap<i32, Vec<Append>> = HashMap::new();
        for append in batch {
            groups.entry(append.tenant_no).or_default().push(append);
        }
        // Side by side: what holds up one tenant's, a lock perhaps, holds up nobody else's.
        join_all(groups.into_values().map(|group| self.store_together(group))).await;
    }

    async fn store_together(&self, mut group: Vec<Append>) {
        let now = group.iter().map(|append| append.now).max().unwrap_or(Timestamp::UNIX_EPOCH);
        let stored = async {
            let Some(first) = group.first() else { return Ok(Vec::new()) };
            let events: Vec<&NewEvent> = group.iter().flat_map(|append| &append.events).collect();
            let conn = self.connections.work_since(first.came_at).await?;
            let terms = Terms { schema: &first.schema, tenant_no: first.tenant_no, now };
            let created_at = self.clock.not_before_the_last(now);
            Appender { conn: &conn, terms, created_at, owes: true }.together(&events).await
        };
        match stored.await {
            Ok(stored) => {
                let mut stored = stored.into_iter();
                for append in group {
                    let answers: Vec<_> = stored.by_ref().take(append.events.len()).collect();
                    self.keep(&append, &answers, now);
                    append.answer(Ok(answers));
                }
            }
            // One publisher's events may be what the database cannot take: the others must not suffer for it.
            Err(failure) if group.len() > 1 && failure.is_one_jobs() => {
                for append in group {
                    self.store_alone(append).await;
                }
            }
            Err(failure) => {
                let last = group.pop();
                for append in group {
                    append.answer(Err(failure.again()));
                }
                if let Some(last) = last {
                    last.answer(Err(failure));
                }
            }
        }
    }

    async fn store_alone(&self, append: Append) {
        let stored = self.in_a_transaction(&append).await;
        if let Ok(answers) = &stored {
            self.keep(&append, answers, append.now);
        }
        append.answer(stored);
    }

    async fn in_a_transaction(&self, append: &Append) -> Result<Vec<Appended>, Failure> {
        let mut conn = self.connections.work_since(append.came_at).await?;
        let terms = Terms { schema: &append.schema, tenant_no: append.tenant_no, now: append.now };
        let created_at = self.clock.not_before_the_last(append.now);
        let tx: Transaction<'_> = conn.begin().await?;
        let appended =
            Appender { conn: &tx, terms, created_at, owes: true }.one_by_one(&append.events).await?;
        if appended.iter().any(|answer| matches!(answer, Appended::Stored { .. })) {
            tx.commit().await?;
        } else {
            // What was refused leaves nothing behind, not even the row that it waited for.
            tx.rollback().await?;
        }
        Ok(appended)
    }

    /// For whoever dispatches and delivers them: here, most likely, and soon.
    fn keep(&self, append: &Append, answers: &[Appended], now: Timestamp) {
        let stored = append.events.iter().zip(answers).filter_map(|(event, answer)| match answer {
            Appended::Stored { created_at, aggregate_version } => {
                Some(Arc::new(as_stored(event, (*created_at, *aggregate_version), now)))
            }
            _ => None,
        });
        self.cache.keep(append.tenant_no, stored);
    }
}

/// What the row says, without reading it.
fn as_stored(event: &NewEvent, (created_at, version): (Timestamp, u32), now: Timestamp) -> DomainEvent {
    DomainEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        event_name: event.event_name.clone(),
        aggregate_id: event.aggregate_id_or_default(),
        aggregate_type: event.aggregate_type_or_default().to_owned(),
        aggregate_version: version,
        correlation_id: event.correlation_id,
        causation_id: event.causation_id,
        triggered_by_user_id: event.triggered_by_user_id,
        context_id: event.context_id,
        occurred_at: event.occurred_at.unwrap_or_else(|| to_micros(now)),
        created_at,
        event_metadata: event.event_metadata.clone().unwrap_or_else(JsonObject::empty),
        event_data: event.event_data.clone(),
    }
}

/// Appends on one connection, in a transaction or not.
struct Appender<'a> {
    conn: &'a Connection,
    terms: Terms<'a>,
    created_at: Timestamp,
    /// Whether a dispatch is owed.
    owes: bool,
}

impl Appender<'_> {
    /// In order, guarded ones too: runs of plain events are one statement each.
    async fn one_by_one(&self, events: &[NewEvent]) -> Result<Vec<Appended>, Failure> {
        let mut appended = Vec::with_capacity(events.len());
        let is_guarded = |event: &NewEvent| matches!(event.version, VersionRule::Expect(_));
        for run in events.chunk_by(|one, next| !is_guarded(one) && !is_guarded(next)) {
            match run {
                [event] if is_guarded(event) => appended.push(self.guarded(event).await?),
                run => appended.extend(self.together(&run.iter().collect::<Vec<_>>()).await?),
            }
        }
        Ok(appended)
    }

    /// One statement, and a second one only if something was there already.
    async fn together(&self, events: &[&NewEvent]) -> Result<Vec<Appended>, Failure> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let versions: Vec<u32> = events.iter().map(|event| version_of(event)).collect();
        let mut stored = self.insert(events, &versions).await?;
        let first_of_its_id: Vec<bool> = events.iter().map(|event| stored.remove(&event.id.uuid())).collect();
        let not_inserted = |(event, is_stored): (&&NewEvent, &bool)| (!is_stored).then(|| event.id.uuid());
        let unclear: Vec<Uuid> = events.iter().zip(&first_of_its_id).filter_map(not_inserted).collect();
        let there = if unclear.is_empty() {
            HashMap::new()
        } else {
            events::by_ids(self.conn, self.terms.schema, &unclear).await?
        };
        let judge = |((event, version), is_stored): ((&&NewEvent, &u32), &bool)| {
            if *is_stored {
                Appended::Stored { created_at: self.created_at, aggregate_version: *version }
            } else {
                not_stored(event, there.get(&event.id.uuid()).map(|event| &**event))
            }
        };
        Ok(events.iter().zip(&versions).zip(&first_of_its_id).map(judge).collect())
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
        if self.insert(&[event], &[next]).await?.is_empty() {
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

    /// The ids that are there now and were not before.
    async fn insert(&self, events: &[&NewEvent], versions: &[u32]) -> Result<HashSet<Uuid>, Failure> {
        let column = Rows { events };
        let versions: Vec<i32> = versions.iter().map(|version| int(*version)).collect();
        let now = to_micros(self.terms.now);
        let rows = self
            .conn
            .query(
                sql::EVENTS_APPEND,
                self.terms.schema,
                &[
                    &self.terms.tenant_no,
                    &self.created_at,
                    &column.of(|event| event.id.uuid()),
                    &column.of(|event| event.event_type.as_str()),
                    &column.of(|event| event.event_name.as_deref()),
                    &column.of(NewEvent::aggregate_id_or_default),
                    &column.of(NewEvent::aggregate_type_or_default),
                    &versions,
                    &column.of(|event| event.correlation_id),
                    &column.of(|event| event.causation_id),
                    &column.of(|event| event.triggered_by_user_id),
                    &column.of(|event| event.context_id),
                    &column.of(|event| event.occurred_at.unwrap_or(now)),
                    &column.of(|event| event.event_metadata.as_ref().map_or("{}", JsonObject::as_str)),
                    &column.of(|event| event.event_data.as_str()),
                    &self.owes,
                ],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

/// Events, to be turned into columns.
struct Rows<'a> {
    events: &'a [&'a NewEvent],
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
