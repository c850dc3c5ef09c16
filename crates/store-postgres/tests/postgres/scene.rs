//! What the tests are told with: several stores on one database, a connection beside them, and short words for making
//! events, endpoints and deliveries.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, Trigger},
    endpoint::{Endpoint, EndpointDraft, Profile, SealedSecret},
    event::{EventDraft, NewEvent},
    id::{Id, IdEntropy},
    retry::{FailureCode, Outcome, Verdict},
    subscription::{Subscription, SubscriptionDraft},
    tenant::Schema,
};
use neo_events_store::{
    Appended, Catalogue, DeliveryWork, Dispatched, EndpointQuota, EventLog, Inserted, Lease, NewDelivery,
    OwedEvent, Settled, Settlement, StoreError, WorkQueue,
};
use neo_events_store_postgres::{
    PostgresOptions, PostgresStore,
    tokio_postgres::{self, Client, NoTls, Transaction},
};
use neo_events_test_postgres::{Database, database};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Longer than anything that is waited for takes, also on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Ids are unique in the process.
static MADE: AtomicU64 = AtomicU64::new(1);

/// A point of time, in seconds after an arbitrary beginning.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(crate) fn entropy() -> IdEntropy {
    let mut bytes = [0x5a; 10];
    bytes[2..].copy_from_slice(&MADE.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

pub(crate) fn id<Kind>(second: i64) -> Id<Kind> {
    Id::new(at(second), entropy())
}

pub(crate) fn draft() -> EventDraft {
    EventDraft::new("user.created", "{}")
}

pub(crate) fn event(draft: EventDraft) -> NewEvent {
    draft.validate(at(0), entropy()).unwrap()
}

pub(crate) fn new_endpoint() -> Endpoint {
    let url = "https://example.com/hook";
    let limits = Profile::Production.endpoint_limits();
    let draft = EndpointDraft::standard("receiver", url);
    let mut endpoint = draft.validate(id(0), at(0), limits, Ok(url.into())).unwrap();
    endpoint.secrets = vec![SealedSecret { sealed: vec![1], expires_at: None }];
    endpoint
}

pub(crate) fn new_subscription(endpoint: &Endpoint) -> Subscription {
    let draft = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    draft.validate(id(0), endpoint, at(0)).unwrap()
}

pub(crate) fn new_delivery(endpoint: &Endpoint) -> NewDelivery {
    NewDelivery {
        id: id(0),
        endpoint_id: endpoint.id,
        trigger: Trigger::Event,
        subscription_ids: vec![id(0)],
        max_attempts: 1 + endpoint.retry.max_retry_attempts,
        retry: endpoint.retry,
    }
}

pub(crate) fn settlement(lease: Lease<DeliveryWork>, verdict: Verdict, second: i64) -> Settlement {
    let outcome = match verdict {
        Verdict::Succeeded => Outcome::Answered { status: 204, retry_after: None },
        _ => Outcome::Failed(FailureCode::TimeoutConnect),
    };
    let attempt = AttemptRecord {
        request_id: id(second),
        attempt_number: lease.work().progress.attempt,
        endpoint_revision: 1,
        signatures: None,
        outcome,
        response: None,
        error_message: None,
        connection_reused: false,
        attempted_at: at(second),
        completed_at: at(second),
        response_time: Duration::from_millis(7),
    };
    Settlement { lease, attempt, verdict }
}

/// A connection of the test's own, closed when dropped.
pub(crate) struct Beside {
    client: Client,
    _driver: JoinSet<()>,
}

impl Beside {
    pub(crate) async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { client, _driver: driver }
    }

    /// Begins a transaction.
    pub(crate) async fn transaction(&mut self) -> Transaction<'_> {
        self.client.transaction().await.unwrap()
    }

    /// The one number that a statement answers.
    pub(crate) async fn number(&self, statement: &str) -> i64 {
        self.client.query_one(statement, &[]).await.unwrap().get(0)
    }
}

impl Deref for Beside {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A database with as many stores as there are nodes.
pub(crate) struct Scene {
    pub(crate) stores: Vec<PostgresStore>,
    pub(crate) schema: Schema,
    pub(crate) database: Database,
}

impl Scene {
    pub(crate) async fn of(nodes: usize) -> Self {
        let database = database().await;
        let mut stores = Vec::new();
        for _ in 0..nodes {
            stores.push(open(&database).await);
        }
        Self { stores, schema: Schema::admin(), database }
    }

    pub(crate) fn store(&self) -> &PostgresStore {
        &self.stores[0]
    }

    pub(crate) async fn beside(&self) -> Beside {
        Beside::connect(&self.database.url()).await
    }

    pub(crate) async fn endpoint(&self) -> Endpoint {
        let endpoint = new_endpoint();
        assert_eq!(self.store().insert_endpoint(&self.schema, &endpoint).await.unwrap(), Inserted::New);
        endpoint
    }

    pub(crate) async fn publish(&self, count: usize) {
        let events = (0..count).map(|_| event(draft())).collect();
        let appended = self.store().append(&self.schema, events, at(0)).await.unwrap();
        assert!(appended.iter().all(|one| matches!(one, Appended::Stored { .. })));
    }
}

/// Waits until so many of the store's statements stand before a lock.
pub(crate) async fn until_blocked(beside: &Beside, count: i64) {
    let blocked = "select count(*) from pg_stat_activity \
                   where wait_event_type = 'Lock' and datname = current_database()";
    let deadline = Instant::now() + PATIENCE;
    while beside.number(blocked).await < count {
        assert!(Instant::now() < deadline, "they never get to the lock");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn open(database: &Database) -> PostgresStore {
    PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap()
}

/// Asks again while the database is not available, as it may be for a moment on a machine that has other things to do;
/// any other error is wrong.
pub(crate) async fn at_last<T, Call>(mut call: impl FnMut() -> Call) -> T
where
    Call: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(cause) | StoreError::TooSlow(cause)) => {
                assert!(Instant::now() < deadline, "it is never available again: {cause}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Claims dispatches of all tenants, for a minute.
pub(crate) async fn claim_dispatches(
    store: &PostgresStore,
    second: i64,
    limit: u32,
) -> Result<Vec<Lease<OwedEvent>>, StoreError> {
    let claims = store.claim_dispatches(at(second), limit, at(second + 60)).await?;
    Ok(claims.into_iter().flat_map(|claim| claim.owed).collect())
}

/// Every event to every endpoint.
pub(crate) fn to_all(leases: Vec<Lease<OwedEvent>>, endpoints: &[Endpoint]) -> Vec<Dispatched> {
    let dispatched = |lease| Dispatched { lease, deliveries: endpoints.iter().map(new_delivery).collect() };
    leases.into_iter().map(dispatched).collect()
}

/// Dispatches up to `limit` events; answers how many.
pub(crate) async fn dispatch(
    store: &PostgresStore,
    second: i64,
    limit: u32,
    endpoints: &[Endpoint],
) -> Result<usize, StoreError> {
    let leases = claim_dispatches(store, second, limit).await?;
    let count = leases.len();
    let settled = store.settle_dispatches(to_all(leases, endpoints), at(second)).await;
    settled.map_err(|unsettled| unsettled.error)?;
    Ok(count)
}

/// Claims deliveries of an endpoint, for a minute.
pub(crate) async fn claim(
    store: &PostgresStore,
    (schema, endpoint): (&Schema, &Endpoint),
    second: i64,
    max: u32,
) -> Result<Vec<Lease<DeliveryWork>>, StoreError> {
    let quota = EndpointQuota { schema: schema.clone(), endpoint_id: endpoint.id, max };
    let claims = store.claim_deliveries(at(second), &[quota], at(second + 60)).await?;
    Ok(claims.into_iter().flat_map(|claim| claim.work).collect())
}

/// Settles as the engine does: what could not be stored is tried again until it is.
pub(crate) async fn settle_at_last(store: &PostgresStore, mut settlement: Settlement) -> Settled {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.settle(settlement).await {
            Ok(settled) => return settled,
            Err(unsettled) => {
                assert!(unsettled.error.is_transient(), "{:?}", unsettled.error);
                assert!(Instant::now() < deadline, "it is never settled: {:?}", unsettled.error);
                settlement = unsettled.work;
            }
        }
    }
}

/// Settles many at once, and waits for all.
pub(crate) async fn settle_all(store: &PostgresStore, settlements: Vec<Settlement>) {
    let mut settling = JoinSet::new();
    for settlement in settlements {
        let store = store.clone();
        settling.spawn(async move { settle_at_last(&store, settlement).await });
    }
    while let Some(settled) = settling.join_next().await {
        assert!(matches!(settled.unwrap(), Settled::Recorded(_)));
    }
}
