//! Power losses: the store works on a disk that notes every write and sync, and then opens what a power loss at any
//! moment may have left. What was answered before is there, whole, and still owed.
//!
//! A run tries a sample of moments. All of them, some times over:
//!
//! ```sh
//! NEO_EVENTS_POWER_LOSSES=5000 cargo test --release -p neo-events-store-sqlite --test power_loss -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::Range,
    path::Path,
};

use neo_events_domain::{
    Timestamp,
    event::{EventDraft, NewEvent},
    id::EventId,
    tenant::Schema,
};
use neo_events_store::{Dispatched, EventLog, WorkQueue};
use neo_events_store_sqlite::{SqliteOptions, SqliteStore, rusqlite::Connection};
use neo_events_test_disk::{Honesty, Random, Recording, Tape};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Power losses tried, unless the environment asks for others.
const LOSSES: u64 = 200;
/// Publishers at a time: their events share commits.
const PUBLISHERS: u64 = 8;
/// What is written. The log is moved into the file when a store is closed, and when it has 16 MiB.
#[derive(Clone, Copy)]
struct Load {
    lives: u32,
    /// Events of each publisher before some are dispatched, and again afterwards.
    rounds: u64,
    data_bytes: usize,
}

const SMALL: Load = Load { lives: 3, rounds: 6, data_bytes: 10 };
/// More than the log takes, in one life.
const LARGE: Load = Load { lives: 1, rounds: 14, data_bytes: 90_000 };

#[expect(clippy::disallowed_methods, reason = "the full run, and a seed, are asked for by the environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn event(n: u64, data_bytes: usize) -> NewEvent {
    let mut entropy = [0; 10];
    entropy[2..].copy_from_slice(&n.to_be_bytes());
    let data = format!("{{\"a\":\"{}\"}}", "x".repeat(data_bytes));
    EventDraft::new("user.created", data).validate(at(0), entropy).unwrap()
}

/// When an event was stored, and when what it owed was settled, as far as callers know.
#[derive(Default)]
struct Known {
    stored_by: Option<usize>,
    /// From the moment at which the store was asked.
    settled: Option<Range<usize>>,
}

/// A store at work on a disk that takes notes.
struct World {
    recording: Recording,
    ledger: HashMap<EventId, Known>,
    folder: TempDir,
}

impl World {
    fn new(honesty: Honesty) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { recording: Recording::of(folder.path(), honesty), ledger: HashMap::new(), folder }
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(SqliteOptions::new(self.folder.path().join("admin.db"))).unwrap()
    }

    async fn publish(&mut self, store: &SqliteStore, load: Load) {
        let first = u64::try_from(self.ledger.len()).unwrap();
        for round in 0..load.rounds {
            let mut publishers = JoinSet::new();
            for n in 0..PUBLISHERS {
                let (store, new) = (store.clone(), event(first + round * PUBLISHERS + n, load.data_bytes));
                publishers.spawn(async move {
                    let id = new.id;
                    store.append(&Schema::admin(), vec![new], at(0)).await.unwrap();
                    id
                });
            }
            while let Some(id) = publishers.join_next().await {
                let stored_by = Some(self.recording.position());
                self.ledger.insert(id.unwrap(), Known { stored_by, settled: None });
            }
        }
    }

    /// Settles what some of the events owe.
    async fn dispatch(&mut self, store: &SqliteStore, limit: u32) {
        for claim in store.claim_dispatches(at(0), limit, at(1000)).await.unwrap() {
            let ids: Vec<_> = claim.owed.iter().map(|lease| lease.work().event.id).collect();
            let dispatched = claim.owed.into_iter().map(|lease| Dispatched { lease, deliveries: Vec::new() });
            let asked = self.recording.position();
            store.settle_dispatches(dispatched.collect(), at(1)).await.unwrap();
            for id in ids {
                self.ledger.get_mut(&id).unwrap().settled = Some(asked..self.recording.position());
            }
        }
    }
}

/// The lives of a store: the first ends by closing, others by being dropped.
async fn work(honesty: Honesty, load: Load) -> World {
    let mut world = World::new(honesty);
    for life in 1..=load.lives {
        let store = world.open();
        world.publish(&store, load).await;
        world.dispatch(&store, 10).await;
        world.publish(&store, load).await;
        if life == 1 { store.close().await } else { drop(store) }
    }
    world
}

/// Where half of the moments lie around syncs, and the others anywhere.
fn moments(tape: &Tape, count: u64, random: &mut Random) -> Vec<usize> {
    let syncs = tape.syncs();
    let moment = |n| match n % 2 {
        0 => (syncs[random.below(syncs.len())] + random.below(3)).min(tape.len()),
        _ => random.below(tape.len() + 1),
    };
    let mut moments: Vec<_> = (0..count).map(moment).collect();
    moments.sort_unstable();
    moments
}

/// What a power loss at a moment contradicts.
async fn contradictions(world: &World, moment: usize, disk: &Path) -> Vec<String> {
    let path = disk.join("admin.db");
    let store = match SqliteStore::open(SqliteOptions::new(&path)) {
        Ok(store) => store,
        Err(error) => return vec![format!("it does not open: {error:?}")],
    };
    let claims = store.claim_dispatches(at(2000), 10_000, at(3000)).await.unwrap();
    let owed: Vec<EventId> =
        claims.iter().flat_map(|claim| &claim.owed).map(|lease| lease.work().event.id).collect();
    let mut found = vec![];
    for (id, known) in &world.ledger {
        let is_stored = store.event(&Schema::admin(), *id).await.unwrap().is_some();
        if !is_stored && known.stored_by.is_some_and(|by| by <= moment) {
            found.push(format!("{id} was answered and is lost"));
        }
        let was_asked = known.settled.as_ref().is_some_and(|settled| settled.start <= moment);
        let was_settled = known.settled.as_ref().is_some_and(|settled| settled.end <= moment);
        match owed.contains(id) {
            true if !is_stored => found.push(format!("{id} is owed and not there")),
            true if was_settled => found.push(format!("{id} was settled and is owed again")),
            false if is_stored && !was_asked => found.push(format!("{id} is there and not owed")),
            _ => {}
        }
    }
    store.close().await;
    let conn = Connection::open(&path).unwrap();
    let verdict: String = conn.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    if verdict != "ok" {
        found.push(verdict);
    }
    found
}

/// Tries so many power losses; answers how many contradict what callers were told, and one of the contradictions.
async fn lose_power(world: &World, losses: u64) -> (u64, Option<String>) {
    let seed = setting("NEO_EVENTS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
    let (tape, mut random) = (world.recording.tape(), Random::seeded(seed));
    let (mut bad, mut example) = (0, None);
    let mut disk = tape.disk_at(0);
    for moment in moments(&tape, losses, &mut random) {
        disk.advance_to(moment);
        let folder = tempfile::tempdir().unwrap();
        disk.after_power_loss(&mut random).write_to(folder.path());
        let found = contradictions(world, moment, folder.path()).await;
        if let Some(first) = found.first() {
            bad += 1;
            example.get_or_insert_with(|| format!("moment {moment}: {first}"));
        }
    }
    println!(
        "{losses} power losses (seed {seed}) among {} changes of the disk, {} events: {bad} contradictions",
        tape.len(),
        world.ledger.len()
    );
    (bad, example)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_power_loss_at_any_moment() {
    let world = work(Honesty::Honest, SMALL).await;
    let (_, contradiction) = lose_power(&world, setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES)).await;
    assert_eq!(contradiction, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_log_into_the_file_loses_nothing() {
    let world = work(Honesty::Honest, LARGE).await;
    let losses = setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES) / 10;
    let (_, contradiction) = lose_power(&world, losses).await;
    assert_eq!(contradiction, None);
}

/// What proves that the others can fail: a disk that ignores syncs is what weaker settings of SQLite amount to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_ignores_syncs_is_found_out() {
    for honesty in [Honesty::IgnoresSyncsOfLogs, Honesty::IgnoresSyncs] {
        let world = work(honesty, SMALL).await;
        let (bad, _) = lose_power(&world, LOSSES / 4).await;
        assert!(bad > 0, "{honesty:?}");
    }
}
