//! A file for each tenant: opened when it is needed, closed when it is not, and none in another's way.

#![expect(clippy::unwrap_used, reason = "a test whose preparation fails has failed")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use neo_events_domain::{
    Timestamp,
    delivery::{AttemptRecord, Trigger},
    endpoint::{Endpoint, EndpointDraft, Profile},
    event::{EventDraft, NewEvent},
    id::Id,
    retry::{Outcome, Verdict},
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    Catalogue, DispatchClaim, Dispatched, EndpointQuota, EventLog, EventQuery, Health, Inserted, NewDelivery,
    PageRequest, Settled, Settlement, StoreError, Tenants, WorkQueue,
};
use neo_events_store_sqlite::{
    OpenError, SqliteOptions, SqliteStore, inspect, migrate, migration_status,
    rusqlite::{Connection, TransactionBehavior},
};
use tempfile::TempDir;

/// Long enough for a slow machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_mins(1);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn event(n: u64) -> NewEvent {
    let mut entropy = [0; 10];
    entropy[2..].copy_from_slice(&n.to_be_bytes());
    EventDraft::new("user.created", "{}").validate(at(0), entropy).unwrap()
}

fn endpoint() -> Endpoint {
    let draft = EndpointDraft::standard("receiver", "https://example.com/hook");
    let url = Ok(draft.endpoint_url.clone());
    draft.validate(Id::new(at(0), [1; 10]), at(0), Profile::Production.endpoint_limits(), url).unwrap()
}

fn tenant(n: usize) -> Tenant {
    Tenant { schema: Schema::tenant(&format!("t{n}")).unwrap(), name: None, created_at: at(0) }
}

struct Place {
    _directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("data/admin.db");
        Self { _directory: directory, path }
    }

    /// A store whose tenants are idle after a moment.
    fn open(&self) -> SqliteStore {
        let tenant_idle = Duration::from_millis(50);
        SqliteStore::open(SqliteOptions { tenant_idle, ..SqliteOptions::new(&self.path) }).unwrap()
    }

    async fn with_tenants(&self, count: usize) -> SqliteStore {
        let store = self.open();
        // Making one is a few syncs: many at a time share them.
        for first in (0..count).step_by(100) {
            let mut making = tokio::task::JoinSet::new();
            for n in first..count.min(first + 100) {
                let store = store.clone();
                making.spawn(async move { store.create_tenant(&tenant(n)).await.unwrap() });
            }
            assert!(making.join_all().await.into_iter().all(|made| made == Inserted::New));
        }
        store
    }

    fn file_of(&self, schema: &Schema) -> PathBuf {
        let mut directory = self.path.clone().into_os_string();
        directory.push(".d");
        Path::new(&directory).join(format!("{schema}.db"))
    }

    /// A connection of the embedding program's own.
    fn callers(&self, schema: &Schema) -> Connection {
        let conn = Connection::open(self.file_of(schema)).unwrap();
        conn.busy_timeout(DEADLINE).unwrap();
        conn
    }

    /// The tenants' files that this process has open.
    fn open_files(&self) -> BTreeSet<PathBuf> {
        let mut directory = self.path.clone().into_os_string();
        directory.push(".d");
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets =
            descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.unwrap().path()).ok());
        targets.filter(|target| target.starts_with(&directory)).collect()
    }
}

async fn append(store: &SqliteStore, schema: &Schema, events: impl IntoIterator<Item = u64>) {
    store.append(schema, events.into_iter().map(event).collect(), at(0)).await.unwrap();
}

async fn claim(store: &SqliteStore, limit: u32) -> Vec<DispatchClaim> {
    store.claim_dispatches(at(1), limit, at(1_000_000)).await.unwrap()
}

/// Polls as the dispatcher does until `done`.
async fn poll(store: &SqliteStore, mut done: impl FnMut(Vec<DispatchClaim>) -> bool) {
    let begun = Instant::now();
    while !done(claim(store, 1000).await) {
        assert!(begun.elapsed() < DEADLINE, "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls until all of these were claimed, each as its own tenant's.
async fn poll_for(store: &SqliteStore, wanted: impl IntoIterator<Item = Schema>) {
    let mut wanted: BTreeSet<_> = wanted.into_iter().collect();
    poll(store, |claims| {
        for claim in claims {
            assert!(claim.owed.iter().all(|lease| lease.work().schema == claim.schema));
            wanted.remove(&claim.schema);
        }
        wanted.is_empty()
    })
    .await;
}

async fn settle_all(store: &SqliteStore) {
    settle(store, claim(store, 1000).await).await;
}

async fn settle(store: &SqliteStore, claims: Vec<DispatchClaim>) {
    for claim in claims {
        let dispatched = claim.owed.into_iter().map(|lease| Dispatched { lease, deliveries: Vec::new() });
        store.settle_dispatches(dispatched.collect(), at(2)).await.unwrap();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_tenants_cost_nothing() {
    let place = Place::new();
    let store = place.with_tenants(1000).await;
    assert_eq!(place.open_files().len(), 0, "making one does not keep it open");
    for n in 0..50 {
        assert_eq!(store.count_events(&tenant(n).schema, &EventQuery::default()).await.unwrap(), 0);
    }
    assert!(!place.open_files().is_empty());
    poll(&store, |_| place.open_files().is_empty()).await;
    append(&store, &tenant(777).schema, [1]).await;
    poll_for(&store, [tenant(777).schema]).await;
    let open = place.open_files();
    assert!(open.iter().all(|path| path.to_str().unwrap().contains("tenant_t777.db")), "{open:?}");
}

/// Whoever asks for a file that cannot be opened waits without a thread of its own: those are all tenants'.
#[test]
fn many_who_wait_for_a_locked_file_do_not_hold_up_another_tenant() {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .unwrap();
    threads.block_on(async {
        let place = Place::new();
        let store = place.with_tenants(2).await;
        let (locked, other) = (tenant(0).schema, tenant(1).schema);
        let mut callers = place.callers(&locked);
        let lock = callers.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for n in 0..20 {
            let (store, schema) = (store.clone(), locked.clone());
            waiting.spawn(async move { store.append(&schema, vec![event(n)], at(0)).await.err() });
        }
        // Those that have asked are on their way before the other asks.
        tokio::task::yield_now().await;
        append(&store, &other, 0..3).await;
        assert_eq!(store.count_events(&other, &EventQuery::default()).await.unwrap(), 3);
        assert!(waiting.try_join_next().is_none(), "they wait for the lock meanwhile");
        let begun = Instant::now();
        let refused = waiting.join_all().await;
        assert!(refused.iter().all(|error| matches!(error, Some(StoreError::Unavailable(_)))), "{refused:?}");
        assert!(begun.elapsed() < DEADLINE / 2, "together, and not one after the other");
        drop(lock);
        append(&store, &locked, 0..1).await;
    });
}

/// Who gave up waiting for it has made a tenant all the same, and it can be used.
#[tokio::test]
async fn a_tenant_that_nobody_waited_for_is_there() {
    let place = Place::new();
    let store = place.open();
    let mut callers = Connection::open(&place.path).unwrap();
    callers.busy_timeout(DEADLINE).unwrap();
    let made = tenant(0);
    let mut patience = Duration::from_millis(250);
    // Until it was given up with its row already waiting for the lock.
    while store.tenant(&made.schema).await.unwrap().is_none() {
        assert!(
            patience < Duration::from_secs(5),
            "after which it would be refused; its row never came to wait"
        );
        let lock = callers.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        assert!(tokio::time::timeout(patience, store.create_tenant(&made)).await.is_err());
        drop(lock);
        // Behind whatever waits.
        store.ping().await.unwrap();
        patience *= 2;
    }
    append(&store, &made.schema, 0..1).await;
}

#[tokio::test]
async fn what_tenants_were_owed_before_a_start_is_found_without_a_call() {
    let place = Place::new();
    let store = place.with_tenants(60).await;
    let owing = [3, 31, 59].map(|n| tenant(n).schema);
    for schema in &owing {
        append(&store, schema, [1, 2]).await;
    }
    let due = tenant(17).schema;
    with_delivery(&store, &due).await;
    store.close().await;

    let store = place.open();
    poll_for(&store, owing).await;
    let begun = Instant::now();
    while store.due_endpoints(at(1)).await.unwrap().iter().all(|found| found.schema != due) {
        assert!(begun.elapsed() < DEADLINE);
    }
}

/// An endpoint and a delivery to it.
async fn with_delivery(store: &SqliteStore, schema: &Schema) {
    let endpoint = endpoint();
    store.insert_endpoint(schema, &endpoint).await.unwrap();
    let delivery = NewDelivery {
        id: Id::new(at(0), [7; 10]),
        endpoint_id: endpoint.id,
        trigger: Trigger::Test,
        subscription_ids: Vec::new(),
        max_attempts: 1,
        retry: endpoint.retry,
    };
    store.append_directed(schema, event(1), delivery, at(0)).await.unwrap();
}

/// Whatever has damaged it, and whether it is an endpoint's, a delivery's or an event's: what stands behind it goes out.
#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_no_other_waiting() {
    let place = Place::new();
    let store = place.with_tenants(1).await;
    let schema = tenant(0).schema;
    let [unreadable, sound] = [1, 2].map(|n| Endpoint { id: Id::new(at(0), [n; 10]), ..endpoint() });
    for (n, endpoint) in (0..).zip([&unreadable, &sound]) {
        store.insert_endpoint(&schema, endpoint).await.unwrap();
        for m in 0..3 {
            let delivery = NewDelivery {
                id: Id::new(at(0), [10 * n + m; 10]),
                endpoint_id: endpoint.id,
                trigger: Trigger::Event,
                subscription_ids: Vec::new(),
                max_attempts: 1,
                retry: endpoint.retry,
            };
            store.append_directed(&schema, event(u64::from(10 * n + m)), delivery, at(0)).await.unwrap();
        }
    }
    append(&store, &schema, [100, 101]).await;
    let conn = place.callers(&schema);
    let first_of = "(select seq from deliveries where endpoint_no = 2 order by seq limit 1)";
    conn.execute_batch(&format!(
        "pragma ignore_check_constraints = true;
         update endpoints set custom_headers = 'x' where no = 1;
         update deliveries set base_backoff_seconds = -1 where seq = {first_of};
         update events set event_type = 'x'
         where seq = (select event_seq from deliveries where seq = {first_of} + 1)
             or seq = (select o.event_seq from owed_dispatches o order by o.event_seq limit 1)"
    ))
    .unwrap();
    let due = store.due_endpoints(at(1)).await.unwrap();
    assert_eq!(due.len(), 2, "{due:?}");
    let quotas = [&unreadable, &sound].map(|endpoint| EndpointQuota {
        schema: schema.clone(),
        endpoint_id: endpoint.id,
        max: 10,
    });
    let claims = store.claim_deliveries(at(1), &quotas, at(1000)).await.unwrap();
    let claimed: Vec<_> = claims.iter().map(|claim| (claim.endpoint.id, claim.work.len())).collect();
    assert_eq!(claimed, [(sound.id, 1)]);
    let owed: Vec<_> = claim(&store, 10).await.into_iter().flat_map(|claim| claim.owed).collect();
    assert_eq!(owed.iter().map(|lease| lease.work().event.id).collect::<Vec<_>>(), [event(101).id]);
}

#[cfg(unix)]
#[tokio::test]
async fn tenants_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.with_tenants(2).await;
    append(&store, &tenant(0).schema, [1]).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let file = place.file_of(&tenant(0).schema);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5, "an open one has a log and an index, and each a lock: {files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_its_tenants_trouble_alone() {
    let place = Place::new();
    let store = place.with_tenants(5).await;
    let [damaged, foreign, missing, empty, sound] = [0, 1, 2, 3, 4].map(|n| tenant(n).schema);
    for schema in [&damaged, &foreign, &missing, &empty, &sound] {
        append(&store, schema, [1]).await;
    }
    store.close().await;
    let mut bytes = std::fs::read(place.file_of(&damaged)).unwrap();
    bytes[100..].fill(0x5a);
    std::fs::write(place.file_of(&damaged), bytes).unwrap();
    std::fs::write(place.file_of(&foreign), "not a database, though long enough to be one").unwrap();
    std::fs::remove_file(place.file_of(&missing)).unwrap();
    std::fs::write(place.file_of(&empty), "").unwrap();
    let facts = inspect(&place.path, false).unwrap().unwrap();
    assert_eq!(facts.missing, [place.file_of(&missing), place.file_of(&empty)]);

    let store = place.open();
    poll_for(&store, [sound.clone()]).await;
    for schema in [&damaged, &foreign, &missing, &empty] {
        let error = store.count_events(schema, &EventQuery::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Broken(_)), "{schema}: {error:?}");
    }
    assert!(!place.file_of(&missing).exists(), "a loss is not hidden");
    assert_eq!(place.file_of(&empty).metadata().unwrap().len(), 0, "nor is this one");
    append(&store, &sound, [2]).await;
    append(&store, &Schema::admin(), [2]).await;
    poll_for(&store, [sound, Schema::admin()]).await;
    store.due_endpoints(at(1)).await.unwrap();
    store.tend(at(1)).await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_tenants_file_that_cannot_be_read_is_a_fact_of_that_file() {
    let place = Place::new();
    let store = place.with_tenants(3).await;
    store.insert_endpoint(&tenant(2).schema, &endpoint()).await.unwrap();
    store.close().await;
    // One is no database, of the other the last page is damaged.
    std::fs::write(place.file_of(&tenant(0).schema), "not a database, though long enough to be one").unwrap();
    let mut bytes = std::fs::read(place.file_of(&tenant(1).schema)).unwrap();
    let last_page = bytes.len() - 4096;
    bytes[last_page..].fill(0x5a);
    std::fs::write(place.file_of(&tenant(1).schema), bytes).unwrap();

    let status = migration_status(&place.path).unwrap();
    let scopes: Vec<_> = status.scopes.iter().map(|status| status.scope.as_str()).collect();
    assert_eq!(scopes, ["admin", "tenant_t1", "tenant_t2"]);
    assert_eq!(status.unreadable[0].path, place.file_of(&tenant(0).schema));

    for deep in [false, true] {
        let facts = inspect(&place.path, deep).unwrap().unwrap();
        let named = |scope: &str| facts.unreadable.iter().any(|file| file.scope == scope);
        assert!(named("tenant_t0") && !named("tenant_t2") && !named("admin"), "{facts:?}");
        let has_fault = facts.faults.iter().any(|(path, _)| *path == place.file_of(&tenant(1).schema));
        assert!(!deep || has_fault || named("tenant_t1"), "{facts:?}");
        assert!(facts.needs_its_key);
    }
    let refused = migrate(&place.path, |_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::NotADatabase { .. }), "{refused:?}");
    std::fs::write(&place.path, "not a database, though long enough to be one").unwrap();
    inspect(&place.path, false).unwrap_err();
    migration_status(&place.path).unwrap_err();
}

#[tokio::test]
async fn what_a_crash_left_before_the_list_is_taken_over() {
    let place = Place::new();
    let store = place.with_tenants(2).await;
    append(&store, &tenant(1).schema, [1]).await;
    store.close().await;
    let admin = Connection::open(&place.path).unwrap();
    assert_eq!(admin.execute("delete from tenants where schema like 'tenant_%'", []).unwrap(), 2);
    drop(admin);
    // Killed before its first table was made.
    std::fs::write(place.file_of(&tenant(0).schema), "").unwrap();

    let store = place.open();
    for n in [0, 1] {
        let unknown = store.count_events(&tenant(n).schema, &EventQuery::default()).await;
        assert!(matches!(unknown, Err(StoreError::UnknownSchema(_))), "{unknown:?}");
        assert_eq!(store.create_tenant(&tenant(n)).await.unwrap(), Inserted::New);
    }
    append(&store, &tenant(0).schema, [1]).await;
    poll_for(&store, [0, 1].map(|n| tenant(n).schema)).await;
}

#[tokio::test]
async fn the_list_survives_and_begins_with_the_database() {
    let place = Place::new();
    let store = place.with_tenants(2).await;
    let list = async |store: &SqliteStore| store.tenants(PageRequest::first(10)).await.unwrap().items;
    let before = list(&store).await;
    assert_eq!(before.len(), 3);
    assert_eq!(before[2].schema, Schema::admin(), "newest first");
    store.close().await;
    assert_eq!(list(&place.open()).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_uses_at_the_same_time_open_once() {
    let place = Place::new();
    let store = place.with_tenants(1).await;
    let mut uses = tokio::task::JoinSet::new();
    for n in 0..32 {
        let store = store.clone();
        uses.spawn(async move { append(&store, &tenant(0).schema, [n]).await });
    }
    uses.join_all().await;
    let openings: i64 = place
        .callers(&tenant(0).schema)
        .query_row("select openings from store_state", [], |row| row.get(0))
        .unwrap();
    assert_eq!(openings, 2, "once when it was made, once now");
    assert_eq!(store.count_events(&tenant(0).schema, &EventQuery::default()).await.unwrap(), 32);
}

/// What an idle tenant looks like from outside: the next use opens it anew.
async fn until_closed(place: &Place, store: &SqliteStore, schema: &Schema) {
    let log = place.file_of(schema).with_extension("db-wal");
    poll(store, |_| log.metadata().map_or(0, |log| log.len()) == 0).await;
}

#[tokio::test]
async fn a_commit_that_nobody_announced_is_found_also_in_a_file_that_was_closed() {
    let place = Place::new();
    let store = place.with_tenants(2).await;
    let schema = tenant(0).schema;
    append(&store, &schema, [1]).await;
    settle_all(&store).await;
    for n in 2..5 {
        until_closed(&place, &store, &schema).await;
        let mut conn = place.callers(&schema);
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        assert!(matches!(store.holds(&tenant(1).schema, &tx), Err(StoreError::ForeignTransaction)));
        store.holds(&schema, &tx).unwrap();
        store.append_in(&schema, &tx, &[event(n)], at(0)).unwrap();
        // Open for longer than a tenant is not idle, while the passes look.
        for _ in 0..3 {
            assert!(claim(&store, 10).await.is_empty(), "not committed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tx.commit().unwrap();
        drop(conn);
        let mut found = Vec::new();
        poll(&store, |claims| {
            found = claims;
            !found.is_empty()
        })
        .await;
        assert!(found.iter().all(|claim| claim.schema == schema && claim.owed.len() == 1));
        settle(&store, found).await;
    }
}

#[tokio::test]
async fn a_file_stays_open_while_somebody_works_on_a_row_of_it() {
    let place = Place::new();
    let store = place.with_tenants(1).await;
    let schema = tenant(0).schema;
    with_delivery(&store, &schema).await;
    let quota = EndpointQuota { schema: schema.clone(), endpoint_id: endpoint().id, max: 1 };
    let mut claims = store.claim_deliveries(at(1), &[quota], at(1_000)).await.unwrap();
    let lease = claims.remove(0).work.remove(0);
    // Nothing is due any more once the endpoint is inactive; what is in flight must not be lost by that.
    let mut inactive = endpoint();
    inactive.revision += 1;
    inactive.is_active = false;
    store.update_endpoint(&schema, &inactive).await.unwrap();
    for _ in 0..40 {
        claim(&store, 10).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let verdict = Verdict::Succeeded;
    let settled = store.settle(Settlement { lease, attempt: attempt(200), verdict }).await.unwrap();
    assert!(matches!(settled, Settled::Recorded(_)), "{settled:?}");
    until_closed(&place, &store, &schema).await;
}

fn attempt(status: u16) -> AttemptRecord {
    AttemptRecord {
        request_id: Id::new(at(1), [8; 10]),
        attempt_number: 1,
        endpoint_revision: 1,
        signatures: None,
        outcome: Outcome::Answered { status, retry_after: None },
        response: None,
        error_message: None,
        connection_reused: false,
        attempted_at: at(1),
        completed_at: at(2),
        response_time: Duration::from_secs(1),
    }
}

/// A thousand tenants that wait for a retry in an hour must not cost a thousand open files.
#[tokio::test]
async fn a_file_in_which_nothing_is_due_for_long_is_closed_until_then() {
    let place = Place::new();
    let store = place.with_tenants(1).await;
    let schema = tenant(0).schema;
    with_delivery(&store, &schema).await;
    let quota = EndpointQuota { schema: schema.clone(), endpoint_id: endpoint().id, max: 1 };
    let mut claims = store.claim_deliveries(at(1), std::slice::from_ref(&quota), at(1_000)).await.unwrap();
    let lease = claims.remove(0).work.remove(0);
    let verdict = Verdict::Retry(at(600));
    store.settle(Settlement { lease, attempt: attempt(503), verdict }).await.unwrap();
    until_closed(&place, &store, &schema).await;
    for _ in 0..20 {
        assert_eq!(store.due_endpoints(at(599)).await.unwrap(), []);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(place.open_files().is_empty(), "it is not looked at before its time");
    let begun = Instant::now();
    while store.due_endpoints(at(600)).await.unwrap().is_empty() {
        assert!(begun.elapsed() < DEADLINE, "it is forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let claims = store.claim_deliveries(at(600), &[quota], at(1_000)).await.unwrap();
    assert_eq!(claims[0].work.len(), 1);
}

/// What a clock that ran ahead for a moment put off is found after a start though nobody calls, in a file that is closed.
#[tokio::test]
async fn what_was_never_attempted_waits_for_no_clock_in_a_file_that_is_closed() {
    let place = Place::new();
    let store = place.with_tenants(1).await;
    let schema = tenant(0).schema;
    let endpoint = endpoint();
    store.insert_endpoint(&schema, &endpoint).await.unwrap();
    let delivery = NewDelivery {
        id: Id::new(at(1800), [7; 10]),
        endpoint_id: endpoint.id,
        trigger: Trigger::Event,
        subscription_ids: Vec::new(),
        max_attempts: 1,
        retry: endpoint.retry,
    };
    store.append_directed(&schema, event(1), delivery, at(1800)).await.unwrap();
    store.close().await;
    let store = place.open();
    let begun = Instant::now();
    while store.due_endpoints(at(10)).await.unwrap().iter().all(|due| due.due_at > at(10)) {
        assert!(begun.elapsed() < DEADLINE, "it waits for half an hour");
        store.tend(at(10)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_backlog_does_not_keep_others_waiting() {
    let place = Place::new();
    let store = place.with_tenants(3).await;
    let [busy, two, one] = [0, 1, 2].map(|n| tenant(n).schema);
    append(&store, &busy, 0..200).await;
    append(&store, &two, 0..2).await;
    append(&store, &one, 0..1).await;
    let claims = claim(&store, 40).await;
    let claimed = |of: &Schema| -> usize {
        claims.iter().filter(|claim| claim.schema == *of).map(|claim| claim.owed.len()).sum()
    };
    assert_eq!((claimed(&two), claimed(&one)), (2, 1));
    assert_eq!(claimed(&busy), 37, "what others do not need is not wasted");
    assert_eq!(claims.len(), 3, "one claim for each");

    append(&store, &one, 1..2).await;
    let mut places = Vec::new();
    for _ in 0..8 {
        places.extend(claim(&store, 1).await.into_iter().map(|claim| claim.schema));
    }
    assert!(places.contains(&one), "however small a claim: {places:?}");
}

/// As many transactions of an embedding program, and as many lengths of the pause between them, as it takes for a write
/// to meet every moment of the visits to a file and of its closings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_moment_a_caller_commits_at_what_it_wrote_is_found() {
    const EVENTS: u64 = 400;
    let place = Place::new();
    let options = SqliteOptions { tenant_idle: Duration::ZERO, ..SqliteOptions::new(&place.path) };
    let store = SqliteStore::open(options).unwrap();
    store.create_tenant(&tenant(0)).await.unwrap();
    let schema = tenant(0).schema;
    let (mut conn, publisher, of) = (place.callers(&schema), store.clone(), schema.clone());
    let publishing = tokio::task::spawn_blocking(move || {
        for n in 0..EVENTS {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
            publisher.append_in(&of, &tx, &[event(n)], at(0)).unwrap();
            tx.commit().unwrap();
            std::thread::sleep(Duration::from_micros(n * 997 % 8000));
        }
    });
    let (begun, mut found) = (Instant::now(), 0);
    while found < EVENTS {
        assert!(begun.elapsed() < DEADLINE, "{found} of {EVENTS}");
        for claim in claim(&store, 1000).await {
            found += claim.owed.len() as u64;
            settle(&store, vec![claim]).await;
        }
        tokio::task::yield_now().await;
    }
    publishing.await.unwrap();
}
