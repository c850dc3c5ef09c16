//! `neo-events event-types`: the catalogue.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::value::RawValue;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        output::{Column, Output, Row, yes_or_no},
        session::{Paging, Session, changes_to_json, to_json},
    },
    client::Call,
    wire,
};

const PATH: &str = "event-types";

/// Keep the catalogue of event types.
#[derive(Debug, Subcommand)]
pub(crate) enum EventTypesCommand {
    /// List entries, newest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one entry
    Get(EventTypeArg),
    /// Add an entry
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// Change an entry
    Update(UpdateArgs),
    /// Remove an entry; events and subscriptions of the type stay
    Delete(EventTypeArg),
    /// Let events of this type be published and subscribed to again
    Enable(EventTypeArg),
    /// Refuse to publish events of this type and to subscribe to it
    Disable(EventTypeArg),
}

const CREATE_EXAMPLES: &str = "\
Example:
  neo-events event-types create order.placed 'Order placed' \\
      --example-payload '{\"amount\": 120}'";

#[derive(Debug, Args)]
pub(crate) struct EventTypeArg {
    /// `category.action`
    #[arg(value_name = "TYPE")]
    event_type: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of this category
    #[arg(long)]
    category: Option<String>,
    /// Enabled or not
    #[arg(long, value_name = "BOOL")]
    is_enabled: Option<bool>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// `category.action`: lower-case letters, digits and underscores, exactly one dot
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// For people, 1 to 255 characters
    display_name: String,
    /// What stands before the dot; anything else is refused
    #[arg(long)]
    category: Option<String>,
    /// For people, up to 1000 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether events of this type may be published [default: true]
    #[arg(long, value_name = "BOOL")]
    is_enabled: Option<bool>,
    /// What such an event's data looks like
    #[arg(long, value_name = "JSON", value_parser = arguments::json_object)]
    example_payload: Option<Box<RawValue>>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// `category.action`
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// For people, 1 to 255 characters
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// For people, up to 1000 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether events of this type may be published
    #[arg(long, value_name = "BOOL")]
    is_enabled: Option<bool>,
    /// What such an event's data looks like
    #[arg(long, value_name = "JSON", value_parser = arguments::json_object)]
    example_payload: Option<Box<RawValue>>,
    /// Make a field empty
    #[arg(long, value_name = "FIELD")]
    clear: Vec<Clearable>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clearable {
    Description,
    ExamplePayload,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: EventTypesCommand) -> Result<(), Failure> {
    match command {
        EventTypesCommand::List(args) => {
            let call =
                Call::get([PATH]).query("category", args.category).query("is_enabled", args.is_enabled);
            session.list::<wire::EventType>(call, &args.paging).await
        }
        EventTypesCommand::Get(of) => session.show(Call::get([PATH, &of.event_type])).await,
        EventTypesCommand::Create(args) => create(session, args).await,
        EventTypesCommand::Update(args) => update(session, args).await,
        EventTypesCommand::Delete(of) => {
            let call = Call::new(Method::DELETE, [PATH, &of.event_type]);
            session.confirm(call, &format!("Removed {} from the catalogue.", of.event_type)).await
        }
        EventTypesCommand::Enable(of) => switch(session, of, true).await,
        EventTypesCommand::Disable(of) => switch(session, of, false).await,
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let input = wire::EventTypeIn {
        event_type: args.event_type,
        category: args.category,
        display_name: args.display_name,
        description: args.description,
        is_enabled: args.is_enabled,
        example_payload: args.example_payload,
    };
    session.show(Call::post([PATH]).json(to_json(&input)?)).await
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Failure> {
    let clears = |field| args.clear.contains(&field);
    let changes = wire::EventTypeChanges {
        display_name: args.display_name,
        description: arguments::change("description", args.description, clears(Clearable::Description))?,
        is_enabled: args.is_enabled,
        example_payload: arguments::change(
            "example-payload",
            args.example_payload,
            clears(Clearable::ExamplePayload),
        )?,
    };
    session.show(Call::new(Method::PATCH, [PATH, &args.event_type]).json(changes_to_json(&changes)?)).await
}

async fn switch(session: &Session, of: EventTypeArg, is_enabled: bool) -> Result<(), Failure> {
    let changes =
        wire::EventTypeChanges { is_enabled: Some(is_enabled), ..wire::EventTypeChanges::default() };
    session.show(Call::new(Method::PATCH, [PATH, &of.event_type]).json(to_json(&changes)?)).await
}

impl Row for wire::EventType {
    const NAME: &'static str = "event types";
    const COLUMNS: &'static [Column] = &[
        Column::whole("TYPE"),
        Column::text("NAME"),
        Column::whole("ENABLED"),
        Column::text("DESCRIPTION"),
        Column::whole("UPDATED"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        vec![
            self.event_type.clone(),
            self.display_name.clone(),
            yes_or_no(self.is_enabled),
            self.description.clone().unwrap_or_default(),
            output.time(self.updated_at),
        ]
    }
}
