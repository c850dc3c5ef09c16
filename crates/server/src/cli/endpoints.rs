//! `neo-events endpoints`: where webhooks go.

use std::{
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use http::Method;
use neo_events::domain::endpoint::HttpMethod;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    cli::{
        arguments, deliveries,
        failure::Failure,
        output::{Column, Output, Row, dash, printable, yes_or_no},
        session::{Paging, Session, changes_to_json, to_json},
    },
    client::{Call, CallError},
    wire::{self, Pairs},
};

const PATH: &str = "endpoints";
/// After so long people want to know what is waited for.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Keep the endpoints that webhooks go to.
#[derive(Debug, Subcommand)]
pub(crate) enum EndpointsCommand {
    /// List endpoints, newest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one endpoint; its secrets are never shown again
    Get(EndpointId),
    /// Register an endpoint; its secret is shown once
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Box<CreateArgs>),
    /// Change an endpoint; another URL must be verified again
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(Box<UpdateArgs>),
    /// Delete an endpoint with its subscriptions; what it is owed is cancelled
    Delete(EndpointId),
    /// Send again what it is owed, and new events
    Activate(EndpointId),
    /// Hold what it is owed; new events create nothing for it
    Deactivate(EndpointId),
    /// Sign with a new secret; the one before goes on signing for a while, in headers of its own
    #[command(after_help = ROTATE_EXAMPLES)]
    RotateSecret(RotateArgs),
    /// Send a test event to this endpoint alone, once, and tell how it went
    Test(TestArgs),
    /// Check by a HEAD request that its URL answers, and note the result
    Verify(EndpointId),
    /// Take back that it is verified
    Unverify(EndpointId),
    /// Tell how its deliveries went in the last days
    Stats(StatsArgs),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  neo-events endpoints create orders https://example.com/hooks
  neo-events endpoints create crm https://example.com/hooks \\
      --custom-header 'X-Team: sales' --max-retry-attempts 2

The answer has the secret in two forms: secret_token, the key of
X-Neo-Signature, and signing_secret, for any Standard Webhooks library. Neither
is shown again.

What is not given: POST, X-Neo-Signature, 30 s in all, 3 retries, the first
after 5 s and each wait twice the one before, no redirects followed,
certificates verified, active.

A receiver says by its answer what becomes of a delivery. 2xx: delivered. 408,
425, 429, 5xx, a timeout, a connection that fails: tried again, after 429 and
503 not before Retry-After. 410: nothing more is wanted, the endpoint is
deactivated. Anything else is final: a delivery that failed is repaired by
neo-events deliveries retry.";

const ROTATE_EXAMPLES: &str = "\
Examples:
  neo-events endpoints rotate-secret ID
  neo-events endpoints rotate-secret ID --overlap-seconds 3600

While secrets overlap, webhook-signature has a signature by each of them, with a
space between, as Standard Webhooks libraries expect. X-Neo-Signature is by the
new one at once, and the one before signs X-Neo-Signature-Previous (with
--signature-header NAME: NAME and NAME-Previous): a receiver that checks the
first alone needs the new secret before you rotate, or looks at both. The answer
has the new secret, and never the one before.";

const UPDATE_EXAMPLES: &str = "\
Examples:
  neo-events endpoints update ID --endpoint-url https://example.com/new
  neo-events endpoints update ID --custom-header 'X-Team: sales' \\
      --remove-header X-Old --clear description";

#[derive(Debug, Args)]
pub(crate) struct EndpointId {
    /// The endpoint's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Bound to this context
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    context_id: Option<Uuid>,
    /// Active or not
    #[arg(long, value_name = "BOOL")]
    is_active: Option<bool>,
    /// With an active subscription that matches this type
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
struct SettingsArgs {
    /// For people, up to 1000 characters
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// POST, PUT or PATCH
    #[arg(long, value_name = "METHOD")]
    http_method: Option<HttpMethod>,
    /// Header for the signature of the body; NAME-Previous is for the secret before, and neither may be a custom header
    #[arg(long, value_name = "NAME")]
    signature_header: Option<String>,
    /// Header to send along, `Name: value`; may be repeated
    #[arg(long, value_name = "HEADER", value_parser = arguments::header)]
    custom_header: Vec<(String, String)>,
    /// Seconds a delivery may take in all, 5 to 300; in profile development to 60, in staging to 120
    #[arg(long, value_name = "S")]
    timeout_seconds: Option<u32>,
    /// Whether the redirects 307 and 308 are followed; 301, 302 and 303 never are, since they may change the method
    #[arg(long, value_name = "BOOL")]
    follow_redirects: Option<bool>,
    /// Whether certificates are verified; in profile production they must be
    #[arg(long, value_name = "BOOL")]
    verify_ssl: Option<bool>,
    /// Retries after the first attempt, 0 to 10; in profile development to 3, in staging to 5
    #[arg(long, value_name = "N")]
    max_retry_attempts: Option<u32>,
    /// Wait before the first retry, 1 to 3600
    #[arg(long, value_name = "S")]
    retry_backoff_seconds: Option<u32>,
    /// How each wait grows, 1.0 to 5.0
    #[arg(long, value_name = "FACTOR", value_parser = arguments::backoff_multiplier)]
    retry_backoff_multiplier: Option<f64>,
    /// Whether it gets deliveries
    #[arg(long, value_name = "BOOL")]
    is_active: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// For people, 1 to 255 characters
    name: String,
    /// Where webhooks go: an absolute http or https URL
    endpoint_url: String,
    /// Secret to sign with: `whsec_…` or any text [default: generated]
    #[arg(long, value_name = "SECRET", value_parser = NonEmptyStringValueParser::new())]
    secret_token: Option<String>,
    /// Only events of this context
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    context_id: Option<Uuid>,
    /// Who registers it
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid)]
    created_by_user_id: Option<Uuid>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The endpoint's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// For people, 1 to 255 characters
    #[arg(long)]
    name: Option<String>,
    /// Where webhooks go
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Header no longer to send along; may be repeated
    #[arg(long, value_name = "NAME")]
    remove_header: Vec<String>,
    /// Make a field empty
    #[arg(long, value_name = "FIELD")]
    clear: Vec<Clearable>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clearable {
    Description,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// The endpoint's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// Secret to sign with from now on [default: generated]
    #[arg(long, value_name = "SECRET", value_parser = NonEmptyStringValueParser::new())]
    secret_token: Option<String>,
    /// How long those before it go on signing at most, 0 to 604800 [default: 86400]; five sign, the newest
    #[arg(long, value_name = "S")]
    overlap_seconds: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The endpoint's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// Data of the test event [default: a short message]
    #[arg(long, value_name = "JSON", value_parser = arguments::json_object)]
    payload: Option<Box<RawValue>>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// The endpoint's id
    #[arg(value_name = "UUID", value_parser = arguments::uuid)]
    id: Uuid,
    /// How many days, 1 to 90 [default: 7]
    #[arg(long, value_name = "N")]
    days: Option<u32>,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, command: EndpointsCommand) -> Result<(), Failure> {
    match command {
        EndpointsCommand::List(args) => {
            let call = Call::get([PATH])
                .query("context_id", args.context_id)
                .query("is_active", args.is_active)
                .query("event_type", args.event_type);
            session.list::<wire::Endpoint>(call, &args.paging).await
        }
        EndpointsCommand::Get(EndpointId { id }) => session.show(Call::get([PATH, &id.to_string()])).await,
        EndpointsCommand::Create(args) => create(session, *args).await,
        EndpointsCommand::Update(args) => update(session, *args).await,
        EndpointsCommand::Delete(EndpointId { id }) => {
            let call = Call::new(Method::DELETE, [PATH, &id.to_string()]);
            session.confirm(call, &format!("Deleted endpoint {id}.")).await
        }
        EndpointsCommand::Activate(EndpointId { id }) => session.show(operation(id, "activate")).await,
        EndpointsCommand::Deactivate(EndpointId { id }) => session.show(operation(id, "deactivate")).await,
        EndpointsCommand::Unverify(EndpointId { id }) => session.show(operation(id, "unverify")).await,
        EndpointsCommand::RotateSecret(args) => rotate(session, args).await,
        EndpointsCommand::Test(args) => test(session, args).await,
        EndpointsCommand::Verify(EndpointId { id }) => verify(session, id).await,
        EndpointsCommand::Stats(args) => stats(session, args).await,
    }
}

fn operation(id: Uuid, name: &str) -> Call {
    Call::post([PATH, &id.to_string(), name])
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let settings = args.settings;
    let input = wire::EndpointIn {
        name: args.name,
        description: settings.description,
        endpoint_url: args.endpoint_url,
        http_method: settings.http_method.map(wire::Method),
        secret_token: args.secret_token,
        signature_header: settings.signature_header,
        custom_headers: (!settings.custom_header.is_empty()).then_some(Pairs(settings.custom_header)),
        timeout_seconds: settings.timeout_seconds,
        follow_redirects: settings.follow_redirects,
        verify_ssl: settings.verify_ssl,
        max_retry_attempts: settings.max_retry_attempts,
        retry_backoff_seconds: settings.retry_backoff_seconds,
        retry_backoff_multiplier: settings.retry_backoff_multiplier,
        is_active: settings.is_active,
        created_by_user_id: args.created_by_user_id,
        context_id: args.context_id,
    };
    session.show(Call::post([PATH]).json(to_json(&input)?)).await
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Failure> {
    judge_removals(session, &args).await?;
    let settings = args.settings;
    let added = settings.custom_header.into_iter().map(|(name, value)| (name, Some(value)));
    let headers: Vec<_> = args.remove_header.into_iter().map(|name| (name, None)).chain(added).collect();
    let clears_description = args.clear.contains(&Clearable::Description);
    let changes = wire::EndpointChanges {
        name: args.name,
        description: arguments::change("description", settings.description, clears_description)?,
        endpoint_url: args.endpoint_url,
        http_method: settings.http_method.map(wire::Method),
        signature_header: settings.signature_header,
        custom_headers: (!headers.is_empty()).then_some(Pairs(headers)),
        timeout_seconds: settings.timeout_seconds,
        follow_redirects: settings.follow_redirects,
        verify_ssl: settings.verify_ssl,
        max_retry_attempts: settings.max_retry_attempts,
        retry_backoff_seconds: settings.retry_backoff_seconds,
        retry_backoff_multiplier: settings.retry_backoff_multiplier,
        is_active: settings.is_active,
    };
    session
        .show(Call::new(Method::PATCH, [PATH, &args.id.to_string()]).json(changes_to_json(&changes)?))
        .await
}

/// Whoever removes a header expects it to be gone, and to have been there.
async fn judge_removals(session: &Session, args: &UpdateArgs) -> Result<(), Failure> {
    let is_same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let set = &args.settings.custom_header;
    if let Some(both) = args.remove_header.iter().find(|name| set.iter().any(|(of, _)| is_same(of, name))) {
        let reason =
            format!("--remove-header {both} and --custom-header '{both}: …' cannot be given together");
        return Err(Failure::Usage(reason));
    }
    if args.remove_header.is_empty() {
        return Ok(());
    }
    let call = Call::get([PATH, &args.id.to_string()]);
    let present: wire::Endpoint = match session.read_answer(call).await {
        // A key that may write and not read.
        Err(Failure::Call(CallError::Refused { problem, .. })) if problem.status == 403 => return Ok(()),
        answer => answer?,
    };
    let is_there = |name: &str| present.custom_headers.0.iter().any(|(of, _)| is_same(of, name));
    match args.remove_header.iter().find(|name| !is_there(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::Usage(format!("--remove-header {name}: the endpoint has no such header"))),
    }
}

async fn rotate(session: &Session, args: RotateArgs) -> Result<(), Failure> {
    let input =
        wire::RotateSecretIn { secret_token: args.secret_token, overlap_seconds: args.overlap_seconds };
    session.show(operation(args.id, "rotate-secret").json(to_json(&input)?)).await
}

async fn test(session: &Session, args: TestArgs) -> Result<(), Failure> {
    let input = wire::TestIn { payload: args.payload };
    let call = operation(args.id, "test").json(to_json(&input)?).patient();
    let mut answer = pin!(session.answer_both::<wire::Delivery>(call));
    let soon = tokio::time::timeout(SILENCE_MAX, answer.as_mut()).await;
    let answered = if let Ok(answered) = soon {
        answered
    } else {
        let waits =
            "waiting for the end of the attempt, 2 s longer than the endpoint's timeout_seconds allows it";
        writeln!(io::stderr(), "{waits}")?;
        answer.await
    };
    let (raw, delivery) = answered?;
    if session.is_json {
        session.output.raw_line(&raw)?;
    } else {
        deliveries::show(&session.output, &delivery, deliveries::Detail::Brief)?;
    }
    if delivery.overall_status == "pending" && delivery.attempts.as_ref().is_none_or(Vec::is_empty) {
        let why = "not attempted in this time: either no node with the role deliver is at work, as `neo-events doctor` \
                   tells, or others to this endpoint are in front of it; it goes on waiting";
        writeln!(io::stderr(), "{why}")?;
    }
    if delivery.overall_status == "success" { Ok(()) } else { Err(Failure::Reported) }
}

async fn verify(session: &Session, id: Uuid) -> Result<(), Failure> {
    let (raw, verification) =
        session.answer_both::<wire::Verification>(operation(id, "verify").patient()).await?;
    if session.is_json {
        session.output.raw_line(&raw)?;
    } else {
        show_verification(&session.output, &verification)?;
    }
    if verification.verified { Ok(()) } else { Err(Failure::Reported) }
}

fn show_verification(output: &Output, verification: &wire::Verification) -> Result<(), Failure> {
    let style = output.style;
    let endpoint = &verification.endpoint;
    let url = printable(&endpoint.endpoint_url);
    let status = verification.status.map(|status| status.to_string());
    let reason = verification.error_message.as_ref().or(verification.error_code.as_ref());
    let answer = status.as_ref().or(reason).map_or("no answer".into(), |text| printable(text));
    let verdict = if verification.verified { style.green("verified") } else { style.red("not verified") };
    output.line(format_args!("{verdict}  {}  {url}: {answer}", printable(&endpoint.name)))?;
    let timings = &verification.timings;
    let step = |name: &str, ms: Option<f64>| ms.map(|ms| format!("{name} {ms:.1} ms"));
    let steps: Vec<_> = [
        step("name", timings.dns_ms),
        step("connect", timings.connect_ms),
        step("TLS", timings.tls_ms),
        step("response", timings.response_ms),
        step("in all", Some(timings.total_ms)),
    ]
    .into_iter()
    .flatten()
    .collect();
    Ok(output.line(style.dim(steps.join(", ")))?)
}

async fn stats(session: &Session, args: StatsArgs) -> Result<(), Failure> {
    let call = Call::get([PATH, &args.id.to_string(), "stats"]).query("days", args.days);
    let Some(stats) = session.answer::<wire::EndpointStats>(call).await? else { return Ok(()) };
    let rate = stats.success_rate.map_or_else(|| "–".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    let common = stats.most_common_error.as_ref();
    let common =
        common.map_or_else(dash, |error| format!("{} ({} times)", printable(&error.error_code), error.count));
    let lines = [
        ("deliveries", format!("{} in {} days", stats.deliveries, stats.days)),
        ("success", stats.success.to_string()),
        ("failed", stats.failed.to_string()),
        ("retrying", stats.retrying.to_string()),
        ("pending", stats.pending.to_string()),
        ("cancelled", stats.cancelled.to_string()),
        ("success rate", rate),
        ("attempts", stats.attempts.to_string()),
        ("response time", describe_times(&stats.response_times)),
        ("common error", common),
    ];
    for (name, value) in lines {
        session
            .output
            .line(format_args!("{}  {value}", session.output.style.dim(format_args!("{name:13}"))))?;
    }
    Ok(())
}

fn describe_times(times: &wire::ResponseTimes) -> String {
    let wire::ResponseTimes { mean_ms, p50_ms, p95_ms, p99_ms } = times;
    match (mean_ms, p50_ms, p95_ms, p99_ms) {
        (Some(mean), Some(p50), Some(p95), Some(p99)) => {
            format!("mean {mean:.0} ms, p50 {p50}, p95 {p95}, p99 {p99}")
        }
        _ => dash(),
    }
}

impl Row for wire::Endpoint {
    const NAME: &'static str = "endpoints";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ID"),
        Column::text("NAME"),
        Column::text("URL"),
        Column::text("ACTIVE"),
        Column::whole("VERIFIED"),
        Column::whole("LAST USED"),
    ];

    fn cells(&self, output: &Output) -> Vec<String> {
        let active = match (&self.disabled_reason, self.is_active) {
            (_, true) => "yes".to_owned(),
            (None, false) => "no".to_owned(),
            (Some(reason), false) => format!("no: {reason}"),
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.endpoint_url.clone(),
            active,
            yes_or_no(self.is_verified),
            output.time_or_dash(self.last_used_at),
        ]
    }
}
