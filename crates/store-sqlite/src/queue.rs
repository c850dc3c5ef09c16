//! The work queue: claims are reads, for leases live in memory; settling is one step of the writer.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp,
    event::{DomainEvent, NewEvent},
    id::{DeliveryId, EndpointId},
    retry::{Progress, RetryPolicy},
    tenant::Schema,
};
use neo_events_store::{
    Appended, Arrival, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim, EndpointQuota,
    Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::{
    columns::{Columns, Micros},
    direct::AppendArrivals,
    dispatches::{self, ClaimTerms, DeliveryWriter, SettleDispatches},
    endpoints, events,
    failure::{Failure, PassedOver},
    leases::{Claiming, Leases},
    scope::Scope,
    settle::Settle,
    sql,
    store::SqliteStore,
    tenant_file::TenantFile,
    tend,
    writer::Scoped,
};

/// Work that a step shared is the caller's alone again once the step was answered: the writer drops it before.
const SHARE_DROPPED: &str = "a step is dropped before it is answered";

#[async_trait]
impl WorkQueue for SqliteStore {
    async fn dispatch_hinted(&self) {
        self.appended().await;
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        let terms = ClaimTerms { now, until: lease_until };
        let mut turn = self.turn(now);
        let (mut claims, mut room, mut more) = (Vec::new(), limit, Vec::new());
        while let Some(file) = turn.next() {
            // Each file has its share of what those before it left.
            let share = room.div_ceil(u32::try_from(turn.left()).unwrap_or(u32::MAX).saturating_add(1));
            let claimed = claim_dispatches(&file, share, terms).await;
            let Some(claim) = turn.took(&file, claimed).flatten() else { continue };
            let owed = u32::try_from(claim.owed.len()).unwrap_or(u32::MAX);
            room = room.saturating_sub(owed);
            claims.push(claim);
            if owed == share {
                more.push(file);
            }
        }
        // What nobody needed is for those that had more than their share.
        for file in more {
            if room == 0 {
                break;
            }
            let claimed = claim_dispatches(&file, room, terms).await;
            let Some(claim) = turn.took(&file, claimed).flatten() else { continue };
            room = room.saturating_sub(u32::try_from(claim.owed.len()).unwrap_or(u32::MAX));
            match claims.iter_mut().find(|begun| begun.schema == claim.schema) {
                Some(begun) => {
                    begun.catalogue_version = claim.catalogue_version;
                    begun.owed.extend(claim.owed);
                }
                None => claims.push(claim),
            }
        }
        turn.end()?;
        Ok(claims)
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        let Some(schema) = dispatched.first().map(|first| &first.lease.work().schema) else { return Ok(0) };
        let file = match self.file(schema).await {
            Ok(file) => file,
            Err(error) => return Err(Unsettled { work: dispatched, error }),
        };
        let dispatched = Arc::new(dispatched);
        let settle = SettleDispatches::new(&file, &dispatched, now);
        file.write(settle)
            .await
            .map_err(|error| Unsettled { work: Arc::into_inner(dispatched).expect(SHARE_DROPPED), error })
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        let append = move |scope: &mut Scope<'_>| append_directed(scope, &event, &delivery, now);
        self.file(schema).await?.write(Scoped(append)).await
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let file = self.file(schema).await?;
        let answer = file.write(AppendArrivals::new(&file, arrivals, now)).await?;
        if answer.owes_dispatch {
            self.announce();
        }
        Ok(answer.appended)
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        let mut turn = self.turn(now);
        let mut due = Vec::new();
        while let Some(file) = turn.next() {
            let (leases, schema) = (Arc::clone(&file.delivery_leases), file.schema.clone());
            let found = file.look(move |conn| due_endpoints(conn, &leases, &schema, now)).await;
            due.extend(turn.took(&file, found).into_iter().flatten());
        }
        turn.end()?;
        Ok(due)
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        let terms = ClaimTerms { now, until: lease_until };
        let mut turn = self.turn(now);
        let mut claims = Vec::new();
        while let Some(file) = turn.next() {
            let of_file =
                quotas.iter().filter(|quota| quota.schema == file.schema).cloned().collect::<Vec<_>>();
            if of_file.is_empty() {
                turn.had_nothing();
                continue;
            }
            let leases = Arc::clone(&file.delivery_leases);
            let claimed = file.claim(move |conn| claim_deliveries(conn, &leases, &of_file, terms)).await;
            if let Some((of_file, passed_over)) = turn.took(&file, claimed) {
                passed_over.report(&file);
                claims.extend(of_file);
            }
        }
        turn.end()?;
        Ok(claims)
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        let file = match self.file(&settlement.lease.work().schema).await {
            Ok(file) => file,
            Err(error) => return Err(Unsettled { work: settlement, error }),
        };
        let settlement = Arc::new(settlement);
        file.write(Settle::new(&file.delivery_leases, &settlement))
            .await
            .map_err(|error| Unsettled { work: Arc::into_inner(settlement).expect(SHARE_DROPPED), error })
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        let file = match self.file(&lease.work().schema).await {
            Ok(file) => file,
            Err(error) => return Err(Unsettled { work: lease, error }),
        };
        file.delivery_leases.release(lease.key(), lease.token());
        Ok(())
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        for lease in leases {
            self.file(&lease.work().schema).await?.dispatch_leases.release(lease.key(), lease.token());
        }
        Ok(())
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        let mut turn = self.turn(now);
        let mut more = false;
        while let Some(file) = turn.next() {
            let tended = tend::tend(&file, now).await;
            more |= turn.took(&file, tended).unwrap_or_default();
        }
        turn.end()?;
        Ok(more)
    }
}

async fn claim_dispatches(
    file: &TenantFile,
    limit: u32,
    terms: ClaimTerms,
) -> Result<Option<DispatchClaim>, StoreError> {
    let (leases, schema) = (Arc::clone(&file.dispatch_leases), file.schema.clone());
    let claimed = file.claim(move |conn| dispatches::claim(conn, &leases, &schema, limit, terms)).await;
    claimed.map(|(claim, passed_over)| {
        passed_over.report(file);
        claim
    })
}

/// An endpoint that was deleted meanwhile gets no delivery; the event is stored all the same.
fn append_directed(
    scope: &mut Scope<'_>,
    event: &NewEvent,
    delivery: &NewDelivery,
    now: Timestamp,
) -> Result<Appended, Failure> {
    let mut end = events::TableEnd::of(scope, now)?;
    let appended = end.append(scope, event)?;
    if let Appended::Stored { .. } = appended {
        DeliveryWriter::of(scope, now)?.write(scope, end.newest_seq, delivery)?;
        scope.dispatch_is_settled(end.newest_seq, now);
    }
    Ok(appended)
}

fn due_endpoints(
    conn: &Connection,
    leases: &Leases,
    schema: &Schema,
    now: Timestamp,
) -> Result<Vec<DueEndpoint>, Failure> {
    let ending = ending(conn)?;
    let owing = conn
        .prepare_cached(sql::DELIVERY_QUEUE_ENDPOINTS)?
        .query_map([], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.take()?, columns.id()?))
        })?
        .collect::<Result<Vec<(i64, EndpointId)>, _>>()?;
    let mut due = Vec::new();
    for (endpoint_no, endpoint_id) in owing {
        let is_open = |seq| !ending.contains(&seq) && leases.is_free(seq, now);
        if let Some(due_at) = first_due(conn, endpoint_no, is_open)? {
            due.push(DueEndpoint { schema: schema.clone(), endpoint_id, due_at });
        }
    }
    Ok(due)
}

fn first_due(
    conn: &Connection,
    endpoint_no: i64,
    is_open: impl Fn(i64) -> bool,
) -> Result<Option<Timestamp>, Failure> {
    let mut statement = conn.prepare_cached(sql::DELIVERY_QUEUE_BY_ENDPOINT)?;
    let mut rows = statement.query([endpoint_no])?;
    while let Some(row) = rows.next()? {
        if is_open(row.get(1)?) {
            return Ok(Some(row.get::<_, Micros>(0)?.timestamp()));
        }
    }
    Ok(None)
}

/// Deliveries whose cancellation waits: they must not be attempted again.
fn ending(conn: &Connection) -> Result<HashSet<i64>, Failure> {
    let mut statement = conn.prepare_cached(sql::CANCEL_REQUESTS_LIST)?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn claim_deliveries(
    conn: &Connection,
    leases: &Leases,
    quotas: &[EndpointQuota],
    terms: ClaimTerms,
) -> Result<(Vec<EndpointClaim>, PassedOver), Failure> {
    let claiming = leases.begin_claim();
    let snapshot = conn.unchecked_transaction()?;
    let ending = ending(&snapshot)?;
    let (events, passed_over) = (HashMap::new(), PassedOver::default());
    let mut claimer = Claimer { conn: &snapshot, claiming, ending, terms, events, passed_over };
    let mut claims = Vec::new();
    for quota in quotas {
        claims.extend(claimer.claim(quota)?);
    }
    claimer.claiming.keep();
    Ok((claims, claimer.passed_over))
}

/// One claim over several endpoints, in one snapshot.
struct Claimer<'a> {
    conn: &'a Connection,
    claiming: Claiming<'a>,
    ending: HashSet<i64>,
    terms: ClaimTerms,
    /// An event that goes to many endpoints is loaded once.
    events: HashMap<i64, Arc<DomainEvent>>,
    passed_over: PassedOver,
}

/// Keys and tokens of what was granted, and when the next one left is due.
struct Granted {
    leases: Vec<(i64, u64)>,
    next_due_at: Option<Timestamp>,
}

impl Claimer<'_> {
    fn claim(&mut self, quota: &EndpointQuota) -> Result<Option<EndpointClaim>, Failure> {
        let found = endpoints::by_id(self.conn, quota.endpoint_id);
        let found = self.passed_over.if_readable(found, || format!("endpoint {}", quota.endpoint_id))?;
        let Some((endpoint_no, endpoint)) = found.filter(|(_, endpoint)| endpoint.is_active) else {
            return Ok(None);
        };
        let Granted { leases, next_due_at } = self.grant(endpoint_no, quota.max)?;
        let mut work = Vec::with_capacity(leases.len());
        for (seq, token) in leases {
            // One that cannot be read waits for the end of its lease, so that what stands behind it has its turn.
            let loaded = self.load(quota, seq);
            let loaded = self.passed_over.if_readable(loaded, || format!("delivery {seq}"))?;
            work.extend(loaded.map(|work| Lease::grant(seq, token, self.terms.until, work)));
        }
        Ok(Some(EndpointClaim {
            schema: quota.schema.clone(),
            endpoint: Arc::new(endpoint),
            work,
            next_due_at,
        }))
    }

    /// Walks the queue from its head: grants what is due, and finds when the next one is.
    fn grant(&mut self, endpoint_no: i64, max: u32) -> Result<Granted, Failure> {
        let ClaimTerms { now, until } = self.terms;
        let mut granted = Vec::new();
        let mut statement = self.conn.prepare_cached(sql::DELIVERY_QUEUE_BY_ENDPOINT)?;
        let mut rows = statement.query([endpoint_no])?;
        while let Some(row) = rows.next()? {
            let (due_at, seq) = (row.get::<_, Micros>(0)?, row.get(1)?);
            if self.ending.contains(&seq) || !self.claiming.is_free(seq, now) {
                continue;
            }
            if granted.len() >= max as usize || due_at > Micros::from(now) {
                return Ok(Granted { leases: granted, next_due_at: Some(due_at.timestamp()) });
            }
            granted.extend(self.claiming.grant(seq, now, until).map(|token| (seq, token)));
        }
        Ok(Granted { leases: granted, next_due_at: None })
    }

    fn load(&mut self, quota: &EndpointQuota, seq: i64) -> Result<Option<DeliveryWork>, Failure> {
        let row =
            self.conn.prepare_cached(sql::DELIVERIES_WORK)?.query_row([seq], WorkRow::read).optional()?;
        let Some(row) = row else { return Ok(None) };
        let Some(event) = self.event(row.event_seq)? else { return Ok(None) };
        let progress = Progress { attempt: row.current_attempt + 1, max_attempts: row.max_attempts };
        Ok(Some(DeliveryWork {
            schema: quota.schema.clone(),
            delivery_id: row.delivery_id,
            endpoint_id: quota.endpoint_id,
            event,
            progress,
            retry: row.retry,
        }))
    }

    fn event(&mut self, seq: i64) -> Result<Option<Arc<DomainEvent>>, Failure> {
        if let Some(event) = self.events.get(&seq) {
            return Ok(Some(Arc::clone(event)));
        }
        let loaded = events::by_seq(self.conn, seq)?.map(|(_, event)| Arc::new(event));
        self.events.extend(loaded.clone().map(|event| (seq, event)));
        Ok(loaded)
    }
}

struct WorkRow {
    delivery_id: DeliveryId,
    event_seq: i64,
    current_attempt: u32,
    max_attempts: u32,
    retry: RetryPolicy,
}

impl WorkRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let mut columns = Columns::of(row);
        Ok(Self {
            delivery_id: columns.id()?,
            event_seq: columns.take()?,
            current_attempt: columns.take()?,
            max_attempts: columns.take()?,
            retry: RetryPolicy {
                max_retry_attempts: columns.take()?,
                backoff_seconds: columns.take()?,
                backoff_multiplier: columns.take()?,
            },
        })
    }
}
