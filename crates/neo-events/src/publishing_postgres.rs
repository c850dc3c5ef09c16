//! Publishing inside the caller's own transaction on PostgreSQL, with either of two drivers.
//!
//! Rules that need no table are checked here; then one statement on the caller's connection calls the tenant's function
//! `record_event`. So the caller's role needs the rights of a publisher and no others: `usage` of the tenant's schema
//! and `execute` of that function. Nothing is prepared, so that a pool between the caller and the server may be of any
//! kind.

use neo_events_domain::{
    event::{EventDraft, NewEvent, VersionRule},
    id::EventId,
};
use neo_events_store::StoreError;
use neo_events_store_postgres::{
    NotRecorded, Parameter, Recorded, Recording, ServerError,
    tokio_postgres::{
        self, GenericClient, Row,
        types::{ToSql, Type},
    },
};

use crate::{
    Conflict, Error, Published, Tenant,
    context::anothers_aggregate,
    publishing::{lost_answer, published_from},
};

impl Tenant {
    /// Publishes inside the caller's own transaction on the tenant's PostgreSQL database: if the caller commits, the
    /// events will be delivered; if not, nothing happened. `client` is a [`tokio_postgres::Transaction`], or a client
    /// on which a transaction was begun; without one the events are committed when this returns. After the commit
    /// [`Self::announce`] them, or they are found within a fifth of a second.
    ///
    /// All or nothing: the first event that is refused is the error of the whole call. Where it broke a rule, nothing
    /// was sent. Where the database refused it, the caller's transaction is aborted, as by any failed statement: every
    /// further one fails until a rollback. To go on after such a refusal, publish in a savepoint.
    ///
    /// The role of the connection needs `usage` of the tenant's schema and `execute` of its function `record_event`.
    pub async fn publish_in_postgres(
        &self,
        client: &(impl GenericClient + Sync),
        drafts: Vec<EventDraft>,
    ) -> Result<Vec<Published>, Error> {
        let (events, recording) = self.recording(drafts).await?;
        let parameters: Vec<_> = recording.parameters.iter().map(parameter).collect();
        match client.query_typed(recording.text(), &parameters).await {
            Ok(rows) => published(&events, rows.iter().map(recorded)),
            Err(error) => Err(self.refusal(&events, failure(&recording, error)).await),
        }
    }

    /// A refusal as far as the caller may know it. The server does not say which event it is about, so how far an
    /// aggregate has come is told only if all that were guarded are there for the caller. What the caller's transaction
    /// has published is not committed, and does not count.
    async fn refusal(&self, events: &[NewEvent], refused: NotRecorded) -> Error {
        if matches!(refused, NotRecorded::StaleVersion { .. } | NotRecorded::VersionsExhausted) {
            for event in events.iter().filter(|event| matches!(event.version, VersionRule::Expect(_))) {
                let aggregate = (event.aggregate_type_or_default(), event.aggregate_id_or_default());
                match self.sees_aggregate(aggregate).await {
                    Ok(true) => {}
                    Ok(false) => return anothers_aggregate(),
                    Err(error) => return error,
                }
            }
        }
        not_recorded(refused)
    }

    /// The events of these drafts, and what publishes them.
    async fn recording(&self, drafts: Vec<EventDraft>) -> Result<(Vec<NewEvent>, Recording), Error> {
        self.shared.backend.postgres()?;
        let events = self.validate_all(drafts)?;
        self.judge_aggregates(&events).await?;
        let recording = Recording::new(&self.schema, &events);
        Ok((events, recording))
    }
}

fn parameter(parameter: &Parameter) -> (&(dyn ToSql + Sync), Type) {
    match parameter {
        Parameter::Texts(texts) => (texts, Type::TEXT_ARRAY),
        Parameter::Uuids(uuids) => (uuids, Type::UUID_ARRAY),
        Parameter::Numbers(numbers) => (numbers, Type::INT8_ARRAY),
    }
}

fn recorded(row: &Row) -> Result<Recorded, StoreError> {
    let read = || {
        Ok::<_, tokio_postgres::Error>(Recorded {
            id: row.try_get(0)?,
            aggregate_version: row.try_get(1)?,
            created_at_micros: row.try_get(2)?,
            is_duplicate: row.try_get(3)?,
        })
    };
    read().map_err(|error| StoreError::Broken(error.into()))
}

fn failure(recording: &Recording, error: tokio_postgres::Error) -> NotRecorded {
    let Some(said) = error.as_db_error().cloned() else { return error.into() };
    let fields = ServerError { code: said.code().code(), detail: said.detail(), column: said.column() };
    recording.refused(&fields, said.clone())
}

fn published(
    events: &[NewEvent],
    rows: impl Iterator<Item = Result<Recorded, StoreError>>,
) -> Result<Vec<Published>, Error> {
    let mut rows = rows.fuse();
    let answer = |event: &NewEvent| {
        let recorded = rows.next().ok_or_else(lost_answer)??;
        published_from(EventId::from_uuid(recorded.id), &event.event_type, recorded.try_into()?)
    };
    events.iter().map(answer).collect()
}

fn not_recorded(error: NotRecorded) -> Error {
    match error {
        NotRecorded::IdConflict => Conflict::IdReused.into(),
        NotRecorded::StaleVersion { newest } => Conflict::StaleVersion { newest }.into(),
        NotRecorded::VersionsExhausted => Conflict::VersionsExhausted.into(),
        NotRecorded::TypeDisabled => Error::type_disabled(),
        NotRecorded::Failed(error) => error.into(),
    }
}

/// The same with the other driver.
#[cfg(feature = "sqlx")]
mod with_sqlx {
    use sqlx_core::{query::query, row::Row as _, sql_str::AssertSqlSafe};
    use sqlx_postgres::{PgConnection, PgDatabaseError, PgRow, Postgres};

    use super::{
        Error, EventDraft, NotRecorded, Parameter, Published, Recorded, Recording, ServerError, StoreError,
        Tenant, published,
    };

    impl Tenant {
        /// As [`Self::publish_in_postgres`], on a connection or a transaction of sqlx:
        /// `tenant.publish_in_sqlx(&mut transaction, drafts)`.
        pub async fn publish_in_sqlx(
            &self,
            connection: &mut PgConnection,
            drafts: Vec<EventDraft>,
        ) -> Result<Vec<Published>, Error> {
            let (events, recording) = self.recording(drafts).await?;
            // Of a statement's file; the schema's name in it can hold nothing but letters, digits and underscores.
            let mut query = query::<Postgres>(AssertSqlSafe(recording.text())).persistent(false);
            for parameter in recording.parameters.clone() {
                query = match parameter {
                    Parameter::Texts(texts) => query.bind(texts),
                    Parameter::Uuids(uuids) => query.bind(uuids),
                    Parameter::Numbers(numbers) => query.bind(numbers),
                };
            }
            match query.fetch_all(connection).await {
                Ok(rows) => published(&events, rows.iter().map(recorded)),
                Err(error) => Err(self.refusal(&events, failure(&recording, error)).await),
            }
        }
    }

    fn recorded(row: &PgRow) -> Result<Recorded, StoreError> {
        let read = || {
            Ok::<_, sqlx_core::Error>(Recorded {
                id: row.try_get(0)?,
                aggregate_version: row.try_get(1)?,
                created_at_micros: row.try_get(2)?,
                is_duplicate: row.try_get(3)?,
            })
        };
        read().map_err(|error| StoreError::Broken(error.into()))
    }

    fn failure(recording: &Recording, error: sqlx_core::Error) -> NotRecorded {
        let sqlx_core::Error::Database(said) = error else {
            return NotRecorded::Failed(StoreError::Unavailable(error.into()));
        };
        match said.try_downcast::<PgDatabaseError>() {
            Ok(said) => {
                let fields = ServerError { code: said.code(), detail: said.detail(), column: said.column() };
                recording.refused(&fields, said.to_string())
            }
            Err(said) => NotRecorded::Failed(StoreError::Broken(said.to_string().into())),
        }
    }
}
