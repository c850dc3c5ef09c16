//! The file: who may open it, what survives, and what happens when it cannot be written.

#![expect(clippy::unwrap_used, reason = "a test whose preparation fails has failed")]

use std::{path::Path, time::Duration};

use neo_events_domain::{
    SignedDuration, Timestamp,
    delivery::{AttemptRecord, DeliveryState, ReceivedResponse, Trigger},
    endpoint::{Endpoint, EndpointDraft, Profile, SealedSecret},
    event::{EventDraft, NewEvent},
    id::{EventId, Id},
    retry::{Outcome, Verdict},
    tenant::Schema,
};
use neo_events_store::{
    Appended, Catalogue, DeliveryWork, Dispatched, EndpointQuota, EventLog, EventQuery, Health, Lease,
    NewDelivery, Settled, Settlement, StoreError, Unsettled, Updated, WorkQueue,
};
use neo_events_store_sqlite::{
    OpenError, SqliteOptions, SqliteStore,
    rusqlite::{Connection, TransactionBehavior},
};
use tempfile::TempDir;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn event(n: u64, data: &str) -> NewEvent {
    let mut entropy = [0; 10];
    entropy[2..].copy_from_slice(&n.to_be_bytes());
    EventDraft::new("user.created", data).validate(at(0), entropy).unwrap()
}

fn small(n: u64) -> NewEvent {
    event(n, "{}")
}

fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(SqliteOptions::new(path))
}

fn place() -> (TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/for/it/admin.db");
    (directory, path)
}

async fn append(store: &SqliteStore, events: Vec<NewEvent>) -> Result<Vec<Appended>, StoreError> {
    store.append(&Schema::admin(), events, at(0)).await
}

async fn count(store: &SqliteStore) -> u64 {
    store.count_events(&Schema::admin(), &EventQuery::default()).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_drop_and_leases_do_not() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    append(&store, (0..3).map(small).collect()).await.unwrap();
    let old = store.claim_dispatches(at(0), 10, at(1000)).await.unwrap().remove(0).owed;
    drop(store);

    let store = open(&path).unwrap();
    let new = store.claim_dispatches(at(0), 10, at(1000)).await.unwrap().remove(0).owed;
    assert_eq!((old.len(), new.len()), (3, 3), "a new opening frees all leases");
    let settle = |leases: Vec<_>| {
        leases.into_iter().map(|lease| Dispatched { lease, deliveries: Vec::new() }).collect::<Vec<_>>()
    };
    store.settle_dispatches(settle(old), at(1)).await.unwrap();
    let unprocessed = EventQuery { processed: Some(false), ..EventQuery::default() };
    assert_eq!(
        store.count_events(&Schema::admin(), &unprocessed).await.unwrap(),
        3,
        "old leases settle nothing"
    );
    store.settle_dispatches(settle(new), at(1)).await.unwrap();
    store.close().await;
    let store = open(&path).unwrap();
    assert_eq!(store.count_events(&Schema::admin(), &unprocessed).await.unwrap(), 0);
}

#[tokio::test]
async fn a_file_has_one_store_at_a_time() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Locked { .. })));
    let clone = store.clone();
    store.close().await;
    assert!(matches!(append(&clone, vec![small(1)]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(clone.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(clone.claim_dispatches(at(0), 1, at(1)).await, Err(StoreError::Unavailable(_))));
    let next = open(&path).unwrap();
    next.ping().await.unwrap();
}

/// Whether this process has a lock on a file, as every connection to a database with a write-ahead log must as long as
/// it lives: who closes such a file and finds nobody else's lock removes the log.
#[cfg(target_os = "linux")]
fn is_locked_by_us(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (process, inode) = (std::process::id().to_string(), path.metadata().unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1] == "POSIX" && fields[4] == process && fields[5].ends_with(&format!(":{inode}"))
    })
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn opening_a_file_ends_nobodys_lock_on_it() {
    let (_directory, path) = place();
    drop(open(&path).unwrap());
    let own = Connection::open(&path).unwrap();
    own.query_row("select count(*) from events", [], |row| row.get::<_, i64>(0)).unwrap();
    assert!(is_locked_by_us(&path), "the program's own connection has one");
    let store = open(&path).unwrap();
    assert!(is_locked_by_us(&path), "beside a connection of the program's own");
    assert!(matches!(open(&path), Err(OpenError::Locked { .. })));
    assert!(is_locked_by_us(&path), "after a second store was refused");
    store.close().await;
    assert!(
        is_locked_by_us(&path),
        "after the store was closed: the program's own connection is still there"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_may_be_made_behind_a_link() {
    let (directory, path) = place();
    let link = directory.path().join("link.db");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let store = open(&link).unwrap();
    append(&store, vec![small(1)]).await.unwrap();
    assert!(path.exists());
    assert!(matches!(open(&path), Err(OpenError::Locked { .. })), "one file, one lock");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    append(&store, vec![small(1)]).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "the file, its log, its index, its lock");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let refused = |path: &Path| {
        let before = std::fs::read(path).unwrap();
        let error = open(path).unwrap_err();
        assert_eq!(std::fs::read(path).unwrap(), before, "unchanged");
        error
    };
    std::fs::write(path("text"), "these are notes, not a database".repeat(100)).unwrap();
    assert!(matches!(refused(&path("text")), OpenError::NotADatabase { .. }));

    let other = Connection::open(path("other")).unwrap();
    other.execute_batch("create table orders (n integer)").unwrap();
    drop(other);
    assert!(matches!(refused(&path("other")), OpenError::OtherApplication { .. }));

    drop(open(&path("newer")).unwrap());
    let newer = Connection::open(path("newer")).unwrap();
    newer.pragma_update(None, "user_version", 1000).unwrap();
    drop(newer);
    let error = refused(&path("newer"));
    assert!(matches!(error, OpenError::NewerSchema { found: 1000, known: 7, .. }), "{error}");
    assert!(error.to_string().ends_with("use the version that wrote it, or a later one"));

    drop(open(&path("damaged")).unwrap());
    let mut bytes = std::fs::read(path("damaged")).unwrap();
    bytes[100..4096].fill(0x5a);
    std::fs::write(path("damaged"), bytes).unwrap();
    assert!(matches!(refused(&path("damaged")), OpenError::Damaged { .. }));

    std::fs::create_dir(path("directory")).unwrap();
    assert!(matches!(open(&path("directory")), Err(OpenError::Io { .. })));
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, path) = place();
    drop(open(&path).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let opened = open(&path);
    // Permissions do not bind the superuser, as whom some machines run tests.
    let binds = std::fs::OpenOptions::new().write(true).open(&path).is_err();
    assert_eq!(matches!(opened, Err(OpenError::ReadOnly { .. })), binds, "{opened:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_whole_steps_and_nothing_else_breaks() {
    let (_directory, path) = place();
    let store =
        SqliteStore::open(SqliteOptions { pages_max: Some(120), ..SqliteOptions::new(&path) }).unwrap();
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(20_000));
    let mut stored = 0;
    let error = loop {
        let batch = (0..3).map(|n| event(stored + n, &large)).collect();
        match append(&store, batch).await {
            Ok(_) => stored += 3,
            Err(error) => break error,
        }
        assert!(stored < 1000, "it never fills");
    };
    assert!(matches!(error, StoreError::Full(_)) && error.is_transient(), "{error:?}");
    assert_eq!(count(&store).await, stored, "all of a batch or nothing");
    assert_eq!(store.claim_dispatches(at(0), 100, at(1)).await.unwrap()[0].owed.len() as u64, stored);
    append(&store, vec![small(1000)]).await.expect("what has room is stored");
    store.close().await;

    let store = open(&path).unwrap();
    append(&store, vec![event(1001, &large)]).await.expect("there is room again");
    assert_eq!(count(&store).await, stored + 2);
}

/// The embedding program's own connection, with a table of its own.
fn callers(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    conn.execute_batch("create table if not exists orders (n integer primary key)").unwrap();
    conn
}

#[tokio::test]
async fn publishing_in_the_callers_transaction_is_all_or_nothing() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let mut conn = callers(&path);
    let mut order = |n: u64, commit: bool| {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        tx.execute("insert into orders values (?1)", [i64::try_from(n).unwrap()]).unwrap();
        let appended = store.append_in(&Schema::admin(), &tx, &[small(n)], at(0)).unwrap();
        assert!(matches!(appended[..], [Appended::Stored { .. }]));
        if commit { tx.commit().unwrap() } else { tx.rollback().unwrap() }
    };
    order(1, false);
    assert_eq!(count(&store).await, 0);
    order(2, true);
    store.announce();
    tokio::time::timeout(Duration::from_secs(5), store.dispatch_hinted()).await.expect("it was announced");
    let owed = store.claim_dispatches(at(1), 10, at(2)).await.unwrap().remove(0).owed;
    assert_eq!(owed[0].work().event.id, small(2).id);
    append(&store, vec![small(3)]).await.unwrap();
    order(4, true);
    assert_eq!(count(&store).await, 3);
    // A file that was closed and opened again with foreign tables in it is still ours.
    store.close().await;
    assert_eq!(count(&open(&path).unwrap()).await, 3);
}

#[tokio::test]
async fn the_writer_waits_for_a_callers_transaction() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let mut conn = callers(&path);
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let appending = store.clone();
    let caller = tokio::task::spawn_blocking(move || {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        begun.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        appending.append_in(&Schema::admin(), &tx, &[small(1)], at(0)).unwrap();
        tx.commit().unwrap();
    });
    has_begun.await.unwrap();
    let (one, two) = tokio::join!(append(&store, vec![small(2)]), append(&store, vec![small(3)]));
    assert!(one.is_ok() && two.is_ok());
    caller.await.unwrap();
    assert_eq!(count(&store).await, 3);
}

#[tokio::test]
async fn a_transaction_that_never_ends_makes_the_store_unavailable_and_no_more() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let mut conn = callers(&path);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let (one, two) = tokio::join!(append(&store, vec![small(1)]), append(&store, vec![small(2)]));
    for result in [one, two] {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
    assert_eq!(count(&store).await, 0, "reading goes on");
    drop(tx);
    append(&store, vec![small(3)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_publish_and_claim_at_once_and_nothing_is_lost_or_doubled() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let mut publishers = tokio::task::JoinSet::new();
    for task in 0..16 {
        let store = store.clone();
        publishers.spawn(async move {
            for n in 0..20 {
                append(&store, vec![small(task * 100 + n)]).await.unwrap();
            }
        });
    }
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        workers.spawn(async move {
            let mut mine: Vec<EventId> = Vec::new();
            for _ in 0..400 {
                for claim in store.claim_dispatches(at(0), 5, at(1000)).await.unwrap() {
                    mine.extend(claim.owed.iter().map(|lease| lease.work().event.id));
                    let settled =
                        claim.owed.into_iter().map(|lease| Dispatched { lease, deliveries: Vec::new() });
                    store.settle_dispatches(settled.collect(), at(1)).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
            mine
        });
    }
    publishers.join_all().await;
    let mut dispatched = workers.join_all().await.concat();
    for claim in store.claim_dispatches(at(0), 1000, at(1000)).await.unwrap() {
        dispatched.extend(claim.owed.iter().map(|lease| lease.work().event.id));
    }
    assert_eq!(dispatched.len(), 320, "each once");
    dispatched.sort_unstable();
    dispatched.dedup();
    assert_eq!(dispatched.len(), 320, "none twice");
}

#[tokio::test]
async fn a_schema_without_a_file_is_unknown() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let tenant = Schema::tenant("acme").unwrap();
    assert!(
        matches!(store.categories(&tenant).await, Err(StoreError::UnknownSchema(schema)) if schema == tenant)
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_has_one_lock_whatever_way_leads_to_it() {
    let (directory, path) = place();
    let store = open(&path).unwrap();
    let linked = directory.path().join("linked");
    std::os::unix::fs::symlink(path.parent().unwrap(), &linked).unwrap();
    assert!(matches!(open(&linked.join("admin.db")), Err(OpenError::Locked { .. })), "a linked directory");
    let file = directory.path().join("link.db");
    std::os::unix::fs::symlink(&path, &file).unwrap();
    assert!(matches!(open(&file), Err(OpenError::Locked { .. })), "a linked file");
    assert!(matches!(open(&path.parent().unwrap().join("../it/admin.db")), Err(OpenError::Locked { .. })));
    store.close().await;
    open(&file).unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_caller_with_another_file_is_told() {
    let (directory, path) = place();
    let store = open(&path).unwrap();
    let refused = |mut conn: Connection| {
        let tx = conn.transaction().unwrap();
        store.append_in(&Schema::admin(), &tx, &[small(1)], at(0)).unwrap_err()
    };
    assert!(matches!(refused(Connection::open_in_memory().unwrap()), StoreError::ForeignTransaction));
    let copy = directory.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let error = refused(Connection::open(&copy).unwrap());
    assert!(matches!(error, StoreError::ForeignTransaction) && !error.is_transient());
    assert_eq!(error.to_string(), "the transaction is not on the tenant's database");

    let mut conn = callers(&path.parent().unwrap().join("../it/admin.db"));
    let tx = conn.transaction().unwrap();
    store.holds(&Schema::admin(), &tx).expect("the same file, spelled in another way");
    let tenant = Schema::tenant("acme").unwrap();
    let error = store.append_in(&tenant, &tx, &[small(1)], at(0)).unwrap_err();
    assert!(matches!(error, StoreError::UnknownSchema(schema) if schema == tenant));
}

fn endpoint(n: u8, sealed: u8) -> Endpoint {
    let draft = EndpointDraft::standard("receiver", "https://example.com/hook");
    let url = Ok(draft.endpoint_url.clone());
    let limits = Profile::Production.endpoint_limits();
    let endpoint = draft.validate(Id::new(at(0), [n; 10]), at(0), limits, url).unwrap();
    Endpoint { secrets: vec![SealedSecret { sealed: vec![sealed], expires_at: None }], ..endpoint }
}

#[tokio::test]
async fn the_secret_that_was_stored_last_is_at_hand() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let admin = Schema::admin();
    let newest = async || store.any_sealed_secret(&admin).await.unwrap();
    assert_eq!(newest().await, None);
    let (one, two) = (endpoint(1, 11), endpoint(2, 12));
    store.insert_endpoint(&admin, &one).await.unwrap();
    store.insert_endpoint(&admin, &two).await.unwrap();
    assert_eq!(newest().await, Some((two.id, vec![12])));
    let rotated = one.clone().with_rotated_secret(vec![21], SignedDuration::from_hours(1), at(1), at(1));
    assert_eq!(store.update_endpoint(&admin, &rotated).await.unwrap(), Updated::Written);
    assert_eq!(newest().await, Some((one.id, vec![21])));
    store.delete_endpoint(&admin, one.id, at(2)).await.unwrap();
    assert_eq!(newest().await, Some((two.id, vec![12])));
}

/// A store with an endpoint that one delivery was claimed for.
struct Claimed {
    store: SqliteStore,
    quota: EndpointQuota,
    lease: Option<Lease<DeliveryWork>>,
}

impl Claimed {
    async fn on(store: SqliteStore) -> Self {
        let (admin, endpoint) = (Schema::admin(), endpoint(1, 1));
        store.insert_endpoint(&admin, &endpoint).await.unwrap();
        let delivery = NewDelivery {
            id: Id::new(at(0), [7; 10]),
            endpoint_id: endpoint.id,
            trigger: Trigger::Test,
            subscription_ids: Vec::new(),
            max_attempts: 1,
            retry: endpoint.retry,
        };
        store.append_directed(&admin, small(1), delivery, at(0)).await.unwrap();
        let quota = EndpointQuota { schema: admin, endpoint_id: endpoint.id, max: 1 };
        let mut claimed = Self { store, quota, lease: None };
        claimed.lease = claimed.claim(1).await;
        claimed
    }

    async fn claim(&self, second: i64) -> Option<Lease<DeliveryWork>> {
        let quota = std::slice::from_ref(&self.quota);
        let claims = self.store.claim_deliveries(at(second), quota, at(second + 60)).await.unwrap();
        claims.into_iter().flat_map(|claim| claim.work).next()
    }

    /// What became of the claimed delivery: a success, with an answer as long as this.
    fn success(&mut self, body_bytes: usize) -> Settlement {
        let response = ReceivedResponse {
            status: 200,
            headers: Vec::new(),
            body: vec![b'x'; body_bytes],
            body_truncated: false,
        };
        let attempt = AttemptRecord {
            request_id: Id::new(at(1), [8; 10]),
            attempt_number: 1,
            endpoint_revision: 1,
            signatures: None,
            outcome: Outcome::Answered { status: 200, retry_after: None },
            response: Some(response),
            error_message: None,
            connection_reused: false,
            attempted_at: at(1),
            completed_at: at(2),
            response_time: Duration::from_secs(1),
        };
        Settlement { lease: self.lease.take().unwrap(), attempt, verdict: Verdict::Succeeded }
    }

    /// Long after the lease ended.
    async fn is_claimable(&self) -> bool {
        let due = self.store.due_endpoints(at(100_000)).await.unwrap();
        !due.is_empty() || self.claim(100_000).await.is_some()
    }
}

#[tokio::test]
async fn what_was_performed_is_not_claimed_again_while_the_disk_is_full() {
    let (_directory, path) = place();
    let options = SqliteOptions { pages_max: Some(200), ..SqliteOptions::new(&path) };
    let mut claimed = Claimed::on(SqliteStore::open(options).unwrap()).await;
    let settlement = claimed.success(2_000_000);
    let Unsettled { mut work, error } = claimed.store.settle(settlement).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    assert!(!claimed.is_claimable().await);
    work.attempt.response = None;
    assert_eq!(claimed.store.settle(work).await.unwrap(), Settled::Recorded(DeliveryState::Success));
}

#[tokio::test]
async fn what_was_performed_is_not_claimed_again_while_the_file_is_locked() {
    let (_directory, path) = place();
    let mut claimed = Claimed::on(open(&path).unwrap()).await;
    let settlement = claimed.success(10);
    let mut conn = callers(&path);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let Unsettled { work, error } = claimed.store.settle(settlement).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(!claimed.is_claimable().await);
    drop(tx);
    assert_eq!(claimed.store.settle(work).await.unwrap(), Settled::Recorded(DeliveryState::Success));
}
