//! Appending events: what many publishers bring at once is one statement, with the deliveries or the rows that owe the
//! dispatches. What was matched is tried optimistically first (module `optimistic`).
//!
//! Where the database refuses a statement because of one publisher's events, each publisher's are stored alone. Where
//! somebody's lock was in the way it may be one event's (an open transaction has inserted its id) or the whole table's.
//! Which of the two is found out without waiting for it again: alone, each stands before a lock for
//! [`LOCK_WAIT_ALONE`](crate::conn::LOCK_WAIT_ALONE) only, and after a few that did so in vain the others are not tried
//! ([`OneByOne`]).

mod statements;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events_domain::{
    Timestamp,
    event::{NewEvent, VersionRule},
    tenant::Schema,
};
use neo_events_store::{Appended, Arrival, NewDelivery, StoreError};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::Instant,
};

use self::statements::{Appender, Written};
use crate::{
    batch::{Batcher, GroupEnd, Job, Places, Rhythm, Trip},
    cache::EventCache,
    conn::LockWait,
    connections::Connections,
    direct::{self, Dispatches, Done},
    dispatches,
    failure::{Failure, OneByOne},
    lease::{LeaseEnds, LeaseTerms},
    lost::{LostClaims, taken},
    optimistic::OptimisticWrites,
    sessions::Session,
    tenants::TenantTerms,
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
    reply: oneshot::Sender<Result<AppendAnswer, Failure>>,
}

/// What became of a publisher's events, in order.
pub(crate) struct AppendAnswer {
    pub(crate) appended: Vec<Appended>,
    /// Whether any of them owes its dispatch.
    pub(crate) owes_dispatch: bool,
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
    ) -> Result<AppendAnswer, StoreError> {
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
        let on_tx = Appender { conn: &tx, terms, created_at, owes: false, optimistic: None };
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
    pub(crate) optimistic: Arc<OptimisticWrites>,
}

impl Writer {
    /// Stores a tenant's events in one statement, or each publisher's alone if it may be the fault of one that they
    /// cannot be stored together.
    async fn store_together(self, mut group: Vec<Append>, trip: Arc<Trip>) -> GroupEnd {
        let now = group.iter().map(|append| append.now).max().unwrap_or(Timestamp::UNIX_EPOCH);
        let until = group.iter().flat_map(Append::lease_ends).max().map(|until| self.lease_ends.next(until));
        let lease = until.map(|until| LeaseTerms { session: self.session.no(), until });
        let failure = match self.write(&group, now, lease).await {
            Ok(written) => {
                trip.is_answered().await;
                let is_held = match lease.filter(|_| written.iter().any(Written::has_lease)) {
                    Some(lease) => {
                        self.session.holds_what_was_granted_to(lease.session, self.connections.brief()).await
                    }
                    None => true,
                };
                if !is_held {
                    self.note_lost(&group, until);
                }
                let granted = |written: Written| if is_held { written } else { written.without_lease() };
                let mut written = written.into_iter().map(granted);
                for append in group {
                    let of_it = written.by_ref().take(append.arrivals.len()).collect();
                    self.finish(append, of_it, (now, until));
                }
                return GroupEnd::Through;
            }
            Err(failure) => failure,
        };
        self.note_lost(&group, until.filter(|_| failure.may_have_happened()));
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

    /// What these were to lease until then may be leased, and is in nobody's hand.
    fn note_lost(&self, group: &[Append], until: Option<Timestamp>) {
        if let Some(until) = until {
            let leases = group.iter().flat_map(|append| taken(append.tenant_no, &append.arrivals));
            self.lost.note(until, leases);
        }
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
        lease: Option<LeaseTerms>,
    ) -> Result<Vec<Written>, Failure> {
        let Some(first) = group.first() else { return Ok(Vec::new()) };
        let events: Vec<&NewEvent> = group.iter().flat_map(Append::events).collect();
        let arrivals = group.iter().flat_map(|append| &append.arrivals);
        let dispatches = lease.map_or_else(Dispatches::none, |lease| Dispatches::of(arrivals, lease));
        let conn = self.connections.work_since(first.came_at).await?;
        let terms = TenantTerms { schema: &first.schema, tenant_no: first.tenant_no, now };
        let created_at = self.clock.not_before_the_last(now);
        let appender =
            Appender { conn: &conn, terms, created_at, owes: true, optimistic: Some(&self.optimistic) };
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
        let (mut answer, mut kept) =
            (AppendAnswer { appended: Vec::new(), owes_dispatch: false }, Vec::new());
        for (Arrival { event, dispatch }, Written { appended, done }) in arrivals.into_iter().zip(written) {
            answer.appended.push(appended);
            let (Some(done), Appended::Stored { created_at, aggregate_version }) = (done, appended) else {
                continue;
            };
            let event = Arc::new(event.stored(created_at, aggregate_version, now));
            let (Done::Dispatched { token }, Some(dispatch), Some(until)) = (done, dispatch, until) else {
                answer.owes_dispatch = true;
                kept.push(event);
                continue;
            };
            if token.is_none() || dispatch.deliveries.iter().any(|direct| !direct.is_taken) {
                kept.push(Arc::clone(&event));
            }
            direct::hand_over(&schema, &event, dispatch, (token, now, until));
        }
        self.cache.keep(tenant_no, kept);
        let _ = reply.send(Ok(answer));
    }

    async fn in_a_transaction(&self, append: &Append, lock_wait: LockWait) -> Result<Vec<Written>, Failure> {
        let mut conn = self.connections.work_since(append.came_at).await?;
        let terms = TenantTerms { schema: &append.schema, tenant_no: append.tenant_no, now: append.now };
        let created_at = self.clock.not_before_the_last(append.now);
        let tx = conn.begin_waiting(lock_wait).await?;
        let events: Vec<&NewEvent> = append.events().collect();
        let appender = Appender { conn: &tx, terms, created_at, owes: true, optimistic: None };
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
