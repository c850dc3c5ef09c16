//! What an event costs, counted and not timed: allocations, statements, records of the write-ahead log. A number that
//! grows here is a change that makes every event dearer; if it is worth that, raise the number and say why.
//!
//! A process of its own, for everything that it allocates is counted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    alloc::System,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use neo_events::{
    EndpointDraft, EventDraft, MasterKey, NeoEvents, Sources, SubscriptionDraft, tokio_postgres,
};
use neo_events_test_postgres::Cluster;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Events that are counted, so many times; some before them fill caches and pools.
const EVENTS: usize = 500;
const ROUNDS: usize = 3;
const WARM_UP: usize = 100;
/// For what is allocated though there are no events.
const IDLE: Duration = Duration::from_secs(1);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Allocations from the publish call to the recorded attempt, with all that runs beside it, where every event goes
/// alone: 88 on SQLite and 158 on PostgreSQL when this was written, and up to 172 where others keep the machine busy.
const ALLOCATIONS_MAX: [usize; 2] = [97, 176];
/// Records that PostgreSQL writes to its log for an event and its delivery, beside commits: 16 when this was written, and
/// now and then one more for a page that is split.
const LOG_RECORDS_MAX: i64 = 17;

/// The two statements that store an event and settle its delivery, each a commit of its own, by their first words.
const HOT_STATEMENTS: [&str; 2] = ["-- Events that were all matched", "-- First attempts that succeeded"];
/// Statements of all other kinds, begins and commits among them, that a node may make in a second, events or not: some 17 when this
/// was written.
const BESIDE_EACH_SECOND: i64 = 40;

/// A receiver that allocates nothing: it answers every request, and counts them.
struct Receiver {
    url: String,
    received: Arc<AtomicUsize>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let received = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, counted) = (stream.unwrap(), Arc::clone(&counted));
                thread::spawn(move || serve(stream, &counted));
            }
        });
        Self { url, received }
    }

    fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.received.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < deadline, "an event does not arrive");
            thread::yield_now();
        }
    }
}

/// Requests whose bodies end with `"end"}}` and whatever closes the envelope around it.
fn serve(mut stream: TcpStream, received: &AtomicUsize) {
    let mut buffer = [0; 16 * 1024];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]) {
        filled += read;
        if let Some(length) = request_length(&buffer[..filled])
            && filled >= length
        {
            filled = 0;
            received.fetch_add(1, Ordering::SeqCst);
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                return;
            }
        }
    }
}

/// Head and body together, once the head is there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let name = b"content-length: ";
    let at = bytes[..head].windows(name.len()).position(|part| part.eq_ignore_ascii_case(name))? + name.len();
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// Publishes one event after the other, each after the one before it has arrived.
async fn publish(neo: &NeoEvents, receiver: &Receiver, count: usize) {
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(1000));
    let before = receiver.received.load(Ordering::SeqCst);
    for n in 1..=count {
        neo.platform().publish(EventDraft::new("load.test", data.clone())).await.unwrap();
        tokio::task::block_in_place(|| receiver.wait_for(before + n));
    }
}

/// Subscribes the receiver to everything, and lets the first events settle what is settled once.
async fn prepare(neo: &NeoEvents, receiver: &Receiver) {
    let draft = EndpointDraft::standard("receiver", receiver.url.clone());
    let endpoint = neo.platform().create_endpoint(draft, None).await.unwrap().endpoint;
    let everything = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
    neo.platform().create_subscription(endpoint.id, everything).await.unwrap();
    publish(neo, receiver, WARM_UP).await;
}

/// The least that an event was seen to allocate: where others keep the machine busy it is more.
async fn allocations(neo: &NeoEvents, receiver: &Receiver) -> usize {
    let mut least = usize::MAX;
    for _ in 0..ROUNDS {
        least = least.min(allocations_of_a_round(neo, receiver).await);
    }
    least
}

/// Allocations for one event. What is done all the time, event or not, is not its: the longer the machine takes for an
/// event, the more of that there is.
async fn allocations_of_a_round(neo: &NeoEvents, receiver: &Receiver) -> usize {
    let (region, began) = (Region::new(ALLOCATOR), Instant::now());
    publish(neo, receiver, EVENTS).await;
    let (of_events, took) = (region.change().allocations, began.elapsed());
    let region = Region::new(ALLOCATOR);
    tokio::time::sleep(IDLE).await;
    let beside =
        region.change().allocations * usize::try_from(took.as_millis() / IDLE.as_millis() + 1).unwrap();
    of_events.saturating_sub(beside) / EVENTS
}

async fn on_sqlite(folder: &Path) -> usize {
    let neo = NeoEvents::builder(folder.join("admin.db")).start().await.unwrap();
    let receiver = Receiver::start();
    prepare(&neo, &receiver).await;
    let allocations = allocations(&neo, &receiver).await;
    neo.shutdown(PATIENCE).await;
    allocations
}

/// What the database has carried out, by the first words of a statement.
struct Executed(Vec<(String, i64, i64)>);

impl Executed {
    async fn by(client: &tokio_postgres::Client) -> Self {
        let all = "select query, calls, wal_records::bigint from pg_stat_statements where query !~ 'by the test itself'";
        let rows = client.query(all, &[]).await.unwrap();
        Self(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// Executions of a statement, and records that they wrote to the log.
    fn of(&self, words: &str) -> [i64; 2] {
        let found = self.0.iter().filter(|(query, ..)| query.starts_with(words));
        found.fold([0, 0], |[calls, records], (_, more, written)| [calls + more, records + written])
    }

    /// Of all others together: what is begun and committed is among them.
    fn of_others(&self, words: &[&str]) -> Vec<(&str, i64)> {
        let is_other = |query: &str| !words.iter().any(|words| query.starts_with(words));
        let others = self.0.iter().filter(|(query, ..)| is_other(query));
        others.map(|(query, calls, _)| (query.as_str(), *calls)).collect()
    }
}

/// Attempts there are.
async fn recorded(client: &tokio_postgres::Client) -> i64 {
    client
        .query_one("select count(*) /* by the test itself */ from admin.attempts", &[])
        .await
        .unwrap()
        .get(0)
}

async fn on_postgres() -> usize {
    let cluster = Cluster::start(&[("shared_preload_libraries", "pg_stat_statements")]).await;
    let sources = Sources::system();
    let key = vec![MasterKey::generate(&sources)];
    let neo = NeoEvents::postgres(cluster.url()).master_keys(key).start().await.unwrap();
    let (client, connection) = tokio_postgres::connect(&cluster.url(), tokio_postgres::NoTls).await.unwrap();
    let beside = async {
        let receiver = Receiver::start();
        prepare(&neo, &receiver).await;
        client.batch_execute("create extension pg_stat_statements").await.unwrap();
        client.query("select pg_stat_statements_reset() /* by the test itself */", &[]).await.unwrap();
        let began = Instant::now();
        let allocations = allocations(&neo, &receiver).await;
        let events = ROUNDS * EVENTS;
        let [events, all] = [events, events + WARM_UP].map(|count| i64::try_from(count).unwrap());
        let deadline = Instant::now() + PATIENCE;
        // The last attempt is recorded after it arrived.
        while recorded(&client).await < all {
            assert!(Instant::now() < deadline, "not all of {all} are recorded");
        }
        let (executed, seconds) = (Executed::by(&client).await, began.elapsed().as_secs() + 1);
        let mut records = 0;
        for words in HOT_STATEMENTS {
            let [calls, written] = executed.of(words);
            // The last attempts of the warm-up may be among them.
            assert!((1..=events + 2).contains(&calls), "{calls} statements for {events} events: {words}");
            records += written;
        }
        assert!(records <= events * LOG_RECORDS_MAX, "{records} records for {events} events");
        let others = executed.of_others(&HOT_STATEMENTS);
        let calls: i64 = others.iter().map(|(_, calls)| calls).sum();
        let beside = BESIDE_EACH_SECOND * i64::try_from(seconds).unwrap();
        assert!(calls <= beside, "{calls} statements beside those of events in {seconds} s: {others:#?}");
        allocations
    };
    let allocations = tokio::select! {
        allocations = beside => allocations,
        broken = connection => panic!("the connection ended: {broken:?}"),
    };
    neo.shutdown(PATIENCE).await;
    allocations
}

/// One test, for what another one allocates at the same time would be counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_costs_what_it_cost() {
    let folder = tempfile::tempdir().unwrap();
    let allocations = [on_sqlite(folder.path()).await, on_postgres().await];

    let is_within = allocations.iter().zip(ALLOCATIONS_MAX).all(|(counted, max)| *counted <= max);
    assert!(
        is_within,
        "allocations for an event, SQLite and PostgreSQL: {allocations:?}, at most {ALLOCATIONS_MAX:?}"
    );
}
