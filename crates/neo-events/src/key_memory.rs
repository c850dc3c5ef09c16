//! API keys in memory: those that were looked up a moment ago, and when each was last used.
//!
//! Every request brings a key, so not every request asks the database. A key that was found is believed for less than a
//! second, so that one that was revoked elsewhere stops working within a second here; that a key is not there is never
//! remembered. Last-used times are written every few seconds, as those of endpoints are.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
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
    seen: Mutex<SeenKeys>,
    used: Mutex<HashMap<ApiKeyId, Timestamp>>,
    /// Tenants that are there. None ever goes.
    tenants: Mutex<HashSet<Schema>>,
}

#[derive(Default)]
struct SeenKeys {
    by_digest: HashMap<KeyDigest, Seen>,
    /// How many keys were deleted here.
    deletions: u64,
}

/// When a look-up began: what it found is not remembered if a key was deleted since then, for it may be that one.
#[derive(Clone, Copy)]
pub(crate) struct LookUp {
    deletions: u64,
    began_at: Timestamp,
    /// Whether it was found before.
    pub(crate) is_known: bool,
}

struct Seen {
    key: Arc<ApiKey>,
    looked_up_at: Timestamp,
}

impl KeyMemory {
    /// A key that was looked up a moment ago; otherwise what [`Self::believe`] is to be told once it is looked up.
    pub(crate) fn believed(&self, digest: KeyDigest, now: Timestamp) -> Result<Arc<ApiKey>, LookUp> {
        let SeenKeys { by_digest, deletions } = &*locked(&self.seen);
        let seen = by_digest.get(&digest);
        let fresh = seen.filter(|seen| now.duration_since(seen.looked_up_at) < BELIEVED_FOR);
        let look_up = LookUp { deletions: *deletions, began_at: now, is_known: seen.is_some() };
        fresh.map(|seen| Arc::clone(&seen.key)).ok_or(look_up)
    }

    /// Remembers a key that was found.
    pub(crate) fn believe(&self, digest: KeyDigest, key: Arc<ApiKey>, look_up: LookUp) {
        let SeenKeys { by_digest, deletions } = &mut *locked(&self.seen);
        if *deletions != look_up.deletions {
            return;
        }
        let looked_up_at = look_up.began_at;
        if by_digest.len() >= KEYS_MAX && !by_digest.contains_key(&digest) {
            by_digest.retain(|_, seen| looked_up_at.duration_since(seen.looked_up_at) < BELIEVED_FOR);
        }
        if by_digest.len() >= KEYS_MAX && !by_digest.contains_key(&digest) {
            by_digest.clear();
        }
        by_digest.insert(digest, Seen { key, looked_up_at });
    }

    /// Forgets a key that is not there any more.
    pub(crate) fn disbelieve(&self, digest: KeyDigest) {
        locked(&self.seen).by_digest.remove(&digest);
    }

    /// Forgets a key that was deleted here.
    pub(crate) fn forget(&self, id: ApiKeyId) {
        let SeenKeys { by_digest, deletions } = &mut *locked(&self.seen);
        *deletions += 1;
        by_digest.retain(|_, seen| seen.key.id != id);
    }

    /// Notes that a key was used.
    pub(crate) fn note_use(&self, id: ApiKeyId, at: Timestamp) {
        locked(&self.used).entry(id).and_modify(|used| *used = at.max(*used)).or_insert(at);
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
        tracing::warn!(error = &error as &dyn Error, "last-used times of API keys were not written");
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

    /// A key is looked up and found at this time.
    fn look_up(memory: &KeyMemory, digest: KeyDigest, number: u8, millis: i64) {
        let Err(look_up) = memory.believed(digest, at(millis)) else { panic!("it is believed already") };
        memory.believe(digest, key(number), look_up);
    }

    #[test]
    fn a_key_is_believed_for_less_than_a_second_and_not_after_it_was_deleted() {
        let memory = KeyMemory::default();
        let digest = KeyDigest([1; 32]);
        look_up(&memory, digest, 1, 1000);
        assert!(memory.believed(digest, at(1799)).is_ok());
        assert!(memory.believed(digest, at(1800)).is_err());
        assert!(memory.believed(KeyDigest([2; 32]), at(1000)).is_err());
        memory.forget(key(2).id);
        assert!(memory.believed(digest, at(1000)).is_ok());
        memory.forget(key(1).id);
        assert!(memory.believed(digest, at(1000)).is_err());
    }

    #[test]
    fn a_key_that_was_deleted_while_it_was_looked_up_is_not_believed() {
        let memory = KeyMemory::default();
        let digest = KeyDigest([1; 32]);
        let Err(look_up) = memory.believed(digest, at(1000)) else { panic!("nothing is known") };
        memory.forget(key(1).id);
        memory.believe(digest, key(1), look_up);
        assert!(memory.believed(digest, at(1000)).is_err());
    }

    #[test]
    fn the_latest_use_counts_whatever_is_noted_last() {
        let memory = KeyMemory::default();
        for millis in [29, 0, 28] {
            memory.note_use(key(1).id, at(millis));
        }
        assert_eq!(locked(&memory.used)[&key(1).id], at(29));
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
            look_up(&memory, digest(number), 1, 0);
        }
        assert!(locked(&memory.seen).by_digest.len() <= KEYS_MAX);
        assert!(memory.believed(digest(KEYS_MAX + 9), at(0)).is_ok(), "the newest is there");
    }
}
