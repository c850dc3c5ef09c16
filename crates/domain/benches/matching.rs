//! What matching one event costs, parsing included, with 100 and with 100 000 subscriptions of which ten match.
//!
//! `cargo bench -p neo-events-domain --bench matching`

use std::{hint::black_box, time::Instant};

use neo_events_domain::{
    Uuid,
    event_type::{EventPattern, EventType},
    filter::Filter,
    matching::{LazyData, Matcher, Rule},
};

const RUNS: usize = 2000;

/// How rules differ: makes rule `i` such that rules whose group is 0 match the event.
type Shape = fn(i: u32, group: u32) -> Rule<u32>;

fn main() {
    let padding = r#","field":"some text of a usual length""#.repeat(20);
    let data = format!(
        r#"{{"plan":"pro","amount":100,"customer":{{"id":"c0","f0":"x","name":"N"}},"items":[{{"sku":"s0"}},{{"sku":"zz"}}]{padding}}}"#
    );
    println!("payload of {} bytes, ten rules match, median and 99th percentile of {RUNS} runs", data.len());
    let shapes: [(&str, Shape); 5] = [
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
    ];
    for (name, shape) in shapes {
        for count in [100, 100_000] {
            measure(name, count, shape, &data);
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

fn measure(name: &str, count: u32, shape: Shape, data: &str) {
    let mut matcher = Matcher::new();
    for i in 0..count {
        matcher.insert(shape(i, i % (count / 10)));
    }
    let event_type = EventType::try_new("cat.t0").expect("a type");
    let mut keys = Vec::new();
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            matcher.matching_into(&event_type, Some(Uuid::nil()), &LazyData::new(data), black_box(&mut keys));
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    assert_eq!(keys.len(), 10);
    println!("{name:12} {count:>7} rules: {:>10.2?} {:>10.2?}", times[RUNS / 2], times[RUNS * 99 / 100]);
}
