//! The event log.

use async_trait::async_trait;
use neo_events_domain::{
    Timestamp, Uuid,
    event::{AGGREGATE_VERSION_MAX, DomainEvent, JsonObject, NewEvent, VersionRule},
    id::EventId,
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{
    AggregateQuery, Appended, Arrival, Cursor, EventLog, EventQuery, Page, PageRequest, StoreError,
    StoredEvent, WorkQueue,
};
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};

use crate::{
    columns::{Columns, Micros, key, optional_key},
    dispatches,
    failure::Failure,
    page::{Span, Timeline, keys, limit_of, page, page_by},
    scope::{KeptStatement, Newest, Scope},
    sql,
    store::SqliteStore,
    writer::Scoped,
};

const TIMELINE: Timeline = Timeline { bounds: sql::EVENTS_BOUNDS, created_at: sql::EVENTS_CREATED_AT };

#[async_trait]
impl EventLog for SqliteStore {
    async fn append(
        &self,
        schema: &Schema,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Vec<Appended>, StoreError> {
        self.append_arrivals(schema, events.into_iter().map(Arrival::from).collect(), now).await
    }

    async fn event(&self, schema: &Schema, id: EventId) -> Result<Option<StoredEvent>, StoreError> {
        let find = move |conn: &Connection| {
            let mut statement = conn.prepare_cached(sql::EVENTS_BY_ID)?;
            let found = by_id(&mut statement, id)?;
            found.map(|row| with_processed_at(conn, row)).transpose()
        };
        self.file(schema).await?.read(find).await
    }

    async fn events(
        &self,
        schema: &Schema,
        query: &EventQuery,
        request: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let query = query.clone();
        let list = move |conn: &Connection| {
            let span = TIMELINE.span(conn, query.created)?.continued(request.cursor.as_ref())?;
            let seqs = seqs(conn, list_statement(&query), &query, (span, limit_of(&request)))?;
            page(&seqs, &request, |seq| stored(conn, seq), bytes)
        };
        self.file(schema).await?.read(list).await
    }

    async fn count_events(&self, schema: &Schema, query: &EventQuery) -> Result<u64, StoreError> {
        let query = query.clone();
        let count = move |conn: &Connection| {
            let span = TIMELINE.span(conn, query.created)?;
            let count = format!("select count(*) from ({})", list_statement(&query));
            Ok(seqs(conn, &count, &query, (span, -1))?.first().copied().unwrap_or(0).unsigned_abs())
        };
        self.file(schema).await?.read(count).await
    }

    async fn aggregate_events(
        &self,
        schema: &Schema,
        query: &AggregateQuery,
        request: PageRequest,
    ) -> Result<Page<StoredEvent>, StoreError> {
        let query = query.clone();
        let list = move |conn: &Connection| {
            let places = places(conn, &query, &request)?;
            page_by(&places, &request, |place| stored(conn, place.seq), bytes, Place::cursor)
        };
        self.file(schema).await?.read(list).await
    }

    async fn newest_version(&self, schema: &Schema, aggregate: (&str, Uuid)) -> Result<u32, StoreError> {
        let (aggregate_type, aggregate_id) = (aggregate.0.to_owned(), aggregate.1);
        let find = move |conn: &Connection| {
            let mut statement = conn.prepare_cached(sql::EVENTS_NEWEST_VERSION)?;
            newest_version(&mut statement, aggregate_id, &aggregate_type)
        };
        self.file(schema).await?.read(find).await
    }

    async fn belong_to_others(
        &self,
        schema: &Schema,
        aggregates: &[(String, Uuid)],
        context_id: Uuid,
    ) -> Result<Vec<bool>, StoreError> {
        let aggregates = aggregates.to_vec();
        // By the writer, which no list keeps waiting.
        let judge = move |conn: &Connection| belong_to_others(conn, &aggregates, context_id);
        self.file(schema).await?.write(judge).await
    }

    async fn mark_processed(
        &self,
        schema: &Schema,
        ids: &[EventId],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let ids = ids.to_vec();
        let mark = move |scope: &mut Scope<'_>| {
            let mut count = 0;
            for id in &ids {
                let seq = scope
                    .connection()
                    .prepare_cached(sql::EVENTS_SEQ_BY_ID)?
                    .query_row([key(*id)], |row| row.get::<_, i64>(0))
                    .optional()?;
                if let Some(seq) = seq
                    && dispatches::settle(scope, seq)?
                {
                    scope.dispatch_is_settled(seq, now);
                    count += 1;
                }
            }
            Ok(count)
        };
        self.file(schema).await?.write(Scoped(mark)).await
    }
}

/// Appends events on somebody's transaction, each with the row that owes its dispatch.
pub(crate) fn append(
    conn: &Connection,
    events: &[NewEvent],
    now: Timestamp,
) -> Result<Vec<Appended>, Failure> {
    let scope = &mut Scope::of(conn);
    let mut end = TableEnd::of(scope, now)?;
    let mut append = |event| {
        let appended = end.append(scope, event)?;
        if let Appended::Stored { .. } = appended {
            dispatches::owe(scope, end.newest_seq)?;
        }
        Ok(appended)
    };
    events.iter().map(&mut append).collect()
}

/// See [`EventLog::belong_to_others`].
pub(crate) fn belong_to_others(
    conn: &Connection,
    aggregates: &[(String, Uuid)],
    context_id: Uuid,
) -> Result<Vec<bool>, Failure> {
    let mut statement = conn.prepare_cached(sql::EVENTS_BELONG_TO_OTHERS)?;
    let context_id = context_id.into_bytes();
    let mut judge = |(of, id): &(String, Uuid)| {
        statement.query_row(params![id.into_bytes(), of, context_id], |row| row.get(0))
    };
    Ok(aggregates.iter().map(&mut judge).collect::<Result<_, _>>()?)
}

/// Whether a query has an event.
pub(crate) fn are_there(conn: &Connection, query: &EventQuery) -> Result<bool, Failure> {
    let span = TIMELINE.span(conn, query.created)?;
    Ok(!seqs(conn, list_statement(query), query, (span, 1))?.is_empty())
}

/// The end of the log, where new events are appended, as one transaction sees it.
pub(crate) struct TableEnd {
    /// The newest event's.
    pub(crate) newest_seq: i64,
    /// What the next event's `created_at` will be: now, or the newest event's if the clock was set back.
    created_at: Timestamp,
    now: Timestamp,
}

impl TableEnd {
    pub(crate) fn of(scope: &mut Scope<'_>, now: Timestamp) -> Result<Self, Failure> {
        let (newest, now) = (scope.newest_event()?, to_micros(now));
        let created_at = now.max(newest.created_at.timestamp());
        Ok(Self { newest_seq: newest.seq, created_at, now })
    }

    /// Stores one event, or says why not.
    pub(crate) fn append(&mut self, scope: &mut Scope<'_>, event: &NewEvent) -> Result<Appended, Failure> {
        if event.id_is_given
            && let Some((_, stored)) = by_id(scope.statement(KeptStatement::EventsById)?, event.id)?
        {
            let DomainEvent { created_at, aggregate_version, .. } = stored;
            let repeats = event.repeats(&stored);
            return Ok(if repeats {
                Appended::Duplicate { created_at, aggregate_version }
            } else {
                Appended::IdConflict
            });
        }
        if scope.is_disabled(&event.event_type)? {
            return Ok(Appended::TypeDisabled);
        }
        let version = match event.version {
            VersionRule::Default => 1,
            VersionRule::Given(version) => version,
            VersionRule::Expect(expected) => match guard(scope, event, expected)? {
                Ok(next) => next,
                Err(refused) => return Ok(refused),
            },
        };
        self.newest_seq += 1;
        self.insert(scope, event, version)?;
        Ok(Appended::Stored { created_at: self.created_at, aggregate_version: version })
    }

    fn insert(&self, scope: &mut Scope<'_>, event: &NewEvent, version: u32) -> Result<(), Failure> {
        scope.statement(KeptStatement::EventsInsert)?.execute(params![
            self.newest_seq,
            key(event.id),
            event.event_type.as_str(),
            event.event_name,
            event.aggregate_id_or_default().into_bytes(),
            event.aggregate_type_or_default(),
            version,
            optional_key(event.correlation_id),
            optional_key(event.causation_id),
            optional_key(event.triggered_by_user_id),
            optional_key(event.context_id),
            Micros::from(event.occurred_at.unwrap_or(self.now)),
            Micros::from(self.created_at),
            event.event_metadata.as_ref().map_or("{}", JsonObject::as_str),
            event.event_data.as_str(),
        ])?;
        scope.event_is_new(Newest { seq: self.newest_seq, created_at: Micros::from(self.created_at) });
        Ok(())
    }
}

/// The version that a guarded publish gets, or why it is refused.
fn guard(scope: &mut Scope<'_>, event: &NewEvent, expected: u32) -> Result<Result<u32, Appended>, Failure> {
    let (aggregate_id, aggregate_type) = (event.aggregate_id_or_default(), event.aggregate_type_or_default());
    let newest =
        newest_version(scope.statement(KeptStatement::EventsNewestVersion)?, aggregate_id, aggregate_type)?;
    if newest >= AGGREGATE_VERSION_MAX {
        return Ok(Err(Appended::VersionsExhausted));
    }
    if newest != expected {
        return Ok(Err(Appended::StaleVersion { newest }));
    }
    let head = params![aggregate_id.into_bytes(), aggregate_type, newest + 1];
    scope.statement(KeptStatement::StreamHeadsAdvance)?.execute(head)?;
    Ok(Ok(newest + 1))
}

fn newest_version(
    statement: &mut Statement<'_>,
    aggregate_id: Uuid,
    aggregate_type: &str,
) -> Result<u32, Failure> {
    let of = params![aggregate_id.into_bytes(), aggregate_type];
    Ok(statement.query_row(of, |row| row.get(0))?)
}

/// Where an event stands among those of its aggregate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    version: i64,
    seq: i64,
}

impl Place {
    /// The version and the key, in decimal, with a dash between.
    fn cursor(self) -> Cursor {
        Cursor::new(format!("{}-{}", self.version, self.seq))
    }

    fn of(cursor: &Cursor) -> Result<Self, Failure> {
        let (version, seq) = cursor.as_str().split_once('-').ok_or(Failure::Cursor)?;
        let (Ok(version), Ok(seq)) = (version.parse(), seq.parse()) else { return Err(Failure::Cursor) };
        let place = Self { version, seq };
        if place.cursor() == *cursor && version > 0 && seq > 0 { Ok(place) } else { Err(Failure::Cursor) }
    }
}

/// The places of a page's events, and of one more if more follow.
fn places(conn: &Connection, query: &AggregateQuery, request: &PageRequest) -> Result<Vec<Place>, Failure> {
    let mut after = Place { version: query.after_version.into(), seq: i64::MAX };
    if let Some(cursor) = &request.cursor {
        after = after.max(Place::of(cursor)?);
    }
    let of = params![
        query.aggregate_id.into_bytes(),
        query.aggregate_type,
        after.version,
        after.seq,
        optional_key(query.context_id),
        limit_of(request)
    ];
    let mut statement = conn.prepare_cached(sql::EVENTS_BY_AGGREGATE)?;
    let places = statement.query_map(of, |row| Ok(Place { version: row.get(0)?, seq: row.get(1)? }))?;
    Ok(places.collect::<Result<_, _>>()?)
}

/// What an event's own texts weigh.
fn bytes(StoredEvent { event, .. }: &StoredEvent) -> usize {
    event.event_data.as_str().len() + event.event_metadata.as_str().len()
}

/// One event by its key.
pub(crate) fn by_seq(conn: &Connection, seq: i64) -> Result<Option<(i64, DomainEvent)>, Failure> {
    Ok(conn.prepare_cached(sql::EVENTS_BY_SEQ)?.query_row([seq], event).optional()?)
}

fn by_id(statement: &mut Statement<'_>, id: EventId) -> Result<Option<(i64, DomainEvent)>, Failure> {
    Ok(statement.query_row([key(id)], event).optional()?)
}

fn stored(conn: &Connection, seq: i64) -> Result<Option<StoredEvent>, Failure> {
    by_seq(conn, seq)?.map(|row| with_processed_at(conn, row)).transpose()
}

fn with_processed_at(conn: &Connection, (seq, event): (i64, DomainEvent)) -> Result<StoredEvent, Failure> {
    Ok(StoredEvent { event, processed_at: dispatches::processed_at(conn, seq)? })
}

/// The list that visits the fewest rows for what the query fixes.
fn list_statement(query: &EventQuery) -> &'static str {
    match query {
        EventQuery { aggregate_id: Some(_), .. } => sql::EVENTS_LIST_BY_AGGREGATE,
        EventQuery { correlation_id: Some(_), .. } => sql::EVENTS_LIST_BY_CORRELATION,
        EventQuery { processed: Some(false), .. } => sql::EVENTS_LIST_OWED,
        EventQuery { context_id: Some(_), .. } => sql::EVENTS_LIST_BY_CONTEXT,
        EventQuery { event_type: Some(_), .. } => sql::EVENTS_LIST_BY_TYPE,
        _ => sql::EVENTS_LIST,
    }
}

fn seqs(
    conn: &Connection,
    sql: &str,
    query: &EventQuery,
    (span, limit): (Span, i64),
) -> Result<Vec<i64>, Failure> {
    let parameters: [(&str, &dyn rusqlite::ToSql); 9] = [
        (":from_seq", &span.from),
        (":before_seq", &span.before),
        (":limit", &limit),
        (":event_type", &query.event_type.as_ref().map(|of| of.as_str().to_owned())),
        (":aggregate_type", &query.aggregate_type),
        (":aggregate_id", &optional_key(query.aggregate_id)),
        (":correlation_id", &optional_key(query.correlation_id)),
        (":context_id", &optional_key(query.context_id)),
        (":processed", &query.processed),
    ];
    keys(conn, sql, &parameters)
}

fn event(row: &Row<'_>) -> rusqlite::Result<(i64, DomainEvent)> {
    let mut columns = Columns::of(row);
    let seq = columns.take()?;
    let event = DomainEvent {
        id: columns.id()?,
        event_type: columns.parsed()?,
        event_name: columns.take()?,
        aggregate_id: columns.uuid()?,
        aggregate_type: columns.take()?,
        aggregate_version: columns.take()?,
        correlation_id: columns.optional_uuid()?,
        causation_id: columns.optional_uuid()?,
        triggered_by_user_id: columns.optional_uuid()?,
        context_id: columns.optional_uuid()?,
        occurred_at: columns.time()?,
        created_at: columns.time()?,
        event_metadata: json(&mut columns)?,
        event_data: json(&mut columns)?,
    };
    Ok((seq, event))
}

/// A JSON object that was checked before it was stored.
fn json(columns: &mut Columns<'_>) -> rusqlite::Result<JsonObject> {
    columns.text(|text| Ok::<_, std::convert::Infallible>(JsonObject::from_stored(text)))
}
