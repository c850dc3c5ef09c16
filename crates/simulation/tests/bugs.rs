//! The simulation finds bugs: each planted one is caught, in few seeds, by the property that it breaks, and not by one that
//! would not hold without it either. And every property is the first to catch one: one that never is may as well be wrong.

use std::collections::BTreeSet;

use neo_events_simulation::{Bug, Options, Property, run};

/// Most seeds that a bug may survive.
const SEEDS_MAX: u64 = 200;

/// An old catalogue has too many who want an event, too few, other policies, or secrets that were rotated out.
const MATCHED_ANYHOW: &[Property] =
    &[Property::NothingUnwanted, Property::NothingIsLost, Property::AttemptsEnd, Property::RequestsAreSigned];

/// Which properties a bug may be caught by.
const CAUGHT_BY: &[(Bug, &[Property])] = &[
    (Bug::SettleWithoutFence, &[Property::OnlyTheHolderSettles]),
    (Bug::WakeUpAsTruth, &[Property::EverythingSettles]),
    (Bug::RetryWithoutIncrement, &[Property::AttemptsCountByOne]),
    (Bug::LeaseNeverExpires, &[Property::EverythingSettles]),
    (Bug::MarkedBeforeWritten, &[Property::NothingIsLost]),
    (Bug::ClaimWithoutLease, &[Property::ExclusiveLeases]),
    (Bug::ReleaseDropsTheRow, &[Property::EverythingSettles]),
    (Bug::RetryAtOnce, &[Property::RetriesWait]),
    (Bug::SuccessAsRetrying, &[Property::OutcomesAreKept]),
    (Bug::ForeignEvent, &[Property::TenantsApart]),
    (Bug::WrittenTwice, &[Property::OneDelivery]),
    (Bug::InactiveClaimed, &[Property::InactiveRests]),
    (Bug::CancellationForgotten, &[Property::CancellationsHold]),
    (Bug::StaleCatalogue, MATCHED_ANYHOW),
    (Bug::AcknowledgedBeforeStored, &[Property::NothingIsLost]),
    (Bug::CatalogueNotCompared, MATCHED_ANYHOW),
    (Bug::HandOverForgotten, &[Property::WorkIsTakenOver, Property::DrainedStopsLeaveNothing]),
    (Bug::QuotaIgnored, &[Property::ClaimsFitQuotas]),
    (Bug::ImpatientTending, &[Property::AttemptsAreRecorded, Property::ExclusiveLeases]),
    (Bug::ExpiryAsLoss, &[Property::AttemptsAreRecorded]),
    (Bug::HiddenRetry, &[Property::RequestsArriveOnce]),
    (Bug::TimeoutAsSuccess, &[Property::OutcomesAreKept]),
    (Bug::ResetAsRefusal, &[Property::OutcomesAreKept]),
    // What panics is recorded as a failure, and a receiver knows that it answered.
    (Bug::ClientPanics, &[Property::OutcomesAreKept]),
    (Bug::StaleSecret, &[Property::RequestsAreSigned]),
    (Bug::StaleTarget, &[Property::TargetsAreCurrent]),
    (Bug::ClaimPanics, &[Property::NothingPanics]),
    (Bug::RetryAfterLost, &[Property::DelaysFollowThePolicy]),
    (Bug::BodyCut, &[Property::BodiesArriveWhole]),
    (Bug::RequestLeaked, &[Property::InFlightIsBounded]),
    (Bug::FailedBroughtBack, &[Property::OverStaysOver]),
    (Bug::CancelledUnasked, &[Property::CancellationsHold]),
    (Bug::ReleaseForgotten, &[Property::DrainedStopsLeaveNothing, Property::EverythingSettles]),
    (Bug::LateBurial, &[Property::WorkIsTakenOver]),
    (Bug::SlowSweep, &[Property::WorkIsTakenOver, Property::DueWorkIsPrompt]),
    (Bug::ChangedForgotten, &[Property::NothingIsLost]),
    (Bug::RetryLate, &[Property::DueWorkIsPrompt]),
    (Bug::GivesUpEarly, &[Property::AttemptsEnd]),
];

/// The first property that a bug violates, in the first seed in which it violates any.
fn first_to_catch(bug: Bug) -> Property {
    let with_bug = |seed| Options { bug: Some(bug), ..Options::of_seed(seed) };
    let caught = (0..SEEDS_MAX).find_map(|seed| Some((seed, run(&with_bug(seed)).violation?)));
    let Some((seed, violation)) = caught else {
        panic!("{} survived {SEEDS_MAX} seeds", bug.as_str());
    };
    println!("{:<26} {} after {} seeds", bug.as_str(), violation.property, seed + 1);
    assert_eq!(run(&Options::of_seed(seed)).violation, None, "it is the bug that was caught");
    violation.property
}

#[test]
fn every_planted_bug_is_caught_by_what_it_breaks_and_every_property_catches_one() {
    let mut idle: BTreeSet<_> = Property::ALL.iter().copied().collect();
    for (bug, properties) in CAUGHT_BY {
        let property = first_to_catch(*bug);
        assert!(properties.contains(&property), "{} was caught by {property}", bug.as_str());
        idle.remove(&property);
    }
    assert_eq!(idle, BTreeSet::new(), "these caught nothing");
}

#[test]
fn every_bug_is_in_the_table_once() {
    for bug in Bug::ALL {
        let times = CAUGHT_BY.iter().filter(|(of_table, _)| of_table == bug).count();
        assert_eq!(times, 1, "{}", bug.as_str());
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
