//! Finishing what was begun, a bounded step at a time: cancellations that waited for an attempt that never ended,
//! deliveries of deleted endpoints, and what a clock that ran ahead put off. Deleting an endpoint is its first step.

use std::sync::Arc;

use neo_events_domain::{
    Timestamp,
    delivery::{CANCEL_REASON_ENDPOINT_DELETED, DeliveryState, DeliveryStatus},
    id::{DeliveryId, EndpointId},
    retry::{DUE_AHEAD_MAX, FIRST_DUE_AHEAD_MAX},
    time::later,
};
use neo_events_store::StoreError;
use rusqlite::Connection;

use crate::{
    columns::Micros,
    deliveries::{self, Change, Standing},
    endpoints,
    failure::Failure,
    leases::{Leases, Pin},
    scope::Scope,
    sql,
    tenant_file::TenantFile,
    writer::Step,
};

/// Deliveries that one step ends at most.
const CANCELLED_PER_STEP_MAX: usize = 500;
/// Deliveries that one step brings back at most.
const BROUGHT_BACK_PER_STEP_MAX: usize = 500;

/// A step of it, if there is something to do. Answers whether more is left that need not wait for an attempt in flight.
pub(crate) async fn tend(file: &TenantFile, now: Timestamp) -> Result<bool, StoreError> {
    // Found beside the writer, so that nobody's commit waits for the search.
    let looked_ahead = file.looked_ahead();
    let look = move |conn: &Connection| {
        let begun = conn.prepare_cached(sql::STORE_BEGUN)?.query_row([], |row| row.get::<_, bool>(0))?;
        Ok((begun, PutOff::find(conn, looked_ahead, now)?))
    };
    let (begun, put_off) = file.look(look).await?;
    let looked_ahead = put_off.looked_ahead;
    let more = if begun || !put_off.is_empty() {
        file.write(Tend::new(&file.delivery_leases, now, put_off)).await?
    } else {
        false
    };
    file.looked_ahead_to(looked_ahead);
    Ok(more)
}

/// Finishes cancellations that were begun and brings back what waits too long, at most a step's worth.
struct Tend {
    sweep: Sweep,
    put_off: PutOff,
}

impl Tend {
    fn new(leases: &Arc<Leases>, now: Timestamp, put_off: PutOff) -> Self {
        Self { sweep: Sweep::new(leases, now), put_off }
    }
}

impl Step for Tend {
    /// Whether more is left that need not wait for an attempt in flight.
    type Answer = bool;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<bool, Failure> {
        self.sweep.restart();
        self.sweep.finish_requests(scope)?;
        for endpoint_no in listed(scope.connection(), sql::ENDPOINT_REMOVALS_LIST)? {
            self.sweep.end_deliveries_of(scope, endpoint_no)?;
        }
        self.put_off.bring_back(scope, self.sweep.now)?;
        Ok(self.sweep.cut_short || self.put_off.is_full())
    }
}

/// How far a file was looked through, in the order of ids, for deliveries that were never attempted and are not due at
/// once. Its only process decides by a time that never goes back, so they are of an earlier opening, and looking
/// through them once is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LookedAhead {
    #[default]
    NotYet,
    To(DeliveryId),
    ToTheEnd,
}

/// Deliveries whose due time is that of a clock that ran ahead. At most a step's worth of each kind.
struct PutOff {
    /// Those that wait longer than anything makes them.
    late: Vec<i64>,
    /// Those that were never attempted.
    ahead: Vec<i64>,
    /// How far the latter were looked for once these are brought back.
    looked_ahead: LookedAhead,
}

impl PutOff {
    fn find(conn: &Connection, looked: LookedAhead, now: Timestamp) -> Result<Self, Failure> {
        let late = deliveries::due_after(conn, later(now, DUE_AHEAD_MAX), BROUGHT_BACK_PER_STEP_MAX)?;
        let at_once = later(now, FIRST_DUE_AHEAD_MAX);
        let found = match looked {
            LookedAhead::NotYet => deliveries::first_ahead(conn, at_once, BROUGHT_BACK_PER_STEP_MAX)?,
            LookedAhead::To(id) => deliveries::ahead(conn, (id, at_once), BROUGHT_BACK_PER_STEP_MAX)?,
            LookedAhead::ToTheEnd => return Ok(Self { late, ahead: Vec::new(), looked_ahead: looked }),
        };
        let looked_ahead = match found.last() {
            Some((_, last)) if found.len() == BROUGHT_BACK_PER_STEP_MAX => LookedAhead::To(*last),
            _ => LookedAhead::ToTheEnd,
        };
        Ok(Self { late, ahead: found.into_iter().map(|(seq, _)| seq).collect(), looked_ahead })
    }

    fn is_empty(&self) -> bool {
        self.late.is_empty() && self.ahead.is_empty()
    }

    /// Whether there may be more.
    fn is_full(&self) -> bool {
        [&self.late, &self.ahead].iter().any(|found| found.len() == BROUGHT_BACK_PER_STEP_MAX)
    }

    /// Makes due now what still waits too long. An attempt in flight settles over it.
    fn bring_back(&self, scope: &mut Scope<'_>, now: Timestamp) -> Result<(), Failure> {
        let (late, at_once) =
            (Micros::from(later(now, DUE_AHEAD_MAX)), Micros::from(later(now, FIRST_DUE_AHEAD_MAX)));
        for seq in &self.late {
            due_now_if(scope, *seq, now, |standing| standing.due_at > Some(late))?;
        }
        for seq in &self.ahead {
            due_now_if(scope, *seq, now, |standing| {
                standing.status == DeliveryStatus::Pending && standing.due_at > Some(at_once)
            })?;
        }
        Ok(())
    }
}

fn due_now_if(
    scope: &mut Scope<'_>,
    seq: i64,
    now: Timestamp,
    waits_too_long: impl FnOnce(&Standing) -> bool,
) -> Result<(), Failure> {
    match Standing::of(scope, seq)? {
        Some(standing) if waits_too_long(&standing) => deliveries::set_due(scope, seq, &standing, now),
        _ => Ok(()),
    }
}

/// Deletes an endpoint with its subscriptions, and ends as many of its deliveries as one step may.
pub(crate) struct DeleteEndpoint {
    id: EndpointId,
    now: Timestamp,
    sweep: Sweep,
}

impl DeleteEndpoint {
    pub(crate) fn new(leases: &Arc<Leases>, id: EndpointId, now: Timestamp) -> Self {
        Self { id, now, sweep: Sweep::new(leases, now) }
    }
}

impl Step for DeleteEndpoint {
    /// Whether it was there.
    type Answer = bool;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<bool, Failure> {
        let Some(no) = endpoints::delete(scope.connection(), self.id, self.now)? else { return Ok(false) };
        scope.connection().prepare_cached(sql::ENDPOINT_REMOVALS_INSERT)?.execute([no])?;
        self.sweep.restart();
        self.sweep.end_deliveries_of(scope, no)?;
        Ok(true)
    }
}

/// Ends deliveries that nobody works on, and asks for the end of those in flight.
struct Sweep {
    leases: Arc<Leases>,
    now: Timestamp,
    room: usize,
    cut_short: bool,
    /// Held until the commit, so that nobody claims what is being ended.
    pins: Vec<Pin>,
}

impl Sweep {
    fn new(leases: &Arc<Leases>, now: Timestamp) -> Self {
        let leases = Arc::clone(leases);
        Self { leases, now, room: CANCELLED_PER_STEP_MAX, cut_short: false, pins: Vec::new() }
    }

    /// Before each run: pins of an earlier one would count as somebody's leases.
    fn restart(&mut self) {
        self.pins.clear();
        (self.room, self.cut_short) = (CANCELLED_PER_STEP_MAX, false);
    }

    /// Cancellations that waited for an attempt whose lease has ended.
    fn finish_requests(&mut self, scope: &mut Scope<'_>) -> Result<(), Failure> {
        for seq in listed(scope.connection(), sql::CANCEL_REQUESTS_LIST)? {
            if self.is_full() {
                break;
            }
            let Some(standing) = Standing::of(scope, seq)? else { continue };
            let reason = standing.cancel_requested.clone().unwrap_or_default();
            self.end(scope, seq, &standing, reason)?;
        }
        Ok(())
    }

    /// All that a deleted endpoint still owes; forgets the endpoint once that is nothing.
    fn end_deliveries_of(&mut self, scope: &mut Scope<'_>, endpoint_no: i64) -> Result<(), Failure> {
        let mut left = 0;
        for seq in self.owed_by(scope.connection(), endpoint_no)? {
            let Some(standing) = Standing::of(scope, seq)? else { continue };
            if self.is_full() {
                return Ok(());
            }
            if self.end(scope, seq, &standing, CANCEL_REASON_ENDPOINT_DELETED.to_owned())? {
                continue;
            }
            left += 1;
            if standing.cancel_requested.is_none() {
                request(scope, seq, &standing, CANCEL_REASON_ENDPOINT_DELETED)?;
            }
        }
        if left == 0 {
            scope.connection().prepare_cached(sql::ENDPOINT_REMOVALS_DELETE)?.execute([endpoint_no])?;
        }
        Ok(())
    }

    /// The head of an endpoint's queue: one more than there is room for, and those in flight.
    fn owed_by(&self, conn: &Connection, endpoint_no: i64) -> Result<Vec<i64>, Failure> {
        let mut statement = conn.prepare_cached(sql::DELIVERY_QUEUE_BY_ENDPOINT)?;
        let mut rows = statement.query([endpoint_no])?;
        let (mut owed, mut free) = (Vec::new(), 0);
        while free <= self.room
            && let Some(row) = rows.next()?
        {
            let seq = row.get(1)?;
            free += usize::from(self.leases.is_free(seq, self.now));
            owed.push(seq);
        }
        Ok(owed)
    }

    /// Ends a delivery; `false` if somebody works on it.
    fn end(
        &mut self,
        scope: &mut Scope<'_>,
        seq: i64,
        standing: &Standing,
        reason: String,
    ) -> Result<bool, Failure> {
        let Some(pin) = self.leases.pin_free(seq, self.now) else { return Ok(false) };
        self.pins.push(pin);
        self.room -= 1;
        let Standing { current_attempt, max_attempts, .. } = *standing;
        let state = DeliveryState::Cancelled { reason };
        let change = Change { state: &state, current_attempt, max_attempts, cancel_requested: None };
        deliveries::change(scope, seq, standing, &change)?;
        Ok(true)
    }

    fn is_full(&mut self) -> bool {
        self.cut_short |= self.room == 0;
        self.cut_short
    }
}

/// Asks for the end of a delivery in flight.
fn request(scope: &mut Scope<'_>, seq: i64, standing: &Standing, reason: &str) -> Result<(), Failure> {
    let Some(row) = deliveries::by_seq(scope.connection(), seq)? else { return Ok(()) };
    let change = Change { cancel_requested: Some(reason), ..Change::to(&row.stored.delivery) };
    deliveries::change(scope, seq, standing, &change)
}

fn listed(conn: &Connection, sql: &str) -> Result<Vec<i64>, Failure> {
    let mut statement = conn.prepare_cached(sql)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
