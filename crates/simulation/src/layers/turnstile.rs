//! An order for what is given back at one moment. As the engine returns what is queued for several endpoints of a tenant, it
//! goes through them in the order of a hash map, and that is not the seed's: without this, some seeds would make two runs.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::yield_now, time::sleep};

/// The tokens of those who are about to go through.
#[derive(Default)]
pub(super) struct Turnstile(Mutex<BTreeSet<u64>>);

impl Turnstile {
    /// Lets those who come at one moment through in the order of their tokens, a millisecond apart.
    pub(super) async fn pass(&self, token: u64) {
        self.waiting().insert(token);
        yield_now().await;
        // All who come at this moment are here, and nobody has gone.
        let before = self.waiting().range(..token).count() as u64;
        yield_now().await;
        self.waiting().remove(&token);
        if before > 0 {
            sleep(Duration::from_millis(before)).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
