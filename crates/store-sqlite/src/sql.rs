//! Every statement, each in a file of its own by aggregate and verb, and the list that the tests prepare.

macro_rules! statements {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(crate) const $name: &str = include_str!(concat!("../queries/", $file, ".sql"));)*

        /// File name and text of each.
        #[cfg(test)]
        const ALL: &[(&str, &str)] = &[$(($file, $name)),*];
    };
}

statements! {
    API_KEYS_BY_DIGEST = "api_keys/by_digest",
    API_KEYS_BY_NO = "api_keys/by_no",
    API_KEYS_DELETE = "api_keys/delete",
    API_KEYS_INSERT = "api_keys/insert",
    API_KEYS_LIST = "api_keys/list",
    API_KEYS_LIST_BY_SCHEMA = "api_keys/list_by_schema",
    API_KEYS_NOTE_USED = "api_keys/note_used",
    ATTEMPTS_BY_SLOT = "attempts/by_slot",
    ATTEMPTS_INSERT = "attempts/insert",
    ATTEMPTS_LIST = "attempts/list",
    ATTEMPTS_OF_ENDPOINT = "attempts/of_endpoint",
    CANCEL_REQUESTS_DELETE = "cancel_requests/delete",
    CANCEL_REQUESTS_INSERT = "cancel_requests/insert",
    CANCEL_REQUESTS_LIST = "cancel_requests/list",
    CATALOGUE_ADVANCE = "catalogue/advance",
    CATALOGUE_CHANGES = "catalogue/changes",
    CATALOGUE_VERSION = "catalogue/version",
    DELIVERIES_AHEAD = "deliveries/ahead",
    DELIVERIES_BOUNDS = "deliveries/bounds",
    DELIVERIES_BY_ID = "deliveries/by_id",
    DELIVERIES_BY_SEQ = "deliveries/by_seq",
    DELIVERIES_COUNT_BY_STATUS = "deliveries/count_by_status",
    DELIVERIES_CREATED_AT = "deliveries/created_at",
    DELIVERIES_INSERT = "deliveries/insert",
    DELIVERIES_LIST = "deliveries/list",
    DELIVERIES_LIST_BY_ENDPOINT = "deliveries/list_by_endpoint",
    DELIVERIES_LIST_BY_ENDPOINT_AND_STATUS = "deliveries/list_by_endpoint_and_status",
    DELIVERIES_LIST_BY_EVENT = "deliveries/list_by_event",
    DELIVERIES_LIST_BY_STATUS = "deliveries/list_by_status",
    DELIVERIES_LIST_PENDING = "deliveries/list_pending",
    DELIVERIES_LIST_PENDING_BY_ENDPOINT = "deliveries/list_pending_by_endpoint",
    DELIVERIES_NEWEST = "deliveries/newest",
    DELIVERIES_SET_DUE = "deliveries/set_due",
    DELIVERIES_STANDING = "deliveries/standing",
    DELIVERIES_UPDATE = "deliveries/update",
    DELIVERIES_WORK = "deliveries/work",
    DELIVERY_QUEUE_BY_ENDPOINT = "delivery_queue/by_endpoint",
    DELIVERY_QUEUE_DELETE = "delivery_queue/delete",
    DELIVERY_QUEUE_DUE_AFTER = "delivery_queue/due_after",
    DELIVERY_QUEUE_ENDPOINTS = "delivery_queue/endpoints",
    DELIVERY_QUEUE_INSERT = "delivery_queue/insert",
    DISPATCHES_LIST_OWED = "dispatches/list_owed",
    DISPATCHES_OWE = "dispatches/owe",
    DISPATCHES_PROCESSED_AT = "dispatches/processed_at",
    DISPATCHES_RECORD_RUN = "dispatches/record_run",
    DISPATCHES_SETTLE = "dispatches/settle",
    ENDPOINT_REMOVALS_DELETE = "endpoint_removals/delete",
    ENDPOINT_REMOVALS_INSERT = "endpoint_removals/insert",
    ENDPOINT_REMOVALS_LIST = "endpoint_removals/list",
    ENDPOINT_REVISIONS_AS_OF = "endpoint_revisions/as_of",
    ENDPOINT_REVISIONS_INSERT = "endpoint_revisions/insert",
    ENDPOINT_REVISIONS_STILL_STANDS = "endpoint_revisions/still_stands",
    ENDPOINT_SECRETS_BY_ENDPOINT = "endpoint_secrets/by_endpoint",
    ENDPOINT_SECRETS_DELETE = "endpoint_secrets/delete",
    ENDPOINT_SECRETS_INSERT = "endpoint_secrets/insert",
    ENDPOINT_SECRETS_NEWEST = "endpoint_secrets/newest",
    ENDPOINTS_ANY_NOS_BY_CONTEXT = "endpoints/any_nos_by_context",
    ENDPOINTS_ANY_NO_BY_ID = "endpoints/any_no_by_id",
    ENDPOINTS_BY_ID = "endpoints/by_id",
    ENDPOINTS_BY_NO = "endpoints/by_no",
    ENDPOINTS_DELETE = "endpoints/delete",
    ENDPOINTS_INSERT = "endpoints/insert",
    ENDPOINTS_LIST = "endpoints/list",
    ENDPOINTS_NO_BY_ID = "endpoints/no_by_id",
    ENDPOINTS_NOTE_USED = "endpoints/note_used",
    ENDPOINTS_UPDATE = "endpoints/update",
    EVENT_TYPES_BY_NO = "event_types/by_no",
    EVENT_TYPES_BY_TYPE = "event_types/by_type",
    EVENT_TYPES_CATEGORIES = "event_types/categories",
    EVENT_TYPES_DELETE = "event_types/delete",
    EVENT_TYPES_EXISTS = "event_types/exists",
    EVENT_TYPES_INSERT = "event_types/insert",
    EVENT_TYPES_IS_DISABLED = "event_types/is_disabled",
    EVENT_TYPES_LIST = "event_types/list",
    EVENT_TYPES_UPDATE = "event_types/update",
    EVENTS_BELONG_TO_OTHERS = "events/belong_to_others",
    EVENTS_BOUNDS = "events/bounds",
    EVENTS_BY_AGGREGATE = "events/by_aggregate",
    EVENTS_BY_ID = "events/by_id",
    EVENTS_BY_SEQ = "events/by_seq",
    EVENTS_CREATED_AT = "events/created_at",
    EVENTS_INSERT = "events/insert",
    EVENTS_LIST = "events/list",
    EVENTS_LIST_BY_AGGREGATE = "events/list_by_aggregate",
    EVENTS_LIST_BY_CONTEXT = "events/list_by_context",
    EVENTS_LIST_BY_CORRELATION = "events/list_by_correlation",
    EVENTS_LIST_BY_TYPE = "events/list_by_type",
    EVENTS_LIST_OWED = "events/list_owed",
    EVENTS_NEWEST = "events/newest",
    EVENTS_NEWEST_VERSION = "events/newest_version",
    EVENTS_SEQ_BY_ID = "events/seq_by_id",
    MASTER_KEY_FINGERPRINT = "master_key/fingerprint",
    MASTER_KEY_NOTE = "master_key/note",
    STORE_BEGIN = "store/begin",
    STORE_BEGUN = "store/begun",
    STORE_COMMIT = "store/commit",
    STORE_OPEN = "store/open",
    STORE_OWES = "store/owes",
    STORE_ROLL_BACK = "store/roll_back",
    STORE_SEED = "store/seed",
    STORE_TOUCH = "store/touch",
    STREAM_HEADS_ADVANCE = "stream_heads/advance",
    SUBSCRIPTIONS_BY_ID = "subscriptions/by_id",
    SUBSCRIPTIONS_BY_NO = "subscriptions/by_no",
    SUBSCRIPTIONS_DELETE = "subscriptions/delete",
    SUBSCRIPTIONS_DELETE_OF_ENDPOINT = "subscriptions/delete_of_endpoint",
    SUBSCRIPTIONS_EXISTS = "subscriptions/exists",
    SUBSCRIPTIONS_GUARD = "subscriptions/guard",
    SUBSCRIPTIONS_INSERT = "subscriptions/insert",
    SUBSCRIPTIONS_LIST = "subscriptions/list",
    SUBSCRIPTIONS_LIST_BY_ENDPOINT = "subscriptions/list_by_endpoint",
    SUBSCRIPTIONS_NOTE_TRIGGERED = "subscriptions/note_triggered",
    SUBSCRIPTIONS_UPDATE = "subscriptions/update",
    TENANTS_BY_NO = "tenants/by_no",
    TENANTS_BY_SCHEMA = "tenants/by_schema",
    TENANTS_INSERT = "tenants/insert",
    TENANTS_INSERT_ADMIN = "tenants/insert_admin",
    TENANTS_LIST = "tenants/list",
    TENANTS_SCHEMAS = "tenants/schemas",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::{SqliteOptions, migrated, open};
    use rusqlite::Connection;
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        path::Path,
    };

    /// Statements that walk a whole table or list, and why they may.
    const WALKS: [(&str, &str); 13] = [
        ("cancel_requests/list", "a handful of rows"),
        ("catalogue/changes", "the merged ranges, up to the limit"),
        ("deliveries/list_pending", "what is owed, for a person"),
        ("delivery_queue/due_after", "the recursion's own rows"),
        ("delivery_queue/endpoints", "the recursion's own rows"),
        ("dispatches/list_owed", "the reader stops at its limit"),
        ("dispatches/processed_at", "the one row of a subquery"),
        ("endpoint_removals/list", "a handful of rows"),
        ("endpoint_secrets/newest", "from the newest change to the first that is not deleted"),
        ("event_types/categories", "a small table, by its index"),
        ("store/begun", "whether there is a first row"),
        ("store/owes", "whether there is a first row"),
        ("tenants/schemas", "once, when the store is opened"),
    ];

    /// Statements that run for each event, delivery or attempt.
    const OF_AN_EVENT: [&str; 10] = [
        "attempts/insert",
        "deliveries/insert",
        "deliveries/standing",
        "deliveries/update",
        "delivery_queue/delete",
        "delivery_queue/insert",
        "dispatches/owe",
        "dispatches/record_run",
        "dispatches/settle",
        "events/insert",
    ];

    fn of_an_event() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        ALL.iter().filter(|(name, _)| OF_AN_EVENT.contains(name))
    }

    #[test]
    fn every_file_is_listed_and_every_statement_prepares() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries");
        let mut files = BTreeSet::new();
        for aggregate in fs::read_dir(root).unwrap().map(Result::unwrap) {
            for verb in fs::read_dir(aggregate.path()).unwrap().map(Result::unwrap) {
                let (aggregate, verb) = (aggregate.file_name(), verb.file_name());
                files.insert(format!("{}/{}", aggregate.to_str().unwrap(), verb.to_str().unwrap()));
            }
        }
        let listed = ALL.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(files, listed);
        let conn = migrated();
        for (name, text) in ALL {
            conn.prepare(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// What the planner means to do for a statement, step by step.
    fn plan(conn: &Connection, text: &str) -> Vec<String> {
        let mut statement = conn.prepare(&format!("explain query plan {text}")).unwrap();
        statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn nothing_scans_a_table_that_grows() {
        let conn = migrated();
        let walks = |step: &String| step.starts_with("SCAN") && step != "SCAN CONSTANT ROW";
        let walking =
            ALL.iter().filter(|(_, text)| plan(&conn, text).iter().any(walks)).map(|(name, _)| *name);
        assert_eq!(walking.collect::<Vec<_>>(), WALKS.map(|(name, _)| name));
    }

    /// Gathered by the embedding program while every table had one row, they would have most statements walk what grows.
    #[test]
    fn statistics_of_young_tables_change_no_plan() {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(directory.path().join("admin.db"));
        drop(open(&options).unwrap());
        let others = Connection::open(&options.path).unwrap();
        others.execute_batch("create table of_the_program (n); analyze; delete from sqlite_stat1").unwrap();
        let of_everything = "insert into sqlite_stat1
            select tbl_name, name, '1 1 1 1 1 1' from sqlite_schema where type = 'index'
            union all select name, null, '1' from sqlite_schema where type = 'table' and name not like 'sqlite_%'";
        assert!(others.execute(of_everything, []).unwrap() > 20);
        drop(others);
        let conn = Connection::open(&options.path).unwrap();
        let plans = |conn: &Connection| -> BTreeMap<_, _> {
            ALL.iter().map(|(name, text)| (*name, plan(conn, text))).collect()
        };
        let (without, believing) = (plans(&migrated()), plans(&conn));
        let changed = |plans: BTreeMap<_, _>| {
            without.iter().filter(|(name, plan)| plans[*name] != **plan).map(|(name, _)| *name).collect()
        };
        let walked: Vec<&str> = changed(believing);
        assert!(walked.contains(&"delivery_queue/endpoints"), "{walked:?}");
        let opened = open(&options).unwrap();
        for conn in [&opened.writer, &opened.claims, &opened.readers[0]] {
            let walked: Vec<&str> = changed(plans(conn));
            assert!(walked.is_empty(), "{walked:?}");
        }
        let kept: Vec<String> = {
            let mut kept = conn.prepare("select tbl from sqlite_stat1").unwrap();
            kept.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(kept, ["of_the_program"], "what is not ours stays");
    }

    /// An `in` of more than two values in a check or in the condition of an index becomes a table of its own, made and
    /// thrown away for each row.
    #[test]
    fn what_an_event_costs_makes_no_tables() {
        let conn = migrated();
        for (name, text) in of_an_event() {
            let mut statement = conn.prepare(&format!("explain {text}")).unwrap();
            let steps: Vec<String> =
                statement.raw_query().mapped(|row| row.get(1)).collect::<Result<_, _>>().unwrap();
            assert!(!steps.iter().any(|step| step == "OpenEphemeral"), "{name}: {steps:?}");
        }
    }

    /// A parameter with a name is looked up by it each time.
    #[test]
    fn what_an_event_costs_is_bound_by_number() {
        let conn = migrated();
        for (name, text) in of_an_event() {
            let statement = conn.prepare(text).unwrap();
            let mut names = (1..=statement.parameter_count()).map(|index| statement.parameter_name(index));
            assert!(names.all(|name| name.is_some_and(|name| name.starts_with('?'))), "{name}");
        }
    }

    #[test]
    fn lists_come_in_order_without_sorting_what_grows() {
        let conn = migrated();
        let sorts = |text: &str| plan(&conn, text).iter().any(|step| step.contains("TEMP B-TREE"));
        let sorting: Vec<_> = ALL.iter().filter(|(_, text)| sorts(text)).map(|(name, _)| *name).collect();
        // One aggregate's events, one event's deliveries, and what is owed.
        assert_eq!(
            sorting,
            [
                "deliveries/list_by_event",
                "deliveries/list_pending",
                "deliveries/list_pending_by_endpoint",
                "events/list_by_aggregate"
            ]
        );
    }
}
