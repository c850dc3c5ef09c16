//! The endpoint that `neo-events listen --subscribe` registers for itself: there for as long as the listener is.
//!
//! A server that is away for a moment is waited for when it is to be removed. Its name has a random part: where the
//! answer to its registration was lost nobody knows its id, and it is found again by its name. What stays all the same
//! is told, with the command that removes it.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use http::Method;
use neo_events::{SigningSecret, Sources, Uuid};

use crate::{
    cli::{
        failure::Failure,
        session::{Session, to_json},
        signals::Signals,
    },
    client::{Call, CallError},
    wire::{self, List},
};

const PATH: &str = "endpoints";
/// How long a server that is away is waited for; a signal ends that.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
/// One that was registered a moment ago is among so many of the newest.
const NEWEST: u32 = 1000;

/// A registered endpoint.
pub(super) struct Temporary {
    id: Uuid,
    /// What its webhooks are signed with.
    pub(super) secret: SigningSecret,
}

/// A name that no other endpoint has.
pub(super) fn name() -> String {
    let random: [u8; 4] = Sources::system().bytes();
    format!("neo-events listen {:08x}", u32::from_be_bytes(random))
}

/// Registers an endpoint and subscribes it; leaves nothing behind if that fails.
pub(super) async fn register(
    session: &Session,
    endpoint: &wire::EndpointIn,
    subscription: wire::SubscriptionIn,
    signals: &mut Signals,
) -> Result<Temporary, Failure> {
    let endpoint = create(session, endpoint, signals).await?;
    let completed = async {
        let secret = session.secret_of(&endpoint)?;
        let subscription = wire::SubscriptionIn { endpoint_id: endpoint.id, ..subscription };
        let call = Call::post(["subscriptions"]).json(to_json(&subscription)?);
        session.read_answer::<wire::Subscription>(call).await?;
        Ok(Temporary { id: endpoint.id, secret })
    };
    let completed = completed.await;
    if completed.is_err() {
        // What is said is why it failed; what stays tells itself.
        let _ = remove(session, endpoint.id, signals).await;
    }
    completed
}

impl Temporary {
    /// Removes it, or says that it stays.
    pub(super) async fn remove(self, session: &Session, signals: &mut Signals) -> Result<(), Failure> {
        remove(session, self.id, signals).await
    }
}

async fn create(
    session: &Session,
    endpoint: &wire::EndpointIn,
    signals: &mut Signals,
) -> Result<wire::Endpoint, Failure> {
    let created = session.read_answer(Call::post([PATH]).json(to_json(endpoint)?)).await;
    if let Err(Failure::Call(error)) = &created
        && error.may_be_done()
    {
        remove_named(session, &endpoint.name, signals).await;
    }
    created
}

/// Removes the endpoint of this name, if there is one.
async fn remove_named(session: &Session, name: &str, signals: &mut Signals) {
    match patiently(signals, async || find(session, name).await).await {
        Ok(None) => {}
        Ok(Some(id)) => {
            let _ = remove(session, id, signals).await;
        }
        Err(_) => tell(&format!(
            "an endpoint named `{name}` may stay; look for it with `neo-events endpoints list`"
        )),
    }
}

async fn find(session: &Session, name: &str) -> Result<Option<Uuid>, Failure> {
    let call = Call::get([PATH]).query("limit", Some(NEWEST)).brief();
    let newest: List<wire::Endpoint> = session.read_answer(call).await?;
    Ok(newest.data.into_iter().find(|endpoint| endpoint.name == name).map(|endpoint| endpoint.id))
}

async fn remove(session: &Session, id: Uuid, signals: &mut Signals) -> Result<(), Failure> {
    let removed = patiently(signals, async || delete(session, id).await).await;
    if removed.is_err() {
        tell(&format!("endpoint {id} stays; remove it with `neo-events endpoints delete {id}`"));
    }
    removed
}

async fn delete(session: &Session, id: Uuid) -> Result<(), Failure> {
    let call = Call::new(Method::DELETE, [PATH, &id.to_string()]).brief();
    match session.client.call(call).await {
        // Somebody else has, or the answer to the call before was lost.
        Err(CallError::Refused { problem, .. }) if problem.status == 404 => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}

/// Asks again while the server is away.
async fn patiently<T>(
    signals: &mut Signals,
    ask: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        let is_away = answer.as_ref().is_err_and(is_away);
        if !is_away || Instant::now() >= deadline {
            return answer;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = signals.next() => return answer,
        }
    }
}

fn is_away(failure: &Failure) -> bool {
    match failure {
        Failure::Call(CallError::Unreachable { .. }) => true,
        Failure::Call(CallError::Refused { problem, .. }) => problem.status == 503,
        _ => false,
    }
}

fn tell(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}
