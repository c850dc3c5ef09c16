//! Everything at once, on several nodes: publishing, dispatching, delivering, cancelling, retrying, deleting, tending,
//! and holders that never come back. Afterwards everything is over, once, and the tables agree with each other.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use neo_events_domain::{
    Uuid,
    delivery::DeliveryState,
    endpoint::Endpoint,
    id::DeliveryId,
    retry::Verdict,
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    Appended, Catalogue, Changed, DeliveryLog, DeliveryQuery, DeliveryWork, Dispatched, EventLog, Inserted,
    Lease, PageRequest, Settled, StoreError, Tenants, Unsettled, WorkQueue,
};
use neo_events_store_postgres::PostgresStore;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    invariants,
    random::Random,
    scene::{
        PATIENCE, Scene, at, at_last, claim, claim_dispatches, dispatch, draft, event, new_endpoint,
        settle_all, settle_at_last, settlement, to_all,
    },
};

/// How long leases last in [`claim`] and [`claim_dispatches`], in seconds.
const LEASE_SECONDS: i64 = 60;
const NODES: usize = 3;
const TASKS: u64 = 12;
const STEPS: usize = 60;

/// Who holds what until when, as the holders see it.
#[derive(Default)]
struct Ledger {
    held: Mutex<HashMap<Uuid, Held>>,
    wrong: Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
struct Held {
    token: u64,
    from: i64,
}

impl Ledger {
    fn granted<T>(&self, id: Uuid, lease: &Lease<T>, from: i64) {
        let mut held = self.held.lock().unwrap();
        let new = Held { token: lease.token(), from };
        if let Some(other) = held.insert(id, new)
            && (other.from - from).abs() < LEASE_SECONDS
        {
            self.wrong(format!(
                "{id} is held from {} by {} and from {from} by {}",
                other.from, other.token, new.token
            ));
        }
    }

    /// Called before a lease is ended: somebody else may have it right after.
    fn ends<T>(&self, id: Uuid, lease: &Lease<T>) {
        let mut held = self.held.lock().unwrap();
        if held.get(&id).is_some_and(|held| held.token == lease.token()) {
            held.remove(&id);
        }
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// What all tasks share.
struct Race {
    stores: Vec<PostgresStore>,
    endpoints: HashMap<Schema, Vec<Endpoint>>,
    schemas: Vec<Schema>,
    /// The one clock.
    second: AtomicI64,
    published: AtomicUsize,
    ledger: Ledger,
}

impl Race {
    fn now(&self) -> i64 {
        self.second.load(Ordering::SeqCst)
    }

    async fn step(&self, random: &mut Random) {
        let (store, schema) = (random.pick(&self.stores).clone(), random.pick(&self.schemas).clone());
        match random.below(16) {
            0..4 => self.publish(&store, &schema, random).await,
            4..7 => self.dispatch(&store, random).await,
            7..11 => self.deliver(&store, &schema, random).await,
            11..14 => self.change(&store, &schema, random).await,
            14 => {
                at_last(|| store.tend(at(self.now()))).await;
            }
            _ => self.rare(&store, &schema, random).await,
        }
    }

    async fn publish(&self, store: &PostgresStore, schema: &Schema, random: &mut Random) {
        let events: Vec<_> = (0..=random.below(4)).map(|_| event(draft())).collect();
        self.published.fetch_add(events.len(), Ordering::SeqCst);
        // What was stored though its publisher was not told so is found there when it comes again.
        let append = || store.append(schema, events.clone(), at(self.now()));
        let (appended, is_again) = match append().await {
            Err(StoreError::Unavailable(_)) => (at_last(append).await, true),
            appended => (appended.unwrap(), false),
        };
        let is_stored = |one: &Appended, is_again| match one {
            Appended::Stored { .. } => true,
            Appended::Duplicate { .. } => is_again,
            _ => false,
        };
        assert!(appended.iter().all(|one| is_stored(one, is_again)), "{appended:?}");
    }

    /// Claims, and settles, or gives back, or forgets.
    async fn dispatch(&self, store: &PostgresStore, random: &mut Random) {
        let now = self.now();
        let limit = u32::try_from(1 + random.below(20)).unwrap();
        let claims = at_last(|| store.claim_dispatches(at(now), limit, at(now + LEASE_SECONDS))).await;
        for claim in claims {
            for lease in &claim.owed {
                self.ledger.granted(lease.work().event.id.uuid(), lease, now);
            }
            if random.once_in(8) {
                continue;
            }
            for lease in &claim.owed {
                self.ledger.ends(lease.work().event.id.uuid(), lease);
            }
            if random.once_in(6) {
                // What cannot be given back now is given back by the next claims.
                let released = store.release_dispatches(claim.owed).await;
                assert!(matches!(released, Ok(()) | Err(StoreError::Unavailable(_))), "{released:?}");
                continue;
            }
            let endpoints = &self.endpoints[&claim.schema];
            let many = usize::try_from(random.below(endpoints.len() as u64 + 1)).unwrap();
            let dispatched = to_all(claim.owed, &endpoints[..many]);
            settle_dispatches_at_last(store, dispatched, self.now()).await;
        }
    }

    async fn deliver(&self, store: &PostgresStore, schema: &Schema, random: &mut Random) {
        let now = self.now();
        let endpoint = random.pick(&self.endpoints[schema]);
        let max = u32::try_from(1 + random.below(8)).unwrap();
        let leases = at_last(|| claim(store, (schema, endpoint), now, max)).await;
        for lease in &leases {
            self.ledger.granted(lease.work().delivery_id.uuid(), lease, now);
        }
        for lease in leases {
            if random.once_in(12) {
                continue;
            }
            self.ledger.ends(lease.work().delivery_id.uuid(), &lease);
            if random.once_in(8) {
                release_at_last(store, lease).await;
                continue;
            }
            let id = lease.work().delivery_id;
            let is_last = lease.work().progress.attempt == lease.work().progress.max_attempts;
            let verdict = match random.below(10) {
                0..3 => Verdict::Succeeded,
                3 => Verdict::Rejected,
                4 if random.once_in(6) => Verdict::Gone,
                _ if is_last => Verdict::Exhausted,
                _ => Verdict::Retry(at(now + i64::try_from(random.below(3)).unwrap())),
            };
            let (settled, is_again) = match store.settle(settlement(lease, verdict, now)).await {
                Ok(settled) => (settled, false),
                // It may have been recorded though its holder was not told so.
                Err(Unsettled { work, .. }) => (settle_at_last(store, work).await, true),
            };
            if settled == Settled::LeaseLost && !is_again && self.now() < now + LEASE_SECONDS {
                self.ledger.wrong(format!("the lease of {id} was lost while it was live ({verdict:?})"));
            }
        }
    }

    /// Cancels or retries, by hand, what may be in flight or over.
    async fn change(&self, store: &PostgresStore, schema: &Schema, random: &mut Random) {
        let page = PageRequest::first(20);
        let all = DeliveryQuery::default();
        let listed = at_last(|| store.deliveries(schema, &all, page.clone()));
        let listed = listed.await.items;
        if listed.is_empty() {
            return;
        }
        for _ in 0..3 {
            let id: DeliveryId = random.pick(&listed).id;
            let now = at(self.now());
            let is_cancelled = random.once_in(2);
            let changed = at_last(|| {
                if is_cancelled {
                    store.cancel_delivery(schema, id, "by hand", now)
                } else {
                    store.retry_delivery(schema, id, now)
                }
            });
            assert!(!matches!(changed.await, Changed::Missing));
        }
    }

    /// What happens now and then: time passes, endpoints are switched off and on, or are deleted.
    async fn rare(&self, store: &PostgresStore, schema: &Schema, random: &mut Random) {
        let (now, endpoints) = (at(self.now()), &self.endpoints[schema]);
        match random.below(6) {
            0 => {
                self.second.fetch_add(LEASE_SECONDS + 1, Ordering::SeqCst);
            }
            1 if random.once_in(4) => {
                at_last(|| store.delete_endpoint(schema, endpoints[0].id, now)).await;
            }
            2 | 3 => {
                let id = random.pick(endpoints).id;
                if let Some(endpoint) = at_last(|| store.endpoint(schema, id)).await {
                    let was_active = endpoint.is_active;
                    let other = if was_active { endpoint.deactivated(now) } else { endpoint.activated(now) };
                    at_last(|| store.update_endpoint(schema, &other)).await;
                }
            }
            _ => {
                self.second.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Brings everything to its end.
    async fn finish(&self) {
        self.second.fetch_add(1000, Ordering::SeqCst);
        for schema in &self.schemas {
            for endpoint in &self.endpoints[schema] {
                let found = at_last(|| self.stores[0].endpoint(schema, endpoint.id)).await;
                if let Some(endpoint) = found
                    && !endpoint.is_active
                {
                    let active = endpoint.activated(at(self.now()));
                    at_last(|| self.stores[0].update_endpoint(schema, &active)).await;
                }
            }
        }
        for (node, store) in self.stores.iter().enumerate() {
            let endpoints = &self.endpoints[&self.schemas[0]][..node];
            while dispatch_of(store, &self.schemas[0], endpoints, self.now()).await > 0 {}
        }
        while at_last(|| self.stores[1].tend(at(self.now()))).await {}
        for schema in &self.schemas {
            for endpoint in &self.endpoints[schema] {
                loop {
                    let leases =
                        at_last(|| claim(&self.stores[2], (schema, endpoint), self.now(), 100)).await;
                    if leases.is_empty() {
                        break;
                    }
                    let settled = |lease| settlement(lease, Verdict::Succeeded, self.now());
                    settle_all(&self.stores[2], leases.into_iter().map(settled).collect()).await;
                }
            }
        }
        while at_last(|| self.stores[1].tend(at(self.now()))).await {}
    }
}

/// What the database does not take now it takes later.
async fn settle_dispatches_at_last(store: &PostgresStore, mut dispatched: Vec<Dispatched>, now: i64) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(Unsettled { work, error }) = store.settle_dispatches(dispatched, at(now)).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(Instant::now() < deadline, "it is never settled: {error:?}");
        dispatched = work;
    }
}

async fn release_at_last(store: &PostgresStore, mut lease: Lease<DeliveryWork>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(Unsettled { work, error }) = store.release(lease).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(Instant::now() < deadline, "it is never given back: {error:?}");
        lease = work;
    }
}

/// Dispatches what is owed in all tenants, to endpoints of one of them.
async fn dispatch_of(store: &PostgresStore, schema: &Schema, endpoints: &[Endpoint], now: i64) -> usize {
    let mut count = 0;
    let claims = at_last(|| store.claim_dispatches(at(now), 1000, at(now + LEASE_SECONDS)));
    for claim in claims.await {
        count += claim.owed.len();
        let to = if claim.schema == *schema { endpoints } else { &[] };
        settle_dispatches_at_last(store, to_all(claim.owed, to), now).await;
    }
    count
}

async fn race(seed: u64) {
    let scene = Scene::of(NODES).await;
    let tenant = Tenant { schema: "tenant_one".parse().unwrap(), name: None, created_at: at(0) };
    assert_eq!(scene.store().create_tenant(&tenant).await.unwrap(), Inserted::New);
    let schemas = vec![scene.schema.clone(), tenant.schema];
    let mut endpoints: HashMap<Schema, Vec<Endpoint>> = HashMap::new();
    for schema in &schemas {
        for _ in 0..3 {
            let endpoint = new_endpoint();
            scene.store().insert_endpoint(schema, &endpoint).await.unwrap();
            endpoints.entry(schema.clone()).or_default().push(endpoint);
        }
    }
    let beside = scene.beside().await;
    let sessions = "select sum(no)::bigint from admin.sessions";
    let before = beside.number(sessions).await;
    let race = Arc::new(Race {
        stores: scene.stores.clone(),
        endpoints,
        schemas,
        second: AtomicI64::new(0),
        published: AtomicUsize::new(0),
        ledger: Ledger::default(),
    });
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (race, mut random) = (Arc::clone(&race), Random::seeded(seed * TASKS + task));
        tasks.spawn(async move {
            for _ in 0..STEPS {
                race.step(&mut random).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    invariants::check(&beside).await;
    race.finish().await;
    invariants::check(&beside).await;
    let wrong = race.ledger.wrong.lock().unwrap().clone();
    // On a machine that stood still for seconds, nodes take each other's work: then leases do end early.
    let nobody_was_buried = beside.number(sessions).await == before;
    assert!(wrong.is_empty() || !nobody_was_buried, "seed {seed}: {wrong:#?}");
    for (what, statement) in [
        ("dispatches", "select count(*) from admin.owed_dispatches"),
        ("deliveries", "select count(*) from admin.delivery_queue"),
        ("cancellations", "select count(*) from admin.cancel_requests"),
        ("removals", "select count(*) from admin.endpoint_removals"),
    ] {
        assert_eq!(beside.number(statement).await, 0, "seed {seed}: {what} are left over");
    }
    let stored = beside
        .number("select (select count(*) from admin.events) + (select count(*) from tenant_one.events)");
    assert_eq!(usize::try_from(stored.await).unwrap(), race.published.load(Ordering::SeqCst));
}

/// Whatever happens at the same time: no two hold the same, no live lease is lost, and everything ends once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_once_everything_ends_once() {
    for seed in 0..3 {
        race(seed).await;
    }
}

/// So many are there. Eight claim by turns on two nodes, again and again, and until all are granted: what was leased by a
/// claim whose answer was lost is given back first.
async fn each_is_granted_once(
    scene: &Scene,
    many: usize,
    claim: impl AsyncFn(&PostgresStore) -> Result<Vec<Uuid>, StoreError>,
) {
    let (granted, deadline) = (AtomicUsize::new(0), Instant::now() + PATIENCE);
    let claiming = (0..8).map(async |n| {
        let (mut ids, mut claims) = (Vec::new(), 0);
        while claims < 100 || granted.load(Ordering::SeqCst) < many {
            assert!(Instant::now() < deadline, "{granted:?} of {many} are granted");
            let claimed = at_last(|| claim(&scene.stores[n % 2])).await;
            granted.fetch_add(claimed.len(), Ordering::SeqCst);
            ids.extend(claimed);
            claims += 1;
        }
        ids
    });
    let mut ids = join_all(claiming).await.concat();
    ids.sort_unstable();
    let granted = ids.len();
    ids.dedup();
    assert_eq!((granted, ids.len()), (many, many));
}

/// Two nodes at the same endpoint's queue and the same dispatches: nothing is granted twice, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_claim_together_share_the_work() {
    let scene = Scene::of(2).await;
    let endpoint = scene.endpoint().await;
    scene.publish(600).await;
    let owed = each_is_granted_once(&scene, 600, async |store: &PostgresStore| {
        let owed = claim_dispatches(store, 0, 10).await?;
        Ok(owed.into_iter().map(|lease| lease.work().event.id.uuid()).collect())
    });
    owed.await;
    assert_eq!(dispatch(scene.store(), 100, 1000, std::slice::from_ref(&endpoint)).await.unwrap(), 600);
    let due = each_is_granted_once(&scene, 600, async |store: &PostgresStore| {
        let leases = claim(store, (&scene.schema, &endpoint), 101, 10).await?;
        Ok(leases.into_iter().map(|lease| lease.work().delivery_id.uuid()).collect())
    });
    due.await;
    invariants::check(&scene.beside().await).await;
}

/// Two who hold the same delivery, one of them no longer, settle in the same statement: only the one who holds it is
/// told that it counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_holders_in_one_batch_only_the_last_is_told_that_it_counts() {
    let scene = Scene::of(1).await;
    let (store, endpoint, mut beside) = (scene.store(), scene.endpoint().await, scene.beside().await);
    scene.publish(3).await;
    assert_eq!(dispatch(store, 0, 3, std::slice::from_ref(&endpoint)).await.unwrap(), 3);
    let late = claim(store, (&scene.schema, &endpoint), 1, 1).await.unwrap().remove(0);
    let mut held = claim(store, (&scene.schema, &endpoint), 1 + LEASE_SECONDS, 3).await.unwrap();
    assert_eq!((held.len(), held[0].work().delivery_id), (3, late.work().delivery_id));
    let now = 1 + LEASE_SECONDS;
    let settling = |lease, verdict| Box::pin(settle_at_last(store, settlement(lease, verdict, now)));

    // Both workers are kept busy, so that whoever comes meanwhile goes together.
    let watching = scene.beside().await;
    let lock = beside.transaction().await;
    lock.batch_execute("lock table admin.deliveries in exclusive mode").await.unwrap();
    let mut busy = Vec::new();
    for waiting in 1..=2 {
        let mut one = settling(held.remove(1), Verdict::Succeeded);
        assert!(futures_util::poll!(&mut one).is_pending());
        busy.push(one);
        let deadline = Instant::now() + PATIENCE;
        while watching.number("select count(*) from pg_locks where not granted").await < waiting {
            assert!(Instant::now() < deadline, "the lock keeps nobody waiting");
        }
    }
    let (mut late, mut live) =
        (settling(late, Verdict::Rejected), settling(held.remove(0), Verdict::Succeeded));
    assert!(futures_util::poll!(&mut late).is_pending() && futures_util::poll!(&mut live).is_pending());
    lock.commit().await.unwrap();

    assert_eq!((late.await, live.await), (Settled::LeaseLost, Settled::Recorded(DeliveryState::Success)));
    for one in busy {
        assert_eq!(one.await, Settled::Recorded(DeliveryState::Success));
    }
    invariants::check(&watching).await;
}
