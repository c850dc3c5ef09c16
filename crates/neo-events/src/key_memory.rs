//! API keys in memory: those that were looked up a moment ago, and when each was last used.
//!
//! Every request brings a key, so not every request asks the database. A key that was found is believed for less than a
//! second, so that one that was revoked elsewhere stops working within a second here; that a key is not there is never
//! remembered. Last-used times are written every few seconds, as those of endpoints are.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use neo_events_domain::{SignedDuration, Timestamp, api_key::ApiKey, id::ApiKeyId, tenant::Schema};
use neo_events_store::KeyDigest;
use tokio::{sync::oneshot, task::JoinSet};

use crate::running::Shared;

/// How long a key is believed after it was looked up.
const BELIEVED_FOR: SignedDuration = SignedDuration::from_millis(800);
/// Most keys in memory. Beyond them all are forgotten, which costs a look-up each.
const KEYS_MAX: usize = 10_000;
/// Most tenants in memory.
const TENANTS_MAX: usize = 100_000;
/// How often last-used times are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// What is remembered of keys and tenants.
#[derive(Default)]
pub(crate) struct KeyMemory {
    seen: Mutex<HashMap<KeyDigest, Seen>>,
    used: Mutex<HashMap<ApiKeyId, Timestamp>>,
    /// Tenants that are there. None ever goes.
    tenants: Mutex<HashSet<Schema>>,
}

struct Seen {
    key: Arc<ApiKey>,
    looked_up_at: Timestamp,
}

impl KeyMemory {
    /// A key that was looked up a moment ago.
    pub(crate) fn believed(&self, digest: KeyDigest, now: Timestamp) -> Option<Arc<ApiKey>> {
        let seen = locked(&self.seen);
        let seen = seen.get(&digest)?;
        (now.duration_since(seen.looked_up_at) < BELIEVED_FOR).then(|| Arc::clone(&seen.key))
    }

    /// Remembers a key; `looked_up_at` is when the look-up began.
    pub(crate) fn believe(&self, digest: KeyDigest, key: Arc<ApiKey>, looked_up_at: Timestamp) {
        let mut seen = locked(&self.seen);
        if seen.len() >= KEYS_MAX && !seen.contains_key(&digest) {
            seen.retain(|_, seen| looked_up_at.duration_since(seen.looked_up_at) < BELIEVED_FOR);
        }
        if seen.len() >= KEYS_MAX && !seen.contains_key(&digest) {
            seen.clear();
        }
        seen.insert(digest, Seen { key, looked_up_at });
    }

    /// Forgets a key that was deleted here.
    pub(crate) fn forget(&self, id: ApiKeyId) {
        locked(&self.seen).retain(|_, seen| seen.key.id != id);
    }

    /// Notes that a key was used.
    pub(crate) fn note_use(&self, id: ApiKeyId, at: Timestamp) {
        locked(&self.used).insert(id, at);
    }

    /// Whether a tenant is known to be there.
    pub(crate) fn knows_tenant(&self, schema: &Schema) -> bool {
        locked(&self.tenants).contains(schema)
    }

    /// Remembers that a tenant is there.
    pub(crate) fn remember_tenant(&self, schema: Schema) {
        let mut tenants = locked(&self.tenants);
        if tenants.len() >= TENANTS_MAX {
            tenants.clear();
        }
        tenants.insert(schema);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For what is left at the end.
pub(crate) const LAST_FLUSH_MAX: Duration = Duration::from_secs(1);

/// Writes last-used times until its end.
pub(crate) struct Upkeep {
    tasks: JoinSet<()>,
    stop: oneshot::Sender<()>,
}

impl Upkeep {
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(shared, stopped));
        Self { tasks, stop }
    }

    /// Writes what is left, if the database takes it in time.
    pub(crate) async fn end(mut self) {
        drop(self.stop);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_FLUSH_MAX, ended).await.is_err() {
            tracing::warn!("the database did not take the last-used times of API keys in time");
        }
    }
}

async fn run(shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    loop {
        let is_over = tokio::time::timeout(FLUSH_INTERVAL, &mut stopped).await.is_ok();
        flush(&shared).await;
        if is_over {
            return;
        }
    }
}

/// What cannot be written now is lost, and logged: the next use tells it again.
async fn flush(shared: &Shared) {
    let used: Vec<_> = std::mem::take(&mut *locked(&shared.keys.used)).into_iter().collect();
    if used.is_empty() {
        return;
    }
    if let Err(error) = shared.store.note_key_usage(&used).await {
        tracing::warn!(%error, "last-used times of API keys were not written");
    }
}

#[cfg(test)]
mod tests {
    use neo_events_domain::{api_key::ApiKeyDraft, id::Id};

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn key(number: u8) -> Arc<ApiKey> {
        let draft = ApiKeyDraft { name: "k".into(), ..ApiKeyDraft::default() };
        Arc::new(draft.validate(Id::new(at(0), [number; 10]), Schema::admin(), at(0)).unwrap())
    }

    #[test]
    fn a_key_is_believed_for_less_than_a_second_and_not_after_it_was_deleted() {
        let memory = KeyMemory::default();
        let digest = KeyDigest([1; 32]);
        memory.believe(digest, key(1), at(1000));
        assert!(memory.believed(digest, at(1799)).is_some());
        assert!(memory.believed(digest, at(1800)).is_none());
        assert!(memory.believed(KeyDigest([2; 32]), at(1000)).is_none());
        memory.forget(key(2).id);
        assert!(memory.believed(digest, at(1000)).is_some());
        memory.forget(key(1).id);
        assert!(memory.believed(digest, at(1000)).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let memory = KeyMemory::default();
        let digest = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            KeyDigest(bytes)
        };
        for number in 0..KEYS_MAX + 10 {
            memory.believe(digest(number), key(1), at(0));
        }
        assert!(locked(&memory.seen).len() <= KEYS_MAX);
        assert!(memory.believed(digest(KEYS_MAX + 9), at(0)).is_some(), "the newest is there");
    }
}
