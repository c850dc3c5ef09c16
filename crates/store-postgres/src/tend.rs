//! Finishing what was begun, a bounded step at a time: nodes that died, cancellations that waited, deliveries of
//! deleted endpoints, and what a clock that ran ahead put off. Every node does it; rows that one is at are passed over
//! by the others.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events_domain::{
    SignedDuration, Timestamp, Uuid,
    delivery::CANCEL_REASON_ENDPOINT_DELETED,
    id::{DeliveryId, Id},
    retry::{DUE_AHEAD_MAX, FIRST_DUE_AHEAD_MAX},
    tenant::Schema,
    time::{later, to_micros},
};
use tokio::time::Instant;

use crate::{
    columns::Columns,
    conn::{Conn, Connection, Param},
    failure::Failure,
    repair::finish_request,
    sql::{self, Sql},
    store::PostgresStore,
};

/// Deliveries that one step ends, or brings back, at most.
const STEP_MAX: usize = 500;
/// Deleted endpoints that one step looks at, at most.
const REMOVALS_MAX: usize = 100;
/// Deliveries that one look at the far ends of the queues finds, at most.
const PUT_OFF_MAX: usize = 10 * STEP_MAX;
/// How often the far end of every queue is looked at.
const PUT_OFF_INTERVAL: Duration = Duration::from_secs(10);
/// How often the newest deliveries of tenants are looked at, of those that have one that is not due yet.
const AHEAD_INTERVAL: Duration = Duration::from_mins(1);

/// Clocks that differ by more are said to: receivers allow a signature some five minutes.
const CLOCKS_APART_MAX: SignedDuration = SignedDuration::from_mins(1);
/// How often that is said at most.
const CLOCKS_APART_INTERVAL: Duration = Duration::from_mins(10);

/// When the rarer parts are due again.
#[derive(Default)]
pub(crate) struct TendTimes {
    put_off: NextTime,
    ahead: NextTime,
    clocks_apart: NextTime,
    cancel_requests: Turns,
    endpoint_removals: Turns,
    /// This node's session when it last tended.
    session_no: AtomicI64,
}

/// When something is to be done next; at once if nothing is said.
#[derive(Default)]
struct NextTime(Mutex<Option<Instant>>);

impl NextTime {
    /// Whether it is time; then it will be again after the interval.
    fn has_come(&self, interval: Duration) -> bool {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = at.is_none_or(|at| at <= Instant::now());
        if is_due {
            *at = Some(Instant::now() + interval);
        }
        is_due
    }

    fn is_now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Where a list was left that has more rows than a step looks at. Some of them may wait for long: for an attempt in flight,
/// or for somebody's lock.
#[derive(Default)]
struct Turns(Mutex<Option<(i32, Uuid)>>);

impl Turns {
    /// The next rows of the list, of tenants that are not left alone; from the beginning again after the last.
    async fn next(
        &self,
        store: &PostgresStore,
        conn: &Connection,
        list: Sql,
        most: usize,
    ) -> Result<Vec<(i32, Uuid)>, Failure> {
        let before_all = (i32::MIN, Uuid::nil());
        let (no, id) = self.left_at().unwrap_or(before_all);
        let (left_alone, limit) = (store.inner.backed_off.tending.nos(), count(most));
        let params: [Param<'_>; 4] = [&no, &id, &left_alone, &limit];
        let rows = conn.query(list, &Schema::admin(), &params).await?;
        let rows = rows.iter().map(|row| {
            let mut columns = Columns::of(row);
            Ok((columns.take()?, columns.uuid()?))
        });
        let rows: Vec<_> = rows.collect::<Result<_, Failure>>()?;
        *self.left_at() = rows.last().copied().filter(|_| rows.len() == most);
        Ok(rows)
    }

    fn left_at(&self) -> MutexGuard<'_, Option<(i32, Uuid)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// What goes wrong with one tenant's tables is nothing to the others, and it is left alone for a while: who stands before
/// its locks again and again keeps everybody waiting.
fn leave_alone_if_one_tenants(store: &PostgresStore, tenant_no: i32, failure: &Failure) {
    if failure.is_one_tenants() {
        store.inner.backed_off.tending.note(tenant_no);
    }
}

/// One step of each. Answers whether more is left that need not wait for an attempt in flight.
pub(crate) async fn tend(store: &PostgresStore, now: Timestamp) -> Result<bool, Failure> {
    // A claim in the name of a session that is gone sees nothing and takes it for everything.
    let session_no = store.inner.session.no();
    let times = &store.inner.tend_times;
    let is_new = times.session_no.swap(session_no, Ordering::Relaxed) != session_no;
    if bury_others(store).await || is_new {
        store.inner.horizon.forget();
        store.inner.floors.forget_all();
        // Its clock may have been ahead.
        times.ahead.is_now();
    }
    let conn = store.inner.connections.work().await?;
    if let Err(failure) = finish_requests(store, &conn, now).await {
        // What comes after has nothing to do with it.
        tracing::error!(%failure, "cancellations that waited were not finished");
    }
    let mut more = end_removals(store, &conn, now).await?;
    // One tenant's tables keep nobody else's waiting.
    let brief = store.inner.connections.brief().await?;
    if times.put_off.has_come(PUT_OFF_INTERVAL) && bring_back(store, &brief, now).await? {
        times.put_off.is_now();
        more = true;
    }
    if times.ahead.has_come(AHEAD_INTERVAL) && bring_back_ahead(store, &brief, now).await? {
        times.ahead.is_now();
        more = true;
    }
    Ok(more)
}

/// Answers whether somebody was buried. Where that fails, because what the dead held cannot be found in time perhaps,
/// it is tried again with the next step, and what else there is to do does not wait for it.
async fn bury_others(store: &PostgresStore) -> bool {
    let buried = async {
        let mut conn = store.inner.connections.work().await?;
        store.inner.session.bury_others(&mut conn).await
    };
    buried.await.unwrap_or_else(|failure: Failure| {
        tracing::error!(%failure, "what a dead node held was not given to others");
        false
    })
}

async fn finish_requests(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<(), Failure> {
    let turns = &store.inner.tend_times.cancel_requests;
    for (no, id) in turns.next(store, conn, sql::CANCEL_REQUESTS_LIST, STEP_MAX).await? {
        if store.inner.backed_off.tending.has(no) {
            continue;
        }
        let id = DeliveryId::from_uuid(id);
        if let Some(schema) = schema_of(store, conn, no).await?
            && let Err(failure) = finish_request(store, (&schema, no), id, now).await
        {
            tracing::error!(%failure, %schema, delivery_id = %id, "a cancellation was not finished");
            leave_alone_if_one_tenants(store, no, &failure);
        }
    }
    Ok(())
}

/// Answers whether more is left of an endpoint, or of the list.
async fn end_removals(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<bool, Failure> {
    let turns = &store.inner.tend_times.endpoint_removals;
    let removals = turns.next(store, conn, sql::ENDPOINT_REMOVALS_LIST, REMOVALS_MAX).await?;
    let (mut more, mut ended) = (false, 0);
    for (no, endpoint_id) in &removals {
        if store.inner.backed_off.tending.has(*no) {
            continue;
        }
        match end_deliveries(store, (*no, *endpoint_id), now).await {
            Ok(Removal::Ended) => ended += 1,
            Ok(Removal::Waits) => {}
            Ok(Removal::HasMore) => more = true,
            Err(failure) => {
                // It stays on the list; others have nothing to do with it.
                tracing::error!(%failure, %endpoint_id, "deliveries of a deleted endpoint were not cancelled");
                leave_alone_if_one_tenants(store, *no, &failure);
            }
        }
    }
    Ok(more || (ended > 0 && removals.len() == REMOVALS_MAX))
}

/// What is left of a deleted endpoint.
enum Removal {
    Ended,
    /// An attempt in flight, perhaps.
    Waits,
    /// More deliveries than one step ends.
    HasMore,
}

/// What rows of one endpoint's queue are found by.
#[derive(Default)]
struct Keys {
    ids: Vec<Uuid>,
    due_at: Vec<Timestamp>,
}

async fn schema_of(store: &PostgresStore, conn: &Conn, no: i32) -> Result<Option<Schema>, Failure> {
    store.learn_tenants(conn, &[no]).await?;
    Ok(store.inner.tenants.schema(no))
}

/// What a deleted endpoint was still owed ends: at once where nobody works on it, else when that attempt ends.
async fn end_deliveries(
    store: &PostgresStore,
    (no, endpoint_id): (i32, Uuid),
    now: Timestamp,
) -> Result<Removal, Failure> {
    let mut conn = store.inner.connections.brief().await?;
    let Some(schema) = schema_of(store, &conn, no).await? else { return Ok(Removal::Waits) };
    let (admin, limit) = (Schema::admin(), count(STEP_MAX));
    let tx = conn.begin().await?;
    let owed = tx.query(sql::DELIVERY_QUEUE_OF_ENDPOINT, &admin, &[&no, &endpoint_id, &limit, &now]).await?;
    let (mut waiting, mut in_flight) = (Keys::default(), Keys::default());
    for row in &owed {
        let mut columns = Columns::of(row);
        let (id, due_at, is_in_flight) = (columns.uuid()?, columns.time()?, columns.take()?);
        let keys = if is_in_flight { &mut in_flight } else { &mut waiting };
        keys.ids.push(id);
        keys.due_at.push(due_at);
    }
    let reason = CANCEL_REASON_ENDPOINT_DELETED;
    for (statement, keys) in
        [(sql::DELIVERIES_CANCEL_ALL, &waiting), (sql::DELIVERIES_REQUEST_CANCEL_ALL, &in_flight)]
    {
        if !keys.ids.is_empty() {
            let params: [Param<'_>; 5] = [&no, &endpoint_id, &keys.ids, &keys.due_at, &reason];
            tx.query(statement, &schema, &params).await?;
        }
    }
    let mut ended = 0;
    if owed.is_empty() {
        // Unless somebody is at one of them just now.
        ended = tx.execute(sql::ENDPOINT_REMOVALS_END, &admin, &[&no, &endpoint_id]).await?;
    }
    tx.commit().await?;
    Ok(match owed.len() {
        STEP_MAX => Removal::HasMore,
        0 if ended > 0 => Removal::Ended,
        _ => Removal::Waits,
    })
}

/// The database's time where this node's is behind it. A node whose clock is an hour behind would take every long retry
/// for one that a clock put off, and make it at once, again and again until no attempt is left.
async fn later_of_both_clocks(
    store: &PostgresStore,
    conn: &Connection,
    now: Timestamp,
) -> Result<Timestamp, Failure> {
    let row = conn.query_one(sql::DATABASE_CLOCK, &Schema::admin(), &[]).await?;
    let theirs = Columns::of(&row).time()?;
    let apart = now.duration_since(theirs);
    if apart.abs() > CLOCKS_APART_MAX && store.inner.tend_times.clocks_apart.has_come(CLOCKS_APART_INTERVAL) {
        tracing::warn!(
            seconds_ahead = apart.as_secs(),
            "this machine's clock is not the database's: retries come when the clock of a node says so, and receivers \
             refuse signatures of another time; set the clock that is wrong",
        );
    }
    Ok(now.max(theirs))
}

/// Makes due now what still waits too long. Answers whether there may be more.
async fn bring_back(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<bool, Failure> {
    let latest = later(later_of_both_clocks(store, conn, now).await?, DUE_AHEAD_MAX);
    let (of_endpoint, of_all, left_alone) =
        (count(STEP_MAX), count(PUT_OFF_MAX), store.inner.backed_off.tending.nos());
    let params: [Param<'_>; 4] = [&latest, &of_endpoint, &of_all, &left_alone];
    let late = conn.query(sql::DELIVERY_QUEUE_PUT_OFF, &Schema::admin(), &params).await?;
    let mut more = false;
    for row in &late {
        let mut columns = Columns::of(row);
        let (no, ids): (i32, Vec<Uuid>) = (columns.take()?, columns.take()?);
        let Some(schema) = schema_of(store, conn, no).await? else { continue };
        let moved = bring_back_of(conn, (&schema, no), &ids, (latest, now)).await;
        more |= moved.unwrap_or_else(|failure| not_brought_back(store, (&schema, no), &failure));
    }
    Ok(more)
}

async fn bring_back_of(
    conn: &Conn,
    (schema, tenant_no): (&Schema, i32),
    ids: &[Uuid],
    (latest, now): (Timestamp, Timestamp),
) -> Result<bool, Failure> {
    let mut more = false;
    for step in ids.chunks(STEP_MAX) {
        let params: [Param<'_>; 4] = [&tenant_no, &step, &latest, &to_micros(now)];
        let moved = conn.execute(sql::DELIVERIES_BRING_BACK, schema, &params).await?;
        more |= moved > 0 && step.len() == STEP_MAX;
    }
    Ok(more)
}

/// Others have nothing to do with it.
fn not_brought_back(store: &PostgresStore, (schema, tenant_no): (&Schema, i32), failure: &Failure) -> bool {
    tracing::error!(%failure, %schema, "deliveries that a clock put off were not brought back");
    leave_alone_if_one_tenants(store, tenant_no, failure);
    false
}

/// Makes due now what was never attempted and is not due at once. Answers whether there may be more.
async fn bring_back_ahead(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<bool, Failure> {
    let at_once = later(later_of_both_clocks(store, conn, now).await?, FIRST_DUE_AHEAD_MAX);
    let tenants = conn.query(sql::DELIVERY_QUEUE_TENANTS_DUE_AFTER, &Schema::admin(), &[&at_once]).await?;
    let mut more = false;
    for row in &tenants {
        let no = Columns::of(row).take()?;
        if store.inner.backed_off.tending.has(no) {
            continue;
        }
        let Some(schema) = schema_of(store, conn, no).await? else { continue };
        let moved = bring_back_ahead_of(conn, (&schema, no), at_once, now).await;
        more |= moved.unwrap_or_else(|failure| not_brought_back(store, (&schema, no), &failure));
    }
    Ok(more)
}

async fn bring_back_ahead_of(
    conn: &Conn,
    (schema, tenant_no): (&Schema, i32),
    at_once: Timestamp,
    now: Timestamp,
) -> Result<bool, Failure> {
    let (first, limit) = (DeliveryId::new(at_once, [0; 10]).uuid(), count(STEP_MAX));
    let found = conn.query(sql::DELIVERIES_AHEAD, schema, &[&first, &at_once, &limit]).await?;
    let ids: Vec<Uuid> = found.iter().map(|row| Columns::of(row).uuid()).collect::<Result<_, _>>()?;
    bring_back_of(conn, (schema, tenant_no), &ids, (at_once, now)).await
}

/// What a claim found of an endpoint that was deleted while its deliveries were being written: it goes the way of the
/// others.
pub(crate) async fn remove_again(
    conn: &Connection,
    schema: &Schema,
    tenant_no: i32,
    endpoint_id: Uuid,
) -> Result<(), Failure> {
    tracing::debug!(endpoint_id = %Id::<()>::from_uuid(endpoint_id), "deleted while deliveries were written");
    conn.execute(sql::ENDPOINT_REMOVALS_RENEW, schema, &[&tenant_no, &endpoint_id]).await?;
    Ok(())
}
