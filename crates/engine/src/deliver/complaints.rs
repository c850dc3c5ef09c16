//! What all attempts of a tenant meet at the same time is said once a second, and not by each of them four times.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use neo_events_domain::tenant::Schema;
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(1);

/// When something was said last of each tenant; of nobody for longer than it is of use.
#[derive(Default)]
pub(crate) struct Complaints(Mutex<HashMap<Schema, Instant>>);

impl Complaints {
    /// Whether this one is to be said; then others of the same tenant are not, for a second.
    pub(super) fn may_be_said(&self, schema: &Schema, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| now.duration_since(*at) < PAUSE);
        if said.contains_key(schema) {
            return false;
        }
        said.insert(schema.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenants_are_said_once_a_second() {
        let complaints = Complaints::default();
        let [acme, other] = ["acme", "other"].map(|slug| Schema::tenant(slug).unwrap());
        let now = Instant::now();
        let said = [&acme, &acme, &other].map(|schema| complaints.may_be_said(schema, now));
        assert_eq!(said, [true, false, true]);
        let said = [&acme, &acme].map(|schema| complaints.may_be_said(schema, now + PAUSE));
        assert_eq!(said, [true, false]);
    }
}
