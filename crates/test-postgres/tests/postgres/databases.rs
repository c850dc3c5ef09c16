//! Databases in a cluster that many use.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use neo_events_test_postgres::{SharedCluster, database, execute};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{Session, ask, data_directory, processes, processes_in, until};

/// A cluster that ends soon after its last user, in a folder that is not there yet.
struct Private {
    folder: TempDir,
}

impl Private {
    const IDLE: Duration = Duration::from_secs(1);

    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        // The server may run as somebody else, who has to get through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder }
    }

    fn home(&self) -> std::path::PathBuf {
        self.folder.path().join("c")
    }

    fn cluster(&self) -> SharedCluster {
        SharedCluster::at(&self.home(), Self::IDLE)
    }

    async fn is_removed(&self) {
        until("nothing is left of the cluster", || {
            fs::read_dir(self.folder.path()).unwrap().next().is_none()
                && processes_in(self.folder.path()).is_empty()
                && watchdogs_of(&self.home()).is_empty()
        })
        .await;
    }
}

fn watchdogs_of(home: &Path) -> Vec<u32> {
    let home = home.to_str().unwrap();
    processes()
        .filter(|pid| {
            let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line);
            command_line.starts_with("/bin/sh") && command_line.contains(home)
        })
        .collect()
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

/// Another process with a database.
struct User {
    process: Child,
    url: String,
}

impl User {
    fn start(home: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_throwaway-postgres"))
            .arg(home)
            .arg(Private::IDLE.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn with_url(mut process: Child) -> Self {
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().to_owned() }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn databases_are_made_in_parallel_and_empty() {
    let mut creating = JoinSet::new();
    for _ in 0..8 {
        creating.spawn(database());
    }
    let databases = creating.join_all().await;
    let names: BTreeSet<_> = databases.iter().map(|database| database.name().to_owned()).collect();
    assert_eq!(names.len(), databases.len());
    let cluster = data_directory(&databases[0].url()).await;
    for database in &databases {
        let session = Session::open(&database.url()).await;
        assert_eq!(session.ask("select current_database()::text").await, database.name());
        assert_eq!(Path::new(&session.ask("show data_directory").await), cluster);
        // It would fail where another test had made it.
        session.client.batch_execute("create table mine (id int)").await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_database_is_gone_though_somebody_is_connected() {
    let stays = database().await;
    let goes = database().await;
    let name = goes.name().to_owned();
    let _connected = Session::open(&goes.url()).await;
    drop(goes);
    let names = ask(&stays.url(), "select string_agg(datname, ' ') from pg_database").await;
    assert!(names.contains(stays.name()) && !names.contains(&name), "{names}");
}

#[tokio::test]
async fn a_role_has_what_it_is_given_and_nothing_else() {
    let database = database().await;
    let role = database.create_role("app", "createdb").await;
    assert_eq!(
        ask(
            &role.url,
            "select concat_ws(' ', current_user, current_database(), rolsuper, rolcreatedb)
             from pg_roles where rolname = current_user"
        )
        .await,
        format!("{} {} f t", role.name, database.name())
    );
    execute(&database.url(), &format!("create schema authorization {}", role.name)).await;
    execute(&role.url, "create table it_owns (id int)").await;
}

#[tokio::test]
async fn a_database_is_found_by_its_socket() {
    let database = database().await;
    let where_from = "select coalesce(host(inet_client_addr()), 'socket')";
    assert_eq!(ask(&database.url(), where_from).await, "127.0.0.1");
    assert_eq!(ask(&database.socket_url(), where_from).await, "socket");
}

#[tokio::test]
async fn processes_share_a_cluster_and_nothing_is_left_when_they_are_killed() {
    let private = Private::new();
    // All of them find nothing and want to start it.
    let starting: Vec<_> = (0..4).map(|_| User::start(&private.home())).collect();
    let users: Vec<_> = starting.into_iter().map(User::with_url).collect();
    let urls: BTreeSet<_> = users.iter().map(|user| user.url.clone()).collect();
    assert_eq!(urls.len(), users.len());
    for user in &users {
        assert_eq!(data_directory(&user.url).await, private.home().join("data"));
    }
    for user in users {
        kill(user.process.id());
    }
    private.is_removed().await;
}

#[tokio::test]
async fn a_cluster_stays_while_one_uses_it() {
    let private = Private::new();
    let database = private.cluster().database().await;
    let other = User::with_url(User::start(&private.home()));
    let before = ask(&database.url(), "select pg_postmaster_start_time()::text").await;
    drop(other);
    // That nothing happens can only be seen by waiting.
    tokio::time::sleep(4 * Private::IDLE).await;
    assert_eq!(ask(&database.url(), "select pg_postmaster_start_time()::text").await, before);
    drop(database);
    private.is_removed().await;
    drop(private.cluster().database().await);
    private.is_removed().await;
}

#[tokio::test]
async fn a_crashed_cluster_is_replaced() {
    let private = Private::new();
    let lost = private.cluster().database().await;
    for pid in processes_in(&private.home()) {
        // One may have ended with the others.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
    }
    until("the server is dead", || processes_in(&private.home()).is_empty()).await;
    let database = private.cluster().database().await;
    assert_eq!(ask(&database.url(), "select current_database()::text").await, database.name());
    drop((lost, database));
    private.is_removed().await;
}

#[tokio::test]
async fn a_cluster_without_watchdog_gets_another() {
    let private = Private::new();
    let one = private.cluster().database().await;
    let watchdogs = watchdogs_of(&private.home());
    assert_eq!(watchdogs.len(), 1);
    kill(watchdogs[0]);
    until("the watchdog is dead", || !watchdogs_of(&private.home()).contains(&watchdogs[0])).await;
    let two = private.cluster().database().await;
    assert_eq!(ask(&one.url(), "select current_database()::text").await, one.name(), "its server goes on");
    drop((one, two));
    private.is_removed().await;
}
