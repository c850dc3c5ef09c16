//! What operators see: the rows themselves.

use tokio::task::JoinSet;
use tokio_postgres::{Client, Error, NoTls, Row, types::FromSqlOwned};

use crate::process::load::until;

/// Everything owed, of all tenants.
const OWED: &str =
    "select (select count(*) from admin.owed_dispatches) + (select count(*) from admin.delivery_queue)";

/// Deliveries whose attempts are not 1, 2, … up to the one that succeeded, and nothing else.
const ODD_HISTORIES: &str = "
    select d.id::text || ' is ' || d.status || ' after ' || d.current_attempt || ': '
        || coalesce(string_agg(a.attempt_number || ' ' || a.status, ', ' order by a.attempt_number), 'no attempt')
    from admin.deliveries d
    left join admin.attempts a on a.delivery_id = d.id
    group by d.id
    having d.status <> 'success'
        or array_agg(a.attempt_number order by a.attempt_number)
            is distinct from array(select generate_series(1, d.current_attempt))
        or array_agg(a.attempt_number order by a.attempt_number) filter (where a.status = 'success')
            is distinct from array[d.current_attempt]";

/// A connection to a database.
pub(crate) struct Sql {
    client: Client,
    _driver: JoinSet<()>,
}

impl Sql {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap()
    }

    /// The same, where there may be no connection left.
    pub(crate) async fn try_connect(url: &str) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { client, _driver: driver })
    }

    /// Runs statements, in the connection's transaction if it has begun one.
    pub(crate) async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    pub(crate) async fn rows(&self, statement: &str) -> Vec<Row> {
        let rows = self.client.query(statement, &[]).await;
        rows.unwrap_or_else(|error| panic!("{statement}: {error:?}"))
    }

    /// The first column.
    pub(crate) async fn column<T: FromSqlOwned>(&self, statement: &str) -> Vec<T> {
        self.rows(statement).await.iter().map(|row| row.get(0)).collect()
    }

    /// The only value.
    pub(crate) async fn value<T: FromSqlOwned>(&self, statement: &str) -> T {
        self.column(statement).await.remove(0)
    }

    /// Waits until nothing is owed to anybody.
    pub(crate) async fn nothing_is_owed(&self) {
        until("nothing is owed", async || self.value::<i64>(OWED).await == 0).await;
    }

    /// Every delivery of the platform has succeeded, by attempts that were recorded once each and in order.
    pub(crate) async fn assert_histories_are_whole(&self) {
        let odd: Vec<String> = self.column(ODD_HISTORIES).await;
        assert!(odd.is_empty(), "{} deliveries, such as {:?}", odd.len(), &odd[..odd.len().min(5)]);
    }
}
