//! Servers that take a statement and never answer: who waits is told so in time, nothing waits for ever, and when they
//! go on, so does the store.

use std::time::Duration;

use futures_util::future::join_all;
use neo_events_domain::{
    event::{EventDraft, NewEvent},
    tenant::Schema,
};
use neo_events_store::{Appended, EventLog, StoreError};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};
use neo_events_test_postgres::{Cluster, execute};
use tokio::time::{Instant, sleep, timeout};

use crate::scene::{Beside, PATIENCE, at, draft, event, id};

/// How long a statement may take here.
const STATEMENT: Duration = Duration::from_secs(1);
/// How long an answer takes at most: what a statement may take, what is waited for longer, and what the machine adds.
const ANSWER: Duration = Duration::from_secs(20);

async fn open(cluster: &Cluster) -> PostgresStore {
    let options = PostgresOptions::new(cluster.url());
    let options = PostgresOptions { work_timeout: STATEMENT, read_timeout: STATEMENT, ..options };
    PostgresStore::open(options).await.unwrap()
}

/// With an id that its publisher chose, so that it can be published again.
fn chosen() -> NewEvent {
    event(EventDraft { id: Some(id::<()>(0).uuid()), ..draft() })
}

async fn publish(store: &PostgresStore, new: &NewEvent) -> Result<Appended, StoreError> {
    Ok(store.append(&Schema::admin(), vec![new.clone()], at(1)).await?[0])
}

async fn publish_at_last(store: &PostgresStore, new: &NewEvent) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout(ANSWER, publish(store, new)).await.expect("an answer comes in time") {
            Ok(Appended::Stored { .. } | Appended::Duplicate { .. }) => return,
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                assert!(Instant::now() < deadline, "it is never stored: {error:?}");
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The call is given up: for now, and by nobody but this side. If no connection lies there that can be used, one is asked
/// for in vain.
async fn has_no_word_or_connection<T>(call: impl Future<Output = Result<T, StoreError>>) {
    match given_up(call).await {
        StoreError::Unavailable(cause)
            if cause.to_string().starts_with("no connection to the database: ") => {}
        error => assert_has_no_word(error),
    }
}

async fn given_up<T>(call: impl Future<Output = Result<T, StoreError>>) -> StoreError {
    let answer = timeout(ANSWER, call).await.expect("an answer comes in time");
    answer.err().expect("it hangs")
}

fn assert_has_no_word(error: StoreError) {
    let StoreError::Unavailable(cause) = error else { panic!("{error:?}") };
    assert_eq!(cause.to_string(), "the database says no word");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_processes_hang_is_not_waited_for_for_ever() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let (store, other) = (open(&cluster).await, open(&cluster).await);
    let events = [chosen(), chosen(), chosen()];
    // So that each has a connection that is there already.
    publish_at_last(&store, &events[0]).await;
    publish_at_last(&other, &events[1]).await;
    assert!(store.event(&Schema::admin(), events[0].id).await.unwrap().is_some());

    cluster.pause();
    let schema = Schema::admin();
    tokio::join!(
        has_no_word_or_connection(publish(&store, &events[2])),
        has_no_word_or_connection(store.event(&schema, events[0].id)),
        async { timeout(ANSWER, other.close()).await.expect("the store closes in time") },
    );
    cluster.resume();
    publish_at_last(&store, &events[2]).await;
    assert!(store.event(&schema, events[2].id).await.unwrap().is_some());
    let beside = Beside::connect(&cluster.url()).await;
    assert_eq!(beside.number("select count(*) from admin.events").await, 3);
}

/// However many connections lie there, only one is asked in vain: who reads is told in the time that one read takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_does_not_wait_for_each_connection_of_a_server_that_hangs() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let store = open(&cluster).await;
    let new = chosen();
    publish_at_last(&store, &new).await;
    // Reads at once, until each has a connection of its own, and until those have not been used for a while.
    let schema = Schema::admin();
    let read = || store.event(&schema, new.id);
    let beside = Beside::connect(&cluster.url()).await;
    let idle = "select count(*) from pg_stat_activity where query like '%where e.id = $1%' and pid <> pg_backend_pid() \
                and state = 'idle' and state_change < clock_timestamp() - interval '2 s'";
    let deadline = Instant::now() + PATIENCE;
    while beside.number(idle).await < 3 {
        assert!(Instant::now() < deadline, "there are never several connections");
        let used_together = (0..8).map(|_| read()).collect::<Vec<_>>();
        join_all(used_together).await.into_iter().for_each(|read| assert!(read.unwrap().is_some()));
        sleep(Duration::from_millis(2100)).await;
    }

    cluster.pause();
    let began = Instant::now();
    let error = read().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let took = began.elapsed();
    cluster.resume();
    assert!(took < ANSWER / 2, "{took:?}");
}

/// A commit that waits for a standby is beyond the time limits of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_its_standby_is_not_waited_for_for_ever() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let store = open(&cluster).await;
    for statement in ["alter system set synchronous_standby_names = 'dead'", "select pg_reload_conf()"] {
        execute(&cluster.url(), statement).await;
    }
    // The server takes the setting up when it comes to it.
    let deadline = Instant::now() + PATIENCE;
    let hanging = loop {
        let new = chosen();
        match timeout(ANSWER, publish(&store, &new)).await.expect("an answer comes in time") {
            Ok(_) => assert!(Instant::now() < deadline, "commits do not wait"),
            Err(error) => {
                assert_has_no_word(error);
                break new;
            }
        }
    };
    // Nobody is told that it is stored while a failover would lose it.
    for _ in 0..3 {
        let again = timeout(ANSWER, publish(&store, &hanging)).await.expect("an answer comes in time");
        assert!(again.unwrap_err().is_transient());
    }
    for statement in ["alter system reset synchronous_standby_names", "select pg_reload_conf()"] {
        execute(&cluster.url(), statement).await;
    }
    publish_at_last(&store, &hanging).await;
    publish_at_last(&store, &chosen()).await;
    assert!(store.event(&Schema::admin(), hanging.id).await.unwrap().is_some());
}
