//! Room in memory: what large requests share, and what large answers do, so that many at once do not take more than there
//! is. Each tenant has a part of it: one that takes all of its part leaves the others theirs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use neo_events::Schema;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// What is no larger needs no room: a batch of some fifty events.
pub(super) const SMALL_BYTES_MAX: usize = 64 * 1024;
/// How long room is waited for.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// All the room of one kind. Clones share it.
#[derive(Clone)]
pub(super) struct Rooms {
    all: Arc<Semaphore>,
    of_tenant_kib: u32,
    of_tenants: Arc<Mutex<HashMap<Schema, Weak<Semaphore>>>>,
}

/// Room that is taken, until it is dropped.
pub(super) struct Room {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Rooms {
    /// So much room in all, in KiB, and the most that one tenant has of it. What that leaves must hold the largest that
    /// somebody else may bring.
    pub(super) fn new(kib: u32, of_tenant_kib: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(kib as usize)), of_tenant_kib, of_tenants: Arc::default() }
    }

    /// Waits until there is room for so many bytes, not for ever. A tenant's own part is waited for first: whoever waits
    /// behind its own stands before nobody else's.
    pub(super) async fn wait_for(&self, bytes: usize, tenant: &Schema) -> Option<Room> {
        let kib = self.kib(bytes);
        let waiting = async {
            let of_tenant = self.of(tenant).acquire_many_owned(kib).await?;
            let of_all = Arc::clone(&self.all).acquire_many_owned(kib).await?;
            Ok::<_, AcquireError>(Room { _of_tenant: of_tenant, _of_all: of_all })
        };
        // Only a semaphore that was closed gives none, and nobody closes these.
        timeout(ROOM_TIMEOUT, waiting).await.ok()?.ok()
    }

    /// Room for so many bytes, if there is any now and nobody waits for it.
    pub(super) fn take(&self, bytes: usize, tenant: &Schema) -> Option<Room> {
        let kib = self.kib(bytes);
        let of_tenant = self.of(tenant).try_acquire_many_owned(kib).ok()?;
        let of_all = Arc::clone(&self.all).try_acquire_many_owned(kib).ok()?;
        Some(Room { _of_tenant: of_tenant, _of_all: of_all })
    }

    #[cfg(test)]
    pub(super) fn taken_of_admin_kib(&self) -> u32 {
        self.of_tenant_kib - u32::try_from(self.of(&Schema::admin()).available_permits()).unwrap()
    }

    /// What is larger than a tenant's part takes all of it.
    fn kib(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.of_tenant_kib)
    }

    fn of(&self, tenant: &Schema) -> Arc<Semaphore> {
        let mut of_tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = of_tenants.get(tenant).and_then(Weak::upgrade) {
            return there;
        }
        of_tenants.retain(|_, room| room.strong_count() > 0);
        let made = Arc::new(Semaphore::new(self.of_tenant_kib as usize));
        of_tenants.insert(tenant.clone(), Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants() -> [Schema; 2] {
        ["crowd", "other"].map(|slug| Schema::tenant(slug).unwrap())
    }

    #[tokio::test]
    async fn one_tenants_large_bodies_stand_before_nobody_elses() {
        let rooms = Rooms::new(1024, 768);
        let [crowd, other] = tenants();
        let kept = rooms.wait_for(768 * 1024, &crowd).await.expect("it is its part");
        let mut waits = std::pin::pin!(rooms.wait_for(700 * 1024, &crowd));
        assert!(futures_util::poll!(&mut waits).is_pending());
        rooms.wait_for(90_000, &other).await.expect("it has nothing to do with that");
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(kept);
        waits.await.expect("there is room again");
    }

    #[test]
    fn what_is_not_waited_for_is_there_or_refused_and_comes_back() {
        let rooms = Rooms::new(1024, 768);
        let [crowd, other] = tenants();
        let kept = rooms.take(usize::MAX, &crowd).expect("whatever is larger takes its part");
        assert!(rooms.take(1, &crowd).is_none());
        let last = rooms.take(256 * 1024, &other).expect("a quarter is left to others");
        assert!(rooms.take(1, &other).is_none(), "there is no more");
        drop((kept, last));
        assert!(rooms.take(768 * 1024, &crowd).is_some());
    }
}
