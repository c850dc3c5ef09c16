//! Retry policies as endpoints ask for them, and what becomes of attempts under them.

use std::time::Duration;

use neo_events_domain::Timestamp;
use neo_events_domain::endpoint::{EndpointDraft, Profile};
use neo_events_domain::id::Id;
use neo_events_domain::retry::{DUE_AHEAD_MAX, FailureCode, Outcome, Progress, RetryPolicy, Verdict, judge};

use crate::campaign::{Random, campaign};

fn number(random: &mut Random) -> u32 {
    match random.below(3) {
        0 => u32::try_from(random.below(12)).expect("small"),
        1 => u32::try_from(random.below(4000)).expect("small"),
        _ => u32::try_from(random.next() >> 32).expect("32 bits"),
    }
}

fn float(random: &mut Random) -> f64 {
    match random.below(3) {
        0 => f64::from_bits(random.next()),
        1 => [0.0, 0.999, 1.0, 5.0, 5.000_001, -1.0, f64::NAN, f64::INFINITY][random.below(8)],
        _ => f64::from(number(random)) / 1000.0,
    }
}

#[test]
fn a_policy_is_accepted_exactly_within_its_bounds() {
    campaign("policies", 10_000, |random| {
        let (retries, backoff, multiplier) = (number(random), number(random), float(random));
        let profiles = [(Profile::Development, 3), (Profile::Staging, 5), (Profile::Production, 10)];
        let (profile, retries_max) = profiles[random.below(3)];
        let draft = EndpointDraft {
            name: "n".into(),
            max_retry_attempts: Some(retries),
            retry_backoff_seconds: Some(backoff),
            retry_backoff_multiplier: Some(multiplier),
            ..EndpointDraft::default()
        };
        let id = Id::new(Timestamp::UNIX_EPOCH, [0; 10]);
        let url = Ok("https://example.com/".to_owned());
        let made = draft.validate(id, Timestamp::UNIX_EPOCH, profile.endpoint_limits(), url);
        let is_sound =
            retries <= retries_max && (1..=3600).contains(&backoff) && (1.0..=5.0).contains(&multiplier);
        assert_eq!(made.is_ok(), is_sound, "{retries} {backoff} {multiplier} in {}", profile.as_str());
        is_sound
    });
}

fn outcome(random: &mut Random) -> Outcome {
    if random.below(3) == 0 {
        return Outcome::Failed(FailureCode::ALL[random.below(FailureCode::ALL.len())]);
    }
    let status = [200, 204, 299, 300, 400, 404, 408, 410, 425, 429, 500, 503, 599][random.below(13)];
    let retry_after = (random.below(2) == 0).then(|| Duration::from_secs(random.next() >> random.below(64)));
    Outcome::Answered { status, retry_after }
}

/// What the specification says of an outcome, in its own order: success, over, or again.
fn is_worth_another_try(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answered { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
        Outcome::Failed(code) => {
            !matches!(code.as_str(), "target_refused" | "too_many_redirects" | "configuration")
        }
    }
}

#[test]
fn every_wait_is_bounded_and_no_attempt_is_made_beyond_the_last() {
    campaign("verdicts", 10_000, |random| {
        let policy = RetryPolicy {
            max_retry_attempts: 10,
            backoff_seconds: 1 + u32::try_from(random.below(3600)).expect("small"),
            backoff_multiplier: 1.0 + f64::from(u32::try_from(random.below(4001)).expect("small")) / 1000.0,
        };
        let progress = Progress {
            attempt: 1 + u32::try_from(random.below(12)).expect("small"),
            max_attempts: 1 + u32::try_from(random.below(11)).expect("small"),
        };
        let (outcome, jitter) = (outcome(random), float(random));
        let is_extreme = random.below(20) == 0;
        let now =
            if is_extreme { Timestamp::MAX } else { Timestamp::from_second(1_700_000_000).expect("a time") };
        let verdict = judge(&outcome, progress, &policy, now, if jitter.is_nan() { 0.5 } else { jitter });
        let has_attempts = progress.attempt < progress.max_attempts;
        let context = format!("{outcome:?} {progress:?} {policy:?} {verdict:?}");
        match verdict {
            Verdict::Succeeded => {
                assert!(matches!(outcome, Outcome::Answered { status: 200..=299, .. }), "{context}");
            }
            Verdict::Gone => assert!(matches!(outcome, Outcome::Answered { status: 410, .. }), "{context}"),
            Verdict::Rejected => assert!(!is_worth_another_try(&outcome), "{context}"),
            Verdict::Exhausted => assert!(is_worth_another_try(&outcome) && !has_attempts, "{context}"),
            Verdict::Retry(at) => {
                assert!(is_worth_another_try(&outcome) && has_attempts, "{context}");
                let wait = at.duration_since(now);
                assert!(wait < DUE_AHEAD_MAX, "{context}");
                assert!(is_extreme || wait.as_secs() >= i64::from(policy.backoff_seconds), "{context}");
            }
        }
        matches!(verdict, Verdict::Retry(_))
    });
}
