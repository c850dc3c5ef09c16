//! What most likely goes well is tried as a whole: by a statement that does all of it or nothing, and asks nothing for each
//! row. What is refused like this is looked at one by one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Tenants of whom a whole was refused a moment ago. What refused it, somebody who publishes again what is there perhaps,
/// is likely to go on, and to be refused first would cost them more than is saved.
#[derive(Default)]
pub(crate) struct Wholes(Mutex<HashMap<i32, u32>>);

impl Wholes {
    /// Statements of a tenant that are not tried as a whole after one was refused.
    const PAUSE: u32 = 32;

    /// Takes the next statement of this tenant into account: whether it is to be tried.
    pub(crate) fn next(&self, tenant_no: i32) -> bool {
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
        let wholes = Wholes::default();
        assert!(wholes.next(1));
        wholes.refused(1);
        for _ in 0..Wholes::PAUSE {
            assert!(!wholes.next(1));
            assert!(wholes.next(2));
        }
        assert!(wholes.next(1) && wholes.next(1));
    }
}
