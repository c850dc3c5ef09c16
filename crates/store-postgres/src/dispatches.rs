//! Owed dispatches: claimed oldest first, settled with the deliveries that matching found.
//! How far claims have seen is remembered by the [`Horizon`](crate::horizon::Horizon).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use neo_events_domain::{Timestamp, Uuid, delivery::Trigger, id::EventId, tenant::Schema};
use neo_events_store::{CatalogueVersion, DispatchClaim, Dispatched, Lease, NewDelivery, OwedEvent};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::{
    backed_off_tenants::may_be_one_rows,
    columns::{Columns, int, uuid_array},
    conn::{Connection, Param},
    events,
    failure::Failure,
    horizon::{LeaseKey, Snapshot, View},
    lease::token,
    sql,
    store::PostgresStore,
    tenants::TenantTerms,
};

/// From when to when, and how much to claim.
#[derive(Clone, Copy)]
pub(crate) struct ClaimTerms {
    pub(crate) now: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) limit: u32,
}

/// The keys and tokens of leases, as columns.
struct Leases {
    nos: Vec<i64>,
    tokens: Vec<i64>,
}

impl Leases {
    fn of<'a>(leases: impl Iterator<Item = &'a Lease<OwedEvent>>) -> Self {
        let (nos, tokens) = leases.map(|lease| (lease.key(), token(lease.token()))).unzip();
        Self { nos, tokens }
    }

    fn keys(&self) -> impl Iterator<Item = LeaseKey> {
        self.nos.iter().copied().zip(self.tokens.iter().copied())
    }
}

/// A row that was claimed.
struct Claimed {
    xid: i64,
    no: i64,
    tenant_no: i32,
    event_id: Uuid,
    token: i64,
    catalogue_version: CatalogueVersion,
}

impl Claimed {
    fn read(row: &Row) -> Result<Self, Failure> {
        let mut columns = Columns::of(row);
        Ok(Self {
            xid: columns.take()?,
            no: columns.take()?,
            tenant_no: columns.take()?,
            event_id: columns.uuid()?,
            token: columns.take()?,
            catalogue_version: CatalogueVersion(columns.take::<i64>()?.unsigned_abs()),
        })
    }
}

/// Claims up to the limit, oldest first, one claim for each tenant.
pub(crate) async fn claim(store: &PostgresStore, terms: ClaimTerms) -> Result<Vec<DispatchClaim>, Failure> {
    let conn = &store.inner.connections.work().await?;
    let view = store.inner.horizon.view(terms.now);
    let backed_off = store.inner.backed_off.dispatches.nos();
    let look = Look { store, conn, view, terms, backed_off, began: Instant::now() };
    let (snapshot, younger) = look.at_younger().await?;
    let further = async {
        let claimed = look.at_older(snapshot?, younger).await?;
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        store.inner.horizon.leased(terms.until);
        let brief = store.inner.connections.brief().await?;
        load(store, (conn, &brief), by_tenant(claimed), terms.until).await
    };
    let claims = further.await;
    if claims.is_err() {
        // The first claim has happened, whatever came after it.
        store.inner.lost_dispatches.note(terms.until, [()]);
    }
    claims
}

/// A claim that looks at what its view shows.
struct Look<'a> {
    store: &'a PostgresStore,
    conn: &'a Connection,
    view: View,
    terms: ClaimTerms,
    /// Tenants that are left alone: when they are well again, the next look at everything finds what they owe.
    backed_off: Vec<i32>,
    began: Instant,
}

impl Look<'_> {
    /// Claims what lies behind a place, after a snapshot was taken.
    async fn at_younger(&self) -> Result<(Result<Snapshot, Failure>, Vec<Claimed>), Failure> {
        let (conn, admin) = (self.conn, Schema::admin());
        // The snapshot comes first: what is committed by then, the claims after it see. Sent together, answered in
        // order.
        conn.prepare(sql::DISPATCHES_SNAPSHOT, &admin).await?;
        conn.prepare(sql::DISPATCHES_CLAIM, &admin).await?;
        let snapshot = conn.query_one(sql::DISPATCHES_SNAPSHOT, &admin, &[]);
        let ClaimTerms { now, until, limit } = self.terms;
        let (session, limit) = (self.store.inner.session.no(), i64::from(limit));
        let (from_xid, from_no) = self.view.from;
        let params: [Param<'_>; 7] = [&session, &from_xid, &until, &now, &limit, &from_no, &self.backed_off];
        let younger = conn.query(sql::DISPATCHES_CLAIM, &admin, &params);
        // Each is a transaction of its own: the claim may happen though the other was refused.
        let (snapshot, rows) = futures_util::future::join(snapshot, younger).await;
        let claimed = rows.and_then(|rows| rows.iter().map(Claimed::read).collect::<Result<Vec<_>, _>>());
        let claimed = self.store.inner.lost_dispatches.watch(until, [()], claimed)?;
        Ok((snapshot.and_then(|row| Snapshot::read(&row)), claimed))
    }

    /// Claims the rest: what those left who were still running when everything younger was looked at.
    async fn at_older(&self, snapshot: Snapshot, mut claimed: Vec<Claimed>) -> Result<Vec<Claimed>, Failure> {
        let (horizon, view, limit) = (&self.store.inner.horizon, &self.view, self.terms.limit as usize);
        if claimed.len() >= limit {
            if let Some(last) = claimed.iter().map(|row| (row.xid, row.no)).max() {
                let left = snapshot.after_part(view, last);
                horizon.has_seen(view, self.began.elapsed(), left);
            }
            return Ok(claimed);
        }
        if !view.running.is_empty() {
            let ClaimTerms { now, until, .. } = self.terms;
            let left = i64::try_from(limit - claimed.len()).unwrap_or(0);
            let session = self.store.inner.session.no();
            // Also of tenants that are left alone: these few stand behind everything younger, and for a moment only.
            let params: [Param<'_>; 5] = [&session, &view.running, &until, &now, &left];
            let older = self.conn.query(sql::DISPATCHES_CLAIM_OF, &Schema::admin(), &params).await?;
            for row in &older {
                claimed.push(Claimed::read(row)?);
            }
            if claimed.len() >= limit {
                // They may have more: the next claim looks at the same.
                return Ok(claimed);
            }
        }
        horizon.has_seen(view, self.began.elapsed(), snapshot.after_all());
        Ok(claimed)
    }
}

/// Each tenant's, in the order of their events.
fn by_tenant(mut claimed: Vec<Claimed>) -> BTreeMap<i32, Vec<Claimed>> {
    claimed.sort_unstable_by_key(|row| (row.xid, row.no));
    let mut by_tenant: BTreeMap<i32, Vec<Claimed>> = BTreeMap::new();
    for row in claimed {
        by_tenant.entry(row.tenant_no).or_default().push(row);
    }
    by_tenant
}

/// Adds the events, and what the matchers must know. A tenant that cannot be served, or whose events cannot be read,
/// has no claim, and is left alone for a while: its oldest, claimed in vain over and over, would keep all others
/// waiting.
async fn load(
    store: &PostgresStore,
    (conn, brief): (&Connection, &Connection),
    by_tenant: BTreeMap<i32, Vec<Claimed>>,
    until: Timestamp,
) -> Result<Vec<DispatchClaim>, Failure> {
    let nos: Vec<i32> = by_tenant.keys().copied().collect();
    store.learn_tenants(conn, &nos).await?;
    let (mut claims, mut handed_out) = (Vec::with_capacity(by_tenant.len()), Vec::new());
    for (no, rows) in by_tenant {
        let Some(schema) = store.inner.tenants.schema(no) else {
            store.inner.backed_off.dispatches.note(no);
            give_back(conn, &rows).await?;
            continue;
        };
        let ids: Vec<Uuid> = rows.iter().map(|row| row.event_id).collect();
        let events = match events::in_hand(store, brief, (&schema, no), &ids).await {
            Ok(events) => events,
            // Others have nothing to do with it.
            Err(failure) if failure.is_one_tenants() => {
                tracing::error!(%schema, %failure, "the events of this tenant cannot be read");
                store.inner.backed_off.dispatches.note(no);
                // Else it waits for the end of its leases, so that what stands behind it has its turn.
                if !may_be_one_rows(&failure) {
                    give_back(conn, &rows).await?;
                }
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let catalogue_version = rows.iter().map(|row| row.catalogue_version).max().unwrap_or_default();
        let lease = |row: &Claimed| {
            let event = Arc::clone(events.get(&row.event_id)?);
            let work = OwedEvent { schema: schema.clone(), event };
            Some(Lease::grant(row.no, row.token.unsigned_abs(), until, work))
        };
        let owed = rows.iter().filter_map(lease).collect();
        claims.push(DispatchClaim { schema: schema.clone(), catalogue_version, owed });
        handed_out.extend(rows.into_iter().filter(|row| events.contains_key(&row.event_id)));
    }
    let handed_out = handed_out.iter().map(|row: &Claimed| ((row.no, row.token), row.xid));
    store.inner.horizon.handed_out(handed_out, until);
    Ok(claims)
}

/// What was claimed of a tenant that cannot be reached now: whoever reaches it first takes it.
async fn give_back(conn: &Connection, rows: &[Claimed]) -> Result<(), Failure> {
    let column = |field: fn(&Claimed) -> i64| rows.iter().map(field).collect::<Vec<i64>>();
    let (xids, nos, tokens) = (column(|row| row.xid), column(|row| row.no), column(|row| row.token));
    let params: [Param<'_>; 3] = [&xids, &nos, &tokens];
    conn.execute(sql::DISPATCHES_RELEASE, &Schema::admin(), &params).await?;
    Ok(())
}

/// Settles dispatches whose leases still hold. Answers how many deliveries were written.
pub(crate) async fn settle(
    store: &PostgresStore,
    dispatched: &[Dispatched],
    now: Timestamp,
) -> Result<u64, Failure> {
    let Some(first) = dispatched.first() else { return Ok(0) };
    let schema = &first.lease.work().schema;
    let (conn, tenant_no) = store.writing(schema).await?;
    let leases = Leases::of(dispatched.iter().map(|done| &done.lease));
    let xids = store.inner.horizon.xids_of(leases.keys());
    let wanted: Vec<(i64, &NewDelivery)> = dispatched
        .iter()
        .flat_map(|done| done.deliveries.iter().map(|delivery| (done.lease.key(), delivery)))
        .collect();
    let column = Wanted(&wanted);
    let row = conn
        .query_one(
            sql::DISPATCHES_SETTLE,
            schema,
            &[
                &tenant_no,
                &now,
                &xids,
                &leases.nos,
                &leases.tokens,
                &wanted.iter().map(|(no, _)| *no).collect::<Vec<_>>(),
                &column.of(|delivery| delivery.id.uuid()),
                &column.of(|delivery| delivery.endpoint_id.uuid()),
                &column.of(|delivery| delivery.trigger.as_str()),
                &column.of(|delivery| uuid_array(&delivery.subscription_ids)),
                &column.of(|delivery| int(delivery.max_attempts)),
                &column.of(|delivery| int(delivery.retry.max_retry_attempts)),
                &column.of(|delivery| int(delivery.retry.backoff_seconds)),
                &column.of(|delivery| delivery.retry.backoff_multiplier),
            ],
        )
        .await?;
    store.inner.horizon.ended(leases.keys());
    Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
}

/// Gives owed dispatches back. If that fails nobody tries again, for whoever had them has dropped them: they are then
/// looked for as those are whose claims were lost.
pub(crate) async fn release(store: &PostgresStore, leases: Vec<Lease<OwedEvent>>) -> Result<(), Failure> {
    if leases.is_empty() {
        return Ok(());
    }
    let ends: BTreeSet<Timestamp> = leases.iter().map(Lease::expires_at).collect();
    let leases = Leases::of(leases.iter());
    let xids = store.inner.horizon.xids_of(leases.keys());
    store.inner.horizon.ended(leases.keys());
    let released = async {
        let conn = store.inner.connections.work().await?;
        let params: [Param<'_>; 3] = [&xids, &leases.nos, &leases.tokens];
        conn.execute(sql::DISPATCHES_RELEASE, &Schema::admin(), &params).await
    };
    let released = released.await.inspect_err(|_| {
        for until in ends {
            store.inner.lost_dispatches.note(until, [()]);
        }
    });
    released?;
    store.inner.horizon.forget();
    Ok(())
}

/// Deliveries, to be turned into columns.
struct Wanted<'a>(&'a [(i64, &'a NewDelivery)]);

impl<'a> Wanted<'a> {
    fn of<T>(&self, field: impl Fn(&'a NewDelivery) -> T) -> Vec<T> {
        self.0.iter().map(|(_, delivery)| field(delivery)).collect()
    }
}

/// Writes one delivery of an event that owes no dispatch: a test before everything that its endpoint owes, for somebody
/// waits for the answer.
pub(crate) async fn write_directed(
    conn: &Connection,
    terms: TenantTerms<'_>,
    event_id: EventId,
    delivery: &NewDelivery,
) -> Result<(), Failure> {
    let due_at = match delivery.trigger {
        Trigger::Test => Timestamp::UNIX_EPOCH,
        Trigger::Event => terms.now,
    };
    let params: [Param<'_>; 12] = [
        &terms.tenant_no,
        &terms.now,
        &delivery.id.uuid(),
        &event_id.uuid(),
        &delivery.endpoint_id.uuid(),
        &delivery.trigger.as_str(),
        &uuid_array(&delivery.subscription_ids),
        &due_at,
        &int(delivery.max_attempts),
        &int(delivery.retry.max_retry_attempts),
        &int(delivery.retry.backoff_seconds),
        &delivery.retry.backoff_multiplier,
    ];
    conn.query_one(sql::DELIVERIES_INSERT, terms.schema, &params).await?;
    Ok(())
}
