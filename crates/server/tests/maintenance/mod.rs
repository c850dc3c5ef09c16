//! `migrate` and `doctor`, on files and on real database servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use neo_events_test_postgres::{Cluster, Database, database, execute};
use serde_json::{Value, json};

use crate::{
    DONE, FAILED, USAGE,
    terminal::{Finished, Folder, Server, until},
};

const ADMIN_KEY: &str = "0123456789abcdef";
/// A master key that no data was written with.
const ANOTHER_KEY: &str = "YW5vdGhlciBtYXN0ZXIga2V5IHdpdGggMzIgYnl0ZXM=";
/// What operators are told to grant.
const DOCUMENTED: &str = include_str!("../../../../docs/postgresql.md");
const IS_TESTED: &str = "<!-- The tests run these statements. -->\n```sql\n";

fn scopes(folder: &Folder, arguments: &[&str]) -> Vec<(String, bool)> {
    let finished = folder.run(&[&["migrate", "status", "--json"], arguments].concat());
    let status = finished.json();
    let scope = |row: &Value| {
        let missing = row["known"].as_i64().unwrap() - row["applied"].as_i64().unwrap();
        assert_eq!(row["behind"], missing, "{row}");
        (row["scope"].as_str().unwrap().to_owned(), missing > 0)
    };
    let scopes: Vec<_> = status["data"].as_array().unwrap().iter().map(scope).collect();
    let is_behind = scopes.iter().any(|(_, is_behind)| *is_behind);
    assert_eq!(finished.code, if is_behind { FAILED } else { DONE }, "{finished:?}");
    scopes
}

fn named(scopes: &[(&str, bool)]) -> Vec<(String, bool)> {
    scopes.iter().map(|(scope, is_behind)| ((*scope).to_owned(), *is_behind)).collect()
}

/// What the doctor says of one thing: status and detail.
fn finding(doctor: &Finished, check: &str) -> (String, String) {
    let report = doctor.json();
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("{check}: {report}"));
    assert_eq!(found["advice"].is_null(), found["status"] == "ok", "advice for what is not well: {found}");
    (found["status"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
}

fn statuses(doctor: &Finished) -> Vec<(String, String)> {
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let report = doctor.json();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| (field(finding, "check"), field(finding, "status"))).collect()
}

#[test]
fn a_file_is_looked_at_without_being_made_and_then_brought_up_to_date() {
    let folder = Folder::new();
    let doctor = folder.run(&["doctor", "--json"]);
    assert_eq!(doctor.code, DONE, "{doctor:?}");
    assert!(finding(&doctor, "database").1.contains("is not there"), "{doctor:?}");
    assert_eq!(scopes(&folder, &[]), named(&[("admin", true)]));
    assert!(!folder.path("neo-events-data").exists(), "nothing is made by looking");

    assert!(folder.done(&["migrate", "up"]).contains("migrated admin\n1 scope migrated, now up to date"));
    assert!(folder.done(&["migrate", "up"]).starts_with("Up to date"));
    assert_eq!(folder.json(&["migrate", "up"]), json!({"migrated": []}));
    assert_eq!(scopes(&folder, &[]), named(&[("admin", false)]));
    let tenants = folder.path("neo-events-data/admin.db.d");
    fs::create_dir_all(&tenants).unwrap();
    fs::write(tenants.join("tenant_old.db"), "").unwrap();
    assert_eq!(scopes(&folder, &[]), named(&[("admin", false), ("tenant_old", true)]));
    let shown = folder.run(&["migrate", "status"]).stdout;
    assert!(shown.contains("tenant_old") && shown.contains("1 of 2 scopes behind: neo-events"), "{shown}");
    assert_eq!(folder.json(&["migrate", "up"]), json!({"migrated": ["tenant_old"]}));
    assert_eq!(scopes(&folder, &[]), named(&[("admin", false), ("tenant_old", false)]));
    let files = || fs::read_dir(folder.path("neo-events-data")).unwrap().count();
    let before = files();
    let doctor = folder.run(&["doctor", "--deep", "--json"]);
    assert_eq!(doctor.code, DONE, "{doctor:?}");
    for check in ["settings", "master key", "database", "permissions", "journal", "migrations", "integrity"] {
        assert_eq!(finding(&doctor, check).0, "ok", "{doctor:?}");
    }
    assert_eq!(files(), before, "looking leaves no files behind");
}

#[test]
fn a_file_in_use_is_told_so() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    folder.done(&["tenants", "create", "acme"]);
    let up = folder.run(&["migrate", "up"]);
    assert_eq!(up.code, FAILED);
    assert!(up.stderr.contains("in use by another process") && up.stderr.contains("its server"), "{up:?}");
    assert_eq!(scopes(&folder, &[]), named(&[("admin", false), ("tenant_acme", false)]));
    let doctor = folder.run(&["doctor", "--json"]);
    assert_eq!(doctor.code, DONE, "{doctor:?}");
    assert!(finding(&doctor, "database").1.contains("a server has it open"), "{doctor:?}");
    assert_eq!(finding(&doctor, "server"), ("ok".into(), format!("{} is ready", server.url())));
    assert_eq!(server.terminate(), Some(DONE));
    let doctor = folder.run(&["doctor", "--json"]);
    assert_eq!(finding(&doctor, "server").0, "warning", "{doctor:?}");
    assert!(finding(&doctor, "database").1.contains("nobody has it open"), "{doctor:?}");
}

#[test]
fn damage_and_bad_settings_are_problems() {
    let folder = Folder::new();
    folder.done(&["migrate", "up"]);
    let file = folder.path("neo-events-data/admin.db");
    let mut bytes = fs::read(&file).unwrap();
    let last_page = bytes.len() - 4096;
    bytes[last_page..].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let doctor = folder.run(&["doctor", "--deep", "--json"]);
    assert_eq!((doctor.code, finding(&doctor, "integrity").0.as_str()), (FAILED, "problem"), "{doctor:?}");

    fs::write(&file, "this is no database, whatever its name says").unwrap();
    let doctor = folder.run(&["doctor"]);
    assert_eq!(doctor.code, FAILED);
    assert!(doctor.stdout.contains("problem") && doctor.stdout.contains("is not an SQLite"), "{doctor:?}");

    let elsewhere = Folder::new();
    let doctor = elsewhere.run(&["doctor", "--profile", "production", "--json"]);
    assert_eq!(doctor.code, FAILED);
    assert_eq!(finding(&doctor, "settings").0, "problem");
    assert_eq!(finding(&doctor, "master key").0, "problem");
    assert_eq!(elsewhere.run(&["migrate", "status", "--database", "mysql:x"]).code, USAGE);
    let refused = elsewhere.run(&["serve", "--no-migrate"]);
    assert_eq!(refused.code, USAGE);
    assert!(refused.stderr.contains("--no-migrate is for a postgres: database"), "{refused:?}");
}

#[test]
fn one_tenants_damaged_file_hides_nothing_about_the_others() {
    let folder = Folder::new();
    folder.done(&["migrate", "up"]);
    let tenants = folder.path("neo-events-data/admin.db.d");
    fs::create_dir_all(&tenants).unwrap();
    fs::write(tenants.join("tenant_bad.db"), "this is no database, whatever its name says").unwrap();
    fs::write(tenants.join("tenant_old.db"), "").unwrap();
    let status = folder.run(&["migrate", "status", "--json"]);
    assert_eq!(status.code, FAILED, "{status:?}");
    let scopes: Vec<_> =
        status.json()["data"].as_array().unwrap().iter().map(|row| row["scope"].clone()).collect();
    assert_eq!(scopes, ["admin", "tenant_old"]);
    assert_eq!(status.json()["unreadable"][0]["scope"], "tenant_bad");
    let up = folder.run(&["migrate", "up"]);
    assert_eq!(up.code, FAILED, "{up:?}");
    assert!(up.stdout.contains("migrated tenant_old") && up.stderr.contains("tenant_bad.db"), "{up:?}");
    let shown = folder.run(&["migrate", "status"]);
    assert!(shown.stdout.contains("tenant_bad cannot be read: ") && shown.code == FAILED, "{shown:?}");
    assert!(shown.stdout.contains("2 scopes up to date, 1 not to be read."), "{shown:?}");
    let doctor = folder.run(&["doctor", "--deep", "--json"]);
    assert_eq!(doctor.code, FAILED, "{doctor:?}");
    let (status, detail) = finding(&doctor, "tenant files");
    assert!(status == "problem" && detail.contains("tenant_bad.db is not an SQLite database"), "{doctor:?}");
    for check in ["database", "permissions", "journal", "migrations"] {
        assert_eq!(finding(&doctor, check).0, "ok", "{doctor:?}");
    }
}

/// What is found, and that a server does not start.
fn refused_and_found(folder: &Folder, arguments: &[&str], check: &str) -> String {
    let doctor = folder.run(&[&["doctor", "--json"], arguments].concat());
    assert_eq!(doctor.code, FAILED, "{check}: {doctor:?}");
    let (status, detail) = finding(&doctor, check);
    assert_eq!(status, "problem", "{doctor:?}");
    let mut serve = folder.start(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
    assert_eq!(serve.wait(), Some(FAILED), "{check}: {}", serve.logged());
    detail
}

#[test]
fn what_keeps_a_server_from_starting_is_a_problem() {
    let folder = Folder::new();
    fs::write(folder.path("file"), "").unwrap();
    let detail = refused_and_found(&folder, &["--database", "sqlite:file/admin.db"], "folder");
    assert!(detail.contains("is no folder"), "{detail}");

    let server = Server::start(&folder);
    folder.json(&["endpoints", "create", "shop", "http://127.0.0.1:9/in"]);
    assert_eq!(server.terminate(), Some(DONE));
    let key = folder.path("neo-events-data/admin.db.key");
    let kept = fs::read(&key).unwrap();
    assert_eq!(finding(&folder.run(&["doctor", "--json"]), "key file").0, "ok");
    fs::remove_file(&key).unwrap();
    let detail = refused_and_found(&folder, &[], "key file");
    assert!(detail.contains("is not there, and the data was written with it"), "{detail}");
    fs::create_dir(&key).unwrap();
    assert!(refused_and_found(&folder, &[], "key file").contains("cannot be read"));
    fs::remove_dir(&key).unwrap();
    fs::write(&key, "no key").unwrap();
    refused_and_found(&folder, &[], "key file");
    fs::write(&key, ANOTHER_KEY).unwrap();
    assert!(refused_and_found(&folder, &[], "key file").contains("has another key"));
    fs::write(&key, &kept).unwrap();

    let given =
        |keys: &str| folder.run_with_environment(&["doctor", "--json"], &[("NEO_EVENTS_MASTER_KEY", keys)]);
    let doctor = given(ANOTHER_KEY);
    assert_eq!((doctor.code, finding(&doctor, "noted key").0.as_str()), (FAILED, "problem"), "{doctor:?}");
    let doctor = given(&format!("{ANOTHER_KEY},{}", String::from_utf8(kept).unwrap()));
    assert_eq!((doctor.code, finding(&doctor, "noted key").0.as_str()), (DONE, "ok"), "{doctor:?}");

    let doctor = folder
        .run_with_environment(&["doctor", "--json"], &[("NEO_EVENTS_CA_FILE", "neo-events-data/admin.db")]);
    assert_eq!((doctor.code, finding(&doctor, "CA file").0.as_str()), (FAILED, "problem"), "{doctor:?}");
    assert_eq!(folder.run(&["doctor"]).code, DONE, "all is mended");
}

#[test]
fn a_tenant_without_its_file_is_a_problem() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    folder.done(&["tenants", "create", "acme"]);
    assert_eq!(server.terminate(), Some(DONE));
    assert_eq!(folder.run(&["doctor"]).code, DONE);
    fs::remove_file(folder.path("neo-events-data/admin.db.d/tenant_acme.db")).unwrap();
    let doctor = folder.run(&["doctor", "--json"]);
    assert_eq!(doctor.code, FAILED);
    let (status, detail) = finding(&doctor, "tenant files");
    assert!(status == "problem" && detail.contains("tenant_acme.db"), "{doctor:?}");
    // It is that tenant's alone.
    assert_eq!(Server::start(&folder).terminate(), Some(DONE));
}

#[test]
fn a_key_file_that_is_gone_is_a_problem_though_nothing_was_sealed_yet() {
    let folder = Folder::new();
    assert_eq!(Server::start(&folder).terminate(), Some(DONE));
    fs::remove_file(folder.path("neo-events-data/admin.db.key")).unwrap();
    refused_and_found(&folder, &[], "key file");
}

#[test]
fn a_key_that_the_server_does_not_take_is_a_problem() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    assert_eq!(finding(&folder.run(&["doctor", "--json"]), "key").0, "ok");
    let doctor = folder.run(&["doctor", "--key", "bad", "--json"]);
    assert_eq!(doctor.code, FAILED);
    let (status, detail) = finding(&doctor, "key");
    assert!(status == "problem" && detail.contains("came from --key"), "{doctor:?}");
    let key = folder.json(&["api-keys", "create", "admin", "publisher", "--scope", "events:write"]);
    let narrow = folder.run(&["doctor", "--key", key["key"].as_str().unwrap(), "--json"]);
    assert_eq!(finding(&narrow, "key").0, "ok", "{narrow:?}");
    let nowhere = folder.run(&["doctor", "--tenant", "nobody", "--json"]);
    assert_eq!(finding(&nowhere, "key").0, "problem", "{nowhere:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_is_a_step_of_its_own_if_that_is_wanted() {
    let (folder, database) = (Folder::new(), database().await);
    let url = database.url();
    let on = |arguments: &[&'static str]| {
        let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.extend(["--database".to_owned(), url.clone()]);
        all
    };
    let run = |arguments: &[&'static str]| {
        let arguments = on(arguments);
        folder.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(scopes(&folder, &["--database", &url]), named(&[("database", true), ("admin", true)]));
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-key", ADMIN_KEY, "--no-migrate"];
    let refused = run(&serve);
    assert_eq!(refused.code, FAILED);
    assert!(refused.stderr.contains("run neo-events migrate up"), "{refused:?}");
    assert_eq!(scopes(&folder, &["--database", &url]), named(&[("database", true), ("admin", true)]));

    std::thread::scope(|threads| {
        let both = [0, 1].map(|_| threads.spawn(|| run(&["migrate", "up"])));
        for up in both {
            let up = up.join().unwrap();
            assert_eq!(up.code, DONE, "{up:?}");
        }
    });
    assert_eq!(scopes(&folder, &["--database", &url]), named(&[("database", false), ("admin", false)]));
    let arguments = on(&serve);
    let mut server = folder.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    server.until_shown("admin key");
    assert!(run(&["migrate", "up"]).stdout.starts_with("Up to date"));
    let address = server.url();
    let doctor = run(&["doctor", "--json"]);
    assert_eq!(doctor.code, FAILED, "this cluster is not durable: {doctor:?}");
    let (status, detail) = finding(&doctor, "durability");
    assert!(status == "problem" && detail.contains("fsync, full_page_writes off"), "{doctor:?}");
    assert_eq!(finding(&doctor, "nodes"), ("ok".into(), "1 at work".into()));
    assert_eq!(finding(&doctor, "key file").0, "ok");
    let doctor = ["doctor", "--json", "--database", &url];
    let wrong = folder.run_with_environment(&doctor, &[("NEO_EVENTS_MASTER_KEY", ANOTHER_KEY)]);
    assert_eq!(finding(&wrong, "noted key").0, "problem", "{wrong:?}");
    let created = folder.run(&["--url", &address, "--key", ADMIN_KEY, "tenants", "create", "acme"]);
    assert_eq!(created.code, DONE, "{created:?}");
    assert_eq!(scopes(&folder, &["--database", &url]).last(), Some(&("tenant_acme".to_owned(), false)));
    assert_eq!(server.terminate(), Some(DONE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_server_is_found_sound() {
    let (folder, cluster) = (Folder::new(), Cluster::start(&[]).await);
    let url = cluster.url();
    let doctor = || folder.run(&["doctor", "--json", "--database", &url]);
    let before = doctor();
    assert_eq!(before.code, DONE, "{before:?}");
    assert_eq!(finding(&before, "migrations"), ("warning".into(), "2 of 2 scopes behind".into()));
    let status = folder.run(&["migrate", "status", "--database", &url]);
    assert!(status.stdout.contains("2 of 2 scopes behind"), "{status:?}");
    let up = folder.done(&["migrate", "up", "--database", &url]);
    assert!(up.starts_with("migrated database\nmigrated admin\n2 scopes migrated"), "{up}");
    execute(&url, "insert into admin.owed_dispatches (tenant_no, event_id) values (1, '01890000-0000-7000-8000-000000000000')").await;
    let found = doctor();
    let expected = [
        ("settings", "ok"),
        ("master key", "ok"),
        ("database", "ok"),
        ("encryption", "ok"),
        ("durability", "ok"),
        ("autovacuum", "ok"),
        ("connections", "ok"),
        ("clock", "ok"),
        ("transactions", "ok"),
        ("migrations", "ok"),
        ("rights", "ok"),
        ("nodes", "warning"),
        ("dispatches owed", "warning"),
        ("deliveries", "ok"),
    ];
    let statuses = statuses(&found);
    let statuses: Vec<_> = statuses.iter().map(|(check, status)| (check.as_str(), status.as_str())).collect();
    // What follows is about this machine.
    assert_eq!(statuses[..expected.len()], expected, "{found:?}");
    assert_eq!(found.json()["problems"], 0);
    execute(
        &url,
        "do 'begin execute format(''alter database %I set synchronous_commit = off'', current_database()); end'",
    )
    .await;
    let (status, detail) = finding(&doctor(), "durability");
    assert!(status == "warning" && detail.contains("your own transactions"), "{detail}");
    assert!(finding(&found, "dispatches owed").1.starts_with("1, the oldest due for"), "{found:?}");
    assert!(folder.run(&["doctor", "--database", &url]).stdout.contains("problems: 0, warnings: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_used_is_a_problem() {
    let (folder, database) = (Folder::new(), database().await);
    let nobody = folder.run(&["doctor", "--json", "--database", "postgres://127.0.0.1:1/none"]);
    assert_eq!(nobody.code, FAILED);
    assert!(finding(&nobody, "database").1.contains("does not answer: 127.0.0.1:1: "), "{nobody:?}");
    let with_password = ["--database", "postgres://u:s3cret@127.0.0.1:1/none"];
    let serve = folder.run(&[&["serve", "--listen", "127.0.0.1:0"][..], &with_password].concat());
    assert!(serve.stderr.contains("127.0.0.1:1") && !serve.stderr.contains("s3cret"), "{serve:?}");
    let doctor = folder.run(&[&["doctor", "--json"][..], &with_password].concat());
    assert!(finding(&doctor, "settings").1.contains("postgres://u:***@127.0.0.1:1/none"), "{doctor:?}");
    let role = database.create_role("reader", "").await;
    folder.done(&["migrate", "up", "--database", &database.url()]);
    let statements = format!(
        "grant usage on schema admin to {0}; grant select on all tables in schema admin to {0}",
        role.name
    );
    execute(&database.url(), &statements).await;
    let lacking = folder.run(&["doctor", "--json", "--database", &role.url]);
    assert_eq!(lacking.code, FAILED);
    let (status, detail) = finding(&lacking, "rights");
    assert!(status == "problem" && detail.contains("on admin.api_keys"), "{lacking:?}");
    let (elsewhere, empty) = (Folder::new(), neo_events_test_postgres::database().await);
    let stranger = empty.create_role("stranger", "").await;
    let detail = refused_and_found(&elsewhere, &["--database", &stranger.url], "rights");
    assert!(detail.contains("may not create schemas"), "{detail}");
    let name = database.name();
    execute(&database.url(), &format!("alter database {name} set default_transaction_read_only = on")).await;
    let read_only = folder.run(&["doctor", "--json", "--database", &database.url()]);
    assert_eq!(read_only.code, FAILED);
    assert!(finding(&read_only, "database").1.contains("read-only"), "{read_only:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_no_node_does_is_told() {
    let (folder, database) = (Folder::new(), database().await);
    let url = database.url();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--database", &url, "--roles"];
    let mut servers = Vec::new();
    for (roles, says) in
        [("api", Some("none dispatches or delivers")), ("dispatch", Some("none delivers")), ("deliver", None)]
    {
        let mut server = folder.start(&[&serve[..], &[roles]].concat());
        server.until_shown("database");
        servers.push(server);
        let (status, detail) = finding(&folder.run(&["doctor", "--json", "--database", &url]), "nodes");
        assert_eq!(status == "warning", says.is_some(), "{detail}");
        assert!(says.is_none_or(|says| detail.contains(says)), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_that_nobody_attempts_says_so() {
    let (folder, database) = (Folder::new(), database().await);
    let url = database.url();
    let mut server =
        folder.start(&["serve", "--listen", "127.0.0.1:0", "--database", &url, "--roles", "api"]);
    server.until_shown("admin key");
    let endpoint = ["endpoints", "create", "shop", "http://127.0.0.1:9/in", "--timeout-seconds", "5"];
    let endpoint = folder.json(&endpoint);
    let test = folder.run(&["endpoints", "test", endpoint["id"].as_str().unwrap(), "--json"]);
    assert_eq!((test.code, &test.json()["overall_status"]), (FAILED, &json!("pending")), "{test:?}");
    for said in ["waiting for the end of the attempt", "no node with the role deliver"] {
        assert!(test.stderr.contains(said), "{test:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_are_documented_are_enough() {
    let (folder, database) = (Folder::new(), database().await);
    let owner = database.create_role("owner", "").await;
    let node = database.create_role("node", "").await;
    let shop = database.create_role("shop", "").await;
    let documented: Vec<_> = DOCUMENTED.split(IS_TESTED).skip(1).collect();
    let grant = async |database: &Database, number: usize| {
        let statements = documented[number].split("```").next().unwrap();
        let statements = statements
            .replace("on database neo ", &format!("on database {} ", database.name()))
            .replace("neo_owner", &owner.name)
            .replace("neo_node", &node.name)
            .replace("to shop", &format!("to {}", shop.name));
        execute(&database.url(), &statements).await;
    };
    grant(&database, 0).await;
    folder.done(&["migrate", "up", "--database", &owner.url]);
    let serve = ["serve", "--listen", "127.0.0.1:0", "--no-migrate", "--database", &node.url];
    let mut server = folder.start(&serve);
    server.until_shown("admin key");
    folder.done(&["tenants", "create", "acme"]);
    grant(&database, 1).await;
    for tenant in ["admin", "acme"] {
        folder.done(&["--tenant", tenant, "publish", "order.placed", "{}"]);
    }
    execute(&shop.url, "select tenant_acme.publish_event('order.placed', '{}')").await;
    until("all are dispatched", || {
        let events = folder.json(&["--tenant", "acme", "events", "list"]);
        let events = events["data"].as_array().unwrap().clone();
        (events.len() == 2 && events.iter().all(|event| !event["processed_at"].is_null())).then_some(())
    });
    let doctor = folder.run(&["doctor", "--json", "--database", &node.url]);
    assert_eq!(finding(&doctor, "rights").0, "ok", "{doctor:?}");
    // A later version: the owner migrates what a node has made.
    let set_back = "delete from admin.migrations where scope = 'tenant_acme' and level >= 4;
        drop function tenant_acme.publish_event, tenant_acme.record_event";
    execute(&database.url(), set_back).await;
    let up = folder.json(&["migrate", "up", "--database", &owner.url]);
    assert_eq!(up, json!({"migrated": ["tenant_acme"]}));
    assert_eq!(server.terminate(), Some(DONE));
}
