//! `neo-events subscriptions`: who gets what, and why.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        output::{Column, Output, Row, Shape, dash, printable, yes_or_no},
        session::{Paging, Session, changes_to_json, to_json},
    },
    client::Call,
    wire,
};

const PATH: &str = "subscriptions";

/// Choose which events an endpoint gets.
#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionsCommand {
    /// List subscriptions, newest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one subscription
    Get(SubscriptionId),
    /// Subscribe an endpoint to events
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// Change a subscription
    Update(UpdateArgs),
    /// Remove a subscription; deliveries that it caused go on
    Delete(SubscriptionId),
    /// Tell why a subscription or a filter matches an event or does not, clause by clause
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  neo-events subscriptions create ENDPOINT_ID order.placed
  neo-events subscriptions create ENDPOINT_ID 'order.*' \\
      --event-filters '{\"amount\": {\"$gte\": 100}}'
  neo-events subscriptions create ENDPOINT_ID '*'

Filters look at the event's data; all keys must hold. A scalar means equal, a
list means member of, an object holds operators: $eq $ne $in $nin $gt $gte $lt
$lte $contains $exists $prefix $suffix $regex $not $elemMatch; $and, $or and
$nor combine filters; dots descend (\"customer.country\").";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  neo-events subscriptions explain --subscription-id ID --event-id ID
  neo-events subscriptions explain \\
      --event-filters '{\"plan\": [\"pro\"]}' --event-data '{\"plan\": \"free\"}'

It ends with 0 whether the event matches or not. Scripts ask the answer:
  neo-events subscriptions explain … --json | jq -e .matches";

#[derive(Debug, Args)]
pub(crate) struct SubscriptionId {
    /// The subscription's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of this endpoint
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    endpoint_id: Option<Uuid>,
    /// Of this context
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    context_id: Option<Uuid>,
    /// Active or not
    #[arg(long, value_name = "BOOL")]
    is_active: Option<bool>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The endpoint's id
    #[arg(value_name = "ENDPOINT_ID", value_parser = arguments::uuid)]
    endpoint_id: Uuid,
    /// `category.action`, `category.*` or `*`
    #[arg(value_name = "PATTERN")]
    event_type: String,
    /// Which events of these types, by their data
    #[arg(long, visible_alias = "filter", value_name = "JSON", value_parser = arguments::filter)]
    event_filters: Option<Box<RawValue>>,
    /// Only events of this context
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    context_id: Option<Uuid>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    subscription_name: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether it matches from the start [default: true]
    #[arg(long, value_name = "BOOL")]
    is_active: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The subscription's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// `category.action`, `category.*` or `*`
    #[arg(long, value_name = "PATTERN")]
    event_type: Option<String>,
    /// Which events of these types, by their data; `{}` lets all pass
    #[arg(long, visible_alias = "filter", value_name = "JSON", value_parser = arguments::filter)]
    event_filters: Option<Box<RawValue>>,
    /// Whether it matches
    #[arg(long, value_name = "BOOL")]
    is_active: Option<bool>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    subscription_name: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Make a field empty
    #[arg(long, value_name = "FIELD")]
    clear: Vec<Clearable>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clearable {
    SubscriptionName,
    Description,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("what").required(true).args(["subscription_id", "event_filters"])))]
#[command(group(ArgGroup::new("event").required(true).args(["event_id", "event_data"])))]
pub(crate) struct ExplainArgs {
    /// A subscription: its pattern, its context and its filter
    #[arg(long, visible_alias = "subscription", value_name = "UUID", value_parser = arguments::uuid)]
    subscription_id: Option<Uuid>,
    /// A filter that need not belong to a subscription
    #[arg(long, visible_alias = "filter", value_name = "JSON", value_parser = arguments::filter)]
    event_filters: Option<Box<RawValue>>,
    /// A published event
    #[arg(long, visible_alias = "event", value_name = "UUID", value_parser = arguments::uuid)]
    event_id: Option<Uuid>,
    /// Data of an event that need not exist
    #[arg(long, visible_alias = "data", value_name = "JSON", value_parser = arguments::json_object)]
    event_data: Option<Box<RawValue>>,
    /// The type of such an event; for a subscription, and judged only if given
    #[arg(long, value_name = "TYPE", conflicts_with = "event_id")]
    event_type: Option<String>,
    /// The context of such an event; for a subscription
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "event_id")]
    context_id: Option<Uuid>,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: SubscriptionsCommand) -> Result<(), Failure> {
    match command {
        SubscriptionsCommand::List(args) => {
            let call = Call::get([PATH])
                .query("endpoint_id", args.endpoint_id)
                .query("context_id", args.context_id)
                .query("is_active", args.is_active);
            session.list::<wire::Subscription>(call, &args.paging).await
        }
        SubscriptionsCommand::Get(SubscriptionId { id }) => {
            session.show(Call::get([PATH, &id.to_string()])).await
        }
        SubscriptionsCommand::Create(args) => create(session, args).await,
        SubscriptionsCommand::Update(args) => update(session, args).await,
        SubscriptionsCommand::Delete(SubscriptionId { id }) => {
            let call = Call::new(Method::DELETE, [PATH, &id.to_string()]);
            session.confirm(call, &format!("Removed subscription {id}.")).await
        }
        SubscriptionsCommand::Explain(args) => explain(session, args).await,
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let input = wire::SubscriptionIn {
        endpoint_id: args.endpoint_id,
        event_type: args.event_type,
        event_filters: args.event_filters,
        context_id: args.context_id,
        subscription_name: args.subscription_name,
        description: args.description,
        is_active: args.is_active,
    };
    session.show(Call::post([PATH]).json(to_json(&input)?)).await
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Failure> {
    let clears = |field| args.clear.contains(&field);
    let changes = wire::SubscriptionChanges {
        event_type: args.event_type,
        event_filters: args.event_filters,
        is_active: args.is_active,
        subscription_name: arguments::change(
            "subscription-name",
            args.subscription_name,
            clears(Clearable::SubscriptionName),
        )?,
        description: arguments::change("description", args.description, clears(Clearable::Description))?,
    };
    session
        .show(Call::new(Method::PATCH, [PATH, &args.id.to_string()]).json(changes_to_json(&changes)?))
        .await
}

/// Refuses what a filter alone has nothing to judge by.
fn judge_envelope(args: &ExplainArgs) -> Result<(), Failure> {
    let flag = match (&args.event_type, args.context_id) {
        _ if args.event_filters.is_none() => None,
        (Some(_), _) => Some("--event-type"),
        (None, Some(_)) => Some("--context-id"),
        (None, None) => None,
    };
    match flag {
        None => Ok(()),
        Some(flag) => Err(Failure::Usage(format!(
            "{flag} has no effect with --event-filters: a filter alone looks at the event's data; give a \
             --subscription-id, which has a pattern and a context too"
        ))),
    }
}

async fn explain(session: &Session, args: ExplainArgs) -> Result<(), Failure> {
    judge_envelope(&args)?;
    let input = wire::ExplainIn {
        subscription_id: args.subscription_id,
        event_filters: args.event_filters,
        event_id: args.event_id,
        event: args.event_data.map(|event_data| {
            let mut event = wire::ExplainEvent::default();
            event.event_data = event_data;
            event.event_type = args.event_type;
            event.context_id = args.context_id;
            event
        }),
    };
    let call = Call::post([PATH, "explain"]).json(to_json(&input)?);
    let Some(explanation) = session.answer::<wire::Explanation>(call).await? else { return Ok(()) };
    let style = session.output.style;
    session.output.line(if explanation.matches {
        style.green("It matches.")
    } else {
        style.red("It does not match.")
    })?;
    if !explanation.clauses.is_empty() {
        session.output.table(&explanation.clauses, &mut Shape::default())?;
    }
    Ok(())
}

/// A clause in a line: `amount $gte 100, but it is 20`.
pub(crate) fn describe_clause(clause: &wire::Clause) -> String {
    let actual = clause.actual.as_ref().map_or("missing", |actual| actual.get());
    printable(&format!("{} {} {}, but it is {actual}", clause.path, clause.operator, clause.expected))
}

impl Row for wire::Clause {
    const NAME: &'static str = "clauses";
    const COLUMNS: &'static [Column] = &[
        Column::whole("HOLDS"),
        Column::text("FIELD"),
        Column::whole("OPERATOR"),
        Column::text("EXPECTED"),
        Column::text("ACTUAL"),
    ];

    fn cells(&self, _: &Output) -> Vec<String> {
        vec![
            yes_or_no(self.holds),
            self.path.clone(),
            self.operator.clone(),
            self.expected.get().to_owned(),
            self.actual.as_ref().map_or_else(dash, |actual| actual.get().to_owned()),
        ]
    }
}

impl Row for wire::Subscription {
    const NAME: &'static str = "subscriptions";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ID"),
        Column::text("EVENTS"),
        Column::text("FILTER"),
        Column::text("NAME"),
        Column::whole("ACTIVE"),
        Column::whole("ENDPOINT"),
        Column::whole("TRIGGERED"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        let filter = self.event_filters.get();
        vec![
            self.id.to_string(),
            self.event_type.clone(),
            if filter == "{}" { dash() } else { filter.to_owned() },
            self.subscription_name.clone().unwrap_or_default(),
            yes_or_no(self.is_active),
            self.endpoint_id.to_string(),
            output.time_or_dash(self.last_triggered_at),
        ]
    }
}
