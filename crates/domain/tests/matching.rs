//! The matcher finds exactly the rules that a loop over all of them finds.

use std::collections::BTreeMap;

use neo_events_domain::event_type::{EventPattern, EventType};
use neo_events_domain::filter::Filter;
use neo_events_domain::json;
use neo_events_domain::matching::{LazyData, Matcher, Rule};
use proptest::prelude::*;
use uuid::Uuid;

mod filter_random;

use filter_random::Generator;

const PATTERNS: [&str; 6] = ["user.created", "user.deleted", "order.created", "user.*", "order.*", "*"];

fn event_type(text: &str) -> EventType {
    EventType::try_new(text).expect("a valid type")
}

fn rule(key: u32, pattern: &str, context_id: Option<u128>, filter: &str) -> Rule<u32> {
    Rule {
        key,
        pattern: EventPattern::try_new(pattern).expect("a valid pattern"),
        context_id: context_id.map(Uuid::from_u128),
        filter: Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")),
    }
}

fn matcher(rules: impl IntoIterator<Item = Rule<u32>>) -> Matcher<u32> {
    let mut matcher = Matcher::new();
    rules.into_iter().for_each(|rule| matcher.insert(rule));
    matcher
}

fn check(matcher: &Matcher<u32>, event: &str, context_id: Option<u128>, data: &str, expected: &[u32]) {
    let found = matcher.matching(&event_type(event), context_id.map(Uuid::from_u128), &LazyData::new(data));
    assert_eq!(found, expected, "{event} {context_id:?} {data}");
}

#[test]
fn a_rule_matches_by_type_category_or_all() {
    let matcher = matcher([
        rule(3, "user.created", None, "{}"),
        rule(2, "user.*", None, "{}"),
        rule(1, "*", None, "{}"),
        rule(4, "user.deleted", None, "{}"),
    ]);
    check(&matcher, "user.created", None, "{}", &[1, 2, 3]);
    check(&matcher, "user.renamed", None, "{}", &[1, 2]);
    check(&matcher, "order.created", None, "{}", &[1]);
}

#[test]
fn a_rule_with_a_context_sees_that_context_alone() {
    let matcher = matcher([
        rule(1, "*", None, "{}"),
        rule(2, "*", Some(7), "{}"),
        rule(3, "*", Some(8), "{}"),
        rule(4, "user.*", Some(7), r#"{"a":1}"#),
    ]);
    check(&matcher, "user.created", None, r#"{"a":1}"#, &[1]);
    check(&matcher, "user.created", Some(7), r#"{"a":1}"#, &[1, 2, 4]);
    check(&matcher, "user.created", Some(9), r#"{"a":1}"#, &[1]);
}

#[test]
fn a_rule_found_many_times_is_reported_once() {
    let matcher = matcher([
        rule(1, "*", None, r#"{"a":["x","y","z"]}"#),
        rule(2, "*", None, r#"{"a.b":["x","y"]}"#),
        rule(3, "*", None, r#"{"a":[]}"#),
    ]);
    check(&matcher, "user.created", None, r#"{"a":["x","y","x",["z"],{"b":["x","y"]},{"b":"x"}]}"#, &[1, 2]);
}

#[test]
fn equal_numbers_find_each_other() {
    let matcher = matcher([rule(1, "*", None, r#"{"a":1}"#), rule(2, "*", None, r#"{"a":10e-1}"#)]);
    check(&matcher, "user.created", None, r#"{"a":1.00}"#, &[1, 2]);
    check(&matcher, "user.created", None, r#"{"a":"1"}"#, &[]);
}

#[test]
fn inserting_replaces_the_rule_with_the_same_key() {
    let mut matcher = matcher([rule(1, "*", None, "{}")]);
    matcher.insert(rule(1, "user.created", None, r#"{"a":1}"#));
    assert_eq!(matcher.len(), 1);
    assert_eq!(matcher.get(&1).map(|rule| rule.filter.as_json()), Some(r#"{"a":1}"#));
    check(&matcher, "user.created", None, "{}", &[]);
    check(&matcher, "user.created", None, r#"{"a":1}"#, &[1]);
    assert!(!matcher.is_empty());
    assert!(matcher.remove(&1) && !matcher.remove(&1) && matcher.is_empty());
    check(&matcher, "user.created", None, r#"{"a":1}"#, &[]);
}

#[test]
fn data_that_no_candidate_asks_for_is_not_read() {
    let unreadable = "not JSON, and nobody should notice";
    let rules = [rule(1, "user.created", None, "{}"), rule(2, "user.deleted", None, r#"{"a":1}"#)];
    check(&matcher(rules), "user.created", None, unreadable, &[1]);
    let rules = [
        rule(1, "*", None, "{}"),
        rule(2, "*", None, r#"{"a":{"$ne":1}}"#),
        rule(3, "*", None, r#"{"a":1}"#),
    ];
    check(&matcher(rules), "user.created", None, unreadable, &[1]);
}

#[test]
fn bounds_may_be_met_by_different_numbers_of_an_array() {
    let matcher = matcher([
        rule(1, "*", None, r#"{"a":{"$gt":5,"$lt":3}}"#),
        rule(2, "*", None, r#"{"a":{"$gte":4,"$lte":6}}"#),
        rule(3, "*", None, r#"{"a":{"$gt":1e400}}"#),
        rule(4, "*", None, r#"{"$and":[{"a":{"$lt":2}},{"b.c":{"$gte":0.1}}]}"#),
    ]);
    check(&matcher, "user.created", None, r#"{"a":[1,10]}"#, &[1, 2]);
    check(&matcher, "user.created", None, r#"{"a":[[1],[{"b":5}]],"b":[{"c":0.1},{"c":"x"}]}"#, &[4]);
    check(&matcher, "user.created", None, r#"{"a":5.0}"#, &[2]);
    check(&matcher, "user.created", None, r#"{"a":4}"#, &[2]);
    check(&matcher, "user.created", None, r#"{"a":1e401}"#, &[3]);
    check(&matcher, "user.created", None, r#"{"a":"5"}"#, &[]);
    check(&matcher, "user.created", None, r#"{"a":{"$gt":5}}"#, &[]);
}

#[test]
fn numbers_that_round_to_the_same_are_told_apart() {
    let exact = ["0.1", "0.1000000000000000000000000001", "0.09999999999999999999999999"];
    let filters = exact.map(|number| format!(r#"{{"a":{{"$gte":{number},"$lte":{number}}}}}"#));
    let matcher = matcher((0..).zip(&filters).map(|(key, filter)| rule(key, "*", None, filter)));
    for (key, number) in (0..).zip(exact) {
        check(&matcher, "user.created", None, &format!(r#"{{"a":{number}}}"#), &[key]);
    }
}

#[test]
fn a_large_array_costs_no_more_than_its_distinct_hits() {
    // Every element hits the posting of every rule: found naively, that is 2·10⁹ candidates.
    let matcher = matcher((0..50_000).map(|key| rule(key, "*", None, r#"{"a":"x"}"#)));
    let data = format!("{{\"a\":[{}]}}", vec!["\"x\""; 25_000].join(","));
    assert_eq!(matcher.matching(&event_type("user.created"), None, &LazyData::new(&data)).len(), 50_000);
}

/// What a matcher has to do, done slowly.
fn naive(
    rules: &BTreeMap<u32, Rule<u32>>,
    event: &EventType,
    context_id: Option<Uuid>,
    data: &str,
) -> Vec<u32> {
    let data = json::parse(data, 10).expect("documents are valid");
    let is_wanted = |rule: &&Rule<u32>| {
        rule.pattern.matches(event)
            && (rule.context_id.is_none() || rule.context_id == context_id)
            && rule.filter.matches(&data)
    };
    rules.values().filter(is_wanted).map(|rule| rule.key).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_agrees_with_a_loop_over_all_rules(seed in any::<u64>()) {
        let mut generator = Generator::new(seed, false);
        let mut matcher = Matcher::new();
        let mut rules = BTreeMap::new();
        let mut found = 0;
        for step in 0..300 {
            let key = u32::try_from(generator.random.below(60)).unwrap();
            let context_id = match generator.random.below(3) {
                0 => None,
                context => Some(Uuid::from_u128(context as u128)),
            };
            match generator.random.below(if step < 250 { 10 } else { 4 }) {
                0..=2 => prop_assert_eq!(matcher.remove(&key), rules.remove(&key).is_some()),
                3..=6 => {
                    let pattern = EventPattern::try_new(generator.random.pick(&PATTERNS)).unwrap();
                    let filter = Filter::parse(&generator.filter()).unwrap();
                    let rule = Rule { key, pattern, context_id, filter };
                    matcher.insert(rule.clone());
                    rules.insert(key, rule);
                }
                _ => {
                    let event = event_type(generator.random.pick(&PATTERNS[..3]));
                    let data = generator.document();
                    let expected = naive(&rules, &event, context_id, &data);
                    found += expected.len();
                    prop_assert_eq!(matcher.matching(&event, context_id, &LazyData::new(&data)), expected);
                }
            }
            prop_assert_eq!(matcher.len(), rules.len());
        }
        prop_assert!(found > 0, "nothing ever matched, so nothing was tried");
    }
}
