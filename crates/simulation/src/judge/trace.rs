//! The run as a sequence of lines: kept for reading if somebody wants to, and always as one number, by which two runs
//! of a seed can be told to be the same.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

use neo_events_domain::{Uuid, id::Id, tenant::Schema};

use super::Account;
use crate::effect::Effect;

/// What is kept of a run.
pub(crate) struct Trace {
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// With or without lines to read.
    pub(crate) fn new(is_logged: bool) -> Self {
        Self { hasher: DefaultHasher::new(), lines: is_logged.then(Vec::new) }
    }

    /// The number of the run so far.
    pub(crate) fn number(&self) -> u64 {
        self.hasher.finish()
    }

    /// The lines so far, if they are kept.
    pub(crate) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    fn add(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        let line = format!("{:>9.3} {what}", at.as_secs_f64());
        self.hasher.write(line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }
}

impl Account {
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.trace.add(at, format_args!("{}", what()));
    }

    pub(crate) const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn trace_effect(&mut self, schema: &Schema, effect: &Effect) {
        let at = self.elapsed();
        self.trace.add(at, format_args!("{schema}: {}", Told(effect)));
    }
}

/// The last part of an id, which tells it from others.
pub(crate) fn short<Kind>(id: Id<Kind>) -> impl fmt::Display {
    Short(id.uuid())
}

struct Short(Uuid);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_bytes()[12..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An effect in a line.
struct Told<'a>(&'a Effect);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Effect::Stored(event) => write!(f, "event {} {} stored", short(event.id), event.event_type),
            Effect::Endpoint(endpoint) => {
                let (id, revision, is_active) = (endpoint.id, endpoint.revision, endpoint.is_active);
                write!(f, "endpoint {} revision {revision}, active: {is_active}", short(id))
            }
            Effect::EndpointDeleted(id) => write!(f, "endpoint {} deleted", short(*id)),
            Effect::Subscription(subscription) => {
                let (id, to) = (short(subscription.id), short(subscription.endpoint_id));
                let (pattern, is_active) = (&subscription.pattern, subscription.is_active);
                write!(f, "subscription {id} of {to} to {pattern}, active: {is_active}")
            }
            Effect::SubscriptionDeleted(id) => write!(f, "subscription {} deleted", short(*id)),
            Effect::DispatchClaimed(id, grant) => {
                write!(f, "dispatch of {} claimed by {}, lease {}", short(*id), grant.holder, grant.token)
            }
            Effect::Dispatched(id) => write!(f, "event {} dispatched", short(*id)),
            Effect::Written(event_id, delivery) => {
                let (id, to) = (short(delivery.id), short(delivery.endpoint_id));
                write!(f, "delivery {id} of {} to {to} written", short(*event_id))
            }
            Effect::Claimed(id, attempt, grant) => {
                let (holder, token) = (grant.holder, grant.token);
                write!(f, "delivery {} attempt {attempt} claimed by {holder}, lease {token}", short(*id))
            }
            Effect::Recorded(id, recorded) => {
                let (number, state) = (recorded.attempt_number, &recorded.state);
                write!(f, "delivery {} attempt {number} recorded: {state:?}", short(*id))
            }
            Effect::Freed(token) => write!(f, "lease {token} freed"),
            Effect::Moved(id, moved) => {
                write!(f, "delivery {} moved: {:?}", short(*id), moved.state)?;
                if moved.is_ending { f.write_str(", ending") } else { Ok(()) }
            }
        }
    }
}
