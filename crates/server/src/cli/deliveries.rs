//! `neo-events deliveries`: what became of each event at each endpoint, and repairing it.

use clap::{Args, Subcommand};
use neo_events::{DeliveryStatus, Timestamp};
use uuid::Uuid;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        json_text,
        output::{Column, Output, Row, Style, dash, printable},
        session::{Paging, Session, to_json},
    },
    client::Call,
    wire::{self, Pairs},
};

const PATH: &str = "deliveries";
/// How much of a response's body is shown in one line.
const BODY_CHARS_SHOWN: usize = 160;

/// Look at deliveries and repair them.
#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    /// List deliveries, newest first
    #[command(visible_alias = "ls", after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Show one delivery with its newest attempts
    Get(GetArgs),
    /// List the attempts of a delivery, newest first
    Attempts(AttemptsArgs),
    /// Attempt a delivery again now: one that waits for its retry, that failed or that was cancelled
    Retry {
        /// The delivery's id
        #[arg(value_name = "UUID", value_parser = arguments::uuid)]
        id: Uuid,
    },
    /// End a delivery that is not over; one in flight ends after its attempt
    Cancel(CancelArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  neo-events deliveries list --status failed --from 24h
  neo-events deliveries list --event-id ID                  who got an event
  neo-events deliveries list --endpoint-id ID --status retrying

Try again whatever failed:
  neo-events deliveries list --status failed --all --json | jq -r '.data[].id' \\
      | xargs -r -n1 -P8 neo-events deliveries retry";

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of this event
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    event_id: Option<Uuid>,
    /// To this endpoint
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    endpoint_id: Option<Uuid>,
    /// pending, retrying, success, failed or cancelled
    #[arg(long, value_parser = str::parse::<DeliveryStatus>)]
    status: Option<DeliveryStatus>,
    /// Created at or after this time: RFC 3339, or how long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    from: Option<Timestamp>,
    /// Created before this time
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    to: Option<Timestamp>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The delivery's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// Also the headers of requests and answers, and whole bodies
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AttemptsArgs {
    /// The delivery's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The delivery's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// Why, for whoever looks at it later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// How much is shown of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// A few lines for each attempt.
    Brief,
    /// Headers and bodies too.
    Full,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: DeliveriesCommand) -> Result<(), Failure> {
    let (call, detail) = match command {
        DeliveriesCommand::List(args) => return list(session, args).await,
        DeliveriesCommand::Attempts(AttemptsArgs { id, paging }) => {
            let call = Call::get([PATH, &id.to_string(), "attempts"]);
            return session.list::<wire::Attempt>(call, &paging).await;
        }
        DeliveriesCommand::Get(GetArgs { id, full }) => {
            (Call::get([PATH, &id.to_string()]), if full { Detail::Full } else { Detail::Brief })
        }
        DeliveriesCommand::Retry { id } => (Call::post([PATH, &id.to_string(), "retry"]), Detail::Brief),
        DeliveriesCommand::Cancel(CancelArgs { id, reason }) => {
            let input = to_json(&wire::CancelIn { reason })?;
            (Call::post([PATH, &id.to_string(), "cancel"]).json(input), Detail::Brief)
        }
    };
    match session.answer::<wire::Delivery>(call).await? {
        Some(delivery) => show(&session.output, &delivery, detail),
        None => Ok(()),
    }
}

async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    arguments::judge_span(args.from, args.to)?;
    let call = Call::get([PATH])
        .query("event_id", args.event_id)
        .query("endpoint_id", args.endpoint_id)
        .query("status", args.status.map(DeliveryStatus::as_str))
        .query("from", args.from)
        .query("to", args.to);
    session.list::<wire::Delivery>(call, &args.paging).await
}

/// Shows a delivery, and its attempts if it came with them.
pub(crate) fn show(output: &Output, delivery: &wire::Delivery, detail: Detail) -> Result<(), Failure> {
    let style = output.style;
    let field = |name: &str, value: String| {
        output.line(format_args!("{}  {value}", style.dim(format_args!("{name:9}"))))
    };
    field("delivery", delivery.id.to_string())?;
    field("event", delivery.webhook_event_id.to_string())?;
    field("endpoint", delivery.webhook_endpoint_id.to_string())?;
    field("status", standing(output, delivery))?;
    field("created", format!("{}  {}", delivery.created_at, style.dim(output.time(delivery.created_at))))?;
    field("trigger", delivery.trigger.clone())?;
    if let Some(reason) = &delivery.cancel_reason {
        field("reason", printable(reason))?;
    }
    if let (Some(count), Some(cursor)) = (delivery.earlier_attempts, &delivery.earlier_attempts_cursor) {
        let list = format!("neo-events deliveries attempts {} --cursor {cursor}", delivery.id);
        output.line("")?;
        output.line(style.dim(format_args!("{count} earlier attempts: {}", printable(&list))))?;
    }
    for attempt in delivery.attempts.iter().flatten() {
        show_attempt(output, attempt, detail)?;
    }
    Ok(())
}

fn standing(output: &Output, delivery: &wire::Delivery) -> String {
    let status = output.style.status(&delivery.overall_status);
    let attempts = format!("attempt {} of {}", delivery.current_attempt, delivery.max_attempts);
    match (&delivery.held_reason, delivery.next_retry_at) {
        (Some(reason), _) => format!("{status}, {attempts}, held: {}", printable(reason)),
        (None, Some(at)) => format!("{status}, {attempts}, next {}", output.time(at)),
        (None, None)
            if delivery.overall_status == DeliveryStatus::Failed.as_str()
                && !delivery.max_attempts_reached =>
        {
            format!("{status}, {attempts}: final, for such an outcome is not tried again")
        }
        (None, None) => format!("{status}, {attempts}"),
    }
}

fn show_attempt(output: &Output, attempt: &wire::Attempt, detail: Detail) -> Result<(), Failure> {
    let style = output.style;
    output.line("")?;
    output.line(format_args!(
        "{}  {}  {}  {}  {}",
        style.bold(format_args!("attempt {}", attempt.attempt_number)),
        style.status(&attempt.delivery_status),
        attempt_result(attempt),
        attempt.response_time_ms.map_or_else(dash, |ms| format!("{ms} ms")),
        style.dim(output.time(attempt.attempted_at)),
    ))?;
    output.line(format_args!("  {} {}", attempt.request_method, printable(&attempt.request_url)))?;
    if let Some(message) = &attempt.error_message {
        output.line(format_args!("  {}", printable(message)))?;
    }
    if detail == Detail::Full {
        show_headers(output, ">", &attempt.request_headers)?;
        output.line(format_args!("  > {}", printable(&attempt.request_body)))?;
        if let Some(headers) = &attempt.response_headers {
            show_headers(output, "<", headers)?;
        }
    }
    show_body(output, attempt, detail)
}

/// An attempt's status or error code.
pub(crate) fn attempt_result(attempt: &wire::Attempt) -> String {
    match (attempt.response_status, &attempt.error_code) {
        (Some(status), _) => status.to_string(),
        (None, Some(code)) => printable(code),
        (None, None) => "–".to_owned(),
    }
}

fn show_headers(output: &Output, direction: &str, headers: &Pairs<String>) -> Result<(), Failure> {
    for (name, value) in &headers.0 {
        let line = format!("  {direction} {}: {}", printable(name), printable(value));
        output.line(output.style.dim(line))?;
    }
    Ok(())
}

fn show_body(output: &Output, attempt: &wire::Attempt, detail: Detail) -> Result<(), Failure> {
    let body = attempt.response_body.as_deref().unwrap_or_default().trim_end();
    if body.is_empty() {
        return Ok(());
    }
    let cut = if attempt.response_body_truncated { " … (cut)" } else { "" };
    let style: Style = output.style;
    if detail == Detail::Full {
        let is_json = json_text::is_json(body);
        let body = if is_json { json_text::indented_if_long(body) } else { printable(body) };
        return Ok(output.line(format_args!("  {}{cut}", body.replace('\n', "\n  ")))?);
    }
    let line: String = body.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = line.chars().take(BODY_CHARS_SHOWN).collect();
    let more = if shown.len() < line.len() { " … (see --full)" } else { cut };
    Ok(output.line(style.dim(format_args!("  {}{more}", printable(&shown))))?)
}

impl Row for wire::Delivery {
    const NAME: &'static str = "deliveries";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ID"),
        Column::whole("STATUS"),
        Column::whole("ATTEMPTS"),
        Column::whole("EVENT"),
        Column::whole("ENDPOINT"),
        Column::whole("NEXT TRY"),
        Column::whole("CREATED"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.overall_status.clone(),
            format!("{} of {}", self.current_attempt, self.max_attempts),
            self.webhook_event_id.to_string(),
            self.webhook_endpoint_id.to_string(),
            output.time_or_dash(self.next_retry_at),
            output.time(self.created_at),
        ]
    }
}

impl Row for wire::Attempt {
    const NAME: &'static str = "attempts";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ATTEMPT"),
        Column::whole("STATUS"),
        Column::whole("RESULT"),
        Column::whole("TIME"),
        Column::whole("ATTEMPTED"),
        Column::text("ERROR"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        vec![
            self.attempt_number.to_string(),
            self.delivery_status.clone(),
            attempt_result(self),
            self.response_time_ms.map_or_else(dash, |ms| format!("{ms} ms")),
            output.time(self.attempted_at),
            self.error_message.clone().unwrap_or_default(),
        ]
    }
}
