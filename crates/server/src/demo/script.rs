//! What the demo plays: who subscribes to what, which events are published, and what has to come of it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use neo_events::SigningSecret;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    cli::{
        deliveries::attempt_result,
        failure::Failure,
        output::{Style, printable},
        session::{Session, to_json},
        subscriptions::describe_clause,
    },
    client::Call,
    webhook_receiver::{Checks, Received},
    wire,
};

/// How long the webhooks may take, and the server to note how they went.
const ARRIVALS_DEADLINE: Duration = Duration::from_secs(12);
const RECORDS_DEADLINE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const WAREHOUSE: &str = "warehouse";
const CRM: &str = "crm";

/// Name of an endpoint, what it subscribes to, and which data it wants.
const SUBSCRIPTIONS: [(&str, &str, &str); 3] =
    [(WAREHOUSE, "order.*", r#"{"amount":{"$gte":100}}"#), (CRM, "order.paid", "{}"), (CRM, "user.*", "{}")];

/// Type and data of an event, and who has to get it.
const EVENTS: [(&str, &str, &[&str]); 4] = [
    ("order.placed", r#"{"order":"A-1","amount":250.00}"#, &[WAREHOUSE]),
    ("order.placed", r#"{"order":"A-2","amount":40.00}"#, &[]),
    ("order.paid", r#"{"order":"A-1","amount":250.00}"#, &[WAREHOUSE, CRM]),
    ("user.created", r#"{"name":"Ada","plan":"pro"}"#, &[CRM]),
];

const BY_HAND: &str = r#"{"event_type":"order.placed","event_data":{"order":"A-3","amount":500}}"#;

/// The receiver's answers: the CRM is out of order at first.
pub(super) fn answers() -> impl Fn(&Method, &str) -> StatusCode + Send + Sync {
    let is_first = AtomicBool::new(true);
    move |_, path| {
        if path == format!("/{CRM}") && is_first.swap(false, Ordering::Relaxed) {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        }
    }
}

struct Target {
    name: &'static str,
    id: Uuid,
    secret: SigningSecret,
}

struct Subscribed {
    target: &'static str,
    id: Uuid,
}

struct Sent {
    id: Uuid,
    event_type: &'static str,
    data: &'static str,
    to: &'static [&'static str],
}

/// A webhook that came in.
struct Arrival {
    target: &'static str,
    event: Uuid,
    attempt: u32,
    is_success: bool,
}

/// The demo while it plays.
pub(super) struct Stage<'a> {
    session: &'a Session,
    style: Style,
    receiver_url: String,
    webhooks: mpsc::Receiver<Received>,
    begun: Instant,
    targets: Vec<Target>,
    subscriptions: Vec<Subscribed>,
    sent: Vec<Sent>,
    arrivals: Vec<Arrival>,
    /// What is not as it should be.
    missing: Vec<String>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        session: &'a Session,
        receiver_url: String,
        webhooks: mpsc::Receiver<Received>,
        begun: Instant,
    ) -> Self {
        Self {
            session,
            style: session.output.style,
            receiver_url,
            webhooks,
            begun,
            targets: Vec::new(),
            subscriptions: Vec::new(),
            sent: Vec::new(),
            arrivals: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Says what runs where.
    pub(super) fn introduce(&self, url: &str) -> Result<(), Failure> {
        let style = self.style;
        self.say(format_args!(
            "{}  a server and a receiver, gone when this ends",
            style.bold("neo-events demo")
        ))?;
        self.say("")?;
        self.say(format_args!("  server     {url}"))?;
        self.say(format_args!("  receiver   {}", self.receiver_url))
    }

    /// Plays everything and answers what is not as it should be.
    pub(super) async fn play(&mut self) -> Result<Vec<String>, Failure> {
        self.register().await?;
        self.subscribe().await?;
        self.publish().await?;
        self.receive().await?;
        self.explain_what_stayed_away().await?;
        self.look_at_records().await?;
        self.conclude()?;
        Ok(std::mem::take(&mut self.missing))
    }

    /// Shows what comes in until somebody ends it.
    pub(super) async fn stay(&mut self, url: &str, key: &str) -> Result<(), Failure> {
        self.title("Try it by hand, in another terminal")?;
        self.say("")?;
        self.say(format_args!("curl -sS {url}/v1/events \\"))?;
        self.say(format_args!("  -H 'Authorization: Bearer {key}' \\"))?;
        self.say("  -H 'Content-Type: application/json' \\")?;
        self.say(format_args!("  -d '{BY_HAND}'"))?;
        self.say("")?;
        self.say(self.style.dim("What arrives is shown here. Ctrl-C ends the demo and removes its data."))?;
        self.say("")?;
        while let Some(webhook) = self.webhooks.recv().await {
            self.show_webhook(&webhook)?;
            let body = String::from_utf8_lossy(&webhook.body);
            self.say(format_args!("  {}", self.style.dim(printable(&body))))?;
        }
        Ok(())
    }

    async fn register(&mut self) -> Result<(), Failure> {
        self.title("Two endpoints register")?;
        for (name, note) in [(WAREHOUSE, ""), (CRM, "answers 503 at first")] {
            let endpoint = wire::EndpointIn {
                name: name.to_owned(),
                endpoint_url: format!("{}/{name}", self.receiver_url),
                retry_backoff_seconds: Some(1),
                ..wire::EndpointIn::default()
            };
            let call = Call::post(["endpoints"]).json(to_json(&endpoint)?);
            let endpoint: wire::Endpoint = self.session.read_answer(call).await?;
            let secret = self.session.secret_of(&endpoint)?;
            self.say(format_args!("  {name:9}  {}  {}", endpoint.endpoint_url, self.style.dim(note)))?;
            self.targets.push(Target { name, id: endpoint.id, secret });
        }
        Ok(())
    }

    async fn subscribe(&mut self) -> Result<(), Failure> {
        self.title("They subscribe to events")?;
        for (target, pattern, filter) in SUBSCRIPTIONS {
            let subscription = wire::SubscriptionIn {
                endpoint_id: self.target_id(target),
                event_type: pattern.to_owned(),
                event_filters: Some(raw(filter)?),
                ..wire::SubscriptionIn::default()
            };
            let call = Call::post(["subscriptions"]).json(to_json(&subscription)?);
            let subscription: wire::Subscription = self.session.read_answer(call).await?;
            let shown = if filter == "{}" { "" } else { filter };
            self.say(format_args!("  {target:9}  {pattern:12}  {}", self.style.dim(shown)))?;
            self.subscriptions.push(Subscribed { target, id: subscription.id });
        }
        Ok(())
    }

    async fn publish(&mut self) -> Result<(), Failure> {
        self.title("Four events are published")?;
        for (event_type, data, to) in EVENTS {
            let event = wire::EventIn {
                event_type: event_type.to_owned(),
                event_data: raw(data)?,
                ..wire::EventIn::default()
            };
            let call = Call::post(["events"]).json(to_json(&event)?);
            let published: wire::Published = self.session.read_answer(call).await?;
            self.say(format_args!("  {event_type:12}  {data:31}  {}", self.style.dim(published.id)))?;
            self.sent.push(Sent { id: published.id, event_type, data, to });
        }
        Ok(())
    }

    /// Shows webhooks as they arrive, until all have that should.
    async fn receive(&mut self) -> Result<(), Failure> {
        self.title("Webhooks arrive")?;
        let deadline = tokio::time::Instant::now() + ARRIVALS_DEADLINE;
        while self.owed().next().is_some() {
            match tokio::time::timeout_at(deadline, self.webhooks.recv()).await {
                Ok(Some(webhook)) => self.take(&webhook)?,
                Ok(None) | Err(_) => break,
            }
        }
        let owed: Vec<_> =
            self.owed().map(|(event, to)| format!("{} has not arrived at {to}", event.name())).collect();
        self.missing.extend(owed);
        Ok(())
    }

    fn take(&mut self, webhook: &Received) -> Result<(), Failure> {
        let checks = self.show_webhook(webhook)?;
        let target = self.targets.iter().find(|target| webhook.path == format!("/{}", target.name));
        let event = self.sent.iter().find(|event| event.id.to_string() == webhook.id());
        let (Some(target), Some(event)) = (target, event) else {
            self.missing.push(format!("a webhook that nobody sent came to {}", printable(&webhook.path)));
            return Ok(());
        };
        let arrival = Arrival {
            target: target.name,
            event: event.id,
            attempt: webhook.attempt().unwrap_or(0),
            is_success: webhook.answered.is_success(),
        };
        let is_owed = self.owed().any(|(owed, to)| owed.id == arrival.event && to == arrival.target);
        let expected_attempt = 1 + self.arrivals.iter().filter(|seen| seen.is_of(&arrival)).count();
        let name = event.name();
        if !is_owed {
            self.missing.push(format!("{name} came to {} though it should not", arrival.target));
        }
        if usize::try_from(arrival.attempt) != Ok(expected_attempt) {
            self.missing.push(format!("{name} came as attempt {}, not {expected_attempt}", arrival.attempt));
        }
        if !checks.all_valid() {
            self.missing.push(format!("{name} came to {} with a wrong signature", arrival.target));
        }
        self.arrivals.push(arrival);
        Ok(())
    }

    fn show_webhook(&self, webhook: &Received) -> Result<Checks, Failure> {
        let style = self.style;
        let name = webhook.path.trim_start_matches('/');
        let target = self.targets.iter().find(|target| target.name == name);
        let checks = webhook.check(target.map(|target| &target.secret));
        let signed = if checks.all_valid() { style.green("✓ signed") } else { style.red("✗ signature") };
        let answered = webhook.answered.as_u16();
        let answered =
            if webhook.answered.is_success() { style.green(answered) } else { style.yellow(answered) };
        let attempt = webhook.attempt().unwrap_or(0);
        let retry = match (attempt, webhook.answered.is_success()) {
            (_, false) => "will be tried again",
            (2.., true) => "the retry succeeded",
            _ => "",
        };
        let at = webhook.instant.saturating_duration_since(self.begun).as_secs_f64();
        self.say(format_args!(
            "  {:9}  {:12}  attempt {attempt}  {answered}  {signed}  {}  {}",
            printable(name),
            printable(webhook.event_type()),
            style.dim(format_args!("{at:4.1} s")),
            style.dim(retry),
        ))?;
        Ok(checks)
    }

    /// Asks the server why the event for nobody matched nothing.
    async fn explain_what_stayed_away(&mut self) -> Result<(), Failure> {
        self.title("A filter kept one away")?;
        let subscription = self.subscriptions.iter().find(|subscribed| subscribed.target == WAREHOUSE);
        let event = self.sent.iter().find(|event| event.to.is_empty());
        let (Some(subscription), Some(event)) = (subscription, event) else { return Ok(()) };
        let input = wire::ExplainIn {
            subscription_id: Some(subscription.id),
            event_id: Some(event.id),
            ..wire::ExplainIn::default()
        };
        let call = Call::post(["subscriptions", "explain"]).json(to_json(&input)?);
        let explanation: wire::Explanation = self.session.read_answer(call).await?;
        let failed: Vec<_> = explanation.clauses.iter().filter(|clause| !clause.holds).collect();
        self.say(format_args!("  {:9}  {:12}  {}", WAREHOUSE, event.event_type, event.data))?;
        for clause in &failed {
            self.say(format_args!("  {:9}  {}", "", describe_clause(clause)))?;
        }
        if explanation.matches || failed.len() != 1 {
            self.missing.push("the explanation does not name the one clause that failed".to_owned());
        }
        Ok(())
    }

    /// Compares the server's own records with what was to happen, and shows the retry.
    async fn look_at_records(&mut self) -> Result<(), Failure> {
        let deliveries = self.settled_deliveries().await?;
        while let Ok(webhook) = self.webhooks.try_recv() {
            self.take(&webhook)?; // one more than should be
        }
        for event in &self.sent {
            let of_event = || deliveries.iter().filter(|delivery| delivery.webhook_event_id == event.id);
            let succeeded = of_event().filter(|delivery| delivery.overall_status == "success").count();
            if succeeded != event.to.len() || of_event().count() != event.to.len() {
                self.missing.push(format!(
                    "{}: {succeeded} of {} deliveries are recorded",
                    event.name(),
                    event.to.len()
                ));
            }
        }
        let retried: Vec<_> = deliveries.iter().filter(|delivery| delivery.current_attempt > 1).collect();
        let [retried] = retried.as_slice() else {
            self.missing.push(format!("{} deliveries were retried, not 1", retried.len()));
            return Ok(());
        };
        self.title("The retry, as it is on record")?;
        let event = self.sent.iter().find(|event| event.id == retried.webhook_event_id);
        let event_type = event.map_or("", |event| event.event_type);
        let delivery: wire::Delivery =
            self.session.read_answer(Call::get(["deliveries", &retried.id.to_string()])).await?;
        let attempts = delivery.attempts.unwrap_or_default();
        for attempt in &attempts {
            let status = self.style.status(&attempt.delivery_status);
            let (number, result) = (attempt.attempt_number, attempt_result(attempt));
            self.say(format_args!("  {CRM:9}  {event_type:12}  attempt {number}  {result}  {status}"))?;
        }
        let statuses: Vec<_> = attempts.iter().map(|attempt| attempt.response_status).collect();
        if statuses != [Some(503), Some(200)] {
            self.missing.push("the retried delivery has other attempts than 503 and 200".to_owned());
        }
        Ok(())
    }

    /// All deliveries, once each event is dispatched and each delivery is over.
    async fn settled_deliveries(&self) -> Result<Vec<wire::Delivery>, Failure> {
        let deadline = Instant::now() + RECORDS_DEADLINE;
        loop {
            let events: wire::List<wire::Event> = self.session.read_answer(Call::get(["events"])).await?;
            let deliveries: wire::List<wire::Delivery> =
                self.session.read_answer(Call::get(["deliveries"])).await?;
            let is_dispatched = events.data.iter().all(|event| event.processed_at.is_some());
            let is_over = deliveries.data.iter().all(|delivery| delivery.overall_status == "success");
            if is_dispatched && is_over || Instant::now() >= deadline {
                return Ok(deliveries.data);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn conclude(&self) -> Result<(), Failure> {
        let style = self.style;
        let elapsed = self.begun.elapsed().as_secs_f64();
        self.say("")?;
        if self.missing.is_empty() {
            let arrived = self.arrivals.iter().filter(|arrival| arrival.is_success).count();
            let events = self.sent.len();
            let text = format!(
                "{events} events, {arrived} deliveries, each exactly as it should be, in {elapsed:.1} s."
            );
            return self.say(style.green(text));
        }
        self.say(style.red("Not everything is as it should be:"))?;
        for fault in &self.missing {
            self.say(format_args!("  {fault}"))?;
        }
        Ok(())
    }

    /// Events that have not been taken yet by those who should get them.
    fn owed(&self) -> impl Iterator<Item = (&Sent, &'static str)> {
        let pairs = self.sent.iter().flat_map(|event| event.to.iter().map(move |to| (event, *to)));
        pairs.filter(|(event, to)| {
            !self.arrivals.iter().any(|seen| seen.is_success && seen.event == event.id && seen.target == *to)
        })
    }

    fn target_id(&self, name: &str) -> Uuid {
        self.targets.iter().find(|target| target.name == name).map(|target| target.id).unwrap_or_default()
    }

    fn title(&self, title: &str) -> Result<(), Failure> {
        self.say("")?;
        self.say(self.style.bold(title))
    }

    fn say(&self, text: impl std::fmt::Display) -> Result<(), Failure> {
        let text = text.to_string();
        Ok(self.session.output.line(text.trim_end())?)
    }
}

impl Sent {
    fn name(&self) -> String {
        format!("{} {}", self.event_type, self.id)
    }
}

impl Arrival {
    fn is_of(&self, other: &Self) -> bool {
        self.event == other.event && self.target == other.target
    }
}

fn raw(json: &str) -> Result<Box<RawValue>, Failure> {
    RawValue::from_string(json.to_owned()).map_err(|error| Failure::Usage(error.to_string()))
}
