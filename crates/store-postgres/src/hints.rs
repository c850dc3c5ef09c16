//! Hints between nodes: a shorter way than the next poll, for nodes that divide the work. What a hint says may be old,
//! repeated or lost; nothing depends on it.
//!
//! One connection of each process listens. A node says something only if it has nobody at home who would do the work:
//! an API node after it took events in, a dispatching one that does not deliver after it wrote deliveries; and both say
//! it at most every few milliseconds, since the database takes a lock of the whole instance for each `NOTIFY`. So a
//! node that does everything never says a word.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{conn::Connection, connections::Connections, failure::Failure, open::Address, sql};
use neo_events_domain::tenant::Schema;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Least time between two words of this node on the same topic.
const PACE: Duration = Duration::from_millis(10);
/// How long to wait before listening is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Listening makes no other statement, and none of these takes long.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The channel; its payload is the topic.
const LISTEN: &str = "listen neo_events";

/// One kind of work: who waits for it here, and who was told elsewhere.
pub(crate) struct Topic {
    payload: &'static str,
    woken: Notify,
    /// Somebody here waits for this work, or did.
    is_done_here: AtomicBool,
    said: Notify,
}

impl Topic {
    const fn new(payload: &'static str) -> Self {
        Self {
            payload,
            woken: Notify::const_new(),
            is_done_here: AtomicBool::new(false),
            said: Notify::const_new(),
        }
    }

    /// There may be work: wakes who does it here, or tells the others.
    pub(crate) fn announce(&self) {
        if self.is_done_here.load(Ordering::Relaxed) {
            self.woken.notify_one();
        } else {
            self.said.notify_one();
        }
    }

    /// There may be work, and whoever does it here knows.
    pub(crate) fn announce_elsewhere(&self) {
        if !self.is_done_here.load(Ordering::Relaxed) {
            self.said.notify_one();
        }
    }

    /// Resolves when there may be work.
    pub(crate) async fn wait(&self) {
        self.is_done_here.store(true, Ordering::Relaxed);
        self.woken.notified().await;
    }

    /// Tells other nodes, until it is dropped.
    async fn tell(&self, connections: Connections) {
        loop {
            self.said.notified().await;
            let told = async {
                let conn = connections.work().await?;
                conn.query_one(sql::HINTS_NOTIFY, &Schema::admin(), &[&self.payload]).await
            };
            if let Err(error) = told.await {
                tracing::debug!(%error, "a hint was not given");
            }
            sleep(PACE).await;
        }
    }
}

/// What nodes tell each other about.
pub(crate) struct Hints {
    /// Events may owe their dispatch.
    pub(crate) dispatches: Topic,
    /// Deliveries may be due.
    pub(crate) deliveries: Topic,
}

impl Hints {
    pub(crate) const fn new() -> Self {
        Self { dispatches: Topic::new("dispatches"), deliveries: Topic::new("deliveries") }
    }

    /// Tells and listens, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, connections: Connections, address: Address) {
        tokio::join!(
            self.dispatches.tell(connections.clone()),
            self.deliveries.tell(connections),
            Arc::clone(&self).listen(address)
        );
    }

    async fn listen(self: Arc<Self>, address: Address) {
        loop {
            if let Err(error) = self.listen_once(&address).await {
                tracing::debug!(%error, "listening ended; trying again");
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn listen_once(self: &Arc<Self>, address: &Address) -> Result<(), Failure> {
        let to = address.to_primary(LISTEN_TIMEOUT, LISTEN_TIMEOUT);
        let hints = Arc::clone(self);
        let hear = Arc::new(move |payload: &str| hints.hear(payload));
        let opened = timeout(LISTEN_TIMEOUT, Connection::hearing(&to, hear)).await;
        let mut conn = opened.map_err(|_| Failure::NoConnectionFree)??;
        conn.batch(LISTEN).await?;
        // What was said while nobody listened.
        self.dispatches.woken.notify_one();
        self.deliveries.woken.notify_one();
        conn.ended().await;
        Ok(())
    }

    fn hear(&self, payload: &str) {
        for topic in [&self.dispatches, &self.deliveries] {
            if topic.payload == payload {
                topic.woken.notify_one();
            }
        }
    }
}
