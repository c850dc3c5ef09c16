//! Transactions that commit late: their events have older numbers than what was dispatched meanwhile.

use std::collections::BTreeSet;

use neo_events_domain::{Uuid, tenant::Schema};
use neo_events_store::{EventLog, WorkQueue};

use crate::{
    invariants,
    random::Random,
    scene::{Beside, Scene, at, claim_dispatches, draft, event, to_all},
};

const PUBLISH: &str = "select admin.publish_event('user.created', '{}')";

/// A transaction that published and is still open.
struct Open {
    connection: Beside,
    published: Vec<Uuid>,
}

impl Open {
    async fn begin(connection: Beside) -> Self {
        connection.batch_execute("begin").await.unwrap();
        Self { connection, published: Vec::new() }
    }

    /// Publishes; every other time in a part of the transaction that is undone, and then again.
    async fn publish(&mut self, random: &mut Random) {
        if random.once_in(2) {
            let undone = format!("savepoint here; {PUBLISH}; rollback to here");
            self.connection.batch_execute(&undone).await.unwrap();
        }
        self.published.push(self.connection.query_one(PUBLISH, &[]).await.unwrap().get(0));
    }
}

/// Claims everything and settles it; the events that were claimed.
async fn drain(scene: &Scene, node: usize) -> BTreeSet<Uuid> {
    let leases = claim_dispatches(&scene.stores[node], 1, 10_000).await.unwrap();
    let ids = leases.iter().map(|lease| lease.work().event.id.uuid()).collect();
    scene.stores[node].settle_dispatches(to_all(leases, &[]), at(1)).await.unwrap();
    ids
}

/// Thousands are published, claimed and settled while a transaction stays open; once it commits, its event comes with
/// the very next claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commits_late_is_claimed_next() {
    let scene = Scene::of(2).await;
    let mut random = Random::seeded(1);
    for round in 0..8 {
        let mut late = Open::begin(scene.beside().await).await;
        late.publish(&mut random).await;
        for step in 0..4 {
            scene.publish(250).await;
            let node = (round + step) % 2;
            assert_eq!(drain(&scene, node).await.len(), 250);
            assert_eq!(drain(&scene, 1 - node).await.len(), 0, "nothing else is there");
        }
        late.connection.batch_execute("commit").await.unwrap();
        assert_eq!(drain(&scene, round % 2).await, late.published.into_iter().collect());
    }
    invariants::check(&scene.beside().await).await;
}

/// Transactions begin, publish, commit and roll back in any order, on nodes that claim in any order and as much as they
/// like: every claim finds exactly what is committed and was not claimed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_claim_finds_what_is_committed() {
    for seed in 0..6 {
        commits_in_any_order(seed).await;
    }
}

async fn commits_in_any_order(seed: u64) {
    let scene = Scene::of(3).await;
    let mut random = Random::seeded(seed);
    let mut open: Vec<Open> = Vec::new();
    let mut owed: BTreeSet<Uuid> = BTreeSet::new();
    for step in 0..200 {
        match random.below(7) {
            0 if open.len() < 6 => open.push(Open::begin(scene.beside().await).await),
            1 | 2 if !open.is_empty() => {
                let place = usize::try_from(random.below(open.len() as u64)).unwrap();
                open[place].publish(&mut random).await;
            }
            3 if !open.is_empty() => {
                let place = usize::try_from(random.below(open.len() as u64)).unwrap();
                let ending = open.swap_remove(place);
                let commits = !random.once_in(3);
                let end = if commits { "commit" } else { "rollback" };
                ending.connection.batch_execute(end).await.unwrap();
                owed.extend(ending.published.into_iter().filter(|_| commits));
            }
            4 => {
                let new = event(draft());
                owed.insert(new.id.uuid());
                let node = usize::try_from(random.below(3)).unwrap();
                scene.stores[node].append(&Schema::admin(), vec![new], at(0)).await.unwrap();
            }
            _ => {
                let limit = u32::try_from(*random.pick(&[1, 3, 1000])).unwrap();
                let node = usize::try_from(random.below(3)).unwrap();
                let leases = claim_dispatches(&scene.stores[node], 1, limit).await.unwrap();
                let wanted = owed.len().min(limit as usize);
                assert_eq!(leases.len(), wanted, "seed {seed}, step {step}, node {node}, limit {limit}");
                for lease in &leases {
                    assert!(owed.remove(&lease.work().event.id.uuid()), "seed {seed}, step {step}");
                }
                scene.stores[node].settle_dispatches(to_all(leases, &[]), at(1)).await.unwrap();
            }
        }
    }
    drop(open);
    let node = usize::try_from(random.below(3)).unwrap();
    assert_eq!(drain(&scene, node).await, owed, "seed {seed}");
    invariants::check(&scene.beside().await).await;
}
