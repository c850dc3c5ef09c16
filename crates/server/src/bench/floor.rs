//! The floor under a publish call at a fixed rate: what no service can do without that answers once an event is durable.
//!
//! One row as large as an event, committed through the driver that the store uses, and one request that does nothing,
//! `GET /livez`: each at the rate of the round, in turn with it. A publish call is set against the sum of the two.

use std::{
    net::SocketAddr,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use neo_events::rusqlite;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_postgres::{NoTls, Statement};

use super::{
    connection::Connection, database::Database, load::Caller, measure::Percentiles, payload::payload,
};
use crate::cli::failure::{Failure, with_causes};

/// Connections that commit, if there are as many that publish.
pub(crate) const COMMITTERS_MAX: usize = 16;

/// In the schema that is ours on PostgreSQL; a row like those that `SQLite` takes below.
const CREATE: &str =
    "create table if not exists admin.neo_events_bench_floor (number bigint not null, data text not null)";
const DROP: &str = "drop table if exists admin.neo_events_bench_floor";

/// What a publish call is set against.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct FloorFigures {
    /// Of a row's commit.
    pub(crate) commit_ms: Percentiles,
    /// Of `GET /livez`.
    pub(crate) livez_ms: Percentiles,
}

impl FloorFigures {
    /// Each figure for itself.
    pub(crate) fn median(all: &[Self]) -> Self {
        let of =
            |one: fn(&Self) -> Percentiles| Percentiles::median(&all.iter().map(one).collect::<Vec<_>>());
        Self { commit_ms: of(|floor| floor.commit_ms), livez_ms: of(|floor| floor.livez_ms) }
    }

    /// How many times the floor this is, at p50.
    pub(crate) fn ratio(&self, publish_ms: &Percentiles) -> Option<f64> {
        let floor = self.commit_ms.p50 + self.livez_ms.p50;
        (floor > 0.0).then(|| publish_ms.p50 / floor)
    }
}

/// Asks whether the server lives.
pub(crate) struct Probe {
    connection: Connection,
    host: String,
}

impl Probe {
    /// Connects.
    pub(crate) async fn connect(server: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { connection: Connection::open(server).await?, host: server.to_string() })
    }
}

impl Caller for Probe {
    async fn call(&mut self, _: Range<u64>) -> Result<(), Failure> {
        let request = Request::get("/livez").header(header::HOST, &self.host).body(Full::new(Bytes::new()));
        let request = request.map_err(|error| failed(&error.to_string()))?;
        let (status, _) = self.connection.send(request).await?;
        if status == StatusCode::OK { Ok(()) } else { Err(failed(&format!("/livez answered {status}"))) }
    }
}

/// Commits rows.
pub(crate) struct Committer {
    driver: Driver,
    payload_bytes: usize,
}

enum Driver {
    Postgres { client: tokio_postgres::Client, insert: Statement, _connection: JoinSet<()> },
    Sqlite(Arc<Mutex<rusqlite::Connection>>),
}

/// Where rows are committed.
pub(crate) enum Ground {
    /// In a table beside the others.
    Postgres(String),
    /// In a file in a folder beside the other, which goes with it.
    Sqlite(TempDir, Arc<Mutex<rusqlite::Connection>>),
}

impl Ground {
    /// Makes the table.
    pub(crate) async fn prepare(database: &Database, folder: &Path) -> Result<Self, Failure> {
        let beside = match database {
            Database::Postgres { url, .. } => {
                let (client, _connection) = connect(url).await?;
                client.batch_execute(CREATE).await.map_err(|error| failed(&with_causes(&error)))?;
                return Ok(Self::Postgres(url.clone()));
            }
            Database::Temporary => folder,
            Database::Sqlite { path, .. } => path.parent().unwrap_or(folder),
        };
        let own = tempfile::Builder::new().prefix("neo-events-bench-floor-").tempdir_in(beside);
        let own = own.map_err(|error| failed(&error.to_string()))?;
        // As durable as the store's own.
        let opened = rusqlite::Connection::open(own.path().join("floor.db")).and_then(|conn| {
            conn.execute_batch("pragma journal_mode = wal; pragma synchronous = full")?;
            conn.execute_batch(
                "create table neo_events_bench_floor (number integer not null, data text not null)",
            )?;
            Ok(conn)
        });
        let conn = opened.map_err(|error| failed(&with_causes(&error)))?;
        Ok(Self::Sqlite(own, Arc::new(Mutex::new(conn))))
    }

    /// Somebody who commits there.
    pub(crate) async fn committer(&self, payload_bytes: usize) -> Result<Committer, Failure> {
        let driver = match self {
            Self::Postgres(url) => {
                let (client, connection) = connect(url).await?;
                let insert = client.prepare("insert into admin.neo_events_bench_floor values ($1, $2)").await;
                let insert = insert.map_err(|error| failed(&with_causes(&error)))?;
                Driver::Postgres { client, insert, _connection: connection }
            }
            Self::Sqlite(_, conn) => Driver::Sqlite(Arc::clone(conn)),
        };
        Ok(Committer { driver, payload_bytes })
    }

    /// Leaves nothing behind.
    pub(crate) async fn clear(self) -> Result<(), Failure> {
        match self {
            Self::Postgres(url) => {
                let (client, _connection) = connect(&url).await?;
                client.batch_execute(DROP).await.map_err(|error| failed(&with_causes(&error)))
            }
            Self::Sqlite(own, conn) => {
                drop(conn);
                own.close().map_err(|error| failed(&error.to_string()))
            }
        }
    }
}

async fn connect(url: &str) -> Result<(tokio_postgres::Client, JoinSet<()>), Failure> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.map_err(|error| failed(&with_causes(&error)))?;
    let mut driver = JoinSet::new();
    // How it ends is seen by the statement that is under way.
    driver.spawn(async move { drop(connection.await) });
    Ok((client, driver))
}

impl Caller for Committer {
    async fn call(&mut self, numbers: Range<u64>) -> Result<(), Failure> {
        for number in numbers {
            let data = payload(number, self.payload_bytes);
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            match &self.driver {
                Driver::Postgres { client, insert, .. } => {
                    let committed = client.execute(insert, &[&number, &data]).await;
                    committed.map_err(|error| failed(&with_causes(&error)))?;
                }
                Driver::Sqlite(conn) => {
                    let conn = Arc::clone(conn);
                    let commit = move || {
                        let conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
                        let mut insert =
                            conn.prepare_cached("insert into neo_events_bench_floor values (?1, ?2)")?;
                        insert.execute((number, data))
                    };
                    // On a thread of its own, as every caller has to who must not block.
                    let committed = tokio::task::spawn_blocking(commit).await;
                    let committed = committed.map_err(|error| failed(&error.to_string()))?;
                    committed.map_err(|error| failed(&with_causes(&error)))?;
                }
            }
        }
        Ok(())
    }
}

fn failed(reason: &str) -> Failure {
    Failure::Serve { message: format!("the floor could not be measured: {reason}"), advice: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_are_committed_and_nothing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground::prepare(&Database::Temporary, folder.path()).await.unwrap();
        let mut committer = ground.committer(100).await.unwrap();
        committer.call(0..5).await.unwrap();
        let Ground::Sqlite(_, conn) = &ground else { panic!("a temporary database is SQLite's") };
        let count = |conn: &rusqlite::Connection| {
            conn.query_row("select count(*) from neo_events_bench_floor", [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(count(&conn.lock().unwrap()), 5);
        drop(committer);
        ground.clear().await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_ratio_is_to_the_sum() {
        let of = |p50| Percentiles { p50, ..Percentiles::default() };
        let floor = FloorFigures { commit_ms: of(0.3), livez_ms: of(0.2) };
        assert!((floor.ratio(&of(1.0)).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(FloorFigures::default().ratio(&of(1.0)), None);
    }
}
