//! Publishing on a connection that is the caller's, so that its commit decides.
//!
//! Connections are of one driver or another, and this is what they have in common: the statement and its parameters,
//! what a row of its answer means, and what a refusal means. Sending it is a driver's few lines. The statement calls
//! the tenant's function `record_event`, as the caller's role, which needs no other right.

use jiff::Timestamp;
use neo_events_domain::{
    Uuid,
    event::{JsonObject, NewEvent, VersionRule},
    tenant::Schema,
};
use neo_events_store::{Appended, Cause, StoreError};
use tokio_postgres::error::SqlState;

use crate::{failure, sql};

/// The statement that publishes events, and its parameters in order.
#[derive(Debug, Clone)]
pub struct Recording {
    /// For `$1`, `$2`, …
    pub parameters: Vec<Parameter>,
    text: String,
    schema: Schema,
}

/// One parameter: a field of every event.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// `text[]`
    Texts(Vec<Option<String>>),
    /// `uuid[]`
    Uuids(Vec<Option<Uuid>>),
    /// `bigint[]`
    Numbers(Vec<Option<i64>>),
}

/// A row of the answer; there is one for each event, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Column 0.
    pub id: Uuid,
    /// Column 1.
    pub aggregate_version: i64,
    /// Column 2: microseconds since 1970.
    pub created_at_micros: i64,
    /// Column 3.
    pub is_duplicate: bool,
}

/// What a server says when it refuses.
#[derive(Debug, Clone, Copy)]
pub struct ServerError<'a> {
    /// SQLSTATE.
    pub code: &'a str,
    /// The error's field DETAIL.
    pub detail: Option<&'a str>,
    /// The error's field COLUMN: the function's argument at fault.
    pub column: Option<&'a str>,
}

/// Why nothing was published.
#[derive(Debug)]
pub enum NotRecorded {
    /// An event with this id and other content was there already.
    IdConflict,
    /// The aggregate's newest version is not the expected one.
    StaleVersion {
        /// The newest version, 0 if none.
        newest: u32,
    },
    /// The aggregate has reached its last version.
    VersionsExhausted,
    /// The catalogue has the type disabled.
    TypeDisabled,
    /// The database.
    Failed(StoreError),
}

impl Recording {
    /// For these events of a tenant.
    pub fn new(schema: &Schema, events: &[NewEvent]) -> Self {
        let texts = |of: fn(&NewEvent) -> Option<String>| Parameter::Texts(events.iter().map(of).collect());
        let uuids = |of: fn(&NewEvent) -> Option<Uuid>| Parameter::Uuids(events.iter().map(of).collect());
        let numbers = |of: fn(&NewEvent) -> Option<u32>| {
            Parameter::Numbers(events.iter().map(|event| of(event).map(i64::from)).collect())
        };
        let parameters = vec![
            texts(|event| Some(event.event_type.to_string())),
            texts(|event| Some(event.event_data.as_str().to_owned())),
            // One that nobody chose is made by the database, by its clock.
            uuids(|event| event.id_is_given.then(|| event.id.uuid())),
            texts(|event| event.event_name.clone()),
            uuids(|event| event.aggregate_id),
            texts(|event| event.aggregate_type.clone()),
            numbers(|event| match event.version {
                VersionRule::Given(version) => Some(version),
                VersionRule::Default | VersionRule::Expect(_) => None,
            }),
            numbers(|event| match event.version {
                VersionRule::Expect(expected) => Some(expected),
                VersionRule::Default | VersionRule::Given(_) => None,
            }),
            texts(|event| event.event_metadata.as_ref().map(JsonObject::as_str).map(str::to_owned)),
            uuids(|event| event.correlation_id),
            uuids(|event| event.causation_id),
            uuids(|event| event.triggered_by_user_id),
            uuids(|event| event.context_id),
            texts(|event| event.occurred_at.map(|at| at.to_string())),
        ];
        Self { parameters, text: sql::EVENTS_RECORD.of(schema), schema: schema.clone() }
    }

    /// The statement.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What an error of the server means. `cause` is the driver's own error.
    pub fn refused(&self, said: &ServerError<'_>, cause: impl Into<Cause>) -> NotRecorded {
        match (said.code, said.column) {
            ("23505", Some("id")) => return NotRecorded::IdConflict,
            ("22003", Some("expected_version")) => return NotRecorded::VersionsExhausted,
            ("55000", Some("event_type")) => return NotRecorded::TypeDisabled,
            ("40001", Some("expected_version")) => {
                let newest = said.detail.and_then(|detail| detail.strip_prefix("newest_version="));
                if let Some(newest) = newest.and_then(|newest| newest.parse().ok()) {
                    return NotRecorded::StaleVersion { newest };
                }
            }
            _ => {}
        }
        NotRecorded::Failed(match SqlState::from_code(said.code) {
            SqlState::INVALID_SCHEMA_NAME => StoreError::UnknownSchema(self.schema.clone()),
            // There is such a schema, but it is not one of ours.
            SqlState::UNDEFINED_FUNCTION => StoreError::ForeignTransaction,
            code => failure::of_server(&code, cause.into()),
        })
    }
}

impl From<tokio_postgres::Error> for NotRecorded {
    /// Of an error that was not the server's.
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(failure::Failure::from(error).into())
    }
}

impl TryFrom<Recorded> for Appended {
    type Error = StoreError;

    fn try_from(recorded: Recorded) -> Result<Self, StoreError> {
        let broken = |cause: Cause| StoreError::Broken(cause);
        let created_at = Timestamp::from_microsecond(recorded.created_at_micros);
        let created_at = created_at.map_err(|error| broken(error.into()))?;
        let aggregate_version = u32::try_from(recorded.aggregate_version);
        let aggregate_version = aggregate_version.map_err(|error| broken(error.into()))?;
        Ok(if recorded.is_duplicate {
            Self::Duplicate { created_at, aggregate_version }
        } else {
            Self::Stored { created_at, aggregate_version }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neo_events_domain::event::EventDraft;

    fn recording() -> Recording {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let event = EventDraft::new("user.created", "{}").validate(now, [7; 10]).unwrap();
        Recording::new(&Schema::admin(), &[event])
    }

    #[test]
    fn refusals_are_told_by_state_and_argument() {
        let check = |code, detail, column| {
            let said = ServerError { code, detail, column };
            match recording().refused(&said, "said") {
                NotRecorded::Failed(error) => error.to_string(),
                refusal => format!("{refusal:?}"),
            }
        };
        assert_eq!(check("23505", None, Some("id")), "IdConflict");
        assert_eq!(check("23505", None, None), "the database failed", "a constraint of the caller's own");
        let stale = check("40001", Some("newest_version=7"), Some("expected_version"));
        assert_eq!(stale, "StaleVersion { newest: 7 }");
        assert_eq!(check("40001", None, None), "the database is not available", "of the isolation level");
        assert_eq!(check("22003", None, Some("expected_version")), "VersionsExhausted");
        assert_eq!(check("55000", None, Some("event_type")), "TypeDisabled");
        assert_eq!(check("3F000", None, None), "there is no schema admin");
        assert_eq!(check("53100", None, None), "the database has no room left on its device");
    }
}
