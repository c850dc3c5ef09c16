//! Owed dispatches: claimed oldest first, settled with the deliveries that matching found.

use std::sync::Arc;

use neo_events_domain::{Timestamp, tenant::Schema};
use neo_events_store::{DispatchClaim, Dispatched, Lease, NewDelivery, OwedEvent};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::{
    catalogue,
    columns::Micros,
    deliveries, events,
    failure::{Failure, PassedOver},
    leases::{Leases, Pin},
    readers::snapshot,
    scope::{KeptStatement, Scope},
    sql,
    tenant_file::TenantFile,
    writer::Step,
};

/// The event owes its dispatch.
pub(crate) fn owe(scope: &mut Scope<'_>, event_seq: i64) -> Result<(), Failure> {
    scope.statement(KeptStatement::DispatchesOwe)?.execute([event_seq])?;
    Ok(())
}

/// Ends what the event owes; `false` if it owed nothing.
pub(crate) fn settle(scope: &mut Scope<'_>, event_seq: i64) -> Result<bool, Failure> {
    Ok(scope.statement(KeptStatement::DispatchesSettle)?.execute([event_seq])? == 1)
}

/// Notes when the dispatches of these events, in order, were settled: one row per run of consecutive ones.
pub(crate) fn record_runs(record: &mut Statement<'_>, seqs: &[i64], at: Timestamp) -> Result<(), Failure> {
    for run in seqs.chunk_by(|earlier, later| earlier + 1 == *later) {
        record.execute(params![run[0], run[run.len() - 1], Micros::from(at)])?;
    }
    Ok(())
}

/// When the event's dispatch was settled.
pub(crate) fn processed_at(conn: &Connection, event_seq: i64) -> Result<Option<Timestamp>, Failure> {
    let mut statement = conn.prepare_cached(sql::DISPATCHES_PROCESSED_AT)?;
    let at = statement.query_row([event_seq], |row| row.get::<_, Micros>(0)).optional()?;
    Ok(at.map(Micros::timestamp))
}

/// When a claim is made, and until when it leases.
#[derive(Clone, Copy)]
pub(crate) struct ClaimTerms {
    pub(crate) now: Timestamp,
    pub(crate) until: Timestamp,
}

/// Claims up to `limit` owed dispatches, oldest first. Those that cannot be read count, and wait for the end of their
/// leases, so that what stands behind them has its turn.
pub(crate) fn claim(
    conn: &Connection,
    leases: &Leases,
    schema: &Schema,
    limit: u32,
    terms: ClaimTerms,
) -> Result<(Option<DispatchClaim>, PassedOver), Failure> {
    let (mut claiming, mut passed_over) = (leases.begin_claim(), PassedOver::default());
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let claimed = snapshot(conn, |conn| {
        let mut owed = Vec::new();
        let mut statement = conn.prepare_cached(sql::DISPATCHES_LIST_OWED)?;
        let mut rows = statement.query([])?;
        while owed.len() + passed_over.count < limit
            && let Some(row) = rows.next()?
        {
            let seq = row.get(0)?;
            let Some(token) = claiming.grant(seq, terms.now, terms.until) else { continue };
            let read = passed_over.if_readable(events::by_seq(conn, seq), || format!("event {seq}"))?;
            if let Some((_, event)) = read {
                let work = OwedEvent { schema: schema.clone(), event: Arc::new(event) };
                owed.push(Lease::grant(seq, token, terms.until, work));
            }
        }
        let catalogue_version = catalogue::version(conn)?;
        Ok((!owed.is_empty()).then(|| DispatchClaim { schema: schema.clone(), catalogue_version, owed }))
    })?;
    claiming.keep();
    Ok((claimed, passed_over))
}

/// Settles dispatches whose leases still hold.
pub(crate) struct SettleDispatches {
    schema: Schema,
    leases: Arc<Leases>,
    dispatched: Arc<Vec<Dispatched>>,
    now: Timestamp,
    /// One for each dispatch, from the first run on; `None` where the lease was lost.
    pins: Vec<Option<Pin>>,
}

impl SettleDispatches {
    pub(crate) fn new(file: &TenantFile, dispatched: &Arc<Vec<Dispatched>>, now: Timestamp) -> Self {
        let (schema, leases) = (file.schema.clone(), Arc::clone(&file.dispatch_leases));
        Self { schema, leases, dispatched: Arc::clone(dispatched), now, pins: Vec::new() }
    }
}

impl Step for SettleDispatches {
    /// How many deliveries were written.
    type Answer = u64;

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<u64, Failure> {
        if self.pins.is_empty() {
            let pin = |Dispatched { lease, .. }: &Dispatched| {
                // Another tenant's row may have the same key and token.
                let is_ours = lease.work().schema == self.schema;
                debug_assert!(is_ours, "all are of one schema");
                if is_ours { self.leases.pin(lease.key(), lease.token()) } else { None }
            };
            self.pins = self.dispatched.iter().map(pin).collect();
        }
        let mut writer = DeliveryWriter::of(scope, self.now)?;
        for (Dispatched { lease, deliveries }, pin) in self.dispatched.iter().zip(&self.pins) {
            // Somebody may have marked it processed meanwhile; its deliveries are then not wanted.
            if pin.is_none() || !settle(scope, lease.key())? {
                continue;
            }
            scope.dispatch_is_settled(lease.key(), self.now);
            for delivery in deliveries {
                writer.write(scope, lease.key(), delivery)?;
            }
        }
        Ok(writer.written)
    }

    fn committed(self) {
        self.pins.into_iter().flatten().for_each(Pin::end);
    }
}

/// Writes new deliveries in one step.
pub(crate) struct DeliveryWriter {
    end: deliveries::TableEnd,
    written: u64,
}

impl DeliveryWriter {
    pub(crate) fn of(scope: &mut Scope<'_>, now: Timestamp) -> Result<Self, Failure> {
        Ok(Self { end: deliveries::TableEnd::of(scope, now)?, written: 0 })
    }

    /// Answers the delivery's key. One to an endpoint that was deleted meanwhile is not written; one that is there
    /// already neither.
    pub(crate) fn write(
        &mut self,
        scope: &mut Scope<'_>,
        event_seq: i64,
        delivery: &NewDelivery,
    ) -> Result<Option<i64>, Failure> {
        let Some(endpoint_no) = scope.endpoint_no(delivery.endpoint_id)? else { return Ok(None) };
        let seq = self.end.insert(scope, (event_seq, endpoint_no), delivery)?;
        self.written += u64::from(seq.is_some());
        Ok(seq)
    }
}
