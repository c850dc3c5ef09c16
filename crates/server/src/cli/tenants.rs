//! `neo-events tenants`: who there is.

use clap::{Args, Subcommand};

use crate::{
    cli::{
        failure::Failure,
        output::{Column, Output, Row, dash, printable},
        session::{Paging, Session, to_json},
    },
    client::Call,
    wire,
};

const PATH: &str = "tenants";
/// What a region's shared schema is named with.
const REGION: &str = "region:";

pub(crate) const OVERVIEW: &str = "\
A tenant has its own events, endpoints, subscriptions and deliveries; nothing
goes from one to another. Whoever has an admin key acts in any of them with
--tenant; give each tenant's own programs a key of theirs with `api-keys
create`.

Examples:
  neo-events tenants create acme --name 'Acme Ltd'
  neo-events api-keys create acme 'order service' --scope events:write
  neo-events --tenant acme endpoints list";

/// Make and list tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantsCommand {
    /// Make a tenant
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List tenants, newest first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one tenant
    Get {
        /// `admin`, a slug, or region:REGION
        #[arg(value_name = "TENANT")]
        slug: String,
    },
}

const CREATE_EXAMPLES: &str = "\
Examples:
  neo-events tenants create acme --name 'Acme Ltd'
  neo-events tenants create region:eu_west_1

A slug or region is a lower-case letter, then up to 47 lower-case letters,
digits and underscores. It cannot be changed.";

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// A slug, or region:REGION for a region's shared tenant
    slug: String,
    /// For people, 1 to 255 characters
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: TenantsCommand) -> Result<(), Failure> {
    match command {
        TenantsCommand::Create(args) => create(session, args).await,
        TenantsCommand::List { paging } => session.list::<wire::Tenant>(Call::get([PATH]), &paging).await,
        TenantsCommand::Get { slug } => session.show(Call::get([PATH, &slug])).await,
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let input = match args.slug.strip_prefix(REGION) {
        Some(region) => wire::TenantIn { slug: None, region: Some(region.to_owned()), name: args.name },
        None => wire::TenantIn { slug: Some(args.slug), region: None, name: args.name },
    };
    session.show(Call::post([PATH]).json(to_json(&input)?)).await
}

impl Row for wire::Tenant {
    const NAME: &'static str = "tenants";
    const COLUMNS: &'static [Column] =
        &[Column::whole("TENANT"), Column::text("NAME"), Column::whole("SCHEMA"), Column::whole("CREATED")];

    fn cells(&self, output: &Output) -> Vec<String> {
        vec![
            self.tenant_id.clone(),
            self.name.as_deref().map_or_else(dash, printable),
            self.schema.clone(),
            output.time(self.created_at),
        ]
    }
}
