//! How the statements reach their rows, in a tenant with a million events: through an index, wherever a table grows
//! with what is published or delivered.
//!
//! `plans.txt` is what they did when somebody looked. It changes when statements or indexes do, and is then to be
//! looked at again.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use neo_events_store_postgres::PLANNING_OF_WORK;
use neo_events_test_postgres::database;

use crate::scene::{Beside, open};

/// Tables that are small in every installation, or read whole for a reason that the statement states.
const SMALL: [&str; 6] =
    ["tenants", "sessions", "held_endpoints", "cancel_requests", "endpoint_removals", "migrations"];

/// Statements that read a table whole that may be large, and say why: what is owed is little or listed whole anyway; of
/// a type's subscribers nobody knows how many endpoints they are.
const READ_WHOLE: [(&str, &str); 2] =
    [("events/list_owed", "owed_dispatches"), ("endpoints/list", "subscriptions")];

/// As the connections for work have it.
fn work() -> String {
    let planning = PLANNING_OF_WORK.map(|(name, value)| format!("set {name} = {value}; "));
    format!("set jit = off; set search_path = pg_catalog; {}", planning.concat())
}

/// As the connections for lists and look-ups have it.
const READ: &str = "set plan_cache_mode = force_custom_plan; set jit = off; set search_path = pg_catalog";

/// Statements that know which rows of the queue they want: by less than their whole keys, each would walk over all that
/// an endpoint is owed.
const BY_KEY: [&str; 5] = [
    "deliveries/cancel_all",
    "deliveries/request_cancel_all",
    "deliveries/settle",
    "deliveries/succeed",
    "delivery_queue/give_back",
];

/// Statements of the passes and of publishing, each with parameters of which only the types matter.
const OF_WORK: [(&str, &str); 40] = [
    (
        "events/append",
        "1, now(), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', now(), 1, now(), true, '{}'",
    ),
    (
        "events/append_whole",
        "1, now(), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', now(), 1, now(), 7, '{}'",
    ),
    ("events/belong_to_others", "'{}', '{}', EVENT"),
    ("events/by_ids", "'{}'"),
    ("events/newest_version", "EVENT, 'thing'"),
    ("stream_heads/lock", "EVENT, 'thing'"),
    ("stream_heads/advance", "EVENT, 'thing', 2"),
    ("dispatches/claim", "1, 0, now(), now(), 500, 0, '{}'"),
    ("dispatches/claim_of", "1, '{}', now(), now(), 500"),
    ("dispatches/settle", "1, now(), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'"),
    ("dispatches/release", "'{}', '{}', '{}'"),
    ("delivery_queue/due_endpoints", "now()"),
    ("delivery_queue/claim", "1, now(), now(), '{}', '{}', '{}', '{}'"),
    ("delivery_queue/free_lost", "1, '{}', '{}', '{}'"),
    ("delivery_queue/give_back", "1, '{}', '{}', '{}', '{}'"),
    ("delivery_queue/release", "1, DELIVERY, 7"),
    ("delivery_queue/lock", "1, ENDPOINT, now(), DELIVERY, now()"),
    ("delivery_queue/move", "1, ENDPOINT, now(), DELIVERY, now(), false"),
    ("delivery_queue/delete", "1, ENDPOINT, now(), DELIVERY"),
    ("delivery_queue/of_endpoint", "1, ENDPOINT, 500, now()"),
    ("delivery_queue/put_off", "now(), 500, 5000, '{}'"),
    ("delivery_queue/tenants_due_after", "now()"),
    ("deliveries/work", "'{}'"),
    ("deliveries/insert", "1, now(), DELIVERY, EVENT, ENDPOINT, 'event', '{}', now(), 5, 4, 5, 2"),
    (
        "deliveries/settle",
        "1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', \
         '{}', '{}', '{}', '{}', '{}'",
    ),
    (
        "deliveries/succeed",
        "1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'",
    ),
    ("deliveries/change", "DELIVERY, 'pending', 0, now(), 'retrying', now(), 5, false, null, null"),
    ("deliveries/trouble", "DELIVERY, ENDPOINT, 'retrying'"),
    ("deliveries/ahead", "DELIVERY, now(), 500"),
    ("deliveries/bring_back", "1, '{}', now(), now()"),
    ("deliveries/cancel_all", "1, ENDPOINT, '{}', '{}', 'gone'"),
    ("deliveries/request_cancel_all", "1, ENDPOINT, '{}', '{}', 'gone'"),
    ("endpoints/by_ids", "'{}'"),
    ("endpoints/note_used", "'{}', '{}'"),
    ("endpoint_revisions/still_stands", "ENDPOINT, 1"),
    ("subscriptions/note_triggered", "'{}', '{}'"),
    ("subscriptions/by_ids", "'{}'"),
    ("catalogue/changes", "'admin', 7, 1000"),
    ("api_keys/by_digest", "sha256('7')"),
    ("api_keys/note_used", "'{}', '{}'"),
];

/// What users ask, as they ask it.
const OF_READS: [(&str, &str); 33] = [
    ("events/by_id", "EVENT"),
    ("events/by_aggregate", "AGGREGATE, 'thing', 1, 'infinity', MAX, null, 100"),
    ("events/list", "null, null, 'infinity', MAX, 101, null, null, null, null, null, null"),
    ("events/list", "AT(500000), AT(500100), 'infinity', MAX, 101, null, null, null, null, null, null"),
    ("events/list", "null, null, AT(500000), EVENT, 101, null, null, null, null, null, null"),
    ("events/list_by_type", "null, null, 'infinity', MAX, 101, 'kind_7.done', null, null, null, null, null"),
    ("events/list_by_type", "null, null, 'infinity', MAX, 101, 'kind_7.done', null, null, null, null, true"),
    ("events/list_by_aggregate", "null, null, 'infinity', MAX, 101, null, null, AGGREGATE, null, null, null"),
    ("events/list_by_correlation", "null, null, 'infinity', MAX, 101, null, null, null, FLOW, null, null"),
    ("events/list_by_context", "null, null, 'infinity', MAX, 101, null, null, null, null, CONTEXT, null"),
    ("events/list_owed", "null, null, 'infinity', MAX, 101, null, null, null, null, null, false, 'admin'"),
    ("deliveries/by_id", "DELIVERY"),
    ("deliveries/list", "NIL, MAX, '-infinity', 'infinity', 101, null"),
    ("deliveries/list", "NIL, DELIVERY, AT(600000), AT(700000), 101, 'success'"),
    ("deliveries/list_by_event", "NIL, MAX, '-infinity', 'infinity', 101, EVENT, null, null"),
    ("deliveries/list_by_endpoint", "NIL, MAX, '-infinity', 'infinity', 101, array[ENDPOINT], null"),
    (
        "deliveries/list_by_endpoint_and_status",
        "NIL, MAX, '-infinity', 'infinity', 101, array[ENDPOINT], 'failed'",
    ),
    ("deliveries/list_by_status", "NIL, MAX, '-infinity', 'infinity', 101, 'failed'"),
    ("deliveries/list_by_status", "NIL, MAX, '-infinity', 'infinity', 101, 'retrying'"),
    ("deliveries/list_pending_by_endpoint", "NIL, MAX, '-infinity', 'infinity', 101, 1, array[ENDPOINT]"),
    ("deliveries/count_by_status", "ENDPOINT, DELIVERY, AT(700000)"),
    ("attempts/list", "DELIVERY, ENDPOINT, EVENT, 4, 101"),
    ("attempts/of_endpoint", "ENDPOINT, DELIVERY, AT(700000)"),
    ("endpoints/by_ids", "array[ENDPOINT]"),
    ("endpoints/list", "1000000, 101, null, null, null, null"),
    ("endpoints/list", "1000000, 101, null, true, 'kind_7.done', 'kind_7.*'"),
    ("subscriptions/list", "1000000, 101, null, null"),
    ("subscriptions/list_by_endpoint", "1000000, 101, null, null, ENDPOINT"),
    ("subscriptions/by_ids", "array[ENDPOINT]"),
    ("event_types/by_type", "'kind_7.done'"),
    ("event_types/list", "1000000, 101, null, null"),
    ("api_keys/list", "1000000, 101"),
    ("api_keys/list_by_schema", "1000000, 101, 'admin'"),
];

/// How ids and times are made of numbers.
const VALUES: &str = "
    create function pg_temp.id(kind integer, i bigint) returns uuid language sql immutable
    return (
        lpad(to_hex(1700000000000 + i * 1000), 12, '0') || '7000' || '8' || to_hex(kind) || lpad(to_hex(i), 14, '0')
    )::uuid;
    create function pg_temp.at(i bigint) returns timestamptz language sql immutable
    return to_timestamp(1700000000 + i);";

/// A typical value for each word.
fn with_values(params: &str) -> String {
    [
        ("AGGREGATE", "pg_temp.id(2, 7)"),
        ("CONTEXT", "pg_temp.id(4, 20)"),
        ("DELIVERY", "pg_temp.id(5, 700000)"),
        ("ENDPOINT", "pg_temp.id(6, 7)"),
        ("EVENT", "pg_temp.id(1, 700000)"),
        ("FLOW", "pg_temp.id(3, 10)"),
        ("AT(", "pg_temp.at("),
        ("MAX", "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"),
        ("NIL", "'00000000-0000-0000-0000-000000000000'::uuid"),
    ]
    .into_iter()
    .fold(params.to_owned(), |params, (word, value)| params.replace(word, value))
}

/// The nodes of a plan that touch tables, each once, in the order in which they stand.
async fn nodes(beside: &Beside, name: &str, params: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries").join(name).with_extension("sql");
    let statement = fs::read_to_string(file).unwrap().replace("tenant.", "admin.");
    beside.batch_execute(&format!("prepare looked_at as {statement}")).await.unwrap();
    let explain = format!("explain (costs off) execute looked_at({})", with_values(params));
    let rows = beside.simple_query(&explain).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    beside.batch_execute("deallocate looked_at").await.unwrap();
    let mut nodes: Vec<String> = Vec::new();
    for row in rows {
        let neo_events_store_postgres::tokio_postgres::SimpleQueryMessage::Row(row) = row else { continue };
        let line = row.get(0).unwrap();
        assert!(!sorts_an_array_for_each_row(line), "{name}: {line}");
        assert!(!BY_KEY.contains(&name) || !walks_over_an_endpoint(line), "{name}: {line}");
        let node = node_of(line);
        if let Some(node) = node.filter(|node| !nodes.contains(node)) {
            nodes.push(node);
        }
    }
    nodes
}

/// `Index Scan using events_pkey on events e` → `Index Scan using events_pkey`; nothing for what is no table.
fn node_of(line: &str) -> Option<String> {
    let node = line.trim().trim_start_matches("-> ").trim();
    let (kind, place) = node.split_once(" Scan")?;
    if ["CTE", "Function", "Subquery", "WorkTable", "Values"].contains(&kind) {
        return None;
    }
    if let Some(index) = place.split_once("using ") {
        return Some(format!("{kind} Scan using {}", index.1.split(' ').next().unwrap()));
    }
    let table = place.split_once("on ")?.1.split(' ').next().unwrap();
    Some(format!("{kind} Scan on {table}"))
}

/// `Index Cond: ((tenant_no = $1) AND (endpoint_id = $2))`, without the place in the endpoint's queue.
fn walks_over_an_endpoint(line: &str) -> bool {
    line.contains("Index Cond: ") && line.contains("endpoint_id = ") && !line.contains("due_at = ")
}

/// `Index Cond: ((id = done.id) AND (id = ANY ($2)))`: the array is sorted anew for each row of the other table, so
/// that a batch twice as large takes four times as long.
fn sorts_an_array_for_each_row(line: &str) -> bool {
    let Some(conditions) = line.trim().strip_prefix("Index Cond: ") else { return false };
    let conditions: Vec<&str> = conditions.split(" AND ").map(|one| one.trim_matches(['(', ')'])).collect();
    let of_an_array = |one: &&str| one.contains(" = ANY ");
    let column = |one: &str| one.split(" = ").next().unwrap_or_default().to_owned();
    conditions
        .iter()
        .copied()
        .filter(of_an_array)
        .any(|one| conditions.iter().any(|other| *other != one && column(other) == column(one)))
}

/// Plans of every statement, as text. None reads a large table whole.
async fn plans(beside: &Beside, title: &str, statements: &[(&str, &str)]) -> String {
    let mut text = format!("{title}\n");
    for (name, params) in statements {
        let nodes = nodes(beside, name, params).await;
        for table in nodes.iter().filter_map(|node| node.strip_prefix("Seq Scan on ")) {
            let is_meant = SMALL.contains(&table) || READ_WHOLE.contains(&(name, table));
            assert!(is_meant, "{name}({params}) reads {table} whole: {nodes:#?}");
        }
        writeln!(text, "\n{name}({params})").unwrap();
        for node in nodes {
            writeln!(text, "    {node}").unwrap();
        }
    }
    text
}

/// Which indexes each statement uses, however.
fn indexes(plans: &str) -> Vec<BTreeSet<&str>> {
    plans.split("\n\n").map(|plan| plan.lines().filter_map(index_of).collect()).collect()
}

fn index_of(node: &str) -> Option<&str> {
    let (_, place) = node.split_once(" Scan ")?;
    place.split(' ').nth(1).filter(|name| name.contains("key") || name.contains("_by_"))
}

/// No statement of the passes, and no list or look-up of users, reads a table whole that grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_goes_through_an_index() {
    let database = database().await;
    let store = open(&database).await;
    let beside = Beside::connect(&database.url()).await;
    beside.batch_execute(VALUES).await.unwrap();
    // A node prepares its statements on a new database and uses them on a full one.
    beside.batch_execute(&work()).await.unwrap();
    let of_new = plans(&beside, "Connections for work", &OF_WORK).await;
    beside.batch_execute("reset all").await.unwrap();
    beside.batch_execute(include_str!("fill.sql")).await.unwrap();
    beside.batch_execute("vacuum analyze").await.unwrap();
    beside.batch_execute(&work()).await.unwrap();
    let of_work = plans(&beside, "Connections for work", &OF_WORK).await;
    assert_eq!(indexes(&of_new), indexes(&of_work), "plans for new tables are not those for full ones");
    beside.batch_execute(&format!("reset all; {READ}")).await.unwrap();
    let of_reads = plans(&beside, "Connections for reads", &OF_READS).await;
    store.close().await;
    let found = format!("{of_work}\n\n{of_reads}");
    assert!(found == include_str!("plans.txt"), "the plans are not those of plans.txt but:\n{found}");
}
