//! A shop that publishes from its own transactions: an order that was committed arrives, and one that was rolled back does
//! not, whoever was killed meanwhile.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neo_events::{Sources, tokio_postgres};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, Error, NoTls};

use crate::process::{
    load::PATIENCE,
    publishers::{data_of, new_id},
};

/// The tenant that the shop is.
pub(crate) const TENANT: &str = "acme";
const CUSTOMERS: usize = 2;
/// Between two orders of a customer, and after an error.
const PACE: Duration = Duration::from_millis(10);
/// Of so many orders one is rolled back.
const ROLLED_BACK_ONE_IN: usize = 5;

/// Customers at work.
pub(crate) struct Shop {
    shared: Arc<Shared>,
    customers: JoinSet<()>,
}

struct Shared {
    database: String,
    told: Mutex<Told>,
    enough: AtomicBool,
}

/// What customers were told of their orders. Of the others nobody knows whether they were committed.
#[derive(Default)]
struct Told {
    committed: HashSet<String>,
    rolled_back: HashSet<String>,
}

impl Shop {
    pub(crate) async fn open(database: String) -> Self {
        let shared = Arc::new(Shared { database, told: Mutex::default(), enough: AtomicBool::new(false) });
        let (client, _driver) = shared.connect().await.unwrap();
        client.batch_execute("create table orders (id text primary key)").await.unwrap();
        let mut customers = JoinSet::new();
        for _ in 0..CUSTOMERS {
            customers.spawn(Arc::clone(&shared).order_again_and_again());
        }
        Self { shared, customers }
    }

    /// The orders that there are in the end, which are the events that there must be.
    pub(crate) async fn close(self) -> HashSet<String> {
        self.shared.enough.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.customers.join_all()).await.expect("ordering ends");
        let (client, _driver) = self.shared.connect().await.unwrap();
        let rows = client.query("select id from orders", &[]).await.unwrap();
        let orders: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let told = self.shared.told.lock().unwrap();
        assert!(told.committed.is_subset(&orders), "PostgreSQL lost what it had committed");
        assert!(told.rolled_back.is_disjoint(&orders), "PostgreSQL kept what was rolled back");
        assert!(!told.committed.is_empty() && !told.rolled_back.is_empty(), "the shop did nothing");
        println!(
            "  the shop: {} orders, {} of them without an answer, and {} rolled back",
            orders.len(),
            orders.difference(&told.committed).count(),
            told.rolled_back.len()
        );
        orders
    }
}

impl Shared {
    /// A connection, and what moves its bytes.
    async fn connect(&self) -> Result<(Client, JoinSet<Result<(), Error>>), Error> {
        let (client, connection) = tokio_postgres::connect(&self.database, NoTls).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok((client, driver))
    }

    /// Until it is enough, with a new connection after each error.
    async fn order_again_and_again(self: Arc<Self>) {
        let sources = Sources::system();
        while !self.enough.load(Ordering::Relaxed) {
            let _: Result<(), Error> = self.order_until_it_fails(&sources).await;
            sleep(PACE).await;
        }
    }

    async fn order_until_it_fails(&self, sources: &Sources) -> Result<(), Error> {
        let (mut client, _driver) = self.connect().await?;
        let publish = format!(
            "select tenant_{TENANT}.publish_event('load.test', $1::text::json, id => $2::text::uuid)"
        );
        for n in 1.. {
            if self.enough.load(Ordering::Relaxed) {
                break;
            }
            let id = new_id(sources);
            let transaction = client.transaction().await?;
            transaction.execute("insert into orders values ($1)", &[&id]).await?;
            transaction.execute(&publish, &[&data_of(&id), &id]).await?;
            if n % ROLLED_BACK_ONE_IN == 0 {
                transaction.rollback().await?;
                self.told.lock().unwrap().rolled_back.insert(id);
            } else {
                transaction.commit().await?;
                self.told.lock().unwrap().committed.insert(id);
            }
            sleep(PACE).await;
        }
        Ok(())
    }
}
