//! Due deliveries: claimed with what their attempts need, as many of each endpoint as there is room for, and given back
//! unattempted. Where to begin in an endpoint's queue is remembered by [`Floors`](crate::floors::Floors).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use neo_events_domain::{
    Timestamp, Uuid,
    endpoint::Endpoint,
    event::DomainEvent,
    id::{DeliveryId, EndpointId},
    retry::{Progress, RetryPolicy},
    tenant::Schema,
};
use neo_events_store::{DeliveryWork, EndpointClaim, EndpointQuota, Lease};
use tokio_postgres::Row;

use crate::{
    backed_off_tenants::may_be_one_rows,
    columns::{Columns, int},
    conn::{Connection, Param},
    damage::all_but_damaged,
    endpoints, events,
    failure::Failure,
    lease::{due_at, queue_key, token},
    sql,
    store::PostgresStore,
    tend,
};

/// How often a lease is looked for whose delivery is being moved by hand.
const RELEASE_TRIES_MAX: usize = 5;

/// What a claim saw of one endpoint.
#[derive(Default)]
struct Seen {
    granted: Vec<Granted>,
    next_due_at: Option<Timestamp>,
}

struct Granted {
    due_at: Timestamp,
    delivery_id: Uuid,
    event_id: Uuid,
    token: i64,
}

/// A delivery as it is claimed.
struct Task {
    progress: Progress,
    retry: RetryPolicy,
}

/// What is asked of one endpoint, and what a claim saw of it.
struct Asked<'a> {
    quota: &'a EndpointQuota,
    tenant_no: i32,
    seen: Seen,
}

impl Asked<'_> {
    fn id(&self) -> Uuid {
        self.quota.endpoint_id.uuid()
    }

    /// As floors know it.
    fn key(&self) -> (i32, Uuid) {
        (self.tenant_no, self.id())
    }
}

/// Claims at most each quota of its endpoint's, due first.
pub(crate) async fn claim(
    store: &PostgresStore,
    quotas: &[EndpointQuota],
    (now, until): (Timestamp, Timestamp),
) -> Result<Vec<EndpointClaim>, Failure> {
    let mut asked = known(store, quotas).await?;
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let (conn, brief) = (store.inner.connections.work().await?, store.inner.connections.brief().await?);
    let (lost, session) = (&store.inner.lost_deliveries, store.inner.session.no());
    let claimed = claim_rows(store, &conn, &mut asked, (session, now, until)).await;
    lost.watch(until, asked.iter().map(Asked::key), claimed)?;
    let loaded = load_all(store, &brief, &asked, until).await;
    let loaded = match loaded {
        Ok(_) if !store.inner.session.holds_what_was_granted_to(session, async { Ok(brief) }).await => {
            Err(Failure::NotHeard)
        }
        loaded => loaded,
    };
    if loaded.is_err() {
        // The claim has happened, whatever came after it.
        lost.note(until, asked.iter().map(Asked::key));
    }
    loaded
}

async fn load_all(
    store: &PostgresStore,
    conn: &Connection,
    asked: &[Asked<'_>],
    until: Timestamp,
) -> Result<Vec<EndpointClaim>, Failure> {
    let mut by_tenant: BTreeMap<i32, Vec<&Asked<'_>>> = BTreeMap::new();
    for asked in asked {
        by_tenant.entry(asked.tenant_no).or_default().push(asked);
    }
    let mut claims = Vec::with_capacity(asked.len());
    for (tenant_no, of_tenant) in by_tenant {
        claims.extend(load(store, conn, (tenant_no, &of_tenant), until).await?);
    }
    Ok(claims)
}

/// Those that can be asked. A tenant that is not there has no endpoints; one that is backed off from is left alone.
async fn known<'a>(store: &PostgresStore, quotas: &'a [EndpointQuota]) -> Result<Vec<Asked<'a>>, Failure> {
    let mut known = Vec::with_capacity(quotas.len());
    for quota in quotas {
        let tenant_no = match store.tenant_no(&quota.schema).await {
            Ok(no) if store.inner.backed_off.deliveries.has(no) => continue,
            Ok(no) => no,
            Err(Failure::Schema(_)) => continue,
            Err(failure) => return Err(failure),
        };
        known.push(Asked { quota, tenant_no, seen: Seen::default() });
    }
    Ok(known)
}

/// Leases what there is room for.
async fn claim_rows(
    store: &PostgresStore,
    conn: &Connection,
    asked: &mut [Asked<'_>],
    (session, now, until): (i64, Timestamp, Timestamp),
) -> Result<(), Failure> {
    let nos: Vec<i32> = asked.iter().map(|asked| asked.tenant_no).collect();
    let ids: Vec<Uuid> = asked.iter().map(Asked::id).collect();
    let most: Vec<i32> = asked.iter().map(|asked| int(asked.quota.max)).collect();
    let floors: Vec<Timestamp> = asked.iter().map(|asked| store.inner.floors.of(asked.key(), now)).collect();
    let params: [Param<'_>; 7] = [&session, &now, &until, &nos, &ids, &most, &floors];
    let rows = conn.query(sql::DELIVERY_QUEUE_CLAIM, &Schema::admin(), &params).await?;
    for row in &rows {
        note(asked, row)?;
    }
    for asked in asked.iter() {
        // Of one that brought nothing it is not known whether it owes nothing or is held.
        if !asked.seen.granted.is_empty() || asked.seen.next_due_at.is_some() {
            store.inner.floors.has_seen(asked.key(), now, asked.seen.next_due_at);
        }
    }
    if asked.iter().any(|asked| !asked.seen.granted.is_empty()) {
        store.inner.floors.leased(until);
    }
    Ok(())
}

/// Adds what the deliveries of one tenant need to be attempted. One whose data cannot be read has no claims: others
/// have nothing to do with it.
async fn load(
    store: &PostgresStore,
    conn: &Connection,
    (tenant_no, asked): (i32, &[&Asked<'_>]),
    until: Timestamp,
) -> Result<Vec<EndpointClaim>, Failure> {
    let Some(schema) = asked.first().map(|asked| &asked.quota.schema) else { return Ok(Vec::new()) };
    let loaded = match Loaded::of(store, conn, (schema, tenant_no), asked).await {
        Ok(loaded) => loaded,
        Err(failure) if failure.is_one_tenants() => {
            tracing::error!(%schema, %failure, "what this tenant owes cannot be read");
            store.inner.backed_off.deliveries.note(tenant_no);
            // Else it waits for the end of its leases, so that what stands behind it has its turn.
            if !may_be_one_rows(&failure) {
                give_back_all(store, conn, tenant_no, asked).await?;
            }
            return Ok(Vec::new());
        }
        Err(failure) => return Err(failure),
    };
    let mut claims = Vec::with_capacity(asked.len());
    for asked in asked {
        match loaded.claim(asked, until) {
            Some(claim) => claims.push(claim),
            None if asked.seen.granted.is_empty() => {}
            None => give_back(conn, schema, asked).await?,
        }
    }
    Ok(claims)
}

/// What was granted of a tenant whose tables cannot be reached now: whoever reaches them first takes it.
async fn give_back_all(
    store: &PostgresStore,
    conn: &Connection,
    tenant_no: i32,
    asked: &[&Asked<'_>],
) -> Result<(), Failure> {
    let granted: Vec<(Uuid, &Granted)> = asked
        .iter()
        .flat_map(|asked| asked.seen.granted.iter().map(|granted| (asked.id(), granted)))
        .collect();
    if granted.is_empty() {
        return Ok(());
    }
    let params: [Param<'_>; 5] = [
        &tenant_no,
        &granted.iter().map(|(endpoint_id, _)| *endpoint_id).collect::<Vec<_>>(),
        &granted.iter().map(|(_, granted)| granted.due_at).collect::<Vec<_>>(),
        &granted.iter().map(|(_, granted)| granted.delivery_id).collect::<Vec<_>>(),
        &granted.iter().map(|(_, granted)| granted.token).collect::<Vec<_>>(),
    ];
    conn.execute(sql::DELIVERY_QUEUE_GIVE_BACK, &Schema::admin(), &params).await?;
    for asked in asked {
        store.inner.floors.forget(asked.key());
    }
    Ok(())
}

/// What was granted of an endpoint that turned out to be gone, or became inactive at this moment.
async fn give_back(conn: &Connection, schema: &Schema, asked: &Asked<'_>) -> Result<(), Failure> {
    for Granted { delivery_id, token, .. } in &asked.seen.granted {
        let params: [Param<'_>; 3] = [&asked.tenant_no, delivery_id, token];
        conn.execute(sql::DELIVERY_QUEUE_RELEASE, schema, &params).await?;
    }
    tend::remove_again(conn, schema, asked.tenant_no, asked.id()).await
}

fn note(asked: &mut [Asked<'_>], row: &Row) -> Result<(), Failure> {
    let mut columns = Columns::of(row);
    let position: i64 = columns.take()?;
    let (due_at, delivery_id, event_id) = (columns.time()?, columns.uuid()?, columns.uuid()?);
    let place = usize::try_from(position - 1).unwrap_or(usize::MAX);
    let Some(Asked { seen, .. }) = asked.get_mut(place) else { return Ok(()) };
    match columns.take()? {
        Some(token) => seen.granted.push(Granted { due_at, delivery_id, event_id, token }),
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
    async fn of(
        store: &PostgresStore,
        conn: &Connection,
        (schema, tenant_no): (&Schema, i32),
        asked: &[&Asked<'_>],
    ) -> Result<Self, Failure> {
        let (mut endpoint_ids, mut event_ids, mut delivery_ids) = (Vec::new(), Vec::new(), Vec::new());
        for Asked { quota, seen, .. } in asked {
            endpoint_ids.push(quota.endpoint_id);
            event_ids.extend(seen.granted.iter().map(|granted| granted.event_id));
            delivery_ids.extend(seen.granted.iter().map(|granted| granted.delivery_id));
        }
        event_ids.sort_unstable();
        event_ids.dedup();
        // On one connection, sent together: it takes as long as one.
        let (endpoints, events, tasks) = futures_util::future::try_join3(
            endpoints::by_ids(conn, schema, &endpoint_ids),
            events::in_hand(store, conn, (schema, tenant_no), &event_ids),
            all_but_damaged(schema, &delivery_ids, |ids| Box::pin(tasks(conn, schema, ids))),
        )
        .await?;
        let endpoints = endpoints.into_iter().map(|endpoint| (endpoint.id, Arc::new(endpoint))).collect();
        Ok(Self { endpoints, events, tasks })
    }

    /// `None` if the endpoint is gone or inactive.
    fn claim(&self, Asked { quota, seen, .. }: &Asked<'_>, until: Timestamp) -> Option<EndpointClaim> {
        let endpoint = self.endpoints.get(&quota.endpoint_id).filter(|endpoint| endpoint.is_active)?;
        let lease = |granted: &Granted| {
            let (task, event) = (self.tasks.get(&granted.delivery_id)?, self.events.get(&granted.event_id)?);
            let work = DeliveryWork {
                schema: quota.schema.clone(),
                delivery_id: DeliveryId::from_uuid(granted.delivery_id),
                endpoint_id: quota.endpoint_id,
                event: Arc::clone(event),
                progress: task.progress,
                retry: task.retry,
            };
            Some(Lease::grant(queue_key(granted.due_at), granted.token.unsigned_abs(), until, work))
        };
        let work = seen.granted.iter().filter_map(lease).collect();
        let (schema, endpoint) = (quota.schema.clone(), Arc::clone(endpoint));
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

/// Gives a delivery back. Many may be given back at once: they take turns, so that publishers and settlements find
/// connections.
pub(crate) async fn release(store: &PostgresStore, lease: &Lease<DeliveryWork>) -> Result<(), Failure> {
    let _turn = store.inner.releases.acquire().await.map_err(|_| Failure::Closed)?;
    let work = lease.work();
    let (conn, tenant_no) = store.writing(&work.schema).await?;
    let (id, token, endpoint_id) = (work.delivery_id.uuid(), token(lease.token()), work.endpoint_id.uuid());
    // Where it was when it was leased, without a word to the tenant's own tables: somebody may have locked them, and the
    // turns are everybody's.
    let there: [Param<'_>; 5] =
        [&tenant_no, &vec![endpoint_id], &vec![due_at(lease)], &vec![id], &vec![token]];
    if conn.execute(sql::DELIVERY_QUEUE_GIVE_BACK, &Schema::admin(), &there).await? > 0 {
        store.inner.floors.forget((tenant_no, endpoint_id));
        return Ok(());
    }
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
