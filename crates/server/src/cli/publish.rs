//! `neo-events publish`: one event from arguments (here), or many from a file or a pipe (module `import`).

mod import;
mod lines;

use std::{
    io::{self, Read},
    path::PathBuf,
};

use clap::{ArgGroup, Args};
use neo_events::{
    EventDraft, Sources, Timestamp,
    domain::{event::EVENT_DATA_BYTES_MAX, violation::Rule},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        output::printable,
        session::{Session, to_json},
    },
    client::Call,
    wire::{EventIn, Published},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events publish order.placed '{\"amount\": 120}'
  neo-events publish order.paid --data '{\"amount\": 120}' \\
      --aggregate-type order --aggregate-id UUID --expected-version 1
  jq -c '.orders[] | {event_type: \"order.placed\", event_data: .}' orders.json |
      neo-events publish --file -
  neo-events publish --file events.ndjson

A file holds one event as JSON, or one event a line (NDJSON). Only event_type
and event_data must be given. An event with an id of its own (a UUIDv7) may be
published again without harm.";

const NOT_UTF8: &str = "is not valid UTF-8";

#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("source").required(true).args(["event_type", "file"])))]
pub(crate) struct PublishArgs {
    /// `category.action`, such as order.placed
    #[arg(value_name = "EVENT_TYPE", conflicts_with = "file")]
    event_type: Option<String>,
    /// The event's data: a JSON object, or `-` for standard input
    #[arg(value_name = "DATA", conflicts_with = "data")]
    event_data: Option<String>,
    /// The event's data, as DATA
    #[arg(long, value_name = "JSON", requires = "event_type")]
    data: Option<String>,
    /// One event as JSON, or one a line; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    envelope: EnvelopeArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "More of the event")]
struct EnvelopeArgs {
    /// The event's id, a `UUIDv7`; makes publishing again harmless [default: generated]
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    id: Option<Uuid>,
    /// A name for people
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    event_name: Option<String>,
    /// Type of the aggregate it is about [default: the category]
    #[arg(long, value_name = "TYPE", conflicts_with = "file")]
    aggregate_type: Option<String>,
    /// The aggregate it is about [default: the event's id]
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    aggregate_id: Option<Uuid>,
    /// The aggregate's version after it, 1 to 999999 [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["expected_version", "file"])]
    aggregate_version: Option<i64>,
    /// The aggregate's newest version, 0 if none: refused if somebody was faster
    #[arg(long, value_name = "N", requires = "aggregate_id", conflicts_with = "file")]
    expected_version: Option<i64>,
    /// Groups what belongs to one flow
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    correlation_id: Option<Uuid>,
    /// What caused it
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    causation_id: Option<Uuid>,
    /// Who did it
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    triggered_by_user_id: Option<Uuid>,
    /// Organization, team … inside the tenant
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    context_id: Option<Uuid>,
    /// Source, address … of the publish, up to 50 KiB and 10 levels; never sent to endpoints
    #[arg(long, value_name = "JSON", value_parser = arguments::json_object, conflicts_with = "file")]
    metadata: Option<Box<RawValue>>,
    /// When it happened: RFC 3339, or how long ago (2h) [default: now]
    #[arg(long, value_name = "TIME", value_parser = arguments::time, conflicts_with = "file")]
    occurred_at: Option<Timestamp>,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, args: PublishArgs) -> Result<(), Failure> {
    match args.file {
        Some(path) => import::publish_file(session, &path).await,
        None => publish_one(session, event_of(args)?).await,
    }
}

fn event_of(args: PublishArgs) -> Result<EventIn, Failure> {
    let data = args.event_data.or(args.data).ok_or_else(|| {
        Failure::Usage("the event's data are missing: `neo-events publish EVENT_TYPE '{…}'`".to_owned())
    })?;
    let data = if data == "-" { read_data()? } else { data };
    let event_data = arguments::json_object(&data)
        .map_err(|reason| Failure::Usage(format!("the event's data: {reason}")))?;
    let envelope = args.envelope;
    let event = EventIn {
        id: envelope.id,
        event_type: args.event_type.unwrap_or_default(),
        event_name: envelope.event_name,
        aggregate_id: envelope.aggregate_id,
        aggregate_type: envelope.aggregate_type,
        aggregate_version: envelope.aggregate_version,
        event_data,
        event_metadata: envelope.metadata,
        correlation_id: envelope.correlation_id,
        causation_id: envelope.causation_id,
        triggered_by_user_id: envelope.triggered_by_user_id,
        context_id: envelope.context_id,
        occurred_at: envelope.occurred_at,
        expected_version: envelope.expected_version,
    };
    // Whether a given id is timely is the server's to judge: its clock counts.
    let draft = EventDraft { id: None, ..event.clone().into() };
    let sources = Sources::system();
    match draft.validate(sources.now(), sources.bytes()) {
        Ok(_) => Ok(event),
        Err(violations) => Err(Failure::Usage(violations.to_string())),
    }
}

fn read_data() -> Result<String, Failure> {
    let unreadable = |source| Failure::Input { name: "standard input".to_owned(), source };
    let mut input = io::stdin().lock();
    let mut bytes = Vec::new();
    let bytes_max = u64::try_from(EVENT_DATA_BYTES_MAX).unwrap_or(u64::MAX);
    input.by_ref().take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > EVENT_DATA_BYTES_MAX {
        // What is over the limit is counted and not kept.
        let more = io::copy(&mut input, &mut io::sink()).map_err(unreadable)?;
        let actual = bytes.len() + usize::try_from(more).unwrap_or(usize::MAX);
        let rule = Rule::TooLong { actual, max: EVENT_DATA_BYTES_MAX, unit: "bytes" };
        return Err(Failure::Usage(format!("the event's data: it {rule}")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("the event's data: it {NOT_UTF8}")))
}

async fn publish_one(session: &Session, event: EventIn) -> Result<(), Failure> {
    let call = Call::post(["events"]).json(to_json(&event)?);
    let Some(published) = session.answer::<Published>(call).await? else { return Ok(()) };
    let style = session.output.style;
    let done = if published.duplicate { style.yellow("was there already") } else { style.green("published") };
    Ok(session.output.line(format_args!(
        "{done}  {}  {}  {}",
        style.bold(published.id),
        printable(&published.event_type),
        style.dim(session.output.time(published.created_at)),
    ))?)
}
