//! Databases that cannot be used: the program ends at once, and says what is wrong and what to do about it.

use std::time::{Duration, Instant};

use neo_events_test_postgres::{Cluster, Database, database, execute};
use tokio::net::TcpSocket;

use crate::{
    process::{ServerProcess, load::until},
    sql::Sql,
};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
/// Waiting for a host that does not answer takes 5 s; the rest is for a machine that has other things to do.
const END_MAX: Duration = Duration::from_secs(15);

async fn refused(database: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let (status, said) = ServerProcess::launch(folder.path(), database, arguments).ended().await;
    assert!(began.elapsed() < END_MAX, "{:?}: {said}", began.elapsed());
    assert!(said.starts_with("error: ") && said.lines().count() <= 3, "for people: {said}");
    for debug in ["DbError", "Kind", "Some(", "panicked", "RUST_BACKTRACE"] {
        assert!(!said.contains(debug), "for people: {said}");
    }
    (status.code(), said)
}

async fn assert_refused(database: &str, words: &[&str]) {
    let (code, said) = refused(database, &[]).await;
    assert_eq!(code, Some(FAILED), "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

async fn migrated() -> Database {
    let (database, folder) = (database().await, tempfile::tempdir().unwrap());
    assert!(ServerProcess::start_on(folder.path(), &database.url(), &[]).await.terminate().success());
    database
}

#[tokio::test]
async fn a_database_that_cannot_be_written() {
    let database = database().await;
    let read_only = format!("alter database {} set default_transaction_read_only = on", database.name());
    execute(&database.url(), &read_only).await;
    assert_refused(&database.url(), &["read-only", "URL of the primary"]).await;
}

#[tokio::test]
async fn a_role_without_rights() {
    let empty = database().await;
    let role = empty.create_role("stranger", "").await;
    assert_refused(&role.url, &["lacks rights", "needs to create schemas", "permission denied"]).await;

    let full = migrated().await;
    let role = full.create_role("stranger", "").await;
    assert_refused(&role.url, &["lacks rights", "own schema admin", "permission denied"]).await;
}

#[tokio::test]
async fn no_connection_left() {
    let database = migrated().await;
    let role = database.create_role("limited", "superuser connection limit 0").await;
    execute(&database.url(), &format!("alter role {} nosuperuser", role.name)).await;
    assert_refused(&role.url, &["refuses the connection", "too many connections"]).await;

    let cluster = Cluster::start(&[
        ("max_connections", "2"),
        ("superuser_reserved_connections", "0"),
        ("max_wal_senders", "0"),
        ("fsync", "off"),
    ])
    .await;
    // Whoever asked whether it is ready may not have left yet.
    let mut others = Vec::new();
    until("both connections are taken", async || {
        others.extend(Sql::try_connect(&cluster.url()).await.ok());
        others.len() == 2
    })
    .await;
    assert_refused(&cluster.url(), &["refuses the connection", "too many clients already"]).await;
    drop(others);
}

#[tokio::test]
async fn nothing_behind_the_url() {
    let database = database().await;
    let absent = database.url().replace(database.name(), "test_absent");
    assert_refused(&absent, &["refuses the connection", "\"test_absent\" does not exist"]).await;
    let absent = database.url().replace("postgres@", "nobody_at_all@");
    assert_refused(&absent, &["refuses the connection", "\"nobody_at_all\" does not exist"]).await;

    // Somebody has the port and does not listen.
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let closed = format!("postgres://postgres@{}/postgres", deaf.local_addr().unwrap());
    assert_refused(&closed, &["does not answer", "Connection refused"]).await;
    // Somebody listens and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("postgres://postgres@{}/postgres", silent.local_addr().unwrap());
    assert_refused(&silent_url, &["does not answer"]).await;
    assert_refused("postgres://postgres@db.invalid/postgres", &["does not answer"]).await;
}

#[tokio::test]
async fn a_wrong_password() {
    let mut cluster = Cluster::start(&[("fsync", "off")]).await;
    execute(&cluster.url(), "create role keeper login password 's3cret'").await;
    let hba: String = Sql::connect(&cluster.url()).await.value("select current_setting('hba_file')").await;
    let old = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all keeper 127.0.0.1/32 scram-sha-256\n{old}")).unwrap();
    cluster.stop_fast().await;
    cluster.start_again().await;
    let wrong = cluster.url().replace("postgres@", "keeper:wr0ng@");
    assert_refused(&wrong, &["refuses the connection", "password authentication failed", "\"keeper\""]).await;
    let (_, said) = refused(&wrong, &[]).await;
    assert!(!said.contains("wr0ng"), "{said}");
    let missing = cluster.url().replace("postgres@", "keeper@");
    assert_refused(&missing, &["password"]).await;
}

#[tokio::test]
async fn a_database_of_a_later_version() {
    let database = migrated().await;
    let later =
        "insert into admin.migrations (scope, level, name, requires) values ('database', 999, 'later', 999)";
    execute(&database.url(), later).await;
    assert_refused(
        &database.url(),
        &["needs a program that knows migration 999", "use the version that migrated it, or a later one"],
    )
    .await;
}

#[tokio::test]
async fn roles_that_nobody_else_could_fill() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", folder.path().join("admin.db").display());
    let (code, said) = refused(&file, &["--roles", "api"]).await;
    assert_eq!(code, Some(USAGE), "{said}");
    assert!(said.contains("which needs every role"), "{said}");
}
