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
    collections::HashSet,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use process::{Client, Receiver, ServerProcess};
use tokio::task::JoinSet;

const PUBLISHERS: usize = 32;
/// The engine's bound on deliveries in flight to one endpoint: what a crash may leave unrecorded.
const IN_FLIGHT_MAX: usize = 64;
/// How soon after the restart everything has arrived, in a release build.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(1);

#[expect(clippy::disallowed_methods, reason = "the full run is asked for by the environment")]
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_through_any_number_of_kills() {
    let rounds = setting("NEO_EVENTS_CRASH_ROUNDS", 3);
    let events = setting("NEO_EVENTS_CRASH_EVENTS", 3000);
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let mut server = ServerProcess::start(folder.path()).await;
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let acknowledged = Arc::<Mutex<HashSet<String>>>::default();
    let mut kills = vec![];
    for round in 1..=rounds {
        // Another moment each round: early, in the middle, late.
        let kill_after = events * round / (rounds + 1);
        let publishers = publish(&server, events, &acknowledged, kill_after).await;
        let began = Instant::now();
        server.kill();
        publishers.join_all().await;
        // What it had sent may arrive a moment after its death.
        kills.push(began..Instant::now());
        server = ServerProcess::start(folder.path()).await;
        let restarted = Instant::now();
        wait_for_all(&receiver, &acknowledged).await;
        let recovery = restarted.elapsed();
        let total = acknowledged.lock().unwrap().len();
        println!(
            "round {round}: killed after {kill_after} answers; all {total} acknowledged events arrived {recovery:.2?} after the restart"
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
    let receiver = Receiver::start().await;
    let mut server = ServerProcess::start(folder.path()).await;
    Client::connect(server.address).await.unwrap().subscribe_to_everything(&receiver.url).await;
    let acknowledged = Arc::<Mutex<HashSet<String>>>::default();
    for _ in 0..3 {
        let publishers = publish(&server, 3000, &acknowledged, 1000).await;
        let status = server.terminate();
        assert!(status.success(), "{status}");
        publishers.join_all().await;
        server = ServerProcess::start(folder.path()).await;
    }
    wait_for_all(&receiver, &acknowledged).await;
    assert!(server.terminate().success());
    let twice = receiver.arrivals.all().into_iter().filter(|(_, times)| times.len() > 1).count();
    assert_eq!(twice, 0, "events were sent twice though every stop was graceful");
}

/// Publishes `events` events one by one on many connections. Returns, with the publishers still at it, when
/// `kill_after` answers came.
async fn publish(
    server: &ServerProcess,
    events: usize,
    acknowledged: &Arc<Mutex<HashSet<String>>>,
    kill_after: usize,
) -> JoinSet<()> {
    let answers = Arc::new(AtomicUsize::new(0));
    let enough = Arc::new(tokio::sync::Notify::new());
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (answers, enough, acknowledged) =
            (Arc::clone(&answers), Arc::clone(&enough), Arc::clone(acknowledged));
        let address = server.address;
        publishers.spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            for n in 0..events / PUBLISHERS {
                let event = format!(
                    r#"{{"event_type":"load.test","event_data":{{"publisher":{publisher},"n":{n}}}}}"#
                );
                // The connection breaks when the server is killed: what was not answered is not counted.
                let Ok((202, answer)) = client.post("/v1/events", event).await else { return };
                acknowledged.lock().unwrap().insert(answer["id"].as_str().unwrap().to_owned());
                if answers.fetch_add(1, Ordering::Relaxed) + 1 == kill_after {
                    enough.notify_one();
                }
            }
        });
    }
    tokio::time::timeout(PATIENCE, enough.notified()).await.expect("the server takes events");
    publishers
}

async fn wait_for_all(receiver: &Receiver, acknowledged: &Mutex<HashSet<String>>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let arrived = receiver.arrivals.all();
        let missing = acknowledged.lock().unwrap().iter().filter(|id| !arrived.contains_key(*id)).count();
        if missing == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{missing} acknowledged events did not arrive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
