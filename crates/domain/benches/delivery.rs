//! What one delivery costs beside the network and the database: its event read and judged, its body and headers built,
//! its signatures made. Each grows with the event's size, so it is measured at two of them.
//!
//! `cargo bench -p neo-events-domain --bench delivery`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use neo_events_domain::{
    Timestamp,
    event::{DomainEvent, EventDraft},
    id::Id,
    payload,
    request::{self, RequestFacts},
    signing::{Signatures, SigningSecret},
    tenant::Schema,
};

/// Bytes of `event_data`: a usual event, and the largest.
const SIZES: [usize; 2] = [1024, 100 * 1024];

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

fn draft(bytes: usize) -> EventDraft {
    let frame = r#"{"plan":"pro","amount":100,"padding":""}"#;
    let padding = "x".repeat(bytes - frame.len());
    EventDraft::new("user.created", frame.replace(r#""""#, &format!(r#""{padding}""#)))
}

fn stored(bytes: usize) -> DomainEvent {
    let event = draft(bytes).validate(now(), [7; 10]).expect("a valid draft");
    event.stored(now(), 1, now())
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read and judge");
    for bytes in SIZES {
        let draft = draft(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &draft, |bencher, draft| {
            bencher.iter(|| black_box(draft.clone()).validate(now(), [7; 10]));
        });
    }
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body");
    for bytes in SIZES {
        let event = stored(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &event, |bencher, event| {
            bencher.iter(|| payload::standard(black_box(event)));
        });
    }
    group.finish();

    let event = stored(SIZES[0]);
    let secret = SigningSecret::generate([7; 32]);
    let signatures =
        Signatures::sign(std::slice::from_ref(&secret), event.id, now(), b"{}").expect("a secret");
    let schema = Schema::tenant("acme").expect("a slug");
    let facts = RequestFacts {
        schema: &schema,
        event_id: event.id,
        event_type: event.event_type.as_str(),
        attempt_number: 1,
        request_id: Id::new(now(), [3; 10]),
        sent_at: now(),
        signatures: Some(&signatures),
        signature_header: "X-Neo-Signature",
    };
    criterion.bench_function("headers", |bencher| {
        bencher.iter(|| request::headers(black_box(&facts), [("X-Priority", "high")]));
    });
}

fn signing(criterion: &mut Criterion) {
    let secrets = [SigningSecret::generate([7; 32]), SigningSecret::generate([8; 32])];
    for (name, secrets) in [("sign", &secrets[..1]), ("sign during a rotation", &secrets[..])] {
        let mut group = criterion.benchmark_group(name);
        for bytes in SIZES {
            let event = stored(bytes);
            let body = payload::standard(&event);
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(BenchmarkId::from_parameter(bytes), &body, |bencher, body| {
                bencher.iter(|| Signatures::sign(secrets, event.id, now(), black_box(body.as_bytes())));
            });
        }
    }
}

criterion_group!(benches, reading, encoding, signing);
criterion_main!(benches);
