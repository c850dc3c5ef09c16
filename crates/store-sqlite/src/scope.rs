//! What the steps of one transaction share: the connection, the statements that every event, delivery and attempt
//! takes, and what one of them has asked that the next need not ask again.
//!
//! The driver's own cache of statements hashes the whole text of a statement twice for each use, and copies it. What
//! runs a dozen times for an event is therefore fetched from it once and kept: by the writer as long as its connection
//! is open. A kept statement is reset after each use, as the driver does it itself; its values are let go with the
//! transaction where they may be large.
//!
//! What is remembered holds for one transaction, for nobody else writes meanwhile, and only until a step takes the bare
//! connection, through which anything may change. Two of the kept statements change it as well, those that insert
//! events and deliveries, and each is followed by a note of what is newest now. A transaction begins without a memory,
//! whatever became of the one before.
//!
//! That dispatches were settled is noted once, with the commit: neighbouring steps publish neighbouring events, whose
//! run is then one row.

use std::collections::HashMap;

use neo_events_domain::{Timestamp, event_type::EventType, id::EndpointId};
use neo_events_store::CatalogueVersion;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row};

use crate::{
    catalogue,
    columns::{Micros, key},
    dispatches,
    failure::Failure,
    sql,
};

/// Room that is kept from one transaction for the next, in entries.
const ENTRIES_KEPT: usize = 1024;

/// A statement that is kept.
#[derive(Clone, Copy)]
pub(crate) enum KeptStatement {
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

impl KeptStatement {
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

/// A table's end: key and time of its newest row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Newest {
    pub(crate) seq: i64,
    pub(crate) created_at: Micros,
}

impl Newest {
    /// Of an empty table: before every row.
    const NONE: Self = Self { seq: 0, created_at: Micros(i64::MIN) };

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { seq: row.get(0)?, created_at: row.get(1)? })
    }
}

/// What was asked in this transaction.
#[derive(Default)]
struct Memory {
    catalogue_version: Option<CatalogueVersion>,
    newest_event: Option<Newest>,
    newest_delivery: Option<Newest>,
    disabled_types: HashMap<EventType, bool>,
    endpoint_nos: HashMap<EndpointId, Option<i64>>,
}

impl Memory {
    fn forget(&mut self) {
        (self.catalogue_version, self.newest_event, self.newest_delivery) = (None, None, None);
        self.disabled_types.clear();
        self.disabled_types.shrink_to(ENTRIES_KEPT);
        self.endpoint_nos.clear();
        self.endpoint_nos.shrink_to(ENTRIES_KEPT);
    }
}

/// A connection that writes, with what its transaction shares.
pub(crate) struct Scope<'c> {
    conn: &'c Connection,
    statements: [Option<CachedStatement<'c>>; KeptStatement::COUNT],
    memory: Memory,
    /// Events whose dispatches this transaction settled, and when it last did.
    settled: Vec<i64>,
    settled_at: Option<Timestamp>,
}

impl<'c> Scope<'c> {
    /// Over the writer's connection, or over a caller's that has a transaction of its own.
    pub(crate) fn of(conn: &'c Connection) -> Self {
        Self {
            conn,
            statements: [const { None }; KeptStatement::COUNT],
            memory: Memory::default(),
            settled: Vec::new(),
            settled_at: None,
        }
    }

    /// For everything that has no statement here. It may change whatever is remembered.
    pub(crate) fn connection(&mut self) -> &Connection {
        self.memory.forget();
        self.conn
    }

    pub(crate) fn statement(&mut self, kept: KeptStatement) -> Result<&mut CachedStatement<'c>, Failure> {
        let place = &mut self.statements[kept as usize];
        match place {
            Some(statement) => Ok(statement),
            None => Ok(place.insert(self.conn.prepare_cached(kept.text())?)),
        }
    }

    /// The number of the newest change of the catalogue.
    pub(crate) fn catalogue_version(&mut self) -> Result<CatalogueVersion, Failure> {
        if let Some(version) = self.memory.catalogue_version {
            return Ok(version);
        }
        let version =
            self.statement(KeptStatement::CatalogueVersion)?.query_row([], catalogue::version_of)?;
        self.memory.catalogue_version = Some(version);
        Ok(version)
    }

    /// Whether the catalogue has the type disabled.
    pub(crate) fn is_disabled(&mut self, event_type: &EventType) -> Result<bool, Failure> {
        if let Some(is_disabled) = self.memory.disabled_types.get(event_type) {
            return Ok(*is_disabled);
        }
        let asked = self.statement(KeptStatement::EventTypesIsDisabled)?;
        let is_disabled = asked.query_row([event_type.as_str()], |row| row.get(0))?;
        self.memory.disabled_types.insert(event_type.clone(), is_disabled);
        Ok(is_disabled)
    }

    /// The number of an endpoint that is not deleted.
    pub(crate) fn endpoint_no(&mut self, id: EndpointId) -> Result<Option<i64>, Failure> {
        if let Some(no) = self.memory.endpoint_nos.get(&id) {
            return Ok(*no);
        }
        let asked = self.statement(KeptStatement::EndpointsNoById)?;
        let no = asked.query_row([key(id)], |row| row.get(0)).optional()?;
        self.memory.endpoint_nos.insert(id, no);
        Ok(no)
    }

    pub(crate) fn newest_event(&mut self) -> Result<Newest, Failure> {
        if let Some(newest) = self.memory.newest_event {
            return Ok(newest);
        }
        let newest = self.newest(KeptStatement::EventsNewest)?;
        self.memory.newest_event = Some(newest);
        Ok(newest)
    }

    /// An event was inserted.
    pub(crate) fn event_is_new(&mut self, newest: Newest) {
        self.memory.newest_event = Some(newest);
    }

    pub(crate) fn newest_delivery(&mut self) -> Result<Newest, Failure> {
        if let Some(newest) = self.memory.newest_delivery {
            return Ok(newest);
        }
        let newest = self.newest(KeptStatement::DeliveriesNewest)?;
        self.memory.newest_delivery = Some(newest);
        Ok(newest)
    }

    /// A delivery was inserted.
    pub(crate) fn delivery_is_new(&mut self, newest: Newest) {
        self.memory.newest_delivery = Some(newest);
    }

    fn newest(&mut self, of: KeptStatement) -> Result<Newest, Failure> {
        let newest = self.statement(of)?.query_row([], Newest::read).optional()?;
        Ok(newest.unwrap_or(Newest::NONE))
    }

    /// The event's dispatch was settled, in this transaction and by nobody before. That is written with the commit; of
    /// all its steps the latest time counts.
    pub(crate) fn dispatch_is_settled(&mut self, event_seq: i64, now: Timestamp) {
        self.settled.push(event_seq);
        self.settled_at = self.settled_at.max(Some(now));
    }

    /// Begins a transaction that writes; waits for those of other connections.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        self.statement(KeptStatement::Begin)?.execute([])?;
        self.memory.forget();
        self.settled.clear();
        self.settled_at = None;
        Ok(())
    }

    /// Ends the transaction. After an error it may still be open.
    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        self.record_runs()?;
        self.statement(KeptStatement::Commit)?.execute([])?;
        self.let_go();
        Ok(())
    }

    fn record_runs(&mut self) -> Result<(), Failure> {
        let Some(at) = self.settled_at.take() else { return Ok(()) };
        let mut settled = std::mem::take(&mut self.settled);
        settled.sort_unstable();
        dispatches::record_runs(self.statement(KeptStatement::DispatchesRecordRun)?, &settled, at)?;
        settled.clear();
        settled.shrink_to(ENTRIES_KEPT);
        self.settled = settled;
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
        for kept in KeptStatement::LARGE {
            if let Some(statement) = &mut self.statements[kept as usize] {
                statement.clear_bindings();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use neo_events_domain::{
        catalogue::{EventTypeDraft, EventTypeEntry},
        delivery::Trigger,
        endpoint::{Endpoint, EndpointDraft, Profile},
        event::{EventDraft, NewEvent},
        id::Id,
    };
    use neo_events_store::{Appended, NewDelivery};
    use rusqlite::StatementStatus;

    use super::*;
    use crate::{
        dispatches::DeliveryWriter,
        endpoints, event_types,
        events::TableEnd,
        leases::{Leases, Tokens},
        open::migrated,
        tend::DeleteEndpoint,
        writer::Step,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn event(n: u8, event_type: &str) -> NewEvent {
        EventDraft::new(event_type, "{}").validate(at(0), [n; 10]).unwrap()
    }

    fn entry(event_type: &str) -> EventTypeEntry {
        let display_name = event_type.to_owned();
        let draft = EventTypeDraft { event_type: display_name.clone(), display_name, ..Default::default() };
        draft.validate(Id::new(at(0), [1; 10]), at(0)).unwrap()
    }

    fn endpoint(n: u8) -> Endpoint {
        let draft = EndpointDraft::standard("receiver", "https://example.com/hook");
        let url = Ok(draft.endpoint_url.clone());
        let limits = Profile::Production.endpoint_limits();
        draft.validate(Id::new(at(0), [n; 10]), at(0), limits, url).unwrap()
    }

    fn delivery(n: u8, endpoint: &Endpoint) -> NewDelivery {
        NewDelivery {
            id: Id::new(at(0), [n; 10]),
            endpoint_id: endpoint.id,
            trigger: Trigger::Event,
            subscription_ids: Vec::new(),
            max_attempts: 1,
            retry: endpoint.retry,
        }
    }

    /// A step that publishes one event.
    fn append(scope: &mut Scope<'_>, event: &NewEvent, now: i64) -> Result<Appended, Failure> {
        TableEnd::of(scope, at(now))?.append(scope, event)
    }

    /// A step that writes one delivery.
    fn deliver(scope: &mut Scope<'_>, event_seq: i64, delivery: &NewDelivery, now: i64) -> Option<i64> {
        DeliveryWriter::of(scope, at(now)).unwrap().write(scope, event_seq, delivery).unwrap()
    }

    /// A step that is a function of the connection, as all are that change the catalogue.
    fn run<T: Send + 'static>(
        scope: &mut Scope<'_>,
        mut step: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> T {
        Step::run(&mut step, scope).unwrap()
    }

    fn insert_endpoint(scope: &mut Scope<'_>, endpoint: &Endpoint) {
        let endpoint = endpoint.clone();
        run(scope, move |conn: &Connection| endpoints::insert(conn, &endpoint));
    }

    fn is_stored(appended: Result<Appended, Failure>) -> bool {
        matches!(appended.unwrap(), Appended::Stored { .. })
    }

    fn runs(conn: &Connection) -> Vec<(i64, i64, i64)> {
        let listed =
            "select first_seq, last_seq, processed_at / 1000000 from dispatch_runs order by first_seq";
        let mut statement = conn.prepare(listed).unwrap();
        let run = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        statement.query_map([], run).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn what_was_written_is_not_held_until_the_next_comes() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let held = |scope: &mut Scope<'_>| {
            scope.statement(KeptStatement::EventsInsert).unwrap().get_status(StatementStatus::MemUsed)
        };
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000));
        let large = EventDraft::new("user.created", large).validate(at(0), [1; 10]).unwrap();
        for ends in [Scope::roll_back, |scope: &mut Scope<'_>| scope.commit().unwrap()] {
            scope.begin().unwrap();
            assert!(is_stored(append(&mut scope, &large, 0)));
            assert!(held(&mut scope) > 100_000);
            ends(&mut scope);
            assert!(held(&mut scope) < 50_000);
        }
    }

    #[test]
    fn a_statement_that_failed_serves_the_next_transaction() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let count = || -> i64 {
            let count = "select (select count(*) from events) + (select count(*) from owed_dispatches)";
            conn.query_row(count, [], |row| row.get(0)).unwrap()
        };
        let event = event(1, "user.created");
        scope.begin().unwrap();
        assert!(is_stored(append(&mut scope, &event, 0)));
        dispatches::owe(&mut scope, 1).unwrap();
        assert!(append(&mut scope, &event, 0).is_err(), "the same id");
        assert!(dispatches::owe(&mut scope, 1).is_err(), "owed already");
        assert!(scope.begin().is_err(), "begun already");
        scope.roll_back();
        assert_eq!(count(), 0);
        assert!(scope.commit().is_err(), "nothing to commit");
        scope.roll_back();
        scope.begin().unwrap();
        assert!(is_stored(append(&mut scope, &event, 0)));
        dispatches::owe(&mut scope, 1).unwrap();
        scope.commit().unwrap();
        assert_eq!(count(), 2);
    }

    #[test]
    fn a_type_that_is_disabled_between_two_steps_is_refused_from_then_on() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let entry = entry("user.created");
        let disabled = EventTypeEntry { is_enabled: false, revision: entry.revision + 1, ..entry.clone() };
        scope.begin().unwrap();
        run(&mut scope, move |conn: &Connection| event_types::insert(conn, &entry));
        assert!(is_stored(append(&mut scope, &event(1, "user.created"), 0)));
        let of = disabled.event_type.clone();
        run(&mut scope, move |conn: &Connection| event_types::update(conn, &disabled));
        for n in [2, 3] {
            let refused = append(&mut scope, &event(n, "user.created"), 0).unwrap();
            assert_eq!(refused, Appended::TypeDisabled);
        }
        assert!(is_stored(append(&mut scope, &event(4, "user.renamed"), 0)), "another type");
        run(&mut scope, move |conn: &Connection| event_types::delete(conn, &of));
        assert!(is_stored(append(&mut scope, &event(5, "user.created"), 0)));
        scope.commit().unwrap();
    }

    #[test]
    fn an_endpoint_that_comes_or_goes_between_two_steps_is_known_or_forgotten() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let (one, two) = (endpoint(1), endpoint(2));
        scope.begin().unwrap();
        let before = scope.catalogue_version().unwrap();
        assert_eq!(deliver(&mut scope, 1, &delivery(1, &one), 0), None);
        insert_endpoint(&mut scope, &one);
        insert_endpoint(&mut scope, &two);
        assert_eq!(scope.catalogue_version().unwrap(), CatalogueVersion(before.0 + 2));
        assert_eq!(deliver(&mut scope, 1, &delivery(1, &one), 0), Some(1));
        assert_eq!(deliver(&mut scope, 1, &delivery(2, &two), 0), Some(2));
        let leases = Arc::new(Leases::new(Arc::new(Tokens::of_opening(1))));
        let mut delete = DeleteEndpoint::new(&leases, one.id, at(0));
        assert!(delete.run(&mut scope).unwrap());
        assert_eq!(deliver(&mut scope, 2, &delivery(3, &one), 0), None);
        assert_eq!(deliver(&mut scope, 2, &delivery(4, &two), 0), Some(3));
        assert_eq!(scope.catalogue_version().unwrap(), CatalogueVersion(before.0 + 3));
        scope.commit().unwrap();
    }

    #[test]
    fn what_was_rolled_back_is_not_remembered() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let (known, disabled) = (endpoint(1), EventTypeEntry { is_enabled: false, ..entry("user.gone") });
        let (created, gone) = (event(1, "user.created"), disabled.event_type.clone());
        let before = scope.catalogue_version().unwrap();
        scope.begin().unwrap();
        insert_endpoint(&mut scope, &known);
        run(&mut scope, move |conn: &Connection| event_types::insert(conn, &disabled));
        assert!(scope.is_disabled(&gone).unwrap());
        assert!(is_stored(append(&mut scope, &created, 7)));
        assert_eq!(deliver(&mut scope, 1, &delivery(1, &known), 7), Some(1));
        scope.dispatch_is_settled(1, at(7));
        assert_ne!(scope.catalogue_version().unwrap(), before);
        scope.roll_back();

        scope.begin().unwrap();
        assert_eq!(scope.catalogue_version().unwrap(), before);
        assert!(!scope.is_disabled(&gone).unwrap());
        assert_eq!(scope.newest_event().unwrap(), Newest::NONE);
        assert_eq!(scope.newest_delivery().unwrap(), Newest::NONE);
        assert_eq!(deliver(&mut scope, 1, &delivery(1, &known), 0), None);
        assert!(is_stored(append(&mut scope, &created, 0)));
        assert_eq!(scope.newest_event().unwrap().seq, 1);
        scope.commit().unwrap();
        assert_eq!(runs(&conn), []);
    }

    #[test]
    fn what_others_write_between_two_transactions_is_seen() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        scope.begin().unwrap();
        assert!(is_stored(append(&mut scope, &event(1, "user.created"), 0)));
        scope.commit().unwrap();
        crate::events::append(&conn, &[event(2, "user.created")], at(0)).unwrap();
        scope.begin().unwrap();
        assert!(is_stored(append(&mut scope, &event(3, "user.created"), 0)));
        assert_eq!(scope.newest_event().unwrap().seq, 3);
        scope.commit().unwrap();
    }

    #[test]
    fn rows_never_look_older_than_those_of_an_earlier_step() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        let endpoint = endpoint(1);
        scope.begin().unwrap();
        insert_endpoint(&mut scope, &endpoint);
        for (n, now) in [(1, 10), (2, 5), (3, 12)] {
            assert!(is_stored(append(&mut scope, &event(n, "user.created"), now)));
            assert_eq!(deliver(&mut scope, n.into(), &delivery(n, &endpoint), now), Some(n.into()));
        }
        scope.commit().unwrap();
        for table in ["events", "deliveries"] {
            let times = format!("select seq, created_at / 1000000 from {table} order by seq");
            let mut statement = conn.prepare(&times).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            let rows: Vec<(i64, i64)> = rows.collect::<Result<_, _>>().unwrap();
            assert_eq!(rows, [(1, 10), (2, 10), (3, 12)], "{table}");
        }
        let due: i64 = conn
            .query_row("select due_at / 1000000 from deliveries where seq = 2", [], |row| row.get(0))
            .unwrap();
        assert_eq!(due, 5, "by the clock as it is");
    }

    #[test]
    fn the_runs_of_a_transaction_are_one_where_they_touch() {
        let conn = migrated();
        let mut scope = Scope::of(&conn);
        scope.begin().unwrap();
        // Two steps that publish, the second by a clock that was set back, and one that settles what was owed.
        for (seq, now) in [(4, 20), (5, 20), (6, 15), (2, 15), (3, 15), (9, 15)] {
            scope.dispatch_is_settled(seq, at(now));
        }
        scope.commit().unwrap();
        assert_eq!(runs(&conn), [(2, 6, 20), (9, 9, 20)]);
        scope.begin().unwrap();
        scope.dispatch_is_settled(7, at(16));
        scope.commit().unwrap();
        scope.begin().unwrap();
        scope.commit().unwrap();
        assert_eq!(runs(&conn), [(2, 6, 20), (7, 7, 16), (9, 9, 20)]);
        assert_eq!(dispatches::processed_at(&conn, 8).unwrap(), None);
    }
}
