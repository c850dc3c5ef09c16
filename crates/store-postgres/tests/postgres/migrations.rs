//! Opening databases: empty, half migrated, from the future, not writable, not ours.

use std::collections::BTreeSet;

use neo_events_domain::tenant::Tenant;
use neo_events_store::{Appended, EventLog, Health, Inserted, MigrationStatus, Tenants};
use neo_events_store_postgres::{
    OpenError, PostgresOptions, PostgresStore, inspect, migrate, migration_status,
};
use neo_events_test_postgres::{Database, database, execute};
use tokio::task::JoinSet;

use crate::{
    invariants,
    scene::{Beside, at, draft, event, open},
};

async fn try_open(url: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(PostgresOptions::new(url)).await
}

async fn beside(database: &Database) -> Beside {
    Beside::connect(&database.url()).await
}

/// A tenant whose last migrations were not applied.
async fn tenant_behind(store: &PostgresStore, beside: &Beside, slug: &str) -> Tenant {
    let tenant = Tenant { schema: format!("tenant_{slug}").parse().unwrap(), name: None, created_at: at(0) };
    assert_eq!(store.create_tenant(&tenant).await.unwrap(), Inserted::New);
    let undo = format!(
        "drop function {0}.publish_event, {0}.record_event; \
         delete from admin.migrations where scope = '{0}' and name >= '0004_publishing'",
        tenant.schema
    );
    beside.batch_execute(&undo).await.unwrap();
    tenant
}

async fn publishes_in_sql(beside: &Beside, tenant: &Tenant) {
    let publish = format!("select {}.publish_event('user.created', '{{}}')", tenant.schema);
    beside.query_one(&publish, &[]).await.unwrap();
}

/// However many nodes meet an empty database: all of them can use it, and every migration was applied once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_open_an_empty_database_at_once() {
    let database = database().await;
    assert!(migration_status(&database.url()).await.unwrap().iter().all(|scope| scope.applied == 0));
    let mut opening = JoinSet::new();
    for _ in 0..10 {
        let url = database.url();
        opening.spawn(async move { try_open(&url).await.unwrap() });
    }
    let mut stores = Vec::new();
    while let Some(opened) = opening.join_next().await {
        stores.push(opened.unwrap());
    }
    for store in &stores {
        store.ping().await.unwrap();
        let appended = store.append(&"admin".parse().unwrap(), vec![event(draft())], at(0)).await.unwrap();
        assert!(matches!(appended[0], Appended::Stored { .. }));
    }
    let status = migration_status(&database.url()).await.unwrap();
    let scopes: BTreeSet<_> = status.iter().map(|scope| scope.scope.as_str()).collect();
    assert_eq!(scopes, BTreeSet::from(["admin", "database"]));
    assert!(status.iter().all(|scope| !scope.is_behind() && scope.applied == scope.known));
    let beside = beside(&database).await;
    assert_eq!(beside.number("select count(*) from admin.sessions").await, 10);
    assert_eq!(beside.number("select count(*) from admin.tenants").await, 1);
    invariants::check(&beside).await;
}

/// Tenants that an earlier version made are brought up to date by whoever opens the database, all at once or one by
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_are_behind_are_brought_up_when_opening() {
    let database = database().await;
    let (store, beside) = (open(&database).await, beside(&database).await);
    let mut tenants = Vec::new();
    for slug in ["one", "two", "three"] {
        tenants.push(tenant_behind(&store, &beside, slug).await);
    }
    let behind = migration_status(&database.url()).await.unwrap();
    let behind: Vec<_> = behind.iter().filter(|scope| scope.is_behind()).map(|scope| &*scope.scope).collect();
    assert_eq!(behind, ["tenant_one", "tenant_three", "tenant_two"]);
    let mut opening = JoinSet::new();
    for _ in 0..4 {
        let url = database.url();
        opening.spawn(async move { drop(try_open(&url).await.unwrap()) });
    }
    while let Some(opened) = opening.join_next().await {
        opened.unwrap();
    }
    assert!(migration_status(&database.url()).await.unwrap().iter().all(|scope| !scope.is_behind()));
    for tenant in &tenants {
        publishes_in_sql(&beside, tenant).await;
    }
}

/// A node of an earlier version may make a tenant after this one migrated all it found: it is brought up at first
/// sight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_made_by_an_earlier_version_is_brought_up_at_first_sight() {
    let database = database().await;
    let (old, beside) = (open(&database).await, beside(&database).await);
    let nodes = [open(&database).await, open(&database).await];
    let tenant = tenant_behind(&old, &beside, "late").await;
    let mut publishing = JoinSet::new();
    for n in 0..6 {
        let (store, schema) = (nodes[n % 2].clone(), tenant.schema.clone());
        publishing.spawn(async move { store.append(&schema, vec![event(draft())], at(0)).await.unwrap() });
    }
    while let Some(appended) = publishing.join_next().await {
        assert!(matches!(appended.unwrap()[0], Appended::Stored { .. }));
    }
    publishes_in_sql(&beside, &tenant).await;
}

/// An operator has dropped a tenant's tables: that tenant cannot be migrated, and everybody else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_cannot_be_migrated_keeps_nobody_else_behind() {
    let database = database().await;
    let (store, beside) = (open(&database).await, beside(&database).await);
    let mut tenants = Vec::new();
    for slug in ["first", "broken", "last"] {
        tenants.push(tenant_behind(&store, &beside, slug).await);
    }
    store.close().await;
    beside.batch_execute("drop schema tenant_broken cascade").await.unwrap();

    let refused = migrate(&database.url(), |_| {}).await.unwrap_err();
    let OpenError::LeftBehind(said) = &refused else { panic!("{refused:?}") };
    assert!(said.starts_with("tenant_broken: ") && !said.contains(';'), "{said}");
    let status = migration_status(&database.url()).await.unwrap();
    let behind: Vec<_> = status.iter().filter(|scope| scope.is_behind()).map(|scope| &*scope.scope).collect();
    assert_eq!(behind, ["tenant_broken"]);
    for migrates in [true, false] {
        let options = PostgresOptions { migrates, ..PostgresOptions::new(database.url()) };
        let store = PostgresStore::open(options).await.unwrap();
        for (tenant, is_served) in tenants.iter().zip([true, false, true]) {
            let appended = store.append(&tenant.schema, vec![event(draft())], at(0)).await;
            assert_eq!(appended.is_ok(), is_served, "{appended:?}");
        }
        store.close().await;
    }
}

/// What a later version applied is none of our business, unless it says that we cannot work with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_from_the_future_is_opened_only_if_it_allows_that() {
    let database = database().await;
    let (store, beside) = (open(&database).await, beside(&database).await);
    store.close().await;
    for (scope, known) in [("database", 2), ("admin", 4)] {
        let later = |level: i32, requires: i32| {
            format!(
                "insert into admin.migrations (scope, level, name, requires) \
                 values ('{scope}', {level}, 'later', {requires})"
            )
        };
        let known_now: i64 = beside
            .number(&format!("select max(level)::bigint from admin.migrations where scope = '{scope}'"))
            .await;
        assert!(known_now >= known);
        let known = i32::try_from(known_now).unwrap();
        beside.batch_execute(&later(known + 1, known)).await.unwrap();
        drop(try_open(&database.url()).await.unwrap());
        beside.batch_execute(&later(known + 2, known + 2)).await.unwrap();
        let refused = try_open(&database.url()).await.unwrap_err();
        let OpenError::NewerSchema { scope: of, requires, known: up_to } = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!((of.as_str(), *requires, *up_to), (scope, known + 2, known), "{refused}");
        beside
            .batch_execute(&format!(
                "delete from admin.migrations where level > {known} and scope = '{scope}'"
            ))
            .await
            .unwrap();
    }
    drop(try_open(&database.url()).await.unwrap());
}

/// Whoever looks at a database of the version before is told so, and not that something is missing in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_version_before_can_be_looked_at() {
    let database = database().await;
    drop(open(&database).await);
    let beside = beside(&database).await;
    let back = "drop table admin.session_beats; \
                delete from admin.migrations where scope = 'database' and level >= 4";
    beside.batch_execute(back).await.unwrap();
    let facts = inspect(&database.url(), &|| at(0)).await.unwrap();
    assert!(facts.migrations.iter().any(MigrationStatus::is_behind));
}

/// What cannot be written is not opened, and told apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_written_is_refused() {
    let database = database().await;
    drop(open(&database).await);
    let beside = beside(&database).await;
    let name = database.name();
    beside
        .batch_execute(&format!("alter database {name} set default_transaction_read_only = on"))
        .await
        .unwrap();
    let refused = try_open(&database.url()).await.unwrap_err();
    assert!(matches!(refused, OpenError::ReadOnly), "{refused:?}");
}

/// A database that cannot hold every text is refused before anything is made in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_encoding_is_refused_and_left_alone() {
    let database = database().await;
    let name = format!("{}_latin1", database.name());
    let create = format!("create database {name} encoding 'LATIN1' template template0");
    execute(&database.url(), &create).await;
    let url = database.url().replace(database.name(), &name);
    let refused = [
        try_open(&url).await.map(drop).unwrap_err(),
        migrate(&url, |step| panic!("{}", step.scope)).await.unwrap_err(),
        migration_status(&url).await.unwrap_err(),
    ];
    for refused in refused {
        assert!(matches!(&refused, OpenError::Encoding { found } if found == "LATIN1"), "{refused:?}");
    }
    let beside = Beside::connect(&url).await;
    let made = "select count(*) from pg_namespace where nspname = 'admin'";
    assert_eq!(beside.number(made).await, 0, "nothing is made");
    drop(beside);
    execute(&database.url(), &format!("drop database {name} with (force)")).await;
}

/// A user without rights is told what is missing; with the right to create schemas, everything works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_to_create_schemas_is_enough() {
    let database = database().await;
    let role = database.create_role("service", "").await;
    let refused = try_open(&role.url).await.unwrap_err();
    assert!(matches!(refused, OpenError::Rights(_)), "{refused:?}");
    let beside = beside(&database).await;
    let grant = format!("grant create on database {} to {}", database.name(), role.name);
    beside.batch_execute(&grant).await.unwrap();
    let store = try_open(&role.url).await.unwrap();
    let tenant = Tenant { schema: "tenant_one".parse().unwrap(), name: None, created_at: at(0) };
    assert_eq!(store.create_tenant(&tenant).await.unwrap(), Inserted::New);
    let appended = store.append(&tenant.schema, vec![event(draft())], at(0)).await.unwrap();
    assert!(matches!(appended[0], Appended::Stored { .. }));

    // Nor is it needed once everything is there.
    let revoke = format!("revoke create on database {} from {}", database.name(), role.name);
    beside.batch_execute(&revoke).await.unwrap();
    drop(try_open(&role.url).await.unwrap());
    let stranger = database.create_role("stranger", "").await;
    let refused = try_open(&stranger.url).await.unwrap_err();
    assert!(matches!(refused, OpenError::Rights(_)), "{refused:?}");
}

/// A schema `admin` may be there already: other tables in it stay as they are. If one has a name of ours, nothing is
/// done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_the_platform_is_shared_or_left_alone() {
    let database = database().await;
    let beside = beside(&database).await;
    beside
        .batch_execute(
            "create schema admin; create table admin.users (id int); insert into admin.users values (7); \
             create table admin.events (mine int)",
        )
        .await
        .unwrap();
    let refused = try_open(&database.url()).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Failed(said) if said.contains("\"events\" already exists")),
        "{refused:?}"
    );
    let ours = "select count(*) from pg_tables where schemaname = 'admin' \
                and tablename not in ('users', 'events', 'migrations')";
    assert_eq!(beside.number(ours).await, 0, "nothing is half done");
    beside.batch_execute("drop table admin.events").await.unwrap();
    let store = try_open(&database.url()).await.unwrap();
    let appended = store.append(&"admin".parse().unwrap(), vec![event(draft())], at(0)).await.unwrap();
    assert!(matches!(appended[0], Appended::Stored { .. }));
    assert_eq!(beside.number("select id::bigint from admin.users").await, 7);
}

/// A schema that stands where a tenant's would is not taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_no_tenants_is_not_taken() {
    let database = database().await;
    let (store, beside) = (open(&database).await, beside(&database).await);
    beside.batch_execute("create schema tenant_theirs").await.unwrap();
    let tenant = Tenant { schema: "tenant_theirs".parse().unwrap(), name: None, created_at: at(0) };
    let refused = store.create_tenant(&tenant).await.unwrap_err();
    let said = std::error::Error::source(&refused).unwrap().to_string();
    assert!(said.contains("tenant_theirs"), "{said}");
    assert_eq!(store.tenant(&tenant.schema).await.unwrap(), None);
    beside.batch_execute("drop schema tenant_theirs").await.unwrap();
    assert_eq!(store.create_tenant(&tenant).await.unwrap(), Inserted::New);
}
