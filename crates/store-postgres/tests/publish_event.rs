//! Publishing from SQL: the same rules as the library's, in the caller's transaction, with no rights but to publish.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use neo_events_domain::{
    SignedDuration, Timestamp, Uuid,
    event::EventDraft,
    id::EventId,
    tenant::{Schema, Tenant},
};
use neo_events_store::Tenants;
use neo_events_store_postgres::{
    PostgresOptions, PostgresStore, migrate,
    tokio_postgres::{
        self, Client, NoTls,
        error::{DbError, SqlState},
        types::ToSql,
    },
};
use neo_events_test_postgres::{Database, Role, database, execute};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Long enough for a slow machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_mins(1);

/// The optional arguments, each with its type.
const OPTIONAL: [(&str, &str); 12] = [
    ("id", "uuid"),
    ("event_name", "text"),
    ("aggregate_id", "uuid"),
    ("aggregate_type", "text"),
    ("aggregate_version", "bigint"),
    ("expected_version", "bigint"),
    ("event_metadata", "json"),
    ("correlation_id", "uuid"),
    ("causation_id", "uuid"),
    ("triggered_by_user_id", "uuid"),
    ("context_id", "uuid"),
    ("occurred_at", "timestamptz"),
];

/// A database with the tenant `tenant_acme`.
async fn tenant() -> Database {
    let database = database().await;
    migrate(&database.url(), |_| ()).await.unwrap();
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    let schema = Schema::tenant("acme").unwrap();
    store.create_tenant(&Tenant { schema, name: None, created_at: Timestamp::UNIX_EPOCH }).await.unwrap();
    store.close().await;
    database
}

/// A role that may publish and nothing else.
async fn publisher(database: &Database) -> Role {
    let role = database.create_role("publisher", "").await;
    let grants = format!(
        "grant usage on schema tenant_acme to {0};
         grant execute on function tenant_acme.publish_event to {0}",
        role.name
    );
    execute(&database.url(), &grants).await;
    role
}

/// A connection, closed when dropped.
struct Session {
    client: Client,
    _driver: JoinSet<()>,
}

/// Names and values of arguments; `event_type` and `event_data` have defaults.
type Arguments = serde_json::Map<String, Value>;

/// What `record_event` answers.
#[derive(Debug, Clone, PartialEq)]
struct Recorded {
    id: Uuid,
    version: i64,
    created_at: Timestamp,
    is_duplicate: bool,
}

impl Session {
    async fn open(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { client, _driver: driver }
    }

    /// Calls `record_event`; values travel as text and are cast there.
    async fn record(&self, arguments: &Arguments) -> Result<Recorded, DbError> {
        let text = |name: &str| match arguments.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            None | Some(Value::Null) => None,
            Some(other) => Some(other.to_string()),
        };
        let or = |name: &str, default: &str| {
            if arguments.contains_key(name) { text(name) } else { Some(default.to_owned()) }
        };
        let mut values = vec![or("event_type", "user.created"), or("event_data", "{}")];
        let mut call = "select * from tenant_acme.record_event($1::text, $2::text::json".to_owned();
        for (name, sql_type) in OPTIONAL {
            values.push(text(name));
            write!(call, ", {name} => ${}::text::{sql_type}", values.len()).unwrap();
        }
        call.push(')');
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        match self.client.query_one(&call, &values).await {
            Ok(row) => Ok(Recorded {
                id: row.get("id"),
                version: row.get("aggregate_version"),
                created_at: row.get("created_at"),
                is_duplicate: row.get("is_duplicate"),
            }),
            Err(error) => Err(error.as_db_error().unwrap_or_else(|| panic!("{error}")).clone()),
        }
    }

    /// Calls `record_event` in a transaction that is rolled back; answers what would have been stored.
    async fn rehearse(&self, arguments: &Arguments) -> Result<[String; 3], DbError> {
        self.client.batch_execute("begin").await.unwrap();
        let recorded = self.record(arguments).await;
        let stored = match &recorded {
            Ok(recorded) => {
                let select =
                    "select aggregate_type, event_data, event_metadata from tenant_acme.events where id = $1";
                let row = self.client.query_one(select, &[&recorded.id]).await.unwrap();
                [0, 1, 2].map(|column| row.get(column))
            }
            Err(_) => Default::default(),
        };
        self.client.batch_execute("rollback").await.unwrap();
        recorded.map(|_| stored)
    }

    async fn count(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Until another session of this database waits for a lock.
    async fn until_somebody_waits(&self) {
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        let wait = async { while self.count(waiting).await == 0 {} };
        tokio::time::timeout(DEADLINE, wait).await.expect("nobody waits");
    }

    async fn now(&self) -> Timestamp {
        self.client.query_one("select clock_timestamp()", &[]).await.unwrap().get(0)
    }

    /// A given id of this moment.
    async fn new_id(&self) -> Uuid {
        let random = self.client.query_one("select gen_random_uuid()", &[]).await.unwrap().get::<_, Uuid>(0);
        EventId::new(self.now().await, random.as_bytes()[6..].try_into().unwrap()).uuid()
    }
}

fn arguments(value: Value) -> Arguments {
    let Value::Object(arguments) = value else { panic!("{value} is no object") };
    arguments
}

/// The same arguments, as the library takes them.
fn draft(arguments: &Arguments) -> EventDraft {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::to_owned);
    let uuid = |name: &str| text(name).map(|text| text.parse().unwrap());
    let number = |name: &str| arguments.get(name).and_then(Value::as_i64);
    EventDraft {
        id: uuid("id"),
        event_type: text("event_type").unwrap_or("user.created".into()),
        event_name: text("event_name"),
        aggregate_id: uuid("aggregate_id"),
        aggregate_type: text("aggregate_type"),
        aggregate_version: number("aggregate_version"),
        event_data: text("event_data").unwrap_or("{}".into()),
        event_metadata: text("event_metadata"),
        correlation_id: uuid("correlation_id"),
        causation_id: uuid("causation_id"),
        triggered_by_user_id: uuid("triggered_by_user_id"),
        context_id: uuid("context_id"),
        occurred_at: text("occurred_at").map(|text| text.parse().unwrap()),
        expected_version: number("expected_version"),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/publish_event")
}

/// A value of the table: parts joined, ids made.
fn written_out(value: &Value, now: Timestamp) -> Value {
    match value {
        Value::Array(parts) => {
            let part = |part: &Value| match part {
                Value::Array(of) => {
                    of[0].as_str().unwrap().repeat(usize::try_from(of[1].as_u64().unwrap()).unwrap())
                }
                part => part.as_str().unwrap().to_owned(),
            };
            parts.iter().map(part).collect::<String>().into()
        }
        Value::Object(id) => {
            let minutes = id["v7_minutes"].as_i64().unwrap();
            let at = now + SignedDuration::from_mins(minutes);
            let mut text = EventId::new(at, [0x81; 10]).to_string();
            for (name, place) in [("version", 14), ("variant", 19)] {
                if let Some(digit) = id.get(name).and_then(Value::as_str) {
                    text.replace_range(place..=place, digit);
                }
            }
            text.into()
        }
        value => value.clone(),
    }
}

#[tokio::test]
async fn the_table_of_cases_holds_for_sql_and_for_the_library() {
    let database = tenant().await;
    let session = Session::open(&database.url()).await;
    let table = std::fs::read_to_string(folder().join("cases.json")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    for case in table["cases"].as_array().unwrap() {
        let now = session.now().await;
        let given = case["publish"].as_object().unwrap();
        let given: Arguments =
            given.iter().map(|(name, value)| (name.clone(), written_out(value, now))).collect();
        let of_sql = session.rehearse(&given).await;
        let refused = case.get("refused");
        match (&of_sql, refused) {
            (Ok(_), None) => {}
            (Err(error), Some(refused)) => {
                assert_eq!(error.code().code(), refused["sqlstate"], "{case}: {error}");
                assert_eq!(error.column(), refused["column"].as_str(), "{case}: {error}");
                assert!(error.message().contains(refused["message"].as_str().unwrap()), "{case}: {error}");
            }
            _ => panic!("{case}: {of_sql:?}"),
        }
        if case.get("sql_only").is_some() {
            continue;
        }
        let of_library = draft(&given).validate(now, [0; 10]);
        match (&of_library, refused) {
            (Ok(_), None) => {}
            (Err(faults), Some(refused)) => {
                let pointer = format!("/{}", refused["column"].as_str().unwrap_or("event_data"));
                let message = refused.get("library_message").unwrap_or(&refused["message"]).as_str().unwrap();
                let says = |text: String| text.contains(message);
                let is_named = faults.iter().any(|fault| {
                    fault.pointer == pointer && says(format!("{} {}", fault.pointer, fault.rule))
                });
                assert!(is_named, "{case}: {faults}");
            }
            _ => panic!("{case}: {of_library:?}"),
        }
    }
}

/// JSON and what nearly is, up to a little deeper than the limit.
fn json_text() -> impl Strategy<Value = String> {
    let characters = ["a", "é", "[", "]", "{", "}", ",", r"\\", r#"\""#, r"\n", r"\ud83d\ude00", r"\u0000"];
    let string = vec(select(characters.to_vec()), 0..6).prop_map(|parts| format!("\"{}\"", parts.concat()));
    let scalar = prop_oneof![string.clone(), Just("-0.50e999".to_owned()), Just("null".to_owned())];
    let level = prop_oneof![
        Just(("[".to_owned(), "]")),
        Just(("[{}, ".to_owned(), "]")),
        string.prop_map(|key| (format!("{{{key}: "), "\n}")),
    ];
    let nested = (vec(level, 0..13), scalar).prop_map(|(levels, scalar)| {
        let (open, mut close): (Vec<_>, Vec<_>) = levels.into_iter().unzip();
        close.reverse();
        format!("{{\"a\":{}{scalar}{}}}", open.concat(), close.concat())
    });
    let fragment =
        select(vec!["", "{", "}", "]", "\"", "\\", ",", "\\ud800", "\\udc00", "\\\\", "\n", "1", "\u{a0}"]);
    let damage = option::weighted(0.4, (any::<prop::sample::Index>(), fragment, any::<bool>()));
    (nested, damage).prop_map(|(text, damage)| {
        let Some((place, fragment, removes)) = damage else { return text };
        let mut characters: Vec<String> = text.chars().map(String::from).collect();
        let place = place.index(characters.len());
        if removes {
            fragment.clone_into(&mut characters[place]);
        } else {
            characters.insert(place, fragment.to_owned());
        }
        characters.concat()
    })
}

fn any_arguments() -> impl Strategy<Value = Arguments> {
    let name = || prop_oneof![3 => "[a-z][a-z0-9_]{0,8}", 1 => "[a-zA-Z_0-9. ü\u{212a}\n-]{0,6}", 1 => "[a-z]{48,52}"];
    let version = || select(vec![i64::MIN, -1, 0, 1, 7, 999_998, 999_999, 1_000_000, 1 << 32, i64::MAX]);
    let event_type = prop_oneof![
        Just("user.created".to_owned()),
        (name(), name()).prop_map(|(a, b)| format!("{a}.{b}")),
        name()
    ];
    let required = (event_type, prop_oneof![Just("{}".to_owned()), json_text()]);
    let optional = (
        option::weighted(0.2, json_text()),
        option::weighted(0.2, name()),
        option::weighted(0.2, version()),
        option::weighted(0.2, version()),
        option::weighted(0.5, any::<u128>()),
        option::weighted(0.1, any::<u128>()),
    );
    (required, optional).prop_map(|((event_type, data), (metadata, aggregate_type, version, expected, aggregate, id))| {
        let uuid = |value: Option<u128>| value.map(|value| Uuid::from_u128(value).to_string());
        arguments(json!({
            "event_type": event_type, "event_data": data, "event_metadata": metadata, "aggregate_type": aggregate_type,
            "aggregate_version": version, "expected_version": expected, "aggregate_id": uuid(aggregate), "id": uuid(id),
        }))
    })
}

#[test]
fn sql_and_the_library_agree_on_any_arguments() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_database, session) = runtime.block_on(async {
        let database = tenant().await;
        let session = Session::open(&database.url()).await;
        (database, session)
    });
    let mut runner = TestRunner::new(Config { cases: 1_500, failure_persistence: None, ..Config::default() });
    let agree = |given: Arguments| {
        let (now, of_sql) = runtime.block_on(async { (session.now().await, session.rehearse(&given).await) });
        match (of_sql, draft(&given).validate(now, [0; 10])) {
            (Ok([aggregate_type, data, metadata]), Ok(event)) => {
                prop_assert_eq!(aggregate_type, event.aggregate_type_or_default());
                prop_assert_eq!(data, event.event_data.as_str());
                prop_assert_eq!(metadata, event.event_metadata.as_ref().map_or("{}", |text| text.as_str()));
            }
            // Stale, which is not a matter of arguments alone.
            (Err(error), Ok(_)) if error.code().code() == "40001" => {}
            (Err(error), Err(faults)) => {
                let named = error.column().map(|name| format!("/{name}"));
                let is_found = named.is_none_or(|name| faults.iter().any(|fault| fault.pointer == name));
                prop_assert!(is_found, "{} is not among {}", error, faults);
            }
            (of_sql, of_library) => {
                return Err(TestCaseError::fail(format!("sql: {of_sql:?}, library: {of_library:?}")));
            }
        }
        Ok(())
    };
    runner.run(&any_arguments(), agree).unwrap();
}

#[tokio::test]
async fn an_event_is_stored_with_its_dispatch_and_every_field() {
    let database = tenant().await;
    let session = Session::open(&database.url()).await;
    let data = r#"{ "b": 1.50, "a": "\u00e9", "a": 1e999 }"#;
    let one = session.record(&arguments(json!({"event_data": data}))).await.unwrap();
    let query = "select e.event_data, e.event_metadata, e.aggregate_id, e.aggregate_type, e.aggregate_version, e.occurred_at, e.created_at
        from tenant_acme.events as e
        join admin.owed_dispatches as owed on owed.event_id = e.id
        join admin.tenants as t on t.no = owed.tenant_no and t.schema_name = 'tenant_acme'
        where e.id = $1";
    let row = session.client.query_one(query, &[&one.id]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (data, "{}"));
    assert_eq!((row.get::<_, Uuid>(2), row.get::<_, &str>(3), row.get::<_, i32>(4)), (one.id, "user", 1));
    assert_eq!((row.get::<_, Timestamp>(5), row.get::<_, Timestamp>(6)), (one.created_at, one.created_at));
    assert_eq!(one.version, 1);
    assert_eq!(EventId::from_uuid(one.id).unix_millis(), Some(one.created_at.as_millisecond()));

    // With a driver's own types, untyped literals, and named arguments.
    let query =
        "select tenant_acme.publish_event('user.created', '{\"a\": 1}', context_id => $1, occurred_at => $2)";
    let context = session.new_id().await;
    let id: Uuid = session.client.query_one(query, &[&context, &one.created_at]).await.unwrap().get(0);
    let query =
        "select count(*) from tenant_acme.events where id = $1 and context_id = $2 and occurred_at = $3";
    let count: i64 = session.client.query_one(query, &[&id, &context, &one.created_at]).await.unwrap().get(0);
    assert_eq!(count, 1);
}

#[tokio::test]
async fn publishing_twice_is_one_event_and_with_other_content_a_conflict() {
    let database = tenant().await;
    let session = Session::open(&database.url()).await;
    let text = |id: Uuid| id.to_string();
    let full = arguments(json!({
        "id": text(session.new_id().await), "event_name": "n", "aggregate_id": text(Uuid::from_u128(1)),
        "aggregate_type": "Account", "aggregate_version": 7, "event_metadata": "{\"m\": 1}",
        "correlation_id": text(Uuid::from_u128(2)), "causation_id": text(Uuid::from_u128(3)),
        "triggered_by_user_id": text(Uuid::from_u128(4)), "context_id": text(Uuid::from_u128(5)),
        "occurred_at": "2001-02-03T04:05:06.789Z", "event_data": "{\"a\": 1}",
    }));
    let first = session.record(&full).await.unwrap();
    assert!(!first.is_duplicate);
    let again = Recorded { is_duplicate: true, ..first.clone() };
    assert_eq!(session.record(&full).await.unwrap(), again);
    // What is not given agrees with anything.
    let less = arguments(
        json!({"id": text(first.id), "event_data": "{\"a\": 1}", "expected_version": 6, "aggregate_id": text(Uuid::from_u128(1))}),
    );
    assert_eq!(session.record(&less).await.unwrap(), again);

    let bare = session.new_id().await;
    session.record(&arguments(json!({"id": text(bare)}))).await.unwrap();
    for (name, other) in [
        ("event_type", "user.deleted"),
        ("event_data", "{\"a\":1}"),
        ("event_metadata", "{\"m\":1}"),
        ("event_name", "m"),
        ("aggregate_id", "00000000-0000-0000-0000-000000000009"),
        ("aggregate_type", "b"),
        ("correlation_id", "00000000-0000-0000-0000-000000000009"),
        ("causation_id", "00000000-0000-0000-0000-000000000009"),
        ("triggered_by_user_id", "00000000-0000-0000-0000-000000000009"),
        ("context_id", "00000000-0000-0000-0000-000000000009"),
        ("occurred_at", "2001-02-03T04:05:06.788Z"),
    ] {
        let mut changed = full.clone();
        changed.insert(name.into(), other.into());
        let conflict = session.record(&changed).await.unwrap_err();
        assert_eq!((conflict.code().code(), conflict.column()), ("23505", Some("id")), "{name}");
        assert_eq!(conflict.detail(), Some(format!("differing: {name}").as_str()));
        let added = arguments(json!({"id": text(bare), name: other}));
        assert_eq!(session.record(&added).await.unwrap_err().code().code(), "23505", "{name}");
    }
    assert_eq!(session.count("select count(*) from admin.owed_dispatches").await, 2);
}

/// Arguments of a guarded publish.
fn guarded(aggregate: Uuid, expected: i64) -> Arguments {
    arguments(json!({"aggregate_id": aggregate.to_string(), "expected_version": expected}))
}

#[tokio::test]
async fn a_guarded_publish_gets_the_next_version_or_is_refused_as_stale() {
    let database = tenant().await;
    let session = Session::open(&database.url()).await;
    let aggregate = Uuid::from_u128(9);
    let stale = async |expected, newest: i64| {
        let refused = session.record(&guarded(aggregate, expected)).await.unwrap_err();
        assert_eq!((refused.code().code(), refused.column()), ("40001", Some("expected_version")));
        assert_eq!(refused.detail(), Some(format!("newest_version={newest}").as_str()));
    };
    let given = async |version: i64| {
        let unguarded = json!({"aggregate_id": aggregate.to_string(), "aggregate_version": version});
        session.record(&arguments(unguarded)).await.unwrap();
    };
    stale(1, 0).await;
    for expected in 0..3 {
        assert_eq!(session.record(&guarded(aggregate, expected)).await.unwrap().version, expected + 1);
    }
    stale(0, 3).await;
    given(10).await;
    stale(3, 10).await;
    given(2).await;
    assert_eq!(session.record(&guarded(aggregate, 10)).await.unwrap().version, 11);
    // The head outlives the events.
    execute(&database.url(), "delete from tenant_acme.events").await;
    stale(0, 11).await;
    given(999_999).await;
    for expected in [11, 999_998] {
        let refused = session.record(&guarded(aggregate, expected)).await.unwrap_err();
        assert_eq!(refused.code().code(), "22003");
    }
}

#[tokio::test]
async fn of_guarded_publishes_at_once_exactly_one_wins() {
    let database = tenant().await;
    let (one, other) = (Session::open(&database.url()).await, Session::open(&database.url()).await);
    for (round, (expected, commits)) in [(0, true), (0, false), (1, true), (1, false)].into_iter().enumerate()
    {
        // An aggregate whose head is there, and one whose is not.
        let aggregate = Uuid::from_u128(100 + round as u128);
        for before in 0..expected {
            one.record(&guarded(aggregate, before)).await.unwrap();
        }
        one.client.batch_execute("begin").await.unwrap();
        one.record(&guarded(aggregate, expected)).await.unwrap();
        let arguments = guarded(aggregate, expected);
        let (waiting, ()) = tokio::join!(other.record(&arguments), async {
            one.until_somebody_waits().await;
            one.client.batch_execute(if commits { "commit" } else { "rollback" }).await.unwrap();
        });
        match waiting {
            Err(refused) if commits => assert_eq!(refused.code().code(), "40001"),
            Ok(recorded) if !commits => assert_eq!(recorded.version, expected + 1),
            other => panic!("{commits}: {other:?}"),
        }
    }
    let versions = "select count(*) from (select from tenant_acme.events group by aggregate_id, aggregate_version having count(*) > 1) as twice";
    assert_eq!(one.count(versions).await, 0);
}

#[tokio::test]
async fn the_same_publish_sent_twice_at_once_is_one_event() {
    let database = tenant().await;
    let (one, other) = (Session::open(&database.url()).await, Session::open(&database.url()).await);
    // Unguarded; guarded, of an aggregate without and with a head.
    for expected in [None, Some(0), Some(1)] {
        let mut twin = expected.map_or_else(Arguments::new, |expected| guarded(Uuid::from_u128(1), expected));
        twin.insert("id".into(), one.new_id().await.to_string().into());
        one.client.batch_execute("begin").await.unwrap();
        let first = one.record(&twin).await.unwrap();
        let (second, ()) = tokio::join!(other.record(&twin), async {
            one.until_somebody_waits().await;
            one.client.batch_execute("commit").await.unwrap();
        });
        assert_eq!(second.unwrap(), Recorded { is_duplicate: true, ..first });
    }
}

#[tokio::test]
async fn a_disabled_type_is_refused_but_not_a_repetition() {
    let database = tenant().await;
    let session = Session::open(&database.url()).await;
    let mut given = guarded(Uuid::from_u128(1), 0);
    given.insert("id".into(), session.new_id().await.to_string().into());
    let first = session.record(&given).await.unwrap();
    let disable = "insert into tenant_acme.event_types
        (id, revision, event_type, category, display_name, is_enabled, created_at, updated_at)
        values (gen_random_uuid(), 1, 'user.created', 'user', 'x', false, now(), now())";
    execute(&database.url(), disable).await;
    let refused = session.record(&guarded(Uuid::from_u128(2), 0)).await.unwrap_err();
    assert_eq!((refused.code().code(), refused.column()), ("55000", Some("event_type")));
    assert_eq!(refused.message(), "event_type user.created is disabled in the catalogue");
    assert_eq!(session.count("select count(*) from tenant_acme.stream_heads").await, 1);
    assert!(session.record(&given).await.unwrap().is_duplicate);
    execute(&database.url(), "update tenant_acme.event_types set is_enabled = true").await;
    assert_ne!(session.record(&Arguments::new()).await.unwrap().id, first.id);
}

#[tokio::test]
async fn a_publisher_can_publish_and_do_nothing_else() {
    let database = tenant().await;
    let role = publisher(&database).await;
    execute(&database.url(), &format!("grant usage on schema admin to {}", role.name)).await;
    let session = Session::open(&role.url).await;
    let call = "select tenant_acme.publish_event('user.created', '{}', aggregate_id => gen_random_uuid(), expected_version => 0)";
    session.client.query_one(call, &[]).await.unwrap();
    let functions = "select format('select %s(%s)', p.oid::regproc,
            (select string_agg(format('null::%s', t), ', ') from unnest(p.proargtypes::regtype[]) as t))
        from pg_proc as p
        where p.pronamespace in ('admin'::regnamespace, 'tenant_acme'::regnamespace)
            and p.oid::regproc::text <> 'tenant_acme.publish_event'";
    let tables = "select format('select from %s', c.oid::regclass) from pg_class as c
        where c.relkind in ('r', 'S') and c.relnamespace in ('admin'::regnamespace, 'tenant_acme'::regnamespace)";
    let mut attempts: Vec<String> = [
        "insert into tenant_acme.events default values",
        "delete from admin.owed_dispatches",
        "create table tenant_acme.t ()",
        "alter function tenant_acme.publish_event reset all",
        "create function tenant_acme.publish_event(text, text) returns uuid language sql return null",
    ]
    .map(String::from)
    .into();
    for query in [functions, tables] {
        let rows = session.client.query(query, &[]).await.unwrap();
        assert!(!rows.is_empty());
        attempts.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    for attempt in attempts {
        let refused = session.client.batch_execute(&attempt).await.expect_err(&attempt);
        assert_eq!(refused.code().map(SqlState::code), Some("42501"), "{attempt}: {refused:?}");
    }
}

#[tokio::test]
async fn what_a_session_is_set_to_changes_nothing() {
    let database = tenant().await;
    let role = publisher(&database).await;
    let grants = "create schema trap; grant usage, create on schema trap to public;
        create collation trap.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)";
    execute(&database.url(), grants).await;
    let session = Session::open(&role.url).await;
    let traps = "create function trap.always(text, text) returns boolean language sql return true;
        create operator trap.~ (leftarg = text, rightarg = text, function = trap.always);
        create function trap.clock_timestamp() returns timestamptz language sql return 'epoch'::timestamptz;
        create temporary table events (id uuid); create temporary table tenants (no int, schema_name text);
        create temporary table owed_dispatches (tenant_no int, event_id uuid);
        create type pg_temp.json as (a int); create domain pg_temp.text as int; create type pg_temp.uuid as (a int);
        set search_path = trap, pg_temp, pg_catalog;
        set standard_conforming_strings = off; set escape_string_warning = off; set transform_null_equals = on;
        set timezone = 'Asia/Kathmandu'; set datestyle = 'German'; set bytea_output = 'escape';
        set extra_float_digits = -15; set plpgsql.extra_errors = 'all'";
    session.client.batch_execute(traps).await.unwrap();
    let publish = async |arguments: &str| {
        let call = format!("select tenant_acme.publish_event({arguments})");
        match session.client.simple_query(&call).await {
            Ok(_) => String::new(),
            Err(error) => error.as_db_error().unwrap().message().to_owned(),
        }
    };
    assert_eq!(publish("'user.created', '{}'").await, "");
    assert_eq!(publish(r#"'user.created', E'{"a": "\\ud83d\\ude00"}'"#).await, "");
    for (arguments, complaint) in [
        ("'User.created', '{}'", "category must begin with a letter a-z, found 'U'"),
        ("'user.created', '[]'", "event_data must be a JSON object"),
        (r#"'user.created', E'{"a": "\\ud83d"}'"#, "lone surrogate in a string"),
        ("'USER.created' collate trap.loose, '{}'", "category must begin with a letter a-z, found 'U'"),
    ] {
        let said = publish(arguments).await;
        assert!(said.contains(complaint), "{arguments}: {said}");
    }
    assert_eq!(
        publish("'user.created' collate trap.loose, '{}', aggregate_type => 'I' collate trap.loose").await,
        ""
    );
    let owner = Session::open(&database.url()).await;
    let stored = "select count(*) from tenant_acme.events join admin.owed_dispatches on event_id = id
        where created_at > now() - interval '1 hour'";
    assert_eq!(owner.count(stored).await, 3);
}

#[tokio::test]
async fn psql_publishes_an_untyped_literal() {
    let database = tenant().await;
    let statement = r#"select admin.publish_event('system.backup_completed', '{"bytes": 1}')"#;
    let output = Command::new("psql")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", statement, &database.url()])
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complained}");
    let id: Uuid = said.trim().parse().unwrap();
    let session = Session::open(&database.url()).await;
    let query = format!("select count(*) from admin.events where id = '{id}'");
    assert_eq!(session.count(&query).await, 1);
}

#[tokio::test]
async fn a_python_program_publishes_in_its_own_transactions() {
    let database = tenant().await;
    let role = publisher(&database).await;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.test-tools/python/bin/python");
    let output = Command::new(&python)
        .arg(folder().join("publish.py"))
        .args([&role.url, "tenant_acme"])
        .output()
        .unwrap_or_else(|error| {
            panic!("{} cannot be started ({error}): run scripts/test --setup", python.display())
        });
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complained}\n(are the tools there? run scripts/test --setup)");
    let said: Value = serde_json::from_str(&said).unwrap();
    let session = Session::open(&database.url()).await;
    for (name, expected) in [("committed", 1), ("rolled_back", 0)] {
        for id in said[name].as_array().unwrap() {
            let query = format!(
                "select count(*) from tenant_acme.events join admin.owed_dispatches on event_id = id where id = '{}'",
                id.as_str().unwrap()
            );
            assert_eq!(session.count(&query).await, expected, "{name} {id}");
        }
        assert!(said[name].as_array().unwrap().len() > 1);
    }
    let total = session.count("select count(*) from tenant_acme.events").await;
    assert_eq!(total, i64::try_from(said["committed"].as_array().unwrap().len()).unwrap());
}
