//! What anybody may ask before anything is known of them: whose a key is, and whether the node serves. However many ask,
//! the database has few of these questions at once, and whoever is known does not stand behind them.

use std::time::Duration;

use neo_events_store::{Health, StoreError};
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

/// Keys that are looked up at once of which nothing is known: none was found lately.
const LOOK_UPS_MAX: usize = 2;
/// How long such a look-up waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The turns of those who ask.
pub(crate) struct Strangers {
    keys: Semaphore,
    /// The last question whether the database serves: when it began, and what was wrong.
    last_ping: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Strangers {
    pub(crate) fn new() -> Self {
        Self { keys: Semaphore::new(LOOK_UPS_MAX), last_ping: Mutex::default() }
    }

    /// A turn to look up a key of which nothing is known, until it is dropped.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let turn = timeout(TURN_TIMEOUT, self.keys.acquire()).await.ok().and_then(Result::ok);
        turn.ok_or_else(|| StoreError::Unavailable("too many unknown keys are looked up at once".into()))
    }

    /// Asks the database, one after the other. Who waited while somebody asked anew has that answer.
    pub(crate) async fn ping(&self, store: &(impl Health + ?Sized)) -> Result<(), StoreError> {
        let came_at = Instant::now();
        let mut last = self.last_ping.lock().await;
        if let Some((began_at, answer)) = &*last
            && *began_at >= came_at
        {
            return answer.clone().map_err(|wrong| StoreError::Unavailable(wrong.into()));
        }
        let began_at = Instant::now();
        let answer = store.ping().await;
        let kept = answer.as_ref().copied().map_err(ToString::to_string);
        *last = Some((began_at, kept));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures_util::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    /// Counts how often it is asked, and fails every other time.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Health for Counting {
        async fn ping(&self) -> Result<(), StoreError> {
            yield_now().await;
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            if asked.is_multiple_of(2) { Ok(()) } else { Err(StoreError::Unavailable("away".into())) }
        }
    }

    #[tokio::test]
    async fn who_waits_for_others_asks_the_database_no_more_often_than_one_of_them() {
        let (strangers, store) = (Strangers::new(), Counting::default());
        let answers = join_all((0..100).map(|_| strangers.ping(&store))).await;
        assert_eq!(
            store.0.load(Ordering::Relaxed),
            2,
            "the one that was under way, and one for all who came since"
        );
        assert!(answers[0].is_ok() && answers[1..].iter().all(Result::is_err));
        strangers.ping(&store).await.expect("whoever comes later has an answer of their own");
        assert_eq!(store.0.load(Ordering::Relaxed), 3);
    }
}
