//! Delivery rows: written once per event, endpoint and trigger, then moved from state to state together with their
//! place in the queue.

use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{Delivery, DeliveryState, DeliveryStatus, Trigger},
    id::{DeliveryId, Id, SubscriptionId},
    retry::RetryPolicy,
    time::to_micros,
};
use neo_events_store::{
    DeliveryQuery, EndpointStanding, NewDelivery, SUBSCRIPTION_ID_WEIGHT, StoredDelivery,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{
    columns::{Columns, Micros, key, optional_key},
    endpoints,
    failure::Failure,
    page::{Span, Timeline, keys},
    scope::{KeptStatement, Newest, Scope},
    sql,
};

pub(crate) const TIMELINE: Timeline =
    Timeline { bounds: sql::DELIVERIES_BOUNDS, created_at: sql::DELIVERIES_CREATED_AT };

/// The end of the table, where new deliveries are inserted, as one transaction sees it.
pub(crate) struct TableEnd {
    newest_seq: i64,
    created_at: Micros,
    due_at: Micros,
}

impl TableEnd {
    pub(crate) fn of(scope: &mut Scope<'_>, now: Timestamp) -> Result<Self, Failure> {
        let now = Micros::from(now);
        let newest = scope.newest_delivery()?;
        // Due by the clock as it is, even if rows must look younger because it was set back.
        Ok(Self { newest_seq: newest.seq, created_at: newest.created_at.max(now), due_at: now })
    }

    /// Writes a delivery, due at once, a test before whatever its endpoint owes; `None` if it is there already.
    pub(crate) fn insert(
        &mut self,
        scope: &mut Scope<'_>,
        (event_seq, endpoint_no): (i64, i64),
        delivery: &NewDelivery,
    ) -> Result<Option<i64>, Failure> {
        let seq = self.newest_seq + 1;
        let due_at = match delivery.trigger {
            Trigger::Event => self.due_at,
            Trigger::Test => before_all(scope.connection(), endpoint_no, self.due_at)?,
        };
        let subscriptions: Vec<u8> = delivery.subscription_ids.iter().flat_map(|id| key(*id)).collect();
        let inserted = scope.statement(KeptStatement::DeliveriesInsert)?.execute(params![
            seq,
            key(delivery.id),
            event_seq,
            endpoint_no,
            delivery.trigger.as_str(),
            due_at,
            delivery.max_attempts,
            delivery.retry.max_retry_attempts,
            delivery.retry.backoff_seconds,
            delivery.retry.backoff_multiplier,
            subscriptions,
            self.created_at,
        ])?;
        if inserted == 0 {
            return Ok(None);
        }
        self.newest_seq = seq;
        scope.delivery_is_new(Newest { seq, created_at: self.created_at });
        enqueue(scope, endpoint_no, due_at, seq)?;
        Ok(Some(seq))
    }
}

/// A time before everything that the endpoint owes, so that a claim takes what is due then first: somebody waits for
/// the answer.
fn before_all(conn: &Connection, endpoint_no: i64, now: Micros) -> Result<Micros, Failure> {
    let mut head = conn.prepare_cached(sql::DELIVERY_QUEUE_BY_ENDPOINT)?;
    let earliest = head.query_row([endpoint_no], |row| row.get::<_, Micros>(0)).optional()?;
    Ok(earliest.map_or(now, |Micros(earliest)| now.min(Micros(earliest - 1))))
}

/// What a change of state must know of a row.
pub(crate) struct Standing {
    pub(crate) endpoint_no: i64,
    pub(crate) status: DeliveryStatus,
    pub(crate) due_at: Option<Micros>,
    pub(crate) current_attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) cancel_requested: Option<String>,
}

impl Standing {
    pub(crate) fn of(scope: &mut Scope<'_>, seq: i64) -> Result<Option<Self>, Failure> {
        let standing = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok(Self {
                endpoint_no: columns.take()?,
                status: columns.parsed()?,
                due_at: columns.take()?,
                current_attempt: columns.take()?,
                max_attempts: columns.take()?,
                cancel_requested: columns.take()?,
            })
        };
        Ok(scope.statement(KeptStatement::DeliveriesStanding)?.query_row([seq], standing).optional()?)
    }

    pub(crate) const fn is_final(&self) -> bool {
        !matches!(self.status, DeliveryStatus::Pending | DeliveryStatus::Retrying)
    }
}

/// How a row is to stand.
pub(crate) struct Change<'a> {
    pub(crate) state: &'a DeliveryState,
    pub(crate) current_attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) cancel_requested: Option<&'a str>,
}

impl<'a> Change<'a> {
    /// To a delivery as the domain changed it.
    pub(crate) fn to(delivery: &'a Delivery) -> Self {
        Self {
            state: &delivery.state,
            current_attempt: delivery.current_attempt,
            max_attempts: delivery.max_attempts,
            cancel_requested: delivery.cancel_requested.as_deref(),
        }
    }
}

/// Changes a row, its place in the queue, and whether its cancellation waits.
pub(crate) fn change(
    scope: &mut Scope<'_>,
    seq: i64,
    before: &Standing,
    change: &Change<'_>,
) -> Result<(), Failure> {
    let (due_at, reason, exhausted) = match change.state {
        DeliveryState::Pending => (before.due_at, None, false),
        DeliveryState::Retrying { next_retry_at } => (Some(Micros::from(*next_retry_at)), None, false),
        DeliveryState::Success => (None, None, false),
        DeliveryState::Failed { max_attempts_reached } => (None, None, *max_attempts_reached),
        DeliveryState::Cancelled { reason } => (None, Some(reason), false),
    };
    scope.statement(KeptStatement::DeliveriesUpdate)?.execute(params![
        seq,
        change.state.status().as_str(),
        due_at,
        change.current_attempt,
        change.max_attempts,
        exhausted,
        reason,
        change.cancel_requested,
    ])?;
    requeue(scope, seq, before, due_at)?;
    match (&before.cancel_requested, change.cancel_requested) {
        (None, Some(_)) => scope.connection().prepare_cached(sql::CANCEL_REQUESTS_INSERT)?.execute([seq])?,
        (Some(_), None) => scope.connection().prepare_cached(sql::CANCEL_REQUESTS_DELETE)?.execute([seq])?,
        _ => 0,
    };
    Ok(())
}

/// The keys of deliveries that are due after a time, at most `limit`.
pub(crate) fn due_after(conn: &Connection, at: Timestamp, limit: usize) -> Result<Vec<i64>, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(sql::DELIVERY_QUEUE_DUE_AFTER)?;
    Ok(statement.query_map(params![Micros::from(at), limit], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// The first deliveries that were never attempted and are due after a time, which is as far ahead as a clock may be.
pub(crate) fn first_ahead(
    conn: &Connection,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<(i64, DeliveryId)>, Failure> {
    ahead(conn, (DeliveryId::new(at, [0; 10]), at), limit)
}

/// Deliveries after this one in the order of ids that were never attempted and are due after a time.
pub(crate) fn ahead(
    conn: &Connection,
    (after, at): (DeliveryId, Timestamp),
    limit: usize,
) -> Result<Vec<(i64, DeliveryId)>, Failure> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(sql::DELIVERIES_AHEAD)?;
    let rows = statement.query_map(params![key(after), Micros::from(at), limit], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.take()?, columns.id()?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Makes a delivery that is not over due at another time, whatever its state.
pub(crate) fn set_due(
    scope: &mut Scope<'_>,
    seq: i64,
    before: &Standing,
    due_at: Timestamp,
) -> Result<(), Failure> {
    let due_at = Micros::from(due_at);
    scope.connection().prepare_cached(sql::DELIVERIES_SET_DUE)?.execute(params![seq, due_at])?;
    requeue(scope, seq, before, Some(due_at))
}

fn requeue(
    scope: &mut Scope<'_>,
    seq: i64,
    before: &Standing,
    due_at: Option<Micros>,
) -> Result<(), Failure> {
    if due_at == before.due_at {
        return Ok(());
    }
    if let Some(before) = before.due_at.map(|at| params_of(before.endpoint_no, at, seq)) {
        scope.statement(KeptStatement::DeliveryQueueDelete)?.execute(before)?;
    }
    if let Some(due_at) = due_at {
        enqueue(scope, before.endpoint_no, due_at, seq)?;
    }
    Ok(())
}

fn enqueue(scope: &mut Scope<'_>, endpoint_no: i64, due_at: Micros, seq: i64) -> Result<(), Failure> {
    scope.statement(KeptStatement::DeliveryQueueInsert)?.execute(params_of(endpoint_no, due_at, seq))?;
    Ok(())
}

const fn params_of(endpoint_no: i64, due_at: Micros, seq: i64) -> (i64, Micros, i64) {
    (endpoint_no, due_at, seq)
}

/// A delivery with the keys that the file knows it by.
pub(crate) struct DeliveryRow {
    pub(crate) seq: i64,
    pub(crate) event_seq: i64,
    pub(crate) standing: Standing,
    pub(crate) stored: StoredDelivery,
}

pub(crate) fn by_id(conn: &Connection, id: DeliveryId) -> Result<Option<DeliveryRow>, Failure> {
    Ok(conn.prepare_cached(sql::DELIVERIES_BY_ID)?.query_row([key(id)], delivery).optional()?)
}

pub(crate) fn by_seq(conn: &Connection, seq: i64) -> Result<Option<DeliveryRow>, Failure> {
    Ok(conn.prepare_cached(sql::DELIVERIES_BY_SEQ)?.query_row([seq], delivery).optional()?)
}

/// What a delivery weighs in a page.
pub(crate) fn bytes(delivery: &Delivery) -> usize {
    delivery.subscription_ids.len() * SUBSCRIPTION_ID_WEIGHT
}

/// The keys of a query, from the newest, by the list that visits the fewest rows for what the query fixes.
pub(crate) fn seqs(
    conn: &Connection,
    query: &DeliveryQuery,
    span: Span,
    limit: i64,
) -> Result<Vec<i64>, Failure> {
    // No event and no endpoint has number 0: what is not there has no deliveries.
    let event_seq = query.event_id.map(|id| event_seq(conn, id)).transpose()?;
    let endpoint_no = query.endpoint_id.map(|id| endpoints::any_no_by_id(conn, id)).transpose()?;
    let endpoint_no = endpoint_no.map(Option::unwrap_or_default);
    let list = List { query, event_seq, endpoint_no };
    match query.context_id {
        Some(context_id) if event_seq.is_none() => list.seqs_of_context(conn, context_id, span, limit),
        _ => list.seqs(conn, span, limit),
    }
}

/// A query whose event and endpoint were found.
#[derive(Clone, Copy)]
struct List<'a> {
    query: &'a DeliveryQuery,
    event_seq: Option<i64>,
    endpoint_no: Option<i64>,
}

impl List<'_> {
    fn seqs(&self, conn: &Connection, span: Span, limit: i64) -> Result<Vec<i64>, Failure> {
        keys(
            conn,
            self.statement(),
            &[
                (":from_seq", &span.from),
                (":before_seq", &span.before),
                (":limit", &limit),
                (":event_seq", &self.event_seq),
                (":endpoint_no", &self.endpoint_no),
                (":context_id", &optional_key(self.query.context_id)),
                (":status", &self.query.status.map(DeliveryStatus::as_str)),
            ],
        )
    }

    /// One endpoint after the other, however many deliveries other contexts have: each is asked only for what is newer
    /// than what would be cut off.
    fn seqs_of_context(
        self,
        conn: &Connection,
        context_id: Uuid,
        mut span: Span,
        limit: i64,
    ) -> Result<Vec<i64>, Failure> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut seqs = Vec::new();
        for no in endpoints::any_nos_by_context(conn, context_id)? {
            if self.endpoint_no.is_some_and(|wanted| wanted != no) {
                continue;
            }
            seqs.extend(List { endpoint_no: Some(no), ..self }.seqs(conn, span, limit)?);
            seqs.sort_unstable_by_key(|seq| std::cmp::Reverse(*seq));
            seqs.truncate(most);
            if seqs.len() == most {
                span.from = seqs.last().map_or(span.from, |oldest| oldest + 1);
            }
        }
        Ok(seqs)
    }

    fn statement(&self) -> &'static str {
        use DeliveryStatus::{Cancelled, Failed, Pending, Retrying};
        match (self.event_seq, self.endpoint_no, self.query.status) {
            (Some(_), _, _) => sql::DELIVERIES_LIST_BY_EVENT,
            (None, Some(_), Some(Retrying | Failed | Cancelled)) => {
                sql::DELIVERIES_LIST_BY_ENDPOINT_AND_STATUS
            }
            (None, None, Some(Retrying | Failed | Cancelled)) => sql::DELIVERIES_LIST_BY_STATUS,
            (None, Some(_), Some(Pending)) => sql::DELIVERIES_LIST_PENDING_BY_ENDPOINT,
            (None, None, Some(Pending)) => sql::DELIVERIES_LIST_PENDING,
            (None, Some(_), _) => sql::DELIVERIES_LIST_BY_ENDPOINT,
            (None, None, _) => sql::DELIVERIES_LIST,
        }
    }
}

fn event_seq(conn: &Connection, id: neo_events_domain::id::EventId) -> Result<i64, Failure> {
    let seq =
        conn.prepare_cached(sql::EVENTS_SEQ_BY_ID)?.query_row([key(id)], |row| row.get(0)).optional()?;
    Ok(seq.unwrap_or_default())
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    let mut columns = Columns::of(row);
    let (seq, event_seq, endpoint_no) = (columns.take()?, columns.take()?, columns.take()?);
    let due_at: Option<Micros> = columns.take()?;
    let (id, webhook_endpoint_id, webhook_event_id) = (columns.id()?, columns.id()?, columns.id()?);
    let status: DeliveryStatus = columns.parsed()?;
    let (current_attempt, max_attempts) = (columns.take()?, columns.take()?);
    let max_attempts_reached = columns.take()?;
    let retry = RetryPolicy {
        max_retry_attempts: columns.take()?,
        backoff_seconds: columns.take()?,
        backoff_multiplier: columns.take()?,
    };
    let (cancel_reason, cancel_requested): (_, Option<String>) = (columns.take()?, columns.take()?);
    let next_due_at = due_at.map(Micros::timestamp);
    let state = DeliveryState::from_stored(status, next_due_at, max_attempts_reached, cancel_reason);
    let delivery = Delivery {
        id,
        webhook_endpoint_id,
        webhook_event_id,
        state,
        current_attempt,
        max_attempts,
        retry,
        cancel_requested: cancel_requested.clone(),
        trigger: columns.parsed()?,
        subscription_ids: subscription_ids(&columns.take::<Vec<u8>>()?),
        created_at: columns.time()?,
    };
    let standing = Standing { endpoint_no, status, due_at, current_attempt, max_attempts, cancel_requested };
    let endpoint = EndpointStanding::of(columns.take()?, columns.optional_time()?);
    let stored = StoredDelivery { delivery, endpoint, context_id: columns.optional_uuid()? };
    Ok(DeliveryRow { seq, event_seq, standing, stored })
}

fn subscription_ids(bytes: &[u8]) -> Vec<SubscriptionId> {
    bytes.as_chunks::<16>().0.iter().map(|id| Id::from_uuid(Uuid::from_bytes(*id))).collect()
}

/// A state as it reads back.
pub(crate) fn as_stored(state: DeliveryState) -> DeliveryState {
    match state {
        DeliveryState::Retrying { next_retry_at } => {
            DeliveryState::Retrying { next_retry_at: to_micros(next_retry_at) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pending_of_an_endpoint_is_sought_by_it() {
        let query = DeliveryQuery { status: Some(DeliveryStatus::Pending), ..DeliveryQuery::default() };
        let of_endpoint = List { query: &query, event_seq: None, endpoint_no: Some(1) };
        let conn = crate::open::migrated();
        let plan = |list: &List<'_>| -> Vec<String> {
            let text = format!("explain query plan {}", list.statement());
            let mut statement = conn.prepare(&text).unwrap();
            statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap()
        };
        let steps = plan(&of_endpoint);
        assert!(steps[0].starts_with("SEARCH q USING") && steps[0].contains("(endpoint_no=?)"), "{steps:?}");
        assert!(steps[1].starts_with("SEARCH d USING"), "{steps:?}");
    }
}
