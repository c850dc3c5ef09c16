//! Events as publishers write them: data, ids, versions, times.

use neo_events_domain::event::{
    DomainEvent, EVENT_DATA_BYTES_MAX, EventDraft, ID_AGE_MAX, ID_AHEAD_MAX, NewEvent, VersionRule,
};
use neo_events_domain::{Timestamp, Uuid, json, payload};
use serde_json::Value;

use crate::campaign::{Corpus, Random, campaign};

const DOCUMENTS: &str = include_str!("../corpus/documents.txt");
const NAMES: &str = include_str!("../corpus/names.txt");
const NOW_MILLIS: i64 = 1_700_000_000_000;

fn now() -> Timestamp {
    Timestamp::from_millisecond(NOW_MILLIS).expect("a time")
}

/// What another reader makes of a text; `None` where it cannot tell, since it stops at a number beyond `f64`, which is
/// no fault of the text.
fn is_json_object(text: &str) -> Option<bool> {
    if serde_json::from_str::<&serde_json::value::RawValue>(text).is_err() {
        return Some(false);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => Some(value.is_object()),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

/// Brackets that stand open at once, strings left out.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '{' | '[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            '}' | ']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[test]
fn data_is_accepted_exactly_if_it_is_a_bounded_object_and_is_sent_byte_for_byte() {
    let documents = Corpus::of(DOCUMENTS);
    campaign("event data", 10_000, |random| {
        let data = documents.draw(random);
        let draft = EventDraft::new("user.created", data.as_str()).validate(now(), [7; 10]);
        if let Some(is_object) = is_json_object(&data) {
            let expected = data.len() <= EVENT_DATA_BYTES_MAX && is_object && depth(&data) <= 10;
            assert_eq!(draft.is_ok(), expected, "{data:?}: {:?}", draft.err());
        }
        let Ok(event) = draft else { return false };
        let body = payload::standard(&stored(&event));
        assert!(body.contains(&format!("\"data\":{data},\"aggregate\":")), "{body}");
        assert_eq!(json::check(&body, 20), Ok(json::Kind::Object), "{body}");
        true
    });
}

fn stored(event: &NewEvent) -> DomainEvent {
    DomainEvent {
        id: event.id,
        event_type: event.event_type.clone(),
        event_name: event.event_name.clone(),
        aggregate_id: event.aggregate_id_or_default(),
        aggregate_type: event.aggregate_type_or_default().to_owned(),
        aggregate_version: 1,
        event_data: event.event_data.clone(),
        event_metadata: neo_events_domain::event::JsonObject::empty(),
        correlation_id: event.correlation_id,
        causation_id: event.causation_id,
        triggered_by_user_id: event.triggered_by_user_id,
        context_id: event.context_id,
        occurred_at: now(),
        created_at: now(),
    }
}

/// A UUIDv7 of a time near an edge, or one with a few bits other.
fn id(random: &mut Random) -> Uuid {
    let mut near = |millis: i64| millis - 3 + i64::try_from(random.below(7)).expect("small");
    let edges =
        [0, NOW_MILLIS, near(NOW_MILLIS + millis_of(ID_AHEAD_MAX)), near(NOW_MILLIS - millis_of(ID_AGE_MAX))];
    let millis = u128::try_from(edges[random.below(edges.len())]).expect("after 1970");
    let mut bits = millis << 80 | 7 << 76 | 0b10 << 62 | u128::from(random.next()) >> 2;
    for _ in 0..random.below(3) {
        bits ^= 1 << random.below(128);
    }
    Uuid::from_u128(bits)
}

fn millis_of(duration: neo_events_domain::SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).expect("fits")
}

#[test]
fn a_given_id_is_a_timely_uuid_of_version_7() {
    campaign("given ids", 10_000, |random| {
        let id = id(random);
        let draft = EventDraft { id: Some(id), ..EventDraft::new("user.created", "{}") };
        let bits = id.as_u128();
        let is_v7 = bits >> 76 & 0xf == 7 && bits >> 62 & 0b11 == 0b10;
        let age = NOW_MILLIS - i64::try_from(bits >> 80).expect("48 bits");
        let is_timely = -millis_of(ID_AHEAD_MAX) <= age && age <= millis_of(ID_AGE_MAX);
        let validated = draft.validate(now(), [7; 10]);
        assert_eq!(validated.is_ok(), is_v7 && is_timely, "{id}");
        validated.is_ok_and(|event| {
            assert_eq!(event.id.uuid(), id);
            true
        })
    });
}

#[test]
fn versions_are_within_their_bounds_and_never_both_given_and_expected() {
    campaign("versions", 10_000, |random| {
        let draw = |random: &mut Random| match random.below(4) {
            0 => None,
            1 => Some(random.next().cast_signed()),
            2 => Some([-1, 0, 1, 999_998, 999_999, 1_000_000, i64::MAX, i64::MIN][random.below(8)]),
            _ => Some(i64::try_from(random.below(1_000_100)).expect("small")),
        };
        let (given, expected) = (draw(random), draw(random));
        let has_aggregate = random.below(4) > 0;
        let draft = EventDraft {
            aggregate_version: given,
            expected_version: expected,
            aggregate_id: has_aggregate.then_some(Uuid::max()),
            ..EventDraft::new("user.created", "{}")
        };
        let is_sound = match (given, expected) {
            (None, None) => true,
            (Some(given), None) => (1..=999_999).contains(&given),
            (None, Some(expected)) => (0..=999_998).contains(&expected) && has_aggregate,
            (Some(_), Some(_)) => false,
        };
        let validated = draft.validate(now(), [7; 10]);
        assert_eq!(validated.is_ok(), is_sound, "{given:?} {expected:?} {has_aggregate}");
        if let Ok(event) = validated {
            let version = match event.version {
                VersionRule::Default => None,
                VersionRule::Given(version) | VersionRule::Expect(version) => Some(i64::from(version)),
            };
            assert_eq!(version, given.or(expected));
        }
        is_sound
    });
}

#[test]
fn names_of_events_and_aggregates_are_kept_or_refused_by_name() {
    let names = Corpus::of(NAMES);
    campaign("event names", 10_000, |random| {
        let (name, aggregate) = (names.draw(random), names.draw(random));
        let draft = EventDraft {
            event_name: Some(name.clone()),
            aggregate_type: Some(aggregate.clone()),
            ..EventDraft::new("user.created", "{}")
        };
        let lower = aggregate.to_lowercase();
        let is_aggregate = lower.len() <= 100
            && lower.starts_with(|c: char| c.is_ascii_lowercase())
            && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        match draft.validate(now(), [7; 10]) {
            Ok(event) => {
                assert!(is_aggregate && event.aggregate_type.as_deref() == Some(&lower), "{aggregate:?}");
                let kept = event.event_name.expect("it was given");
                assert!(kept.chars().count() <= 255 && !kept.contains('\0'), "{name:?}");
                assert!(name.contains(kept.trim()), "{name:?} became {kept:?}");
            }
            Err(violations) => {
                let pointers: Vec<_> = violations.iter().map(|found| found.pointer.to_string()).collect();
                assert_eq!(pointers.contains(&"/aggregate_type".to_owned()), !is_aggregate, "{aggregate:?}");
                assert!(pointers.iter().all(|at| ["/event_name", "/aggregate_type"].contains(&at.as_str())));
            }
        }
        is_aggregate
    });
}
