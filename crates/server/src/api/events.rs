//! `/v1/events` and `/v1/aggregates`: publish and read.

use axum::{Extension, body::Body};
use http::{Request, StatusCode};
use neo_events::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EventDraft, EventQuery, Scope, Tenant,
    domain::{
        event::normalise_aggregate_type,
        id::kind,
        violation::{Rule, Violations},
    },
};

use super::{
    Answer,
    body::{Input, MediaType, is_empty, judge_encoding, parse, read},
    json, ok,
    path::{PathAggregate, PathId},
    query::{NoQuery, Query, judge_absence},
    routes::{Needs, Routes},
};
use crate::{
    problem::Refusal,
    wire::{Aggregate, BatchAnswer, BatchIn, BatchResult, Event, EventIn, List, Published},
};

const READ: Needs = Needs::Scope(Scope::EventsRead);
const WRITE: Needs = Needs::Scope(Scope::EventsWrite);

pub(super) fn routes() -> Routes {
    Routes::new()
        .post("/v1/events", WRITE, publish)
        .get("/v1/events", READ, list)
        .post("/v1/events/batch", WRITE, publish_batch)
        .get("/v1/events/{id}", READ, show)
        .get("/v1/aggregates/{type}/{id}", READ, aggregate)
}

async fn publish(Extension(tenant): Extension<Tenant>, Input(event): Input<EventIn>) -> Answer {
    let published = tenant.publish(event.into()).await?;
    json(StatusCode::ACCEPTED, &Published::from(published))
}

async fn show(Extension(tenant): Extension<Tenant>, PathId(id): PathId<kind::Event>, _: NoQuery) -> Answer {
    ok(&Event::from(tenant.event(id).await?))
}

async fn list(Extension(tenant): Extension<Tenant>, mut query: Query) -> Answer {
    let conditions = EventQuery {
        event_type: query.take("event_type", "category.action")?,
        aggregate_type: take_aggregate_type(&mut query)?,
        aggregate_id: query.take_uuid("aggregate_id")?,
        correlation_id: query.take_uuid("correlation_id")?,
        context_id: query.take_uuid("context_id")?,
        created: query.take_range()?,
        processed: query.take_bool("processed")?,
    };
    let (page, bound) = query.end_with_page()?;
    ok(&bound.list::<Event, _>(tenant.events(&conditions, page).await?))
}

fn take_aggregate_type(query: &mut Query) -> Result<Option<String>, Refusal> {
    let Some(name) = query.take_text("aggregate_type")? else { return Ok(None) };
    let expected = "a letter, then letters, digits or underscores, at most 100";
    normalise_aggregate_type(&name)
        .map(Some)
        .map_err(|_| Refusal::invalid_parameter("aggregate_type", expected))
}

async fn aggregate(Extension(tenant): Extension<Tenant>, path: PathAggregate, mut query: Query) -> Answer {
    let after_version = query.take("after_version", "a whole number, 0 or greater")?.unwrap_or(0);
    let (page, bound) = query.end_with_page()?;
    let malformed = |rule| Violations::one("/aggregate_type", rule);
    let aggregate_type = normalise_aggregate_type(&path.aggregate_type).map_err(malformed)?;
    let aggregate_id = path.aggregate_id;
    let next_version = tenant.next_version(&aggregate_type, aggregate_id).await?;
    let page = tenant.aggregate_events(&aggregate_type, aggregate_id, after_version, page).await?;
    let List { data: events, next_cursor } = bound.list(page);
    ok(&Aggregate { aggregate_type, aggregate_id, next_version, events, next_cursor })
}

async fn publish_batch(Extension(tenant): Extension<Tenant>, request: Request<Body>) -> Answer {
    judge_absence(request.uri())?;
    judge_encoding(request.headers())?;
    let media_type = MediaType::of(request.headers());
    if media_type == MediaType::Other {
        let supported = "application/json or application/x-ndjson";
        return Err(if is_empty(&request) {
            Refusal::empty_body()
        } else {
            Refusal::unsupported_media_type(supported)
        });
    }
    let bytes = read(request, BATCH_BYTES_MAX).await?;
    let items = if media_type == MediaType::Json { parse_array(&bytes) } else { parse_lines(&bytes) }?;
    let answer = publish_items(&tenant, items).await?;
    if answer.rejected == answer.results.len() {
        return Err(Refusal::batch(answer));
    }
    json(StatusCode::ACCEPTED, &answer)
}

/// What the refusals of a batch may say in detail, in bytes: a thousand ordinary ones. Each may quote what it refuses, so
/// without it an answer could be several times as large as the batch.
const REFUSALS_BYTES_MAX: usize = 512 * 1024;

/// An event of a batch, or what is wrong with its JSON.
type Item = Result<EventDraft, Refusal>;

fn parse_array(bytes: &[u8]) -> Result<Vec<Item>, Refusal> {
    let batch: BatchIn = parse(bytes)?;
    if batch.events.is_empty() {
        return Err(Refusal::breaks("/events", Rule::Empty));
    }
    Ok(batch.events.iter().map(|event| parse_item(event.get().as_bytes())).collect())
}

/// A JSON text per line; blank lines are nothing.
fn parse_lines(bytes: &[u8]) -> Result<Vec<Item>, Refusal> {
    let lines = || bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let actual = lines().count();
    if actual == 0 {
        return Err(Refusal::empty_body());
    }
    if actual > BATCH_EVENTS_MAX {
        return Err(Refusal::breaks("", Rule::TooMany { actual, max: BATCH_EVENTS_MAX, unit: "events" }));
    }
    Ok(lines().map(parse_item).collect())
}

fn parse_item(text: &[u8]) -> Item {
    parse::<EventIn>(text).map(EventDraft::from)
}

/// Publishes what could be read, and puts the answers where their items stood.
async fn publish_items(tenant: &Tenant, items: Vec<Item>) -> Result<BatchAnswer, Refusal> {
    let mut drafts = Vec::with_capacity(items.len());
    let mut unreadable = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Ok(draft) => {
                drafts.push(draft);
                unreadable.push(None);
            }
            Err(refusal) => unreadable.push(Some(refusal)),
        }
    }
    let mut published = tenant.publish_batch(drafts).await?.into_iter();
    let mut answer = BatchAnswer {
        accepted: 0,
        duplicates: 0,
        rejected: 0,
        results: Vec::with_capacity(unreadable.len()),
    };
    let mut said = 0;
    for (index, refusal) in unreadable.into_iter().enumerate() {
        let outcome = match refusal {
            Some(refusal) => Err(refusal),
            None => match published.next() {
                Some(outcome) => outcome.map_err(Refusal::from),
                None => break,
            },
        };
        answer.results.push(match outcome {
            Ok(event) => {
                *if event.duplicate { &mut answer.duplicates } else { &mut answer.accepted } += 1;
                BatchResult::Published { index, id: event.id.uuid(), duplicate: event.duplicate }
            }
            Err(refusal) => {
                answer.rejected += 1;
                let error = refusal.into_problem();
                said += error.bytes();
                BatchResult::Refused {
                    index,
                    error: if said > REFUSALS_BYTES_MAX { error.in_brief() } else { error },
                }
            }
        });
    }
    Ok(answer)
}
