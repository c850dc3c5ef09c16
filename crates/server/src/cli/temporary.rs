//! The endpoint that `neo-events listen --subscribe` registers for itself: there for as long as the listener is.
//!
//! A server that is away for a moment is waited for when it is to be removed. Its name has a random part: where the
//! answer to its registration was lost nobody knows its id, and it is found again by its name. What stays all the same
//! is told, with the command that removes it.
//!
//! Whoever wants it to end need not wait for a server that does not answer: a signal leaves it a few seconds to do so,
//! and a second one none.

use std::{
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use http::Method;
use neo_events::{SigningSecret, Sources, Uuid};
use tokio::time::{Instant, sleep, sleep_until};

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
/// How long the first signal leaves a server to answer what it was asked.
const PATIENCE_AFTER_SIGNAL: Duration = Duration::from_secs(3);
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

/// Registers an endpoint and subscribes it; leaves nothing behind if that fails, nor if a signal comes meanwhile: then
/// there is none.
pub(super) async fn register(
    session: &Session,
    endpoint: &wire::EndpointIn,
    subscription: wire::SubscriptionIn,
    signals: &mut Signals,
) -> Result<Option<Temporary>, Failure> {
    let mut wait = Wait { session, signals, left: Left::All };
    let endpoint = create(&mut wait, endpoint).await?;
    let completed = async {
        let secret = session.secret_of(&endpoint)?;
        let subscription = wire::SubscriptionIn { endpoint_id: endpoint.id, ..subscription };
        let call = Call::post(["subscriptions"]).json(to_json(&subscription)?);
        wait.answer(session.read_answer::<wire::Subscription>(call)).await?;
        Ok(Temporary { id: endpoint.id, secret })
    };
    let completed = completed.await;
    if completed.is_ok() && wait.left == Left::All {
        return completed.map(Some);
    }
    // What is said is why it failed; what stays tells itself.
    let removed = remove(&mut wait, endpoint.id).await;
    completed.and(removed).map(|()| None)
}

impl Temporary {
    /// Removes it, or says that it stays.
    pub(super) async fn remove(self, session: &Session, signals: &mut Signals) -> Result<(), Failure> {
        // Whoever listened has ended it: the next signal is the second one.
        let mut wait = Wait { session, signals, left: Left::Until(Instant::now() + PATIENCE) };
        remove(&mut wait, self.id).await
    }
}

async fn create(wait: &mut Wait<'_>, endpoint: &wire::EndpointIn) -> Result<wire::Endpoint, Failure> {
    let call = Call::post([PATH]).json(to_json(endpoint)?);
    let created = wait.answer(wait.session.read_answer(call)).await;
    if let Err(Failure::Call(error)) = &created
        && error.may_be_done()
    {
        remove_named(wait, &endpoint.name).await;
    }
    created
}

/// Removes the endpoint of this name, if there is one.
async fn remove_named(wait: &mut Wait<'_>, name: &str) {
    let session = wait.session;
    match wait.patiently(async || find(session, name).await).await {
        Ok(None) => {}
        Ok(Some(id)) => {
            let _ = remove(wait, id).await;
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

async fn remove(wait: &mut Wait<'_>, id: Uuid) -> Result<(), Failure> {
    let session = wait.session;
    let removed = wait.patiently(async || delete(session, id).await).await;
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

/// A server that is waited for, unless signals end that.
struct Wait<'a> {
    session: &'a Session,
    signals: &'a mut Signals,
    left: Left,
}

/// How much of the wait signals have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// There was none: each call may take its time.
    All,
    Until(Instant),
    Nothing,
}

impl Left {
    fn after_a_signal(self) -> Self {
        match self {
            Self::All => Self::Until(Instant::now() + PATIENCE_AFTER_SIGNAL),
            Self::Until(_) | Self::Nothing => Self::Nothing,
        }
    }

    async fn is_over(self) {
        match self {
            Self::All => std::future::pending().await,
            Self::Until(deadline) => sleep_until(deadline).await,
            Self::Nothing => {}
        }
    }
}

impl Wait<'_> {
    /// The answer to a call, if it comes while there is something left of the wait.
    async fn answer<T>(&mut self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut call = pin!(call);
        let why = loop {
            tokio::select! {
                answer = call.as_mut(), if self.left != Left::Nothing => return answer,
                () = self.left.is_over() => break "no answer in the seconds that a signal left it",
                () = self.signals.next() => match self.left.after_a_signal() {
                    Left::Nothing => break "a signal ended the wait for its answer",
                    left => self.left = left,
                },
            }
        };
        self.left = Left::Nothing;
        let source = io::Error::new(io::ErrorKind::Interrupted, why);
        let origin = self.session.client.origin();
        Err(CallError::Unreachable { origin, was_sent: true, source }.into())
    }

    /// Asks again while the server is away.
    async fn patiently<T>(&mut self, ask: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.answer(ask()).await;
            let is_away = answer.as_ref().is_err_and(is_away);
            if !is_away || self.left == Left::Nothing || Instant::now() >= deadline {
                return answer;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.left.is_over() => return answer,
                () = self.signals.next() => return answer,
            }
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
