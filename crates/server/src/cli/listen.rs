//! `neo-events listen`: receives webhooks on this machine and shows each one.
//!
//! With `--subscribe` it registers an endpoint and a subscription for itself and removes them when it ends, so that a
//! developer sees what the server sends with one command.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use clap::Args;
use http::{Method, StatusCode};
use neo_events::SigningSecret;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use url::Url;

use crate::{
    cli::{
        arguments,
        failure::Failure,
        json_text,
        output::{Output, Style, printable},
        session::{ServerArgs, Session, to_json},
        signals::Signals,
        temporary::{self, Temporary},
    },
    webhook_receiver::{Answer, Check, Checks, Received, Receiver, is_probe},
    wire::{self, Pairs},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events listen --subscribe 'order.*'            what a local server sends
  neo-events listen --port 4000 --secret whsec_…     as an endpoint's target
  neo-events listen --subscribe '*' --fail-first 2   see retries
  neo-events listen --subscribe '*' --max 1 --json   one webhook, for scripts

The secret checks X-Neo-Signature (or X-Neo-Signature-Previous, which the secret
before a rotation signs) and webhook-signature; without one it is only told
whether they are there. HEAD and GET, by which an endpoint is verified, get the
same answers and are not shown.";

#[derive(Args)]
pub(crate) struct ListenArgs {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Path to receive at, whatever the query; others are answered 404
    #[arg(long)]
    path: Option<String>,
    /// Secret to check signatures with: `whsec_…` or any other
    #[arg(long)]
    secret: Option<String>,
    /// What to answer
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..600))]
    status: u16,
    /// Answer 503 to this many first
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail_first: u32,
    /// End after this many webhooks at the path
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Show bodies as they came, not laid out
    #[arg(long)]
    raw: bool,
    /// Register an endpoint and a subscription for as long as this runs: `category.action`, `category.*` or `*`
    #[arg(long, value_name = "PATTERN")]
    subscribe: Option<String>,
    /// With --subscribe: which events, by their data
    #[arg(long, visible_alias = "filter", value_name = "JSON", requires = "subscribe", value_parser = arguments::filter)]
    event_filters: Option<Box<RawValue>>,
    /// With --subscribe: where the server reaches this receiver [default: its own address]
    #[arg(long, value_name = "URL", requires = "subscribe")]
    public_url: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(
    args: ListenArgs,
    server: ServerArgs,
    output: Output,
    is_json: bool,
) -> Result<(), Failure> {
    if let (None, Some(flag)) = (&args.subscribe, server.flag()) {
        let reason = format!("{flag} needs --subscribe: without it no server is called");
        return Err(Failure::Usage(reason));
    }
    if args.subscribe.is_some() && args.public_url.is_none() && args.bind.is_unspecified() {
        let reason =
            format!("--bind {} is no address that a server can call: give one with --public-url", args.bind);
        return Err(Failure::Usage(reason));
    }
    let mut signals = Signals::of_terminal();
    let given = args.secret.as_deref().map(|secret| SigningSecret::try_new(secret, 1)).transpose();
    let given = given.map_err(|rule| Failure::Usage(format!("--secret {rule}")))?;
    let path = args.path.as_deref().map(path_given).transpose()?;
    let answer = answer(path.clone(), args.fail_first, args.status)?;
    let session =
        args.subscribe.is_some().then(|| Session::open(server, output.clone(), is_json)).transpose()?;
    let (receiver, mut webhooks) = Receiver::start(SocketAddr::new(args.bind, args.port), answer).await?;
    let url = format!("http://{}{}", receiver.address(), path.as_deref().unwrap_or("/"));

    let subscribed = match (&session, &args.subscribe) {
        (Some(session), Some(pattern)) => {
            let subscribed = subscribe(session, &args, (pattern, &url), &mut signals).await?;
            if subscribed.is_none() {
                return Ok(());
            }
            subscribed
        }
        _ => None,
    };
    let secret = subscribed.as_ref().map(|subscribed| &subscribed.secret).or(given.as_ref());
    let view = View { output: &output, secret, path: path.as_deref(), is_json, is_raw: args.raw };
    // However it ends, the endpoint is removed.
    let outcome = match view.show_start(&url, args.subscribe.as_deref()) {
        Ok(()) => view.show_all(&mut webhooks, &mut signals, args.max).await,
        failed => failed,
    };
    // First the answers, then the endpoint: what was received is to count as delivered.
    drop(webhooks);
    receiver.stop().await;
    if let (Some(session), Some(subscribed)) = (&session, subscribed) {
        subscribed.remove(session, &mut signals).await?;
    }
    outcome
}

fn path_given(path: &str) -> Result<String, Failure> {
    if path.contains(['?', '#']) {
        let reason = "--path must be without ? and #: a webhook is taken there whatever its query";
        return Err(Failure::Usage(reason.to_owned()));
    }
    Ok(as_sent(path))
}

/// A path as it stands in a request.
fn as_sent(path: &str) -> String {
    let mut url = Url::parse("http://localhost/").expect("a URL");
    url.set_path(path.trim_start_matches('/'));
    url.path().to_owned()
}

/// Whether a request is for another path than the one that is listened at, if there is one.
fn is_elsewhere(path: Option<&str>, asked: &str) -> bool {
    path.is_some_and(|path| as_sent(asked.split('?').next().unwrap_or_default()) != path)
}

fn answer(path: Option<String>, fail_first: u32, status: u16) -> Result<Arc<Answer>, Failure> {
    let status = StatusCode::from_u16(status).map_err(|error| Failure::Usage(error.to_string()))?;
    let to_fail = AtomicU32::new(fail_first);
    Ok(Arc::new(move |method: &Method, asked: &str| {
        if is_elsewhere(path.as_deref(), asked) {
            return StatusCode::NOT_FOUND;
        }
        if is_probe(method) {
            return status;
        }
        let fails =
            to_fail.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if fails { StatusCode::SERVICE_UNAVAILABLE } else { status }
    }))
}

async fn subscribe(
    session: &Session,
    args: &ListenArgs,
    (pattern, url): (&str, &str),
    signals: &mut Signals,
) -> Result<Option<Temporary>, Failure> {
    let endpoint = wire::EndpointIn {
        name: temporary::name(),
        description: Some("Temporary: removed when `neo-events listen` ends.".to_owned()),
        endpoint_url: args.public_url.clone().unwrap_or_else(|| url.to_owned()),
        secret_token: args.secret.clone(),
        retry_backoff_seconds: Some(1),
        ..wire::EndpointIn::default()
    };
    let subscription = wire::SubscriptionIn {
        event_type: pattern.to_owned(),
        event_filters: args.event_filters.clone(),
        ..wire::SubscriptionIn::default()
    };
    temporary::register(session, &endpoint, subscription, signals).await
}

struct View<'a> {
    output: &'a Output,
    secret: Option<&'a SigningSecret>,
    path: Option<&'a str>,
    is_json: bool,
    is_raw: bool,
}

/// A webhook for programs, one a line.
#[derive(Serialize)]
struct Record<'a> {
    received_at: String,
    method: &'a str,
    path: &'a str,
    id: &'a str,
    event_type: &'a str,
    attempt: Option<u32>,
    answered: u16,
    body_signature: &'static str,
    standard_signature: &'static str,
    timestamp: &'static str,
    headers: Pairs<String>,
    /// JSON as it came, or text where it is none.
    body: Box<RawValue>,
}

impl View<'_> {
    fn show_start(&self, url: &str, pattern: Option<&str>) -> Result<(), Failure> {
        let style = self.output.style;
        if self.is_json {
            let url = to_json(&url)?;
            return Ok(self.output.line(format_args!("{{\"listening\":{url}}}"))?);
        }
        self.output.line(format_args!("{}  {}", style.dim("listening "), style.bold(url)))?;
        if let Some(pattern) = pattern {
            self.output.line(format_args!("{}  {}", style.dim("subscribed"), printable(pattern)))?;
        }
        Ok(self.output.line(style.dim("Ctrl-C ends it."))?)
    }

    /// Shows webhooks as they come, until there were enough or a signal ends it.
    async fn show_all(
        &self,
        webhooks: &mut mpsc::Receiver<Received>,
        signals: &mut Signals,
        max: Option<u64>,
    ) -> Result<(), Failure> {
        let mut shown = 0;
        while max.is_none_or(|max| shown < max) {
            let webhook = tokio::select! {
                webhook = webhooks.recv() => webhook,
                () = signals.next() => None,
            };
            let Some(webhook) = webhook else { break };
            self.show(&webhook)?;
            shown += u64::from(!is_elsewhere(self.path, &webhook.path));
        }
        Ok(())
    }

    fn show(&self, webhook: &Received) -> Result<(), Failure> {
        let checks = webhook.check(self.secret);
        if self.is_json {
            return Ok(self.output.line(to_json(&record(webhook, checks)?)?)?);
        }
        let style = self.output.style;
        self.output.line("")?;
        self.output.line(format_args!(
            "{}  {}  {}  {}",
            style.dim(clock(webhook)),
            style.bold(printable(webhook.event_type())),
            printable(webhook.id()),
            describe_answer(style, webhook),
        ))?;
        self.output.line(format_args!("  {}", describe_checks(style, checks)))?;
        let body = String::from_utf8_lossy(&webhook.body);
        let body = if self.is_raw { printable(&body) } else { laid_out(&body) };
        Ok(self.output.line(format_args!("  {}", body.replace('\n', "\n  ")))?)
    }
}

fn record(webhook: &Received, checks: Checks) -> Result<Record<'_>, Failure> {
    let text = String::from_utf8_lossy(&webhook.body);
    // A line is a record: a body of many lines goes on one.
    let body = match serde_json::from_str::<Box<RawValue>>(&text) {
        Ok(body) if !text.contains('\n') => body,
        Ok(body) => raw(body.get().replace(['\n', '\r'], " "))?,
        Err(_) => raw(to_json(&text)?)?,
    };
    let headers = webhook
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Ok(Record {
        received_at: webhook.at.to_string(),
        method: webhook.method.as_str(),
        path: &webhook.path,
        id: webhook.id(),
        event_type: webhook.event_type(),
        attempt: webhook.attempt(),
        answered: webhook.answered.as_u16(),
        body_signature: checks.body.as_str(),
        standard_signature: checks.standard.as_str(),
        timestamp: checks.timestamp.as_str(),
        headers: Pairs(headers.collect()),
        body,
    })
}

fn raw(json: String) -> Result<Box<RawValue>, Failure> {
    RawValue::from_string(json).map_err(|error| Failure::Usage(error.to_string()))
}

fn laid_out(body: &str) -> String {
    if json_text::is_json(body) { json_text::indented(body) } else { printable(body) }
}

/// The time of day.
fn clock(webhook: &Received) -> String {
    webhook.at.to_string().get(11..19).unwrap_or_default().to_owned()
}

/// `attempt 2, answered 503`
fn describe_answer(style: Style, webhook: &Received) -> String {
    let attempt =
        webhook.attempt().map_or_else(|| "attempt ?".to_owned(), |attempt| format!("attempt {attempt}"));
    let status = webhook.answered.as_u16();
    let answered = if webhook.answered.is_success() { style.green(status) } else { style.red(status) };
    format!("{attempt}, answered {answered}")
}

fn describe_checks(style: Style, checks: Checks) -> String {
    let one = |name: &str, check: Check| match check {
        Check::Valid => style.green(format_args!("✓ {name}")),
        Check::Invalid => style.red(format_args!("✗ {name}")),
        Check::Absent => style.yellow(format_args!("– {name} missing")),
        Check::Unchecked => style.dim(format_args!("? {name} (no --secret)")),
    };
    [
        one("X-Neo-Signature", checks.body),
        one("webhook-signature", checks.standard),
        one("timestamp", checks.timestamp),
    ]
    .join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fail_and_other_paths_are_not_found() {
        let answer = answer(Some("/in".into()), 1, 204).unwrap();
        let asked = [
            (Method::POST, "/other"),
            (Method::HEAD, "/other"),
            (Method::HEAD, "/in"),
            (Method::POST, "/in?x=1"),
            (Method::POST, "/in"),
            (Method::POST, "/in"),
        ];
        let answers = asked.map(|(method, path)| answer(&method, path).as_u16());
        assert_eq!(answers, [404, 404, 204, 503, 204, 204], "who only looks uses up no failure");
    }

    #[test]
    fn a_path_is_taken_as_it_is_sent() {
        for (given, sent) in [("/ä b", "/%C3%A4%20b?x=1"), ("in", "/in"), ("//in/", "/in/"), ("/%c3", "/%c3")]
        {
            let answer = answer(Some(path_given(given).unwrap()), 0, 200).unwrap();
            assert_eq!(answer(&Method::POST, sent), StatusCode::OK, "{given}");
            assert_eq!(answer(&Method::POST, "/other"), StatusCode::NOT_FOUND, "{given}");
        }
        for refused in ["/ä?x=1", "/in#there", "?"] {
            assert!(matches!(path_given(refused), Err(Failure::Usage(_))), "{refused}");
        }
    }
}
