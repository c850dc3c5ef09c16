//! SIGKILL in the middle of publishing, again and again: every acknowledged event arrives, and duplicates are only those
//! that were in flight when the process died.
//!
//! In full, as the README claims it:
//!
//! ```sh
//! NEO_EVENTS_CRASH_ROUNDS=10 NEO_EVENTS_CRASH_EVENTS=20000 \
//!     cargo test --release -p neo-events-server --test crash -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod process;

use std::{
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use neo_events_test_postgres as postgres;
use process::{
    Client, Receiver, ServerProcess,
    load::{Acknowledged, Load},
};

/// The engine's bound on deliveries in flight to one endpoint: what a crash may leave unrecorded.
const IN_FLIGHT_MAX: usize = 64;
/// How soon after the restart everything has arrived, in a release build.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "the full run is asked for by the environment")]
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_through_any_number_of_kills() {
    let folder = tempfile::tempdir().unwrap();
    kill_again_and_again(folder.path(), &sqlite(folder.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_on_postgresql_too() {
    let (folder, database) = (tempfile::tempdir().unwrap(), postgres::database().await);
    kill_again_and_again(folder.path(), &database.url()).await;
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", process::database(folder).display())
}

async fn kill_again_and_again(folder: &Path, database: &str) {
    let rounds = setting("NEO_EVENTS_CRASH_ROUNDS", 3);
    let events = setting("NEO_EVENTS_CRASH_EVENTS", 3000);
    let receiver = Receiver::start().await;
    let mut server = ServerProcess::start_on(folder, database, &[]).await;
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let acknowledged = Acknowledged::default();
    let mut kills = vec![];
    for round in 1..=rounds {
        // Another moment each round: early, in the middle, late.
        let kill_after = events * round / (rounds + 1);
        let mut load = Load::start(&[server.address], events, &acknowledged);
        load.answered(kill_after).await;
        let began = Instant::now();
        server.kill();
        load.ended().await;
        // What it had sent may arrive a moment after its death.
        kills.push(began..Instant::now());
        server = ServerProcess::start_on(folder, database, &[]).await;
        let restarted = Instant::now();
        acknowledged.arrive_at(&receiver).await;
        let recovery = restarted.elapsed();
        println!(
            "round {round}: killed after {kill_after} answers; all {} acknowledged events arrived {recovery:.2?} after the restart",
            acknowledged.len()
        );
        assert!(cfg!(debug_assertions) || recovery <= RECOVERY_MAX, "recovery took {recovery:?}");
    }
    let status = server.terminate();
    assert!(status.success(), "{status}");
    judge(&receiver, &kills);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_under_load_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    stop_again_and_again(folder.path(), &sqlite(folder.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_repeats_nothing_on_postgresql_either() {
    let (folder, database) = (tempfile::tempdir().unwrap(), postgres::database().await);
    stop_again_and_again(folder.path(), &database.url()).await;
}

async fn stop_again_and_again(folder: &Path, database: &str) {
    let receiver = Receiver::start().await;
    let mut server = ServerProcess::start_on(folder, database, &[]).await;
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let acknowledged = Acknowledged::default();
    for _ in 0..3 {
        let mut load = Load::start(&[server.address], 3000, &acknowledged);
        load.answered(1000).await;
        let status = server.terminate();
        assert!(status.success(), "{status}");
        load.ended().await;
        server = ServerProcess::start_on(folder, database, &[]).await;
    }
    acknowledged.arrive_at(&receiver).await;
    assert!(server.terminate().success());
    let twice = receiver.arrivals.all().into_iter().filter(|(_, times)| times.len() > 1).count();
    assert_eq!(twice, 0, "events were sent twice though every stop was graceful");
}

fn judge(receiver: &Receiver, kills: &[Range<Instant>]) {
    let arrivals = receiver.arrivals.all();
    let repeated: Vec<_> = arrivals.values().filter(|times| times.len() > 1).collect();
    let duplicates: usize = repeated.iter().map(|times| times.len() - 1).sum();
    println!("{} events, {duplicates} duplicates after {} kills", arrivals.len(), kills.len());
    for times in &repeated {
        let between = kills.iter().any(|kill| times[0] <= kill.end && kill.start <= times[1]);
        assert!(between, "an event was sent twice without a kill in between");
    }
    assert!(duplicates <= IN_FLIGHT_MAX * kills.len(), "{duplicates} duplicates: more than were in flight");
}
