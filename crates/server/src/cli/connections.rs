//! `neo-events connections`: whether targets can be reached, and how the server's outgoing connections do.

use clap::Subcommand;

use crate::{
    cli::{
        failure::Failure,
        output::printable,
        session::{Session, to_json},
    },
    client::Call,
    wire,
};

/// Look at the server's outgoing connections.
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectionsCommand {
    /// Check by a HEAD request of the server that a URL answers
    Test {
        /// An absolute http or https URL
        #[arg(value_name = "URL")]
        target: String,
        /// Seconds it may take, 1 to 60 [default: 10]
        #[arg(long, value_name = "S")]
        timeout_seconds: Option<u32>,
    },
    /// Count requests, reused connections and errors since the server's start
    Stats,
}

impl ConnectionsCommand {
    /// Whether it is about the node, whatever tenant is named.
    pub(crate) const fn is_of_platform(&self) -> bool {
        matches!(self, Self::Stats)
    }
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: ConnectionsCommand) -> Result<(), Failure> {
    match command {
        ConnectionsCommand::Stats => session.show(Call::get(["connections", "stats"])).await,
        ConnectionsCommand::Test { target, timeout_seconds } => test(session, target, timeout_seconds).await,
    }
}

async fn test(session: &Session, url: String, timeout_seconds: Option<u32>) -> Result<(), Failure> {
    let input = wire::ConnectivityIn { url, timeout_seconds };
    let call = Call::post(["connectivity-test"]).json(to_json(&input)?).patient();
    let (raw, found) = session.answer_both::<wire::Connectivity>(call).await?;
    if session.is_json {
        session.output.raw_line(&raw)?;
    } else {
        let style = session.output.style;
        let verdict = if found.reachable { style.green("reachable") } else { style.red("not reachable") };
        let status = found.status.map(|status| status.to_string());
        let reason = status.or(found.error_message).or(found.error_code).unwrap_or_default();
        let elapsed = style.dim(format_args!("{:.1} ms", found.timings.total_ms));
        session.output.line(format_args!("{verdict}  {}  {elapsed}", printable(&reason)))?;
    }
    if found.reachable { Ok(()) } else { Err(Failure::Reported) }
}
