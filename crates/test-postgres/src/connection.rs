//! Connections to a server, and the URLs by which others connect.

use std::{fmt::Write as _, path::Path, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tokio_postgres::{Client, NoTls};

/// The name of the superuser.
pub(crate) const SUPERUSER: &str = "postgres";

/// What a server that listens may take to let us in. One that is paused never does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, closed when dropped.
pub(crate) struct Connection {
    pub(crate) client: Client,
    _driver: JoinSet<()>,
}

impl Connection {
    /// Connects; the error is a server that cannot be reached, or cannot serve.
    pub(crate) async fn open(url: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let (client, connection) = timeout(CONNECT_TIMEOUT, tokio_postgres::connect(url, NoTls)).await??;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { client, _driver: driver })
    }
}

/// Runs statements at a URL, in the way of `psql -c`: all of them in one transaction, unless they end it.
pub async fn execute(url: &str, statements: &str) {
    let connection = Connection::open(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let answer = connection.client.batch_execute(statements).await;
    answer.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

/// Whether a query finds any row, asked in a session of its own.
pub(crate) async fn answers(url: &str, query: &str) -> bool {
    let connection = Connection::open(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let rows = connection.client.query(query, &[]).await;
    !rows.unwrap_or_else(|error| panic!("{query}: {error:?}")).is_empty()
}

pub(crate) fn url(port: u16, user: &str, database: &str) -> String {
    format!("postgres://{user}@127.0.0.1:{port}/{database}")
}

pub(crate) fn socket_url(folder: &Path, port: u16, user: &str, database: &str) -> String {
    let mut host = String::new();
    for byte in folder.as_os_str().as_encoded_bytes() {
        write!(host, "%{byte:02X}").unwrap();
    }
    format!("postgres://{user}@{host}:{port}/{database}")
}
