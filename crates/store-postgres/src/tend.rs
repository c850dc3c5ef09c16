//! Finishing what was begun, a bounded step at a time: nodes that died, cancellations that waited, deliveries of
//! deleted endpoints, and what a clock that ran ahead put off. Every node does it; rows that one is at are passed over
//! by the others.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use neo_events_domain::{
    Timestamp, Uuid,
    delivery::CANCEL_REASON_ENDPOINT_DELETED,
    id::{DeliveryId, Id},
    retry::{FIRST_WAIT_MAX, WAIT_MAX},
    tenant::Schema,
    time::{later, to_micros},
};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::{
    columns::Columns,
    conn::{Conn, Connection, Param},
    failure::Failure,
    repair::finish_request,
    sql,
    store::PostgresStore,
};

/// Deliveries that one step ends, or brings back, at most.
const STEP_MAX: usize = 500;
/// How often the far end of every queue is looked at.
const PUT_OFF_INTERVAL: Duration = Duration::from_secs(10);
/// How often the newest deliveries of tenants are looked at, of those that have one that is not due yet.
const AHEAD_INTERVAL: Duration = Duration::from_mins(1);

/// When the rarer parts are due again.
#[derive(Default)]
pub(crate) struct TendTimes {
    put_off: NextTime,
    ahead: NextTime,
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
    let mut more = finish_requests(store, &conn, now).await.unwrap_or_else(|failure| {
        // What comes after has nothing to do with it.
        tracing::error!(%failure, "cancellations that waited were not finished");
        false
    });
    for row in conn.query(sql::ENDPOINT_REMOVALS_LIST, &Schema::admin(), &[]).await? {
        more |= end_deliveries(store, &row, now).await.unwrap_or_else(|failure| {
            // It stays on the list; others have nothing to do with it.
            tracing::error!(%failure, "deliveries of a deleted endpoint were not cancelled");
            false
        });
    }
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

async fn finish_requests(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<bool, Failure> {
    let limit = i64::try_from(STEP_MAX).unwrap_or(i64::MAX);
    let rows = conn.query(sql::CANCEL_REQUESTS_LIST, &Schema::admin(), &[&limit]).await?;
    for row in &rows {
        let mut columns = Columns::of(row);
        let (no, id): (i32, DeliveryId) = (columns.take()?, columns.id()?);
        if let Some(schema) = schema_of(store, conn, no).await?
            && let Err(failure) = finish_request(store, (&schema, no), id, now).await
        {
            tracing::error!(%failure, delivery_id = %id, "a cancellation was not finished");
        }
    }
    Ok(false)
}

async fn schema_of(store: &PostgresStore, conn: &Conn, no: i32) -> Result<Option<Schema>, Failure> {
    store.learn_tenants(conn, &[no]).await?;
    Ok(store.inner.tenants.schema(no))
}

/// What a deleted endpoint was still owed ends: at once where nobody works on it, else when that attempt ends.
async fn end_deliveries(store: &PostgresStore, row: &Row, now: Timestamp) -> Result<bool, Failure> {
    let mut conn = store.inner.connections.brief().await?;
    let mut columns = Columns::of(row);
    let (no, endpoint_id): (i32, Uuid) = (columns.take()?, columns.uuid()?);
    let Some(schema) = schema_of(store, &conn, no).await? else { return Ok(false) };
    let (admin, limit) = (Schema::admin(), i64::try_from(STEP_MAX).unwrap_or(i64::MAX));
    let tx = conn.begin().await?;
    let owed = tx.query(sql::DELIVERY_QUEUE_OF_ENDPOINT, &admin, &[&no, &endpoint_id, &limit, &now]).await?;
    let (mut waiting, mut in_flight) = (Vec::new(), Vec::new());
    for row in &owed {
        let mut columns = Columns::of(row);
        let (id, is_in_flight): (Uuid, bool) = (columns.uuid()?, columns.take()?);
        if is_in_flight { in_flight.push(id) } else { waiting.push(id) }
    }
    let reason = CANCEL_REASON_ENDPOINT_DELETED;
    let params: [Param<'_>; 4] = [&no, &endpoint_id, &waiting, &reason];
    tx.query(sql::DELIVERIES_CANCEL_ALL, &schema, &params).await?;
    let params: [Param<'_>; 4] = [&no, &endpoint_id, &in_flight, &reason];
    tx.query(sql::DELIVERIES_REQUEST_CANCEL_ALL, &schema, &params).await?;
    if owed.is_empty() {
        // Unless somebody is at one of them just now.
        tx.execute(sql::ENDPOINT_REMOVALS_END, &admin, &[&no, &endpoint_id]).await?;
    }
    tx.commit().await?;
    Ok(owed.len() == STEP_MAX)
}

/// Makes due now what still waits too long. Answers whether there may be more.
async fn bring_back(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<bool, Failure> {
    let latest = later(now, WAIT_MAX);
    let (now, limit) = (to_micros(now), i64::try_from(STEP_MAX).unwrap_or(i64::MAX));
    let late = conn.query(sql::DELIVERY_QUEUE_PUT_OFF, &Schema::admin(), &[&latest, &limit]).await?;
    let mut more = false;
    for row in &late {
        let mut columns = Columns::of(row);
        let (no, ids): (i32, Vec<Uuid>) = (columns.take()?, columns.take()?);
        let Some(schema) = schema_of(store, conn, no).await? else { continue };
        let params: [Param<'_>; 4] = [&no, &ids, &latest, &now];
        let moved = conn.execute(sql::DELIVERIES_BRING_BACK, &schema, &params).await;
        let moved: u64 = moved.unwrap_or_else(|failure| not_brought_back(&failure, &schema));
        more |= moved > 0 && ids.len() >= STEP_MAX;
    }
    Ok(more)
}

/// Others have nothing to do with it.
fn not_brought_back<T: Default>(failure: &Failure, schema: &Schema) -> T {
    tracing::error!(%failure, %schema, "deliveries that a clock put off were not brought back");
    T::default()
}

/// Makes due now what was never attempted and is not due at once. Answers whether there may be more.
async fn bring_back_ahead(store: &PostgresStore, conn: &Conn, now: Timestamp) -> Result<bool, Failure> {
    let at_once = later(now, FIRST_WAIT_MAX);
    let tenants = conn.query(sql::DELIVERY_QUEUE_TENANTS_DUE_AFTER, &Schema::admin(), &[&at_once]).await?;
    let mut more = false;
    for row in &tenants {
        let no = Columns::of(row).take()?;
        let Some(schema) = schema_of(store, conn, no).await? else { continue };
        let moved = bring_back_ahead_of(conn, (&schema, no), at_once, now).await;
        more |= moved.unwrap_or_else(|failure| not_brought_back(&failure, &schema));
    }
    Ok(more)
}

async fn bring_back_ahead_of(
    conn: &Conn,
    (schema, tenant_no): (&Schema, i32),
    at_once: Timestamp,
    now: Timestamp,
) -> Result<bool, Failure> {
    let (first, limit) =
        (DeliveryId::new(at_once, [0; 10]).uuid(), i64::try_from(STEP_MAX).unwrap_or(i64::MAX));
    let found = conn.query(sql::DELIVERIES_AHEAD, schema, &[&first, &at_once, &limit]).await?;
    let ids: Vec<Uuid> = found.iter().map(|row| Columns::of(row).uuid()).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(false);
    }
    let params: [Param<'_>; 4] = [&tenant_no, &ids, &at_once, &to_micros(now)];
    let moved = conn.execute(sql::DELIVERIES_BRING_BACK, schema, &params).await?;
    Ok(moved > 0 && ids.len() >= STEP_MAX)
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
