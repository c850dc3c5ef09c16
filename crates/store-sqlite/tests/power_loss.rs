//! Power losses: the store works on a disk that notes every write and sync, and then opens what a power loss at any
//! moment may have left. What was answered before is there, whole, and still owed unless it was settled.
//!
//! A run tries a sample of moments. All of them, some times over:
//!
//! ```sh
//! NEO_EVENTS_POWER_LOSSES=5000 cargo test --release -p neo-events-store-sqlite --test power_loss -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "power_loss/after.rs"]
mod after;
#[path = "power_loss/drafts.rs"]
mod drafts;
#[path = "power_loss/world.rs"]
mod world;

use std::hash::{BuildHasher, RandomState};

use neo_events_test_disk::{Failing, Honesty, Random, Tape};
use world::{Answers, Device, Load, NEVER, World};

/// Power losses tried, unless the environment asks for others.
const LOSSES: u64 = 200;

const SMALL: Load = Load { lives: 3, rounds: 6, data_bytes: 10 };
/// Many ends and beginnings.
const SHORT_LIVES: Load = Load { lives: 8, rounds: 2, data_bytes: 10 };
/// More than the log takes, in one life.
const LARGE: Load = Load { lives: 1, rounds: 28, data_bytes: 90_000 };

#[expect(clippy::disallowed_methods, reason = "the full run, and a seed, are asked for by the environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The one that is asked for, or another each time.
fn seed() -> u64 {
    setting("NEO_EVENTS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000)
}

/// The last one, and others, of which half lie around syncs, and half anywhere; none before the first.
fn moments(tape: &Tape, first: usize, count: u64, random: &mut Random) -> Vec<usize> {
    let syncs: Vec<_> = tape.syncs().into_iter().filter(|sync| *sync >= first).collect();
    let moment = |n| match n % 2 {
        _ if n == 0 => tape.len(),
        0 => (syncs[random.below(syncs.len())] + random.below(3)).min(tape.len()),
        _ => first + random.below(tape.len() + 1 - first),
    };
    let mut moments: Vec<_> = (0..count).map(moment).collect();
    moments.sort_unstable();
    moments
}

/// Tries so many power losses; answers how many contradict what callers were told, and one of the contradictions.
async fn lose_power(world: &World, losses: u64) -> (u64, Option<String>) {
    lose_power_after(world, 0, losses).await
}

/// The same from a moment on.
async fn lose_power_after(world: &World, first: usize, losses: u64) -> (u64, Option<String>) {
    let seed = seed();
    let (tape, mut random) = (world.recording.tape(), Random::seeded(seed));
    let (mut bad, mut example) = (0, None);
    let mut disk = tape.disk_at(0);
    for moment in moments(&tape, first, losses, &mut random) {
        disk.advance_to(moment);
        let folder = tempfile::tempdir().unwrap();
        disk.after_power_loss(&mut random).write_to(folder.path());
        let found = after::contradictions(world, moment, folder.path()).await;
        if let Some(first) = found.first() {
            bad += 1;
            example.get_or_insert_with(|| format!("moment {moment}: {first}"));
        }
    }
    println!(
        "{losses} power losses (seed {seed}) among {} changes of the disk, {} events, {} attempts: {bad} contradictions",
        tape.len(),
        world.events.len(),
        world.events.iter().filter(|event| event.attempt.is_some()).count()
    );
    (bad, example)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_power_loss_at_any_moment() {
    let world = World::after(Honesty::Honest, Answers::Honest, SMALL).await;
    let (_, contradiction) = lose_power(&world, setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES)).await;
    assert_eq!(contradiction, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_log_into_the_file_loses_nothing() {
    let world = World::after(Honesty::Honest, Answers::Honest, LARGE).await;
    let losses = setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES) / 10;
    let (_, contradiction) = lose_power(&world, losses).await;
    assert_eq!(contradiction, None);
}

/// A device that fails now and then: what it did not take is refused, what was answered survives a power loss all the
/// same, and nothing is there by halves. A sync that failed is not made up for by the next one that succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_by_a_failing_device_survives() {
    for (failing, one_in) in [(Failing::Syncs, 3), (Failing::Anything, 8), (Failing::Anything, 50)] {
        let world = World::on(Device::Fails { failing, one_in, seed: seed() }, SHORT_LIVES).await;
        let (told, all) =
            (world.events.iter().filter(|event| event.stored.end != NEVER).count(), world.events.len());
        println!("{failing:?}, one in {one_in} fails: {told} of {all} stored");
        assert!((1..all).contains(&told), "{told} of {all}");
        let losses = setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES);
        let (_, contradiction) = lose_power(&world, losses).await;
        assert_eq!(contradiction, None);
    }
}

/// What a sync that failed has left in the log looks whole to the next process, which must not take it for durable: moved
/// into the file, a part of it would be there after a power loss, and the log no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_sync_left_in_the_log_is_made_durable_before_it_is_moved_into_the_file() {
    let device = Device::Fails { failing: Failing::Syncs, one_in: 1, seed: seed() };
    let world = World::on(device, Load { lives: 5, rounds: 1, data_bytes: 10 }).await;
    let losses = setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES);
    let (_, contradiction) = lose_power(&world, losses).await;
    assert_eq!(contradiction, None);
}

/// Somebody who reads from the log keeps a part of it from being moved; SQLite does not sync the file after the other part,
/// but once all is moved. If that sync fails, the next makes durable only what was written after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_after_a_part_of_the_log_was_moved_loses_nothing() {
    for stays_open in [false, true] {
        let (world, first) = World::after_a_sync_failed_behind_a_reader(stays_open).await;
        let losses = setting("NEO_EVENTS_POWER_LOSSES").unwrap_or(LOSSES) / 10;
        let (_, contradiction) = lose_power_after(&world, first, losses).await;
        assert_eq!(contradiction, None, "somebody else has it open: {stays_open}");
    }
}

/// What proves that the others can fail: a disk that ignores syncs is what weaker settings of SQLite amount to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_ignores_syncs_is_found_out() {
    for honesty in [Honesty::IgnoresSyncsOfLogs, Honesty::IgnoresSyncs] {
        let world = World::after(honesty, Answers::Honest, SMALL).await;
        let (bad, _) = lose_power(&world, LOSSES / 8).await;
        assert!(bad > 0, "{honesty:?}");
    }
}

/// And so does a store that answers a moment too early, for publishes or for attempts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_answers_before_it_commits_is_found_out() {
    for answers in [Answers::BeforePublishing, Answers::BeforeSettling] {
        let world = World::after(Honesty::Honest, answers, SMALL).await;
        let (bad, _) = lose_power(&world, LOSSES / 8).await;
        assert!(bad > 0, "{answers:?}");
    }
}
