//! URLs that name several hosts, of which one is the primary.

use std::{net::TcpListener, time::Duration};

use neo_events_domain::tenant::Schema;
use neo_events_store::{Appended, EventLog};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};
use neo_events_test_postgres::database;
use tokio::time::{Instant, sleep, timeout};

use crate::scene::{Beside, PATIENCE, at, draft, event};

/// What a node that starts has to be done with, however long others hang: less than a hanging host would take.
const START_MAX: Duration = Duration::from_secs(20);

/// A machine that is gone refuses nothing, and one that hangs takes connections and says no word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_says_no_word_keeps_nobody_from_the_primary() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let database = database().await;
    let silent_first = format!("@{},", silent.local_addr().unwrap());
    let url = database.url().replace('@', &silent_first);
    let opened = timeout(START_MAX, PostgresStore::open(PostgresOptions::new(&*url))).await;
    let store = opened.expect("it starts in time").unwrap();
    let appended = store.append(&Schema::admin(), vec![event(draft())], at(0)).await.unwrap();
    assert!(matches!(appended[..], [Appended::Stored { .. }]));

    // Others hear of it, too: it has a connection for that alone.
    let beside = Beside::connect(&database.url()).await;
    let beat = async || {
        beside.query_one("select max(beat_no)::text from admin.session_beats", &[]).await.unwrap().get(0)
    };
    let (first, deadline): (String, _) = (beat().await, Instant::now() + PATIENCE);
    while beat().await == first {
        assert!(Instant::now() < deadline, "it is not heard of");
        sleep(Duration::from_millis(50)).await;
    }
    drop(store);
}
