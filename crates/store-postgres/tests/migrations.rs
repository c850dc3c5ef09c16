//! Migrating as a step of its own: by somebody, before nodes that may not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::Timestamp;
use neo_events_domain::tenant::{Schema, Tenant};
use neo_events_store::{Catalogue, EndpointQuery, MigrationStatus, PageRequest, StoreError, Tenants};
use neo_events_store_postgres::{OpenError, PostgresOptions, PostgresStore, migrate, migration_status};
use neo_events_test_postgres::{Database, database, execute};

async fn open(database: &Database, migrates: bool) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(PostgresOptions { migrates, ..PostgresOptions::new(database.url()) }).await
}

fn tenant(slug: &str) -> Tenant {
    Tenant { schema: Schema::tenant(slug).unwrap(), name: None, created_at: Timestamp::UNIX_EPOCH }
}

async fn steps(database: &Database) -> Vec<(String, usize, usize)> {
    let mut steps = Vec::new();
    migrate(&database.url(), |step| steps.push((step.scope.to_owned(), step.done, step.total)))
        .await
        .unwrap();
    steps
}

async fn behind(database: &Database) -> Vec<String> {
    let status = migration_status(&database.url()).await.unwrap();
    status.into_iter().filter(MigrationStatus::is_behind).map(|status| status.scope).collect()
}

/// As if a version before had made it.
async fn set_back(database: &Database, scope: &str) {
    let statements = format!(
        "delete from admin.migrations where scope = '{scope}' and level >= 4;
         drop function {scope}.publish_event, {scope}.record_event"
    );
    execute(&database.url(), &statements).await;
}

#[tokio::test]
async fn a_store_that_does_not_migrate_refuses_what_is_behind() {
    let database = database().await;
    assert!(matches!(open(&database, false).await, Err(OpenError::NotMigrated)));
    assert_eq!(behind(&database).await, ["database", "admin"], "and has changed nothing");
    let base = [("database".to_owned(), 1, 2), ("admin".to_owned(), 2, 2)];
    assert_eq!(steps(&database).await, base);
    assert_eq!(steps(&database).await, []);
    let store = open(&database, false).await.unwrap();
    for slug in ["one", "two"] {
        store.create_tenant(&tenant(slug)).await.unwrap();
    }
    store.close().await;
    for slug in ["one", "two"] {
        set_back(&database, tenant(slug).schema.as_str()).await;
    }
    assert!(matches!(open(&database, false).await, Err(OpenError::NotMigrated)));
    assert_eq!(behind(&database).await, ["tenant_one", "tenant_two"]);
    let done = [("tenant_one".to_owned(), 1, 2), ("tenant_two".to_owned(), 2, 2)];
    assert_eq!(steps(&database).await, done);
    open(&database, false).await.unwrap();
}

#[tokio::test]
async fn a_tenant_that_is_behind_waits_for_whoever_migrates() {
    let database = database().await;
    let (maker, node) = (open(&database, true).await.unwrap(), open(&database, false).await.unwrap());
    let schema = tenant("late").schema;
    maker.create_tenant(&tenant("late")).await.unwrap();
    set_back(&database, schema.as_str()).await;
    let list = async || node.endpoints(&schema, &EndpointQuery::default(), PageRequest::first(1)).await;
    let error = list().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(behind(&database).await, [schema.as_str()]);
    assert_eq!(steps(&database).await.len(), 1);
    list().await.unwrap();
}
