//! Optimistic writes: what most likely goes well is tried by a statement that does all of it or nothing, and asks
//! nothing for each row. What is refused like this is looked at one by one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Tenants of whom such a statement was refused a moment ago. What refused it, somebody who publishes again what is
/// there perhaps, is likely to go on, and to be refused first would cost them more than is saved.
#[derive(Default)]
pub(crate) struct OptimisticWrites(Mutex<HashMap<i32, u32>>);

impl OptimisticWrites {
    /// Statements of a tenant that are not tried optimistically after one was refused.
    const PAUSE: u32 = 32;

    /// Whether the next statement of this tenant may be optimistic; it counts as one of those that must not.
    pub(crate) fn may_try(&self, tenant_no: i32) -> bool {
        let mut pauses = self.pauses();
        let Some(left) = pauses.get_mut(&tenant_no) else { return true };
        *left -= 1;
        if *left == 0 {
            pauses.remove(&tenant_no);
        }
        false
    }

    /// It was tried in vain.
    pub(crate) fn refused(&self, tenant_no: i32) {
        self.pauses().insert(tenant_no, Self::PAUSE);
    }

    fn pauses(&self) -> MutexGuard<'_, HashMap<i32, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_refusal_a_tenants_next_ones_are_not_tried_and_others_are() {
        let optimistic = OptimisticWrites::default();
        assert!(optimistic.may_try(1));
        optimistic.refused(1);
        for _ in 0..OptimisticWrites::PAUSE {
            assert!(!optimistic.may_try(1));
            assert!(optimistic.may_try(2));
        }
        assert!(optimistic.may_try(1) && optimistic.may_try(1));
    }
}
