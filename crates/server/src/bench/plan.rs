//! What a bench is to do.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{database::Database, load::Pace};

/// A way to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// One event a call over HTTP
    Single,
    /// Many events a call over HTTP
    Batch,
    /// The library inside the bench's own process
    Library,
    /// The database's own function, `publish_event` (PostgreSQL)
    Sql,
}

impl Mode {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Library => "library",
            Self::Sql => "sql",
        }
    }

    /// What it calls.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Single => "POST /v1/events, one event a call",
            Self::Batch => "POST /v1/events/batch",
            Self::Library => "Tenant::publish, embedded in this process",
            Self::Sql => "select admin.publish_event(…), a transaction each",
        }
    }
}

/// How much of what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Of a round.
    pub(crate) events: u64,
    /// Of each event's data.
    pub(crate) payload_bytes: usize,
    /// Calls at once, and connections of the bare client.
    pub(crate) concurrency: usize,
    /// That get every event.
    pub(crate) endpoints: usize,
    /// Events of a batch.
    pub(crate) batch_size: u64,
    /// Events a second at fixed times; `null`: as fast as answers come.
    pub(crate) rate: Option<u32>,
    /// Each between two runs of the bare client.
    pub(crate) rounds: u32,
    /// Events before the first round, which count for nothing.
    pub(crate) warm_up: u64,
}

impl Settings {
    /// In a sentence.
    pub(crate) fn describe(&self) -> String {
        let Self { events, payload_bytes, concurrency, endpoints, rounds, warm_up, .. } = self;
        let pace = self.rate.map_or_else(
            || "as fast as answers come".to_owned(),
            |rate| format!("{rate} a second at fixed times"),
        );
        format!(
            "{events} events of {payload_bytes} bytes, concurrency {concurrency}, endpoints {endpoints}, {pace}; \
             rounds {rounds}, after {warm_up} events of warm-up"
        )
    }

    /// When the next call of a mode is made.
    pub(crate) fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Closed, |rate| Pace::Open(f64::from(rate)))
    }

    /// When the next call of the bare client is made: it posts to each endpoint.
    pub(crate) fn bare_pace(&self) -> Pace {
        #[expect(clippy::cast_precision_loss, reason = "there are few endpoints")]
        let endpoints = self.endpoints as f64;
        self.rate.map_or(Pace::Closed, |rate| Pace::Open(f64::from(rate) * endpoints))
    }

    /// Webhooks of a round.
    pub(crate) fn deliveries(&self) -> u64 {
        self.events.saturating_mul(u64::try_from(self.endpoints).unwrap_or(u64::MAX))
    }
}

/// Everything that a bench needs.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// How much of what.
    pub(crate) settings: Settings,
    /// In this order.
    pub(crate) modes: Vec<Mode>,
    /// Where the data are.
    pub(crate) database: Database,
    /// How long the next arrival may take.
    pub(crate) patience: Duration,
}
