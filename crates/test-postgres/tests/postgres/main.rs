//! Throwaway databases and clusters do what tests will rely on, and leave nothing behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

mod clusters;
mod databases;

/// How long anything may take that will happen.
const PATIENCE: Duration = Duration::from_mins(1);

struct Session {
    client: Client,
    _driver: JoinSet<()>,
}

impl Session {
    async fn open(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Self { client, _driver: driver }
    }

    /// The text of the answer's first column.
    async fn ask(&self, query: &str) -> String {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }
}

async fn ask(url: &str, query: &str) -> String {
    Session::open(url).await.ask(query).await
}

async fn data_directory(url: &str) -> PathBuf {
    ask(url, "show data_directory").await.into()
}

/// The process ids of `folder`'s server, backends included.
fn processes_in(folder: &Path) -> Vec<u32> {
    processes()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
