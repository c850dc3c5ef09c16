//! The simulation finds bugs: each planted one is caught, in few seeds, and not by a property that would not hold
//! without it either.

use neo_events_simulation::{Bug, Options, run};

/// Most seeds that a bug may survive.
const SEEDS_MAX: u64 = 200;

#[test]
fn every_planted_bug_is_caught() {
    for bug in Bug::ALL {
        let with_bug = |seed| Options { bug: Some(*bug), ..Options::of_seed(seed) };
        let caught = (0..SEEDS_MAX).find_map(|seed| Some((seed, run(&with_bug(seed)).violation?)));
        let Some((seed, violation)) = caught else {
            panic!("{} survived {SEEDS_MAX} seeds", bug.as_str());
        };
        println!("{:<26} {} after {} seeds", bug.as_str(), violation.property, seed + 1);
        assert_eq!(run(&Options::of_seed(seed)).violation, None, "it is the bug that was caught");
    }
}

#[test]
fn names_of_bugs_and_troubles_read_back() {
    for bug in Bug::ALL {
        assert_eq!(bug.as_str().parse(), Ok(*bug));
    }
    for trouble in neo_events_simulation::Trouble::ALL {
        assert_eq!(trouble.as_str().parse(), Ok(*trouble));
    }
}
