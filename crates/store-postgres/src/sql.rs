//! Every statement, each in a file of its own by aggregate and verb, and the list that the tests prepare.
//!
//! Statements are written once for all tenants: where a file says `tenant.events`, the tenant's schema takes the place
//! of `tenant`. Nothing else is ever put into a statement's text; a schema's name is a domain type that can hold
//! nothing but `[a-z0-9_]`.

use neo_events_domain::tenant::Schema;
use neo_events_store::PAGE_BYTES_MAX;

/// A statement; two are the same if their names are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sql {
    /// The file's name, as `aggregate/verb`.
    pub(crate) name: &'static str,
    text: &'static str,
    asked: Asked,
}

/// What is asked of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    /// Its rows.
    Rows,
    /// How many there are.
    Count,
    /// Those that fill a page, and one more, by what each weighs: an expression of its columns, in bytes.
    Page(&'static str),
}

impl Sql {
    /// The text for one tenant.
    pub(crate) fn of(self, schema: &Schema) -> String {
        let text = in_schema(self.text, schema);
        match self.asked {
            Asked::Rows => text,
            Asked::Count => format!("select count(*) from ({text}) as counted"),
            // Without an order of its own a window takes rows as they come. The length of a text is known without
            // fetching it from where large values lie.
            Asked::Page(weight) => format!(
                "select * from (select listed.*, sum({weight}) over (rows between unbounded preceding and 2 preceding) \
                 as before_last from ({text}) as listed) as weighed \
                 where before_last is null or before_last < {PAGE_BYTES_MAX}"
            ),
        }
    }

    /// The same statement, asked only how many rows it has.
    pub(crate) const fn counting(self) -> Self {
        Self { asked: Asked::Count, ..self }
    }

    /// The same list, ended by the row after the one with which a page is full ([`PAGE_BYTES_MAX`]): what would be cut
    /// off is not sent.
    pub(crate) const fn filling_a_page(self, weight: &'static str) -> Self {
        Self { asked: Asked::Page(weight), ..self }
    }

    /// What tells one from all others.
    pub(crate) const fn key(self) -> (&'static str, Asked) {
        (self.name, self.asked)
    }

    /// Whether it says anything about a tenant's own tables.
    pub(crate) fn is_of_tenant(self) -> bool {
        self.text.contains("tenant.")
    }
}

/// A text with every `tenant.` standing for the schema.
pub(crate) fn in_schema(text: &str, schema: &Schema) -> String {
    text.replace("tenant.", &format!("{schema}."))
}

macro_rules! statements {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(crate) const $name: Sql =
            Sql {
            name: $file,
            text: include_str!(concat!("../queries/", $file, ".sql")),
            asked: Asked::Rows,
        };)*

        /// Every statement there is.
        #[cfg(test)]
        pub(crate) const ALL: &[Sql] = &[$($name),*];
    };
}

statements! {
    API_KEYS_BY_DIGEST = "api_keys/by_digest",
    API_KEYS_DELETE = "api_keys/delete",
    API_KEYS_INSERT = "api_keys/insert",
    API_KEYS_LIST = "api_keys/list",
    API_KEYS_LIST_BY_SCHEMA = "api_keys/list_by_schema",
    API_KEYS_NOTE_USED = "api_keys/note_used",
    ATTEMPTS_LIST = "attempts/list",
    ATTEMPTS_OF_ENDPOINT = "attempts/of_endpoint",
    CANCEL_REQUESTS_DELETE = "cancel_requests/delete",
    CANCEL_REQUESTS_INSERT = "cancel_requests/insert",
    CANCEL_REQUESTS_LIST = "cancel_requests/list",
    CATALOGUE_ADVANCE = "catalogue/advance",
    CATALOGUE_CHANGES = "catalogue/changes",
    DATABASE_CLOCK = "database/clock",
    DELIVERIES_AHEAD = "deliveries/ahead",
    DELIVERIES_BRING_BACK = "deliveries/bring_back",
    DELIVERIES_BY_ID = "deliveries/by_id",
    DELIVERIES_CANCEL_ALL = "deliveries/cancel_all",
    DELIVERIES_CHANGE = "deliveries/change",
    DELIVERIES_COUNT_BY_STATUS = "deliveries/count_by_status",
    DELIVERIES_INSERT = "deliveries/insert",
    DELIVERIES_LIST = "deliveries/list",
    DELIVERIES_LIST_BY_ENDPOINT = "deliveries/list_by_endpoint",
    DELIVERIES_LIST_BY_ENDPOINT_AND_STATUS = "deliveries/list_by_endpoint_and_status",
    DELIVERIES_LIST_BY_EVENT = "deliveries/list_by_event",
    DELIVERIES_LIST_BY_STATUS = "deliveries/list_by_status",
    DELIVERIES_LIST_PENDING = "deliveries/list_pending",
    DELIVERIES_LIST_PENDING_BY_ENDPOINT = "deliveries/list_pending_by_endpoint",
    DELIVERIES_REQUEST_CANCEL_ALL = "deliveries/request_cancel_all",
    DELIVERIES_SETTLE = "deliveries/settle",
    DELIVERIES_SUCCEED = "deliveries/succeed",
    DELIVERIES_TROUBLE = "deliveries/trouble",
    DELIVERIES_WORK = "deliveries/work",
    DELIVERY_QUEUE_CLAIM = "delivery_queue/claim",
    DELIVERY_QUEUE_DELETE = "delivery_queue/delete",
    DELIVERY_QUEUE_DUE_ENDPOINTS = "delivery_queue/due_endpoints",
    DELIVERY_QUEUE_FREE_LOST = "delivery_queue/free_lost",
    DELIVERY_QUEUE_GIVE_BACK = "delivery_queue/give_back",
    DELIVERY_QUEUE_INSERT = "delivery_queue/insert",
    DELIVERY_QUEUE_LOCK = "delivery_queue/lock",
    DELIVERY_QUEUE_MOVE = "delivery_queue/move",
    DELIVERY_QUEUE_OF_ENDPOINT = "delivery_queue/of_endpoint",
    DELIVERY_QUEUE_PUT_OFF = "delivery_queue/put_off",
    DELIVERY_QUEUE_RELEASE = "delivery_queue/release",
    DELIVERY_QUEUE_TENANTS_DUE_AFTER = "delivery_queue/tenants_due_after",
    DISPATCHES_CLAIM = "dispatches/claim",
    DISPATCHES_CLAIM_OF = "dispatches/claim_of",
    DISPATCHES_FREE_LOST = "dispatches/free_lost",
    DISPATCHES_MARK_PROCESSED = "dispatches/mark_processed",
    DISPATCHES_RELEASE = "dispatches/release",
    DISPATCHES_SETTLE = "dispatches/settle",
    DISPATCHES_SNAPSHOT = "dispatches/snapshot",
    ENDPOINT_REMOVALS_END = "endpoint_removals/end",
    ENDPOINT_REMOVALS_INSERT = "endpoint_removals/insert",
    ENDPOINT_REMOVALS_LIST = "endpoint_removals/list",
    ENDPOINT_REMOVALS_RENEW = "endpoint_removals/renew",
    ENDPOINT_REVISIONS_INSERT = "endpoint_revisions/insert",
    ENDPOINT_REVISIONS_STILL_STANDS = "endpoint_revisions/still_stands",
    ENDPOINT_SECRETS_DELETE = "endpoint_secrets/delete",
    ENDPOINT_SECRETS_INSERT = "endpoint_secrets/insert",
    ENDPOINT_SECRETS_NEWEST = "endpoint_secrets/newest",
    DOCTOR_NODES = "doctor/nodes",
    DOCTOR_OLDEST_TRANSACTION = "doctor/oldest_transaction",
    DOCTOR_OWED = "doctor/owed",
    DOCTOR_QUEUED = "doctor/queued",
    DOCTOR_RIGHTS = "doctor/rights",
    DOCTOR_SERVER = "doctor/server",
    ENDPOINTS_ANY_IDS_BY_CONTEXT = "endpoints/any_ids_by_context",
    ENDPOINTS_BY_IDS = "endpoints/by_ids",
    ENDPOINTS_DELETE = "endpoints/delete",
    ENDPOINTS_EXISTS = "endpoints/exists",
    ENDPOINTS_INSERT = "endpoints/insert",
    ENDPOINTS_LIST = "endpoints/list",
    ENDPOINTS_NOTE_USED = "endpoints/note_used",
    ENDPOINTS_UPDATE = "endpoints/update",
    EVENT_TYPES_BY_TYPE = "event_types/by_type",
    EVENT_TYPES_CATEGORIES = "event_types/categories",
    EVENT_TYPES_DELETE = "event_types/delete",
    EVENT_TYPES_EXISTS = "event_types/exists",
    EVENT_TYPES_INSERT = "event_types/insert",
    EVENT_TYPES_IS_DISABLED = "event_types/is_disabled",
    EVENT_TYPES_LIST = "event_types/list",
    EVENT_TYPES_UPDATE = "event_types/update",
    EVENTS_APPEND = "events/append",
    EVENTS_APPEND_WHOLE = "events/append_whole",
    EVENTS_BELONG_TO_OTHERS = "events/belong_to_others",
    EVENTS_BY_AGGREGATE = "events/by_aggregate",
    EVENTS_BY_ID = "events/by_id",
    EVENTS_BY_IDS = "events/by_ids",
    EVENTS_LIST = "events/list",
    EVENTS_LIST_BY_AGGREGATE = "events/list_by_aggregate",
    EVENTS_LIST_BY_CONTEXT = "events/list_by_context",
    EVENTS_LIST_BY_CORRELATION = "events/list_by_correlation",
    EVENTS_LIST_BY_TYPE = "events/list_by_type",
    EVENTS_LIST_OWED = "events/list_owed",
    EVENTS_NEWEST_VERSION = "events/newest_version",
    EVENTS_RECORD = "events/record",
    HELD_ENDPOINTS_DELETE = "held_endpoints/delete",
    HELD_ENDPOINTS_INSERT = "held_endpoints/insert",
    HINTS_NOTIFY = "hints/notify",
    MASTER_KEY_FINGERPRINT = "master_key/fingerprint",
    MASTER_KEY_NOTE = "master_key/note",
    MIGRATIONS_INSERT = "migrations/insert",
    MIGRATIONS_LEVEL = "migrations/level",
    MIGRATIONS_LEVELS = "migrations/levels",
    MIGRATIONS_REQUIREMENTS = "migrations/requirements",
    SESSIONS_BEAT = "sessions/beat",
    SESSIONS_BEGIN = "sessions/begin",
    SESSIONS_END = "sessions/end",
    SESSIONS_FREE_DELIVERIES = "sessions/free_deliveries",
    SESSIONS_FREE_DISPATCHES = "sessions/free_dispatches",
    SESSIONS_IS_THERE = "sessions/is_there",
    SESSIONS_LOCK_SILENT = "sessions/lock_silent",
    SESSIONS_OTHERS = "sessions/others",
    SESSIONS_SERVER_STATE = "sessions/server_state",
    SESSIONS_PING = "sessions/ping",
    SESSIONS_REMOVE_DEAD = "sessions/remove_dead",
    STREAM_HEADS_ADVANCE = "stream_heads/advance",
    STREAM_HEADS_LOCK = "stream_heads/lock",
    SUBSCRIPTIONS_BY_IDS = "subscriptions/by_ids",
    SUBSCRIPTIONS_DELETE = "subscriptions/delete",
    SUBSCRIPTIONS_DELETE_OF_ENDPOINT = "subscriptions/delete_of_endpoint",
    SUBSCRIPTIONS_GUARD = "subscriptions/guard",
    SUBSCRIPTIONS_INSERT = "subscriptions/insert",
    SUBSCRIPTIONS_LIST = "subscriptions/list",
    SUBSCRIPTIONS_LIST_BY_ENDPOINT = "subscriptions/list_by_endpoint",
    SUBSCRIPTIONS_NOTE_TRIGGERED = "subscriptions/note_triggered",
    SUBSCRIPTIONS_UPDATE = "subscriptions/update",
    TENANTS_BY_NOS = "tenants/by_nos",
    TENANTS_BY_SCHEMA = "tenants/by_schema",
    TENANTS_HAS_SCHEMA = "tenants/has_schema",
    TENANTS_INSERT = "tenants/insert",
    TENANTS_INSERT_ADMIN = "tenants/insert_admin",
    TENANTS_LIST = "tenants/list",
    TENANTS_NO_BY_SCHEMA = "tenants/no_by_schema",
    TENANTS_SCHEMAS = "tenants/schemas",
    TENANTS_SEED = "tenants/seed",
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use neo_events_test_postgres::database;

    use super::*;
    use crate::{conn::Connection, migrate, open::Address};

    #[tokio::test]
    async fn every_statement_is_one_that_the_database_understands() {
        let database = database().await;
        let address = Address::parse(&database.url()).unwrap();
        let mut conn: Connection = address.connect().await.unwrap();
        assert!(migrate::up(&mut conn, |_| {}).await.unwrap().is_empty());
        for sql in ALL {
            let prepared = conn.prepare(*sql, &Schema::admin()).await;
            assert!(prepared.is_ok(), "{}: {}", sql.name, prepared.unwrap_err());
        }
        assert!(!ALL.is_empty());
    }

    #[test]
    fn every_file_is_a_statement() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries");
        let mut files = BTreeSet::new();
        for aggregate in fs::read_dir(&folder).unwrap() {
            for file in fs::read_dir(aggregate.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.strip_prefix(&folder).unwrap().with_extension("");
                files.insert(name.to_str().unwrap().to_owned());
            }
        }
        assert_eq!(files, ALL.iter().map(|sql| sql.name.to_owned()).collect());
    }
}
