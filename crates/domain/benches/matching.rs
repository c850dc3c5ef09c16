//! What matching one event costs, parsing included, with 100 and with 100 000 subscriptions of which ten match.
//!
//! `cargo bench -p neo-events-domain --bench matching`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use neo_events_domain::{
    Uuid,
    event_type::{EventPattern, EventType},
    filter::Filter,
    matching::{LazyData, Matcher, Rule},
};

/// How rules differ: makes rule `i` such that rules whose group is 0 match the event.
type Shape = fn(i: u32, group: u32) -> Rule<u32>;

fn matching(criterion: &mut Criterion) {
    let padding = r#","field":"some text of a usual length""#.repeat(20);
    let data = format!(
        r#"{{"plan":"pro","amount":100,"customer":{{"id":"c0","f0":"x","name":"N"}},"items":[{{"sku":"s0"}},{{"sku":"zz"}}]{padding}}}"#
    );
    let shapes: [(&str, Shape); 8] = [
        ("by type", |i, group| rule(i, &format!("cat.t{group}"), None, "{}")),
        ("by context", |i, group| rule(i, "cat.*", Some(group), "{}")),
        ("by equality", |i, group| {
            let filter =
                format!(r#"{{"plan":["pro","team"],"customer.id":"c{group}","amount":{{"$gte":10}}}}"#);
            rule(i, "*", None, &filter)
        }),
        ("by path", |i, group| rule(i, "*", None, &format!(r#"{{"customer.f{group}":"x"}}"#))),
        ("mixed", |i, group| {
            let pattern = ["cat.t0", "cat.*", "*"][i as usize % 3];
            let filter = format!(r#"{{"items.sku":"s{group}","amount":{{"$gt":1}}}}"#);
            rule(i, pattern, (i % 2 == 0).then_some(0), &filter)
        }),
        ("by bound", |i, group| rule(i, "*", None, &format!(r#"{{"amount":{{"$gte":{}}}}}"#, 100 + group))),
        ("by range", |i, group| {
            let (from, to) = (100 + group, 101 + group);
            rule(i, "*", None, &format!(r#"{{"amount":{{"$gte":{from},"$lt":{to}}}}}"#))
        }),
        // No clause that an index serves: all are looked at.
        ("by prefix", |i, group| {
            rule(i, "*", None, &format!(r#"{{"customer.id":{{"$prefix":"c{group}"}}}}"#))
        }),
    ];
    for (name, shape) in shapes {
        let mut group = criterion.benchmark_group(name);
        for count in [100, 100_000] {
            let matcher = matcher(count, shape);
            group.bench_with_input(BenchmarkId::from_parameter(count), &matcher, |bencher, matcher| {
                let mut keys = Vec::new();
                bencher.iter(|| keys = black_box(matches(matcher, &data)));
                assert_eq!(keys.len(), 10);
            });
        }
    }
}

fn rule(key: u32, pattern: &str, context: Option<u32>, filter: &str) -> Rule<u32> {
    Rule {
        key,
        pattern: EventPattern::try_new(pattern).expect("a pattern"),
        context_id: context.map(|n| Uuid::from_u128(n.into())),
        filter: Filter::parse(filter).expect("a filter"),
    }
}

fn matcher(count: u32, shape: Shape) -> Matcher<u32> {
    let mut matcher = Matcher::new();
    for i in 0..count {
        matcher.insert(shape(i, i % (count / 10)));
    }
    matcher
}

fn matches(matcher: &Matcher<u32>, data: &str) -> Vec<u32> {
    let event_type = EventType::try_new("cat.t0").expect("a type");
    matcher.matching(&event_type, Some(Uuid::nil()), &LazyData::new(data))
}

criterion_group!(benches, matching);
criterion_main!(benches);
