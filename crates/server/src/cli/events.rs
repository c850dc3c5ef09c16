//! `neo-events events`: what was published.

use clap::{Args, Subcommand};
use neo_events::Timestamp;
use uuid::Uuid;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        output::{Column, Output, Row, Shape, printable},
        session::{Paging, Session},
    },
    client::Call,
    wire,
};

/// Look at events.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List events, newest first
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one event with its data
    Get {
        /// The event's id
        #[arg(value_name = "UUID", value_parser = arguments::uuid)]
        id: Uuid,
    },
    /// Show an aggregate's events by version, and the version that comes next
    Aggregate(AggregateArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  neo-events events list --event-type order.placed --from 2h
  neo-events events list --processed false      what is still to be dispatched
  neo-events events list --all --json | jq '.data[].event_data'";

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of this type, `category.action`
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    /// Of aggregates of this type
    #[arg(long, value_name = "TYPE")]
    aggregate_type: Option<String>,
    /// Of this aggregate
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    aggregate_id: Option<Uuid>,
    /// Of this flow
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    correlation_id: Option<Uuid>,
    /// Of this context
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    context_id: Option<Uuid>,
    /// Whose dispatch is settled, or still owed
    #[arg(long, value_name = "BOOL")]
    processed: Option<bool>,
    /// Stored at or after this time: RFC 3339, or how long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    from: Option<Timestamp>,
    /// Stored before this time
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    to: Option<Timestamp>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(crate) struct AggregateArgs {
    /// The aggregate's type
    #[arg(value_name = "TYPE")]
    aggregate_type: String,
    /// The aggregate's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    aggregate_id: Uuid,
    /// Only events after this version
    #[arg(long, value_name = "N")]
    after_version: Option<u32>,
    /// Most events, up to 1000 [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Go on where an earlier answer ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: EventsCommand) -> Result<(), Failure> {
    match command {
        EventsCommand::List(args) => list(session, args).await,
        EventsCommand::Get { id } => session.show(Call::get(["events", &id.to_string()])).await,
        EventsCommand::Aggregate(args) => aggregate(session, args).await,
    }
}

async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    arguments::judge_span(args.from, args.to)?;
    let call = Call::get(["events"])
        .query("event_type", args.event_type)
        .query("aggregate_type", args.aggregate_type)
        .query("aggregate_id", args.aggregate_id)
        .query("correlation_id", args.correlation_id)
        .query("context_id", args.context_id)
        .query("processed", args.processed)
        .query("from", args.from)
        .query("to", args.to);
    session.list::<wire::Event>(call, &args.paging).await
}

async fn aggregate(session: &Session, args: AggregateArgs) -> Result<(), Failure> {
    let call = Call::get(["aggregates", &args.aggregate_type, &args.aggregate_id.to_string()])
        .query("after_version", args.after_version)
        .query("limit", args.limit)
        .query("cursor", args.cursor);
    let Some(aggregate) = session.answer::<wire::Aggregate>(call).await? else { return Ok(()) };
    if aggregate.events.is_empty() {
        session.output.line("No events.")?;
    } else {
        session.output.table(&aggregate.events, &mut Shape::default())?;
    }
    if let Some(next) = aggregate.next_cursor {
        let more = format!("More: --cursor {}", printable(&next));
        session.output.line(session.output.style.dim(more))?;
    }
    Ok(session.output.line(format_args!("next version  {}", aggregate.next_version))?)
}

impl Row for wire::Event {
    const NAME: &'static str = "events";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ID"),
        Column::text("TYPE"),
        Column::text("AGGREGATE"),
        Column::number("VERSION"),
        Column::whole("DISPATCHED"),
        Column::whole("CREATED"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        // Where a publisher named no aggregate, it is the event itself.
        let aggregate = if self.aggregate_id == self.id {
            self.aggregate_type.clone()
        } else {
            format!("{} {}", self.aggregate_type, self.aggregate_id)
        };
        vec![
            self.id.to_string(),
            self.event_type.clone(),
            aggregate,
            self.aggregate_version.to_string(),
            self.processed_at.map_or_else(|| "owed".to_owned(), |at| output.time(at)),
            output.time(self.created_at),
        ]
    }
}
