//! The real engine in simulated worlds: what must hold holds, whatever goes wrong, for hundreds of seeds.
//!
//! `NEO_EVENTS_SIMULATION_SEED=123 cargo test -p neo-events-simulation --test seeds` makes the run of one seed alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use neo_events_simulation::{Happening, Options, run, shrink};

/// In so many seeds every kind of trouble comes to pass.
const SEEDS_OF_ALL_TROUBLE: u64 = 100;
/// Seeds of each of the tests that share them.
const SEEDS_EACH: u64 = 150;

#[expect(clippy::disallowed_methods, reason = "a seed for tests is no setting of the product")]
fn chosen() -> Option<u64> {
    std::env::var("NEO_EVENTS_SIMULATION_SEED").ok().map(|seed| seed.parse().unwrap())
}

fn holds(seed: u64) {
    let options = Options::of_seed(seed);
    let Some(violation) = run(&options).violation else { return };
    let (smallest, smaller) = shrink(&options, &violation);
    panic!(
        "seed {seed}: {violation}\n\
         again:    NEO_EVENTS_SIMULATION_SEED={seed} cargo test -p neo-events-simulation --test seeds every_property\n\
         smallest: {smaller}\n\
         read it:  cargo run --release -p neo-events-simulation -- {smallest} --log"
    );
}

/// Every fourth seed, so that four tests share the cores of the machine.
fn hold(first: u64) {
    match chosen() {
        Some(seed) if first == 0 => holds(seed),
        Some(_) => {}
        None => (0..SEEDS_EACH).map(|n| 4 * n + first).for_each(holds),
    }
}

#[test]
fn every_property_holds_in_the_first_quarter_of_seeds() {
    hold(0);
}

#[test]
fn every_property_holds_in_the_second_quarter_of_seeds() {
    hold(1);
}

#[test]
fn every_property_holds_in_the_third_quarter_of_seeds() {
    hold(2);
}

#[test]
fn every_property_holds_in_the_last_quarter_of_seeds() {
    hold(3);
}

#[test]
fn a_seed_makes_the_same_run_every_time() {
    for seed in 0..40 {
        let options = Options { is_logged: true, ..Options::of_seed(seed) };
        let (first, second) = (run(&options), run(&options));
        let differs = first.log.iter().zip(&second.log).position(|(one, other)| one != other);
        let lines = differs.map(|at| (&first.log[at], &second.log[at]));
        assert!(first == second, "seed {seed} differs from line {differs:?} on: {lines:?}");
    }
}

#[test]
fn much_happens_in_a_run() {
    let outcomes: Vec<_> = (0..SEEDS_OF_ALL_TROUBLE).map(|seed| run(&Options::of_seed(seed))).collect();
    let sum = |of: fn(&neo_events_simulation::Counts) -> u64| -> u64 {
        outcomes.iter().map(|outcome| of(&outcome.counts)).sum()
    };
    let (events, deliveries, requests) =
        (sum(|counts| counts.events), sum(|counts| counts.deliveries), sum(|counts| counts.requests));
    assert!(events > 500 && deliveries > 500, "{events} events, {deliveries} deliveries");
    assert!(requests > deliveries / 2, "{requests} requests for {deliveries} deliveries");
    for happening in Happening::ALL {
        let in_each = outcomes.iter().filter_map(|outcome| outcome.happened.get(happening));
        let (in_seeds, times) = (in_each.clone().count(), in_each.sum::<u64>());
        println!("{:<22} {times} times in {in_seeds} seeds", happening.as_str());
        assert!(times > 0, "{} never happened", happening.as_str());
    }
}
