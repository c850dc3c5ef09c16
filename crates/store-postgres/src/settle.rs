//! Settling deliveries: attempts, what they mean, and the end of their leases. What ends at the same time is one
//! statement.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{AttemptRecord, AttemptStatus, DeliveryState, error_code},
    event::to_micros,
    id::EndpointId,
    retry::Verdict,
    tenant::Schema,
};
use neo_events_store::{Settled, Settlement, Unsettled};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tokio_postgres::Row;

use crate::{
    batch::{Batcher, Job, Rhythm},
    columns::{Columns, headers_json, int},
    conn::Connection,
    dispatches::token,
    endpoints,
    failure::Failure,
    sql,
    store::Connections,
};

/// Batches that may be on their way at once.
const WORKERS: usize = 2;
/// Nobody waits for a settlement: its receiver has answered, and its endpoint is free for the next. But what is not
/// recorded yet when the process is killed is sent again.
const RHYTHM: Rhythm = Rhythm { gathering: Duration::from_millis(4), distance: Duration::from_millis(3) };
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
}

impl Settlements {
    pub(crate) fn start(connections: &Connections, background: &mut JoinSet<()>) -> Self {
        let connections = connections.clone();
        Self(Batcher::start(WORKERS, RHYTHM, background, move |batch| run(connections.clone(), batch)))
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
        // A worker ends only with the store, and with it ends who waits here.
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Ok(Settled::LeaseLost),
        }
    }
}

async fn run(connections: Connections, batch: Vec<Ended>) {
    let mut groups: HashMap<i32, Vec<Ended>> = HashMap::new();
    for ended in batch {
        groups.entry(ended.tenant_no).or_default().push(ended);
    }
    // Side by side: what holds up one tenant's, a lock perhaps, holds up nobody else's.
    join_all(groups.into_values().map(|group| settle_group(&connections, group))).await;
}

async fn settle_group(connections: &Connections, group: Vec<Ended>) {
    let mut states = States::new();
    let settlements: Vec<&Settlement> = group.iter().map(|ended| &ended.settlement).collect();
    let recorded = record(connections, &group[0], &settlements, &mut states).await;
    // What was recorded before a failure is recorded.
    let (done, open): (Vec<_>, Vec<_>) =
        group.into_iter().partition(|ended| recorded.is_ok() || states.contains_key(&key(&ended.settlement)));
    for ended in done {
        let state = states.remove(&key(&ended.settlement));
        answer(ended, Ok(state.map_or(Settled::LeaseLost, Settled::Recorded)));
    }
    match recorded {
        Ok(()) => {}
        // One of them may be what the database cannot take: the others must not suffer for it.
        Err(failure) if open.len() > 1 && failure.is_one_jobs() => {
            for ended in open {
                let mut states = States::new();
                let alone = record(connections, &ended, &[&ended.settlement], &mut states).await;
                let state = states.into_values().next();
                answer(ended, alone.map(|()| state.map_or(Settled::LeaseLost, Settled::Recorded)));
            }
        }
        Err(failure) => open.into_iter().for_each(|ended| answer(ended, Err(failure.again()))),
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

/// Records settlements of one tenant, for the first of them and others.
async fn record(
    connections: &Connections,
    first: &Ended,
    settlements: &[&Settlement],
    states: &mut States,
) -> Result<(), Failure> {
    let mut conn = connections.work_since(first.came_at).await?;
    let (schema, tenant_no) = (&first.settlement.lease.work().schema, first.tenant_no);
    // Lost, or its row was moved by hand at the very moment: looked at again, the latter are found.
    for _ in 0..TRIES_MAX {
        let is_open = |settlement: &&&Settlement| !states.contains_key(&key(settlement));
        let open: Vec<&Settlement> = settlements.iter().filter(is_open).copied().collect();
        if open.is_empty() {
            break;
        }
        states.extend(write_with_consequences(&mut conn, schema, tenant_no, &open).await?);
    }
    Ok(())
}

/// Also disables the endpoints whose receivers asked for no more.
async fn write_with_consequences(
    conn: &mut Connection,
    schema: &Schema,
    tenant_no: i32,
    settlements: &[&Settlement],
) -> Result<States, Failure> {
    let is_gone = |settlement: &&&Settlement| settlement.verdict == Verdict::Gone;
    let gone: Vec<&Settlement> = settlements.iter().filter(is_gone).copied().collect();
    if gone.is_empty() {
        return write(conn, schema, tenant_no, settlements).await;
    }
    let tx = conn.begin().await?;
    let states = write(&tx, schema, tenant_no, settlements).await?;
    for settlement in gone {
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
    let delivery_id = settlement.lease.work().delivery_id.uuid();
    let row = conn.query_one(sql::DELIVERIES_ENDPOINT, schema, &[&delivery_id]).await?;
    let endpoint_id: EndpointId = Columns::of(&row).id()?;
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
    let headers = settlements
        .iter()
        .map(|settlement| {
            settlement.attempt.response.as_ref().map(|response| headers_json(&response.headers)).transpose()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let rows = conn
        .query(
            sql::DELIVERIES_SETTLE,
            schema,
            &[
                &tenant_no,
                &column.of(|settlement| settlement.lease.work().delivery_id.uuid()),
                &column.of(|settlement| token(settlement.lease.token())),
                &column.attempts(|attempt| int(attempt.attempt_number)),
                &next.iter().map(|next| next.status).collect::<Vec<_>>(),
                &next.iter().map(|next| next.due_at).collect::<Vec<_>>(),
                &next.iter().map(|next| next.max_attempts_reached).collect::<Vec<_>>(),
                &column.attempts(|attempt| attempt.request_id.uuid()),
                &column.attempts(|attempt| int(attempt.endpoint_revision)),
                &column.attempts(|attempt| AttemptStatus::of(&attempt.outcome).as_str()),
                &column.attempts(|attempt| error_code(&attempt.outcome)),
                &column.attempts(|attempt| attempt.attempted_at),
                &column.attempts(|attempt| attempt.completed_at),
                &column.attempts(|a| i64::try_from(a.response_time.as_millis()).unwrap_or(i64::MAX)),
                &column.attempts(|attempt| attempt.connection_reused),
                &column.attempts(|attempt| attempt.signatures.as_ref().map(|all| all.standard.as_str())),
                &column.attempts(|attempt| attempt.signatures.as_ref().map(|all| all.body.as_str())),
                &column
                    .attempts(|attempt| attempt.signatures.as_ref().and_then(|s| s.body_previous.as_deref())),
                &column.attempts(|attempt| attempt.error_message.as_deref().map(without_nul)),
                &column.attempts(|attempt| attempt.response.as_ref().map(|all| i32::from(all.status))),
                &headers,
                &column.attempts(|attempt| attempt.response.as_ref().map(|all| all.body_truncated)),
                &column.attempts(|attempt| attempt.response.as_ref().map(|all| all.body.as_slice())),
            ],
        )
        .await?;
    rows.iter().map(read).collect()
}

/// The database's text has no NUL, and what a receiver makes us say might.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn read(row: &Row) -> Result<((Uuid, i64), DeliveryState), Failure> {
    let mut columns = Columns::of(row);
    let (key, status): (_, String) = ((columns.take()?, columns.take()?), columns.take()?);
    let (due_at, reason, max_attempts_reached): (Option<Timestamp>, Option<String>, bool) =
        (columns.take()?, columns.take()?, columns.take()?);
    let state = match (status.as_str(), due_at) {
        ("success", _) => DeliveryState::Success,
        ("retrying", Some(next_retry_at)) => DeliveryState::Retrying { next_retry_at },
        ("cancelled", _) => DeliveryState::Cancelled { reason: reason.unwrap_or_default() },
        _ => DeliveryState::Failed { max_attempts_reached },
    };
    Ok((key, state))
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
}
