//! What steps write through: a connection, and the statements that every event, delivery and attempt takes.
//!
//! The driver's own cache of statements hashes the whole text of a statement twice for each use, and copies it. What
//! runs a dozen times for an event is therefore fetched from it once and kept: by the writer as long as its connection
//! is open. A kept statement is reset after each use, as the driver does it itself; its values are let go with the
//! transaction where they may be large.

use rusqlite::{CachedStatement, Connection};

use crate::{failure::Failure, sql};

/// A statement that is kept.
#[derive(Clone, Copy)]
pub(crate) enum Kept {
    AttemptsInsert,
    Begin,
    CatalogueVersion,
    Commit,
    DeliveriesInsert,
    DeliveriesNewest,
    DeliveriesStanding,
    DeliveriesUpdate,
    DeliveryQueueDelete,
    DeliveryQueueInsert,
    DispatchesOwe,
    DispatchesRecordRun,
    DispatchesSettle,
    EndpointsNoById,
    EventTypesIsDisabled,
    EventsById,
    EventsInsert,
    EventsNewest,
    EventsNewestVersion,
    StreamHeadsAdvance,
}

impl Kept {
    const COUNT: usize = Self::StreamHeadsAdvance as usize + 1;
    /// Those that hold what others sent.
    const LARGE: [Self; 2] = [Self::AttemptsInsert, Self::EventsInsert];

    const fn text(self) -> &'static str {
        match self {
            Self::AttemptsInsert => sql::ATTEMPTS_INSERT,
            Self::Begin => sql::STORE_BEGIN,
            Self::CatalogueVersion => sql::CATALOGUE_VERSION,
            Self::Commit => sql::STORE_COMMIT,
            Self::DeliveriesInsert => sql::DELIVERIES_INSERT,
            Self::DeliveriesNewest => sql::DELIVERIES_NEWEST,
            Self::DeliveriesStanding => sql::DELIVERIES_STANDING,
            Self::DeliveriesUpdate => sql::DELIVERIES_UPDATE,
            Self::DeliveryQueueDelete => sql::DELIVERY_QUEUE_DELETE,
            Self::DeliveryQueueInsert => sql::DELIVERY_QUEUE_INSERT,
            Self::DispatchesOwe => sql::DISPATCHES_OWE,
            Self::DispatchesRecordRun => sql::DISPATCHES_RECORD_RUN,
            Self::DispatchesSettle => sql::DISPATCHES_SETTLE,
            Self::EndpointsNoById => sql::ENDPOINTS_NO_BY_ID,
            Self::EventTypesIsDisabled => sql::EVENT_TYPES_IS_DISABLED,
            Self::EventsById => sql::EVENTS_BY_ID,
            Self::EventsInsert => sql::EVENTS_INSERT,
            Self::EventsNewest => sql::EVENTS_NEWEST,
            Self::EventsNewestVersion => sql::EVENTS_NEWEST_VERSION,
            Self::StreamHeadsAdvance => sql::STREAM_HEADS_ADVANCE,
        }
    }
}

/// A connection that writes, with the statements that it keeps.
pub(crate) struct Scope<'c> {
    conn: &'c Connection,
    statements: [Option<CachedStatement<'c>>; Kept::COUNT],
}

impl<'c> Scope<'c> {
    /// Over the writer's connection, or over a caller's that has a transaction of its own.
    pub(crate) fn of(conn: &'c Connection) -> Self {
        Self { conn, statements: [const { None }; Kept::COUNT] }
    }

    /// For everything that has no statement here.
    pub(crate) fn connection(&mut self) -> &Connection {
        self.conn
    }

    pub(crate) fn statement(&mut self, kept: Kept) -> Result<&mut CachedStatement<'c>, Failure> {
        let place = &mut self.statements[kept as usize];
        match place {
            Some(statement) => Ok(statement),
            None => Ok(place.insert(self.conn.prepare_cached(kept.text())?)),
        }
    }

    /// Begins a transaction that writes; waits for those of other connections.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        self.statement(Kept::Begin)?.execute([])?;
        Ok(())
    }

    /// Ends the transaction. After an error it may still be open.
    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        self.statement(Kept::Commit)?.execute([])?;
        self.let_go();
        Ok(())
    }

    /// Ends the transaction as if it had never begun, if the database has not done so itself.
    pub(crate) fn roll_back(&mut self) {
        self.let_go();
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch(sql::STORE_ROLL_BACK)
        {
            tracing::error!(%error, "a transaction was not rolled back");
        }
    }

    /// The values last written need not be held until the next ones come, which may be long.
    fn let_go(&mut self) {
        for kept in Kept::LARGE {
            if let Some(statement) = &mut self.statements[kept as usize] {
                statement.clear_bindings();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dispatches, events, open::migrated};
    use neo_events_domain::{
        Timestamp,
        event::{EventDraft, NewEvent},
    };
    use rusqlite::StatementStatus;

    fn event(data: &str) -> NewEvent {
        EventDraft::new("user.created", data).validate(Timestamp::UNIX_EPOCH, [1; 10]).unwrap()
    }

    fn append(scope: &mut Scope<'_>, event: &NewEvent) -> Result<(), Failure> {
        events::Edge::of(scope, Timestamp::UNIX_EPOCH)?.append(scope, event).map(drop)
    }

    #[test]
    fn what_was_written_is_not_held_until_the_next_comes() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let held = |scope: &mut Scope<'_>| {
            scope.statement(Kept::EventsInsert).unwrap().get_status(StatementStatus::MemUsed)
        };
        let large = event(&format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000)));
        for ends in [Scope::roll_back, |scope: &mut Scope<'_>| scope.commit().unwrap()] {
            scope.begin().unwrap();
            append(&mut scope, &large).unwrap();
            assert!(held(&mut scope) > 100_000);
            ends(&mut scope);
            assert!(held(&mut scope) < 50_000);
        }
    }

    #[test]
    fn a_statement_that_failed_serves_the_next_transaction() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let count = |scope: &mut Scope<'_>| -> i64 {
            let count = "select (select count(*) from events) + (select count(*) from owed_dispatches)";
            scope.connection().query_row(count, [], |row| row.get(0)).unwrap()
        };
        scope.begin().unwrap();
        append(&mut scope, &event("{}")).unwrap();
        dispatches::owe(&mut scope, 1).unwrap();
        assert!(append(&mut scope, &event("{}")).is_err(), "the same id");
        assert!(dispatches::owe(&mut scope, 1).is_err(), "owed already");
        assert!(scope.begin().is_err(), "begun already");
        scope.roll_back();
        assert_eq!(count(&mut scope), 0);
        assert!(scope.commit().is_err(), "nothing to commit");
        scope.roll_back();
        scope.begin().unwrap();
        append(&mut scope, &event("{}")).unwrap();
        dispatches::owe(&mut scope, 1).unwrap();
        scope.commit().unwrap();
        assert_eq!(count(&mut scope), 2);
    }
}
