//! `neo-events api-keys`: who may do what.

use clap::{Args, Subcommand};
use http::Method;
use neo_events::{Scope, Timestamp};
use uuid::Uuid;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        output::{Column, Output, Row, dash, printable},
        session::{Paging, Session, to_json},
    },
    client::Call,
    wire,
};

const PATH: &str = "api-keys";

pub(crate) const OVERVIEW: &str = "\
A key works in one tenant, and in one context of it if it is bound to one. What
it may do are its scopes:
  events:write       publish
  events:read        read events and the catalogue of event types
  endpoints:write    change endpoints, subscriptions and the catalogue
  endpoints:read     read endpoints and subscriptions, explain filters
  deliveries:write   cancel and retry deliveries
  deliveries:read    read deliveries and statistics
  admin              everything in its tenant; in tenant admin: everywhere";

/// Make, list and revoke API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeysCommand {
    /// Make a key; it is shown once
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List keys, newest first, expired ones too
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Revoke a key; it stops working within a second
    Delete(KeyId),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  neo-events api-keys create acme 'order service' --scope events:write
  neo-events api-keys create acme 'portal' --context-id UUID --expires-at 24h
  neo-events api-keys create admin 'operator' --scope admin

The answer has the key itself, which is never shown again. Use it with --key or
NEO_EVENTS_KEY, or as bearer token.";

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Where it works: `admin`, a slug, or region:REGION
    #[arg(value_name = "TENANT")]
    works_in: String,
    /// For people, 1 to 255 characters
    name: String,
    /// What it may do; may be repeated [default: all but admin]
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<Scope>,
    /// It sees and writes this context's rows alone
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    context_id: Option<Uuid>,
    /// From when on it is refused: RFC 3339, or how long from now (24h) [default: never]
    #[arg(long, value_name = "TIME", value_parser = arguments::later)]
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Those that work in this tenant: `admin`, a slug, or region:REGION
    #[arg(long = "in", value_name = "TENANT")]
    works_in: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(crate) struct KeyId {
    /// The key's id, not the key itself
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: ApiKeysCommand) -> Result<(), Failure> {
    match command {
        ApiKeysCommand::Create(args) => create(session, args).await,
        ApiKeysCommand::List(args) => {
            let call = Call::get([PATH]).query("tenant", args.works_in);
            session.list::<wire::ApiKey>(call, &args.paging).await
        }
        ApiKeysCommand::Delete(KeyId { id }) => {
            let call = Call::new(Method::DELETE, [PATH, &id.to_string()]);
            session.confirm(call, &format!("Revoked the key {id}.")).await
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let names = args.scope.iter().map(|scope| scope.as_str().to_owned());
    let input = wire::ApiKeyIn {
        name: args.name,
        tenant: args.works_in,
        context_id: args.context_id,
        scopes: (!args.scope.is_empty()).then(|| names.collect()),
        expires_at: args.expires_at,
    };
    session.show(Call::post([PATH]).json(to_json(&input)?)).await
}

impl Row for wire::ApiKey {
    const NAME: &'static str = "API keys";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ID"),
        Column::text("NAME"),
        Column::whole("TENANT"),
        Column::text("CONTEXT"),
        Column::text("SCOPES"),
        Column::whole("EXPIRES"),
        Column::whole("LAST USED"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        let time = |at: Option<Timestamp>| at.map_or_else(dash, |at| output.time(at));
        vec![
            self.id.to_string(),
            printable(&self.name),
            self.tenant.clone(),
            self.context_id.map_or_else(dash, |id| id.to_string()),
            self.scopes.join(" "),
            time(self.expires_at),
            time(self.last_used_at),
        ]
    }
}
