//! API keys: who may do what, in which tenant.
//!
//! The key itself is shown once and never stored: a store holds its SHA-256, which suffices because a key is 256 random
//! bits. What a key may do is a set of [`Scope`]s; where, a tenant and optionally one context in it.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    id::ApiKeyId,
    tenant::Schema,
    violation::{Faults, Rule, Violations},
};

/// Longest name of a key, in characters.
pub const KEY_NAME_CHARS_MAX: usize = 255;
/// What every key begins with, so that people and secret scanners know it.
pub const KEY_PREFIX: &str = "neo_key_";

/// One thing that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Publish.
    EventsWrite,
    /// Read events and the event catalogue.
    EventsRead,
    /// Change endpoints, subscriptions and the event catalogue.
    EndpointsWrite,
    /// Read endpoints and subscriptions, explain filters.
    EndpointsRead,
    /// Cancel and retry deliveries.
    DeliveriesWrite,
    /// Read deliveries and statistics.
    DeliveriesRead,
    /// Everything in its tenant; in tenant `admin` also tenants, keys, and every other tenant.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 7] = [
        Self::EventsWrite,
        Self::EventsRead,
        Self::EndpointsWrite,
        Self::EndpointsRead,
        Self::DeliveriesWrite,
        Self::DeliveriesRead,
        Self::Admin,
    ];

    /// As users and the database know it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventsWrite => "events:write",
            Self::EventsRead => "events:read",
            Self::EndpointsWrite => "endpoints:write",
            Self::EndpointsRead => "endpoints:read",
            Self::DeliveriesWrite => "deliveries:write",
            Self::DeliveriesRead => "deliveries:read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope is events:write, events:read, endpoints:write, endpoints:read, deliveries:write, deliveries:read or admin"
)]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;
    fn from_str(name: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name).ok_or(UnknownScope)
    }
}

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Everything but [`Scope::Admin`]: what a key gets that asks for nothing in particular.
    pub fn ordinary() -> Self {
        Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin).collect()
    }

    /// Whether a key with these may do that.
    pub fn allow(&self, scope: Scope) -> bool {
        self.0.contains(&scope) || self.0.contains(&Scope::Admin)
    }

    /// Each once, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = Scope> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

/// A key as it is kept and shown: everything but the key.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiKey {
    /// UUIDv7.
    pub id: ApiKeyId,
    /// For people.
    pub name: String,
    /// Where it is valid.
    pub schema: Schema,
    /// If set, it sees and writes this context's rows alone.
    pub context_id: Option<Uuid>,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was last used; accurate to 10 s.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// A key to be made.
#[derive(Debug, Clone, Default)]
pub struct ApiKeyDraft {
    /// 1…[`KEY_NAME_CHARS_MAX`] characters after trimming.
    pub name: String,
    /// If set, it sees and writes this context's rows alone.
    pub context_id: Option<Uuid>,
    /// Names of [`Scope`]s, at most as many as there are; [`Scopes::ordinary`] if `None`. An empty list is refused: such
    /// a key could do nothing.
    pub scopes: Option<Vec<String>>,
    /// From when on it is refused; must lie ahead.
    pub expires_at: Option<Timestamp>,
}

impl ApiKeyDraft {
    /// Checks every field. Whether the schema exists is the store's to say.
    pub fn validate(self, id: ApiKeyId, schema: Schema, now: Timestamp) -> Result<ApiKey, Violations> {
        let mut faults = Faults::new();
        let name = faults.name("/name", &self.name, KEY_NAME_CHARS_MAX);
        let scopes = self.scopes.map_or_else(Scopes::ordinary, |names| scopes(&names, &mut faults));
        if schema == Schema::admin() && self.context_id.is_some() && scopes.allow(Scope::Admin) {
            let both = "a key with scope admin in tenant admin cannot be bound to a context";
            faults.add("/context_id", Rule::Conflict(both));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            faults.add("/expires_at", Rule::Malformed { expected: "a time that lies ahead" });
        }
        let (context_id, expires_at) = (self.context_id, self.expires_at);
        let (created_at, last_used_at) = (now, None);
        faults.found()?;
        Ok(ApiKey { id, name, schema, context_id, scopes, created_at, expires_at, last_used_at })
    }
}

fn scopes(names: &[String], faults: &mut Faults) -> Scopes {
    const EXPECTED: &str = "events:write, events:read, endpoints:write, endpoints:read, deliveries:write, \
                            deliveries:read or admin";
    if names.is_empty() {
        faults.add("/scopes", Rule::Empty);
    }
    let (actual, max) = (names.len(), Scope::ALL.len());
    if actual > max {
        faults.add("/scopes", Rule::TooMany { actual, max, unit: "scopes" });
        return Scopes::default();
    }
    let mut known = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match name.parse() {
            Ok(scope) => known.push(scope),
            Err(UnknownScope) => {
                faults.add(format!("/scopes/{index}"), Rule::Malformed { expected: EXPECTED });
            }
        }
    }
    known.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    fn check(draft: ApiKeyDraft, schema: &str) -> Result<ApiKey, String> {
        let now = Timestamp::from_second(1000).unwrap();
        let key = draft.validate(Id::new(now, [0; 10]), schema.parse().unwrap(), now);
        key.map_err(|faults| {
            faults
                .into_iter()
                .map(|fault| format!("{} {}", fault.pointer, fault.rule))
                .collect::<Vec<_>>()
                .join("; ")
        })
    }

    fn named(name: &str) -> ApiKeyDraft {
        ApiKeyDraft { name: name.into(), ..ApiKeyDraft::default() }
    }

    #[test]
    fn a_key_may_do_everything_ordinary_unless_it_asks_for_less_or_more() {
        let ordinary = check(named(" ci "), "tenant_a").unwrap();
        assert_eq!((ordinary.name.as_str(), ordinary.scopes.iter().count()), ("ci", 6));
        assert!(ordinary.scopes.allow(Scope::EventsWrite) && !ordinary.scopes.allow(Scope::Admin));
        let reader = ApiKeyDraft { scopes: Some(vec!["events:read".into()]), ..named("r") };
        let reader = check(reader, "tenant_a").unwrap();
        assert!(reader.scopes.allow(Scope::EventsRead) && !reader.scopes.allow(Scope::EventsWrite));
        let admin = check(ApiKeyDraft { scopes: Some(vec!["admin".into()]), ..named("a") }, "admin").unwrap();
        assert!(Scope::ALL.into_iter().all(|scope| admin.scopes.allow(scope)));
    }

    #[test]
    fn every_fault_is_named() {
        let draft = ApiKeyDraft {
            name: "\0".into(),
            context_id: Some(Uuid::nil()),
            scopes: Some(vec!["admin".into(), "Admin".into()]),
            expires_at: Some(Timestamp::from_second(1000).unwrap()),
        };
        let faults = check(draft, "admin").unwrap_err();
        for pointer in ["/name ", "/scopes/1 ", "/context_id ", "/expires_at "] {
            assert!(faults.contains(pointer), "{faults}");
        }
        assert!(check(named(" "), "admin").unwrap_err().starts_with("/name"));
        assert!(check(ApiKeyDraft { scopes: Some(vec![]), ..named("a") }, "admin").is_err());
        let many = ApiKeyDraft { scopes: Some(vec!["x".into(); 8]), ..named("a") };
        assert_eq!(check(many, "admin").unwrap_err(), "/scopes has 8 scopes, the limit is 7");
    }

    #[test]
    fn a_key_is_over_from_its_expiry_on() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = check(ApiKeyDraft { expires_at: Some(at(2000)), ..named("a") }, "admin").unwrap();
        assert!(!key.is_expired(at(1999)) && key.is_expired(at(2000)));
    }
}
