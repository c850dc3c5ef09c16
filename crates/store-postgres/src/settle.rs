//! Settling deliveries: attempts, what they mean, and the end of their leases.
//!
//! What ends at the same time is one statement or two: first attempts that succeeded are tried optimistically (module
//! `optimistic`), and the others go together. Where one of them may be at fault that it fails, each is settled alone,
//! as events are stored alone (module `append`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{AttemptRecord, AttemptStatus, DeliveryState},
    retry::Verdict,
    signing::Signatures,
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{Settled, Settlement, Unsettled};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tokio_postgres::{Row, error::SqlState};

use crate::{
    batch::{Batcher, GroupEnd, Job, Rhythm, Trip},
    columns::{Columns, headers_json, int},
    conn::{Connection, LockWait, Param},
    connections::Connections,
    endpoints,
    failure::{Failure, OneByOne},
    lease::{due_at, token},
    optimistic::OptimisticWrites,
    sql::{self, Sql},
};

/// Nobody waits for a settlement: its receiver has answered, and its endpoint is free for the next. But what is not
/// recorded yet when the process is killed is sent again.
const RHYTHM: Rhythm = Rhythm { gathering: Duration::from_millis(7), distance: Duration::from_millis(6) };
/// How often a settlement is looked for whose delivery is being moved by hand.
const TRIES_MAX: usize = 5;

/// Where ended attempts are left to be recorded.
pub(crate) struct Settlements(Batcher<Ended>);

/// One ended attempt.
struct Ended {
    tenant_no: i32,
    settlement: Settlement,
    came_at: Instant,
    reply: oneshot::Sender<Result<Settled, Unsettled<Settlement>>>,
}

impl Job for Ended {
    fn bytes(&self) -> usize {
        self.settlement.attempt.response.as_ref().map_or(0, |response| response.body.len()) + 512
    }

    fn tenant_no(&self) -> i32 {
        self.tenant_no
    }
}

impl Settlements {
    /// So many groups may be left behind that somebody's lock holds up.
    pub(crate) fn start(
        connections: &Connections,
        left_behind_max: usize,
        workers: &mut JoinSet<()>,
    ) -> Self {
        let recorder = Recorder { connections: connections.clone(), optimistic: Arc::default() };
        let run = move |group, trip| recorder.clone().settle_group(group, trip);
        Self(Batcher::start(left_behind_max, RHYTHM, workers, run))
    }

    /// Takes no more; what it has is recorded yet.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    pub(crate) async fn settle(
        &self,
        tenant_no: i32,
        settlement: Settlement,
    ) -> Result<Settled, Unsettled<Settlement>> {
        let (reply, answer) = oneshot::channel();
        let left = self.0.leave(Ended { tenant_no, settlement, came_at: Instant::now(), reply }).await;
        if let Err(refused) = left {
            return Err(Unsettled { work: refused.settlement, error: Failure::Closed.into() });
        }
        // No reply comes if the group panicked (module `batch`), or if the store was closed before its turn. What was
        // not recorded by then stays leased until the lease expires or the session ends, and is then attempted again.
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Ok(Settled::LeaseLost),
        }
    }
}

/// What workers record with.
#[derive(Clone)]
struct Recorder {
    connections: Connections,
    /// For first attempts that succeeded.
    optimistic: Arc<OptimisticWrites>,
}

impl Recorder {
    async fn settle_group(self, group: Vec<Ended>, trip: Arc<Trip>) -> GroupEnd {
        let mut states = States::new();
        let recorded = self.record(&group, &mut states).await;
        // What follows a failure is still of this trip.
        if recorded.is_ok() {
            trip.is_answered().await;
        }
        // What was recorded before a failure is recorded.
        let (done, open): (Vec<_>, Vec<_>) = group
            .into_iter()
            .partition(|ended| recorded.is_ok() || states.contains_key(&key(&ended.settlement)));
        for ended in done {
            let state = states.remove(&key(&ended.settlement));
            answer(ended, Ok(state.map_or(Settled::LeaseLost, Settled::Recorded)));
        }
        match recorded {
            Ok(()) => GroupEnd::Through,
            // One of them may be what the database cannot take: the others must not suffer for it.
            Err(failure) if open.len() > 1 && failure.is_one_jobs() => self.settle_each_alone(open).await,
            Err(failure) => {
                for ended in open {
                    answer(ended, Err(failure.again()));
                }
                failure.group_end()
            }
        }
    }

    /// One after the other, for as long as it is not the fault of all.
    async fn settle_each_alone(&self, group: Vec<Ended>) -> GroupEnd {
        let (mut left, mut one_by_one) = (group.into_iter(), OneByOne::default());
        while let Some(ended) = left.next() {
            let settled = self.settle_alone(&ended).await;
            let given_up = one_by_one.gives_up(settled.as_ref().err());
            answer(ended, settled);
            if let Some(failure) = given_up {
                for ended in left {
                    answer(ended, Err(failure.again()));
                }
                break;
            }
        }
        one_by_one.group_end()
    }

    /// Records settlements of one tenant.
    async fn record(&self, group: &[Ended], states: &mut States) -> Result<(), Failure> {
        let Some(first) = group.first() else { return Ok(()) };
        let mut conn = self.connections.work_since(first.came_at).await?;
        let schema = &first.settlement.lease.work().schema;
        let settlements = || group.iter().map(|ended| &ended.settlement);
        let as_expected: Vec<&Settlement> = settlements().filter(|one| is_as_expected(one)).collect();
        if !as_expected.is_empty() && self.optimistic.may_try(first.tenant_no) {
            if succeed(&conn, schema, first.tenant_no, &as_expected).await? {
                states.extend(as_expected.iter().map(|settlement| (key(settlement), DeliveryState::Success)));
            } else {
                self.optimistic.refused(first.tenant_no);
            }
        }
        // Lost, or its row was moved by hand at the very moment: looked at again, the latter are found.
        for _ in 0..TRIES_MAX {
            let open: Vec<&Settlement> =
                settlements().filter(|settlement| !states.contains_key(&key(settlement))).collect();
            if open.is_empty() {
                break;
            }
            let recorded = if open.iter().any(|settlement| is_gone(settlement)) {
                write_in_a_transaction(&mut conn, LockWait::Whole, (schema, first.tenant_no), &open).await?
            } else {
                write(&conn, schema, first.tenant_no, &open).await?
            };
            states.extend(recorded);
        }
        Ok(())
    }

    /// Records one that could not be recorded with others.
    async fn settle_alone(&self, ended: &Ended) -> Result<Settled, Failure> {
        let mut conn = self.connections.work_since(ended.came_at).await?;
        let of = (&ended.settlement.lease.work().schema, ended.tenant_no);
        for _ in 0..TRIES_MAX {
            let states = write_in_a_transaction(&mut conn, LockWait::Alone, of, &[&ended.settlement]).await?;
            if let Some(state) = states.into_values().next() {
                return Ok(Settled::Recorded(state));
            }
        }
        Ok(Settled::LeaseLost)
    }
}

fn answer(ended: Ended, settled: Result<Settled, Failure>) {
    let Ended { settlement, reply, .. } = ended;
    let settled = settled.map_err(|failure| Unsettled { work: settlement, error: failure.into() });
    // Whoever no longer waits has nothing left to do.
    let _ = reply.send(settled);
}

/// What was recorded, by delivery and token: two who hold the same delivery, one of them no longer, may come together.
type States = HashMap<(Uuid, i64), DeliveryState>;

fn key(settlement: &Settlement) -> (Uuid, i64) {
    (settlement.lease.work().delivery_id.uuid(), token(settlement.lease.token()))
}

/// Whether it went as most do: the first attempt was a success.
fn is_as_expected(settlement: &Settlement) -> bool {
    settlement.attempt.attempt_number == 1 && settlement.verdict == Verdict::Succeeded
}

fn is_gone(settlement: &Settlement) -> bool {
    settlement.verdict == Verdict::Gone
}

/// Also disables the endpoints whose receivers asked for no more.
async fn write_in_a_transaction(
    conn: &mut Connection,
    lock_wait: LockWait,
    (schema, tenant_no): (&Schema, i32),
    settlements: &[&Settlement],
) -> Result<States, Failure> {
    let tx = conn.begin_waiting(lock_wait).await?;
    let states = write(&tx, schema, tenant_no, settlements).await?;
    for settlement in settlements.iter().filter(|settlement| is_gone(settlement)) {
        if states.contains_key(&key(settlement)) {
            disable_endpoint(&tx, schema, settlement).await?;
        }
    }
    tx.commit().await?;
    Ok(states)
}

async fn disable_endpoint(
    conn: &Connection,
    schema: &Schema,
    settlement: &Settlement,
) -> Result<(), Failure> {
    let AttemptRecord { endpoint_revision, completed_at, .. } = settlement.attempt;
    let endpoint_id = settlement.lease.work().endpoint_id;
    endpoints::disable_gone(conn, schema, endpoint_id, endpoint_revision, completed_at).await
}

/// The state that a verdict brings, if nobody asked for a cancellation meanwhile: the statement sees to that.
struct Next {
    status: &'static str,
    due_at: Option<Timestamp>,
    max_attempts_reached: bool,
}

impl Next {
    fn of(verdict: Verdict) -> Self {
        let state = DeliveryState::after(verdict, None);
        let status = state.status().as_str();
        match state {
            DeliveryState::Retrying { next_retry_at } => {
                Self { status, due_at: Some(to_micros(next_retry_at)), max_attempts_reached: false }
            }
            DeliveryState::Failed { max_attempts_reached } => {
                Self { status, due_at: None, max_attempts_reached }
            }
            _ => Self { status, due_at: None, max_attempts_reached: false },
        }
    }
}

/// The states of those that were recorded.
async fn write(
    conn: &Connection,
    schema: &Schema,
    tenant_no: i32,
    settlements: &[&Settlement],
) -> Result<States, Failure> {
    let column = Rows(settlements);
    let next: Vec<Next> = column.of(|settlement| Next::of(settlement.verdict));
    let own: [Param<'_>; 7] = [
        &column.attempts(|attempt| int(attempt.attempt_number)),
        &next.iter().map(|next| next.status).collect::<Vec<_>>(),
        &next.iter().map(|next| next.due_at).collect::<Vec<_>>(),
        &next.iter().map(|next| next.max_attempts_reached).collect::<Vec<_>>(),
        &column.attempts(|attempt| AttemptStatus::of(&attempt.outcome).as_str()),
        &column.attempts(|attempt| attempt.outcome.error_code()),
        &column.attempts(|attempt| attempt.error_message.as_deref().map(without_nul)),
    ];
    let rows = column.query(conn, sql::DELIVERIES_SETTLE, (schema, tenant_no), &own).await?;
    rows.iter().map(read).collect()
}

/// Records first attempts that succeeded, unless one of their deliveries is not as it was when it was leased: then
/// nothing happens.
async fn succeed(
    conn: &Connection,
    schema: &Schema,
    tenant_no: i32,
    settlements: &[&Settlement],
) -> Result<bool, Failure> {
    let column = Rows(settlements);
    let own: [Param<'_>; 2] = [
        &column.of(|settlement| settlement.lease.work().endpoint_id.uuid()),
        &column.of(|settlement| due_at(&settlement.lease)),
    ];
    match column.query(conn, sql::DELIVERIES_SUCCEED, (schema, tenant_no), &own).await {
        Ok(_) => Ok(true),
        Err(failure) if is_a_refusal(&failure) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Whether `deliveries/succeed.sql` found one not as its holder knew it: by the division at its end, by an attempt that
/// is there already, or because somebody who changes one of them at this moment stood before its locks.
fn is_a_refusal(failure: &Failure) -> bool {
    let is_the_division = failure.code() == Some(&SqlState::DIVISION_BY_ZERO);
    is_the_division || failure.is_a_key_twice() || failure.is_a_deadlock()
}

/// The database's text has no NUL, and what a receiver makes us say might.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn read(row: &Row) -> Result<((Uuid, i64), DeliveryState), Failure> {
    let mut columns = Columns::of(row);
    let key = (columns.take()?, columns.take()?);
    let (status, due_at) = (columns.parsed()?, columns.take()?);
    let (cancel_reason, max_attempts_reached) = (columns.take()?, columns.take()?);
    Ok((key, DeliveryState::from_stored(status, due_at, max_attempts_reached, cancel_reason)))
}

/// Settlements, to be turned into columns.
struct Rows<'a>(&'a [&'a Settlement]);

impl<'a> Rows<'a> {
    fn of<T>(&self, field: impl Fn(&'a Settlement) -> T) -> Vec<T> {
        self.0.iter().map(|settlement| field(settlement)).collect()
    }

    fn attempts<T>(&self, field: impl Fn(&'a AttemptRecord) -> T) -> Vec<T> {
        self.of(|settlement| field(&settlement.attempt))
    }

    /// With the columns that every statement takes that records attempts, and then its own.
    async fn query(
        &self,
        conn: &Connection,
        sql: Sql,
        (schema, tenant_no): (&Schema, i32),
        own: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let signatures = self.attempts(|attempt| attempt.signatures.as_ref());
        let signature = |field: fn(&'a Signatures) -> Option<&'a str>| {
            signatures.iter().map(|signatures| field((*signatures)?)).collect::<Vec<_>>()
        };
        let responses = self.attempts(|attempt| attempt.response.as_ref());
        let headers =
            responses.iter().map(|response| response.map(|all| headers_json(&all.headers)).transpose());
        let common: [Param<'_>; 16] = [
            &tenant_no,
            &self.of(|settlement| settlement.lease.work().delivery_id.uuid()),
            &self.of(|settlement| token(settlement.lease.token())),
            &self.attempts(|attempt| attempt.request_id.uuid()),
            &self.attempts(|attempt| int(attempt.endpoint_revision)),
            &self.attempts(|attempt| attempt.attempted_at),
            &self.attempts(|attempt| attempt.completed_at),
            &self.attempts(|a| i64::try_from(a.response_time.as_millis()).unwrap_or(i64::MAX)),
            &self.attempts(|attempt| attempt.connection_reused),
            &signature(|all| Some(&all.standard)),
            &signature(|all| Some(&all.body)),
            &signature(|all| all.body_previous.as_deref()),
            &responses.iter().map(|response| response.map(|all| i32::from(all.status))).collect::<Vec<_>>(),
            &headers.collect::<Result<Vec<_>, _>>()?,
            &responses.iter().map(|response| response.map(|all| all.body_truncated)).collect::<Vec<_>>(),
            &responses.iter().map(|response| response.map(|all| all.body.as_slice())).collect::<Vec<_>>(),
        ];
        conn.query(sql, schema, &[&common, own].concat()).await
    }
}
