//! The work queue: one table of all tenants for each kind of work, claimed by updates in place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    endpoint::Endpoint,
    event::{DomainEvent, NewEvent},
    id::{DeliveryId, EndpointId, Id},
    retry::{Progress, RetryPolicy},
    tenant::Schema,
};
use neo_events_store::{
    Appended, Arrival, DeliveryWork, DispatchClaim, Dispatched, DueEndpoint, EndpointClaim, EndpointQuota,
    Lease, NewDelivery, OwedEvent, Settled, Settlement, StoreError, Unsettled, WorkQueue,
};
use tokio_postgres::Row;

use crate::{
    append::Terms,
    columns::{Columns, int},
    conn::{Conn, Connection},
    dispatches::{self, ClaimTerms, token},
    endpoints, events,
    failure::Failure,
    sql,
    store::PostgresStore,
    tend,
};

/// How often a lease is looked for whose delivery is being moved by hand.
const RELEASE_TRIES_MAX: usize = 5;

#[async_trait]
impl WorkQueue for PostgresStore {
    async fn wake_up(&self) {
        self.inner.hints.dispatches.wait().await;
    }

    async fn wake_up_to_deliver(&self) {
        self.inner.hints.deliveries.wait().await;
    }

    async fn claim_dispatches(
        &self,
        now: Timestamp,
        limit: u32,
        lease_until: Timestamp,
    ) -> Result<Vec<DispatchClaim>, StoreError> {
        let lost = &self.inner.lost_dispatches;
        if lost.give_back(self, sql::DISPATCHES_FREE_LOST).await? {
            self.inner.horizon.forget();
        }
        let terms = ClaimTerms { now, until: lease_until, limit };
        lost.watch(lease_until, dispatches::claim(self, terms).await)
    }

    async fn settle_dispatches(
        &self,
        dispatched: Vec<Dispatched>,
        now: Timestamp,
    ) -> Result<u64, Unsettled<Vec<Dispatched>>> {
        let settled = dispatches::settle(self, &dispatched, now).await;
        if let Some(first) = dispatched.first() {
            let written = dispatched.iter().flat_map(|done| &done.deliveries);
            let endpoints = written.map(|delivery| delivery.endpoint_id);
            self.lower_floors(&first.lease.work().schema, endpoints, now);
        }
        if settled.as_ref().is_ok_and(|deliveries| *deliveries > 0) {
            self.inner.hints.deliveries.announce_elsewhere();
        }
        settled.map_err(|failure| Unsettled { work: dispatched, error: failure.into() })
    }

    async fn append_directed(
        &self,
        schema: &Schema,
        event: NewEvent,
        delivery: NewDelivery,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        let tenant_no = self.tenant_no(schema).await?;
        let terms = Terms { schema, tenant_no, now };
        let Self { inner } = self;
        let appended = inner.appends.append_directed(&inner.connections, terms, &event, &delivery).await?;
        // A test is due before everything.
        inner.floors.forget((tenant_no, delivery.endpoint_id.uuid()));
        Ok(appended)
    }

    async fn append_arrivals(
        &self,
        schema: &Schema,
        arrivals: Vec<Arrival>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        let leases_end = arrivals.iter().filter_map(|arrival| Some(arrival.dispatch.as_ref()?.lease_until));
        if let Some(until) = leases_end.min() {
            self.inner.floors.leased(until);
        }
        let direct = arrivals.iter().filter_map(|arrival| arrival.dispatch.as_ref());
        let left = direct.flat_map(|dispatch| &dispatch.deliveries).filter(|direct| !direct.is_taken);
        let left: Vec<EndpointId> = left.map(|direct| direct.delivery.endpoint_id).collect();
        let appended = self.append_all(schema, arrivals, now).await;
        self.lower_floors(schema, left, now);
        appended
    }

    async fn due_endpoints(&self, now: Timestamp) -> Result<Vec<DueEndpoint>, StoreError> {
        // Else nobody would know of them: what is leased is not due.
        self.give_back_lost_deliveries().await;
        let conn = self.inner.connections.work().await?;
        let rows = conn.query(sql::DELIVERY_QUEUE_DUE_ENDPOINTS, &Schema::admin(), &[&now]).await?;
        let nos = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<Vec<i32>, Failure>>()?;
        self.learn_tenants(&conn, &nos).await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut columns = Columns::of(row);
            let no = columns.take()?;
            let (endpoint_id, due_at) = (columns.id()?, columns.time()?);
            let Some(schema) = self.inner.tenants.schema(no) else { continue };
            self.inner.floors.lower((no, endpoint_id.uuid()), due_at);
            due.push(DueEndpoint { schema, endpoint_id, due_at });
        }
        Ok(due)
    }

    async fn claim_deliveries(
        &self,
        now: Timestamp,
        quotas: &[EndpointQuota],
        lease_until: Timestamp,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        self.give_back_lost_deliveries().await;
        let claimed = claim_deliveries(self, quotas, (now, lease_until)).await;
        self.inner.lost_deliveries.watch(lease_until, claimed.map_err(StoreError::from))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Settled, Unsettled<Settlement>> {
        match self.tenant_no(&settlement.lease.work().schema).await {
            Ok(tenant_no) => self.inner.settlements.settle(tenant_no, settlement).await,
            Err(failure) => Err(Unsettled { work: settlement, error: failure.into() }),
        }
    }

    async fn release(&self, lease: Lease<DeliveryWork>) -> Result<(), Unsettled<Lease<DeliveryWork>>> {
        match release(self, &lease).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(Unsettled { work: lease, error: failure.into() }),
        }
    }

    async fn release_dispatches(&self, leases: Vec<Lease<OwedEvent>>) -> Result<(), StoreError> {
        Ok(dispatches::release(self, leases).await?)
    }

    async fn tend(&self, now: Timestamp) -> Result<bool, StoreError> {
        Ok(tend::tend(self, now).await?)
    }
}

impl PostgresStore {
    /// Deliveries were written that are due at this time, and may lie before what was claimed meanwhile.
    fn lower_floors(
        &self,
        schema: &Schema,
        endpoints: impl IntoIterator<Item = EndpointId>,
        due_at: Timestamp,
    ) {
        let Some(tenant_no) = self.inner.tenants.no(schema) else { return };
        for endpoint_id in endpoints {
            self.inner.floors.lower((tenant_no, endpoint_id.uuid()), due_at);
        }
    }

    /// If it fails, work goes on: it is tried again before the next claim.
    async fn give_back_lost_deliveries(&self) {
        match self.inner.lost_deliveries.give_back(self, sql::DELIVERY_QUEUE_FREE_LOST).await {
            Ok(true) => self.inner.floors.forget_all(),
            Ok(false) => {}
            Err(failure) => tracing::warn!(%failure, "what failed claims may have leased was not given back"),
        }
    }

    /// Finds the schemas of tenants that this node has not met, and brings up to date what an older node made.
    pub(crate) async fn learn_tenants(&self, conn: &Connection, nos: &[i32]) -> Result<(), Failure> {
        let mut unknown: Vec<i32> =
            nos.iter().copied().filter(|no| self.inner.tenants.schema(*no).is_none()).collect();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        for row in conn.query(sql::TENANTS_BY_NOS, &Schema::admin(), &[&unknown]).await? {
            let schema: Schema = Columns::from(&row, 1).parsed()?;
            if let Err(failure) = self.tenant_no(&schema).await {
                tracing::error!(%schema, %failure, "this tenant cannot be served");
            }
        }
        Ok(())
    }
}

/// Many may be given back at once: they take turns, so that publishers and settlements find connections.
async fn release(store: &PostgresStore, lease: &Lease<DeliveryWork>) -> Result<(), Failure> {
    let _turn = store.inner.releases.acquire().await.map_err(|_| Failure::Closed)?;
    let work = lease.work();
    let (conn, tenant_no) = store.writing(&work.schema).await?;
    let (id, token) = (work.delivery_id.uuid(), token(lease.token()));
    // Lost, or its row was moved by hand at the very moment: looked at again, the latter is found.
    for _ in 0..RELEASE_TRIES_MAX {
        let row =
            conn.query_opt(sql::DELIVERY_QUEUE_RELEASE, &work.schema, &[&tenant_no, &id, &token]).await?;
        if let Some(row) = row {
            store.inner.floors.forget((tenant_no, Columns::of(&row).uuid()?));
            break;
        }
    }
    Ok(())
}

/// What a claim saw of one endpoint.
#[derive(Default)]
struct Seen {
    granted: Vec<Granted>,
    next_due_at: Option<Timestamp>,
}

struct Granted {
    delivery_id: Uuid,
    event_id: Uuid,
    token: i64,
}

/// A delivery as it is claimed.
struct Task {
    progress: Progress,
    retry: RetryPolicy,
}

async fn claim_deliveries(
    store: &PostgresStore,
    quotas: &[EndpointQuota],
    (now, until): (Timestamp, Timestamp),
) -> Result<Vec<EndpointClaim>, Failure> {
    let (mut nos, mut known) = (Vec::new(), Vec::new());
    for quota in quotas {
        // A tenant that is not there has no endpoints.
        match store.tenant_no(&quota.schema).await {
            Ok(no) => nos.push(no),
            Err(Failure::Schema(_)) => continue,
            Err(failure) => return Err(failure),
        }
        known.push(quota);
    }
    let ids: Vec<Uuid> = known.iter().map(|quota| quota.endpoint_id.uuid()).collect();
    let most: Vec<i32> = known.iter().map(|quota| int(quota.max)).collect();
    let keys = || nos.iter().copied().zip(ids.iter().copied());
    let floors: Vec<Timestamp> = keys().map(|key| store.inner.floors.of(key, now)).collect();
    let conn = store.inner.connections.work().await?;
    let session = store.inner.session.no();
    let admin = Schema::admin();
    let rows = conn
        .query(sql::DELIVERY_QUEUE_CLAIM, &admin, &[&session, &now, &until, &nos, &ids, &most, &floors])
        .await?;
    let mut seen: Vec<Seen> = known.iter().map(|_| Seen::default()).collect();
    for row in &rows {
        note(&mut seen, row)?;
    }
    for (key, seen) in keys().zip(&seen) {
        // Of one that brought nothing it is not known whether it owes nothing or is held.
        if !seen.granted.is_empty() || seen.next_due_at.is_some() {
            store.inner.floors.has_seen(key, now, seen.next_due_at);
        }
    }
    if seen.iter().any(|seen| !seen.granted.is_empty()) {
        store.inner.floors.leased(until);
    }
    let mut by_schema: BTreeMap<&Schema, Vec<usize>> = BTreeMap::new();
    for (place, quota) in known.iter().enumerate() {
        by_schema.entry(&quota.schema).or_default().push(place);
    }
    let mut claims: Vec<Option<EndpointClaim>> = known.iter().map(|_| None).collect();
    for (schema, places) in by_schema {
        let of_places = places.iter().map(|place| (ids[*place], &seen[*place]));
        let loaded = match Loaded::of(store, &conn, schema, of_places).await {
            Ok(loaded) => loaded,
            // Others have nothing to do with it. What was claimed of it waits for the end of its leases.
            Err(failure) if failure.is_one_tenants() => {
                tracing::error!(%schema, %failure, "what this tenant owes cannot be read");
                continue;
            }
            Err(failure) => return Err(failure),
        };
        for place in places {
            claims[place] = loaded.claim(schema, ids[place], &seen[place], until);
            if claims[place].is_none() && !seen[place].granted.is_empty() {
                give_back(&conn, (schema, nos[place]), ids[place], &seen[place]).await?;
            }
        }
    }
    Ok(claims.into_iter().flatten().collect())
}

/// What was granted of an endpoint that turned out to be gone, or became inactive at this moment.
async fn give_back(
    conn: &Conn,
    (schema, tenant_no): (&Schema, i32),
    endpoint_id: Uuid,
    seen: &Seen,
) -> Result<(), Failure> {
    for Granted { delivery_id, token, .. } in &seen.granted {
        conn.execute(sql::DELIVERY_QUEUE_RELEASE, schema, &[&tenant_no, delivery_id, token]).await?;
    }
    tend::remove_again(conn, schema, tenant_no, endpoint_id).await
}

fn note(seen: &mut [Seen], row: &Row) -> Result<(), Failure> {
    let mut columns = Columns::of(row);
    let position: i64 = columns.take()?;
    let (due_at, delivery_id, event_id) = (columns.time()?, columns.uuid()?, columns.uuid()?);
    let place = usize::try_from(position - 1).unwrap_or(usize::MAX);
    let Some(seen) = seen.get_mut(place) else { return Ok(()) };
    match columns.take()? {
        Some(token) => seen.granted.push(Granted { delivery_id, event_id, token }),
        None => seen.next_due_at = Some(seen.next_due_at.map_or(due_at, |at| at.min(due_at))),
    }
    Ok(())
}

/// What the claimed deliveries of one tenant need to be attempted.
struct Loaded {
    endpoints: HashMap<EndpointId, Arc<Endpoint>>,
    events: HashMap<Uuid, Arc<DomainEvent>>,
    tasks: HashMap<Uuid, Task>,
}

impl Loaded {
    async fn of<'a>(
        store: &PostgresStore,
        conn: &Connection,
        schema: &Schema,
        seen: impl Iterator<Item = (Uuid, &'a Seen)>,
    ) -> Result<Self, Failure> {
        let (mut endpoint_ids, mut event_ids, mut delivery_ids) = (Vec::new(), Vec::new(), Vec::new());
        for (endpoint_id, seen) in seen {
            endpoint_ids.push(Id::from_uuid(endpoint_id));
            event_ids.extend(seen.granted.iter().map(|granted| granted.event_id));
            delivery_ids.extend(seen.granted.iter().map(|granted| granted.delivery_id));
        }
        event_ids.sort_unstable();
        event_ids.dedup();
        let tenant_no = store.tenant_no(schema).await?;
        // On one connection, sent together: it takes as long as one.
        let (endpoints, events, tasks) = futures_util::future::try_join3(
            endpoints::by_ids(conn, schema, &endpoint_ids),
            events::in_hand(store, conn, (schema, tenant_no), &event_ids),
            tasks(conn, schema, &delivery_ids),
        )
        .await?;
        let endpoints = endpoints.into_iter().map(|endpoint| (endpoint.id, Arc::new(endpoint))).collect();
        Ok(Self { endpoints, events, tasks })
    }

    /// `None` if the endpoint is gone or inactive.
    fn claim(&self, schema: &Schema, id: Uuid, seen: &Seen, until: Timestamp) -> Option<EndpointClaim> {
        let endpoint = self.endpoints.get(&Id::from_uuid(id)).filter(|endpoint| endpoint.is_active)?;
        let lease = |granted: &Granted| {
            let (task, event) = (self.tasks.get(&granted.delivery_id)?, self.events.get(&granted.event_id)?);
            let work = DeliveryWork {
                schema: schema.clone(),
                delivery_id: DeliveryId::from_uuid(granted.delivery_id),
                event: Arc::clone(event),
                progress: task.progress,
                retry: task.retry,
            };
            // The delivery's own id is the key: the row needs no other.
            Some(Lease::grant(0, granted.token.unsigned_abs(), until, work))
        };
        let work = seen.granted.iter().filter_map(lease).collect();
        let (schema, endpoint) = (schema.clone(), Arc::clone(endpoint));
        Some(EndpointClaim { schema, endpoint, work, next_due_at: seen.next_due_at })
    }
}

async fn tasks(conn: &Connection, schema: &Schema, ids: &[Uuid]) -> Result<HashMap<Uuid, Task>, Failure> {
    let task = |row: &Row| {
        let mut columns = Columns::of(row);
        let id = columns.uuid()?;
        let progress = Progress { attempt: columns.number()? + 1, max_attempts: columns.number()? };
        let retry = RetryPolicy {
            max_retry_attempts: columns.number()?,
            backoff_seconds: columns.number()?,
            backoff_multiplier: columns.take()?,
        };
        Ok((id, Task { progress, retry }))
    };
    conn.query(sql::DELIVERIES_WORK, schema, &[&ids]).await?.iter().map(task).collect()
}
