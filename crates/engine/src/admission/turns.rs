//! In which order endpoints have their turns: tenants take turns, and so do the endpoints of each. However many endpoints
//! of a tenant owe something, they stand between another one's and its turn as a single one would.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasherDefault, DefaultHasher},
};

use neo_events_domain::{id::EndpointId, tenant::Schema};

use super::Key;

/// Endpoints that wait for their turns.
#[derive(Default)]
pub(super) struct Turns {
    /// Tenants that have any, in the order of their turns.
    tenants: VecDeque<Schema>,
    /// Of each of those, at least one.
    endpoints: HashMap<Schema, VecDeque<EndpointId>, BuildHasherDefault<DefaultHasher>>,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// An endpoint comes after all others of its tenant, and a tenant that had none after all others.
    pub(super) fn join(&mut self, (schema, endpoint_id): Key) {
        match self.endpoints.entry(schema) {
            Entry::Occupied(mut waiting) => waiting.get_mut().push_back(endpoint_id),
            Entry::Vacant(none) => {
                self.tenants.push_back(none.key().clone());
                none.insert(VecDeque::from([endpoint_id]));
            }
        }
    }

    /// Whose turn it is, and its fair share of so many places: each tenant has as many as the others, and each of its
    /// endpoints as many as its others.
    pub(super) fn next(&mut self, places: u32) -> Option<(Key, u32)> {
        let of_tenants = self.tenants.len();
        let schema = self.tenants.pop_front()?;
        let Entry::Occupied(mut waiting) = self.endpoints.entry(schema.clone()) else { return None };
        let of_endpoints = waiting.get().len();
        let endpoint_id = waiting.get_mut().pop_front()?;
        if waiting.get().is_empty() {
            waiting.remove();
        } else {
            self.tenants.push_back(schema.clone());
        }
        let parts = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let share = places.div_ceil(parts(of_tenants)).div_ceil(parts(of_endpoints));
        Some(((schema, endpoint_id), share))
    }
}

#[cfg(test)]
mod tests {
    use neo_events_domain::Uuid;

    use super::*;

    fn key(slug: &str, n: u128) -> Key {
        (Schema::tenant(slug).unwrap(), EndpointId::from_uuid(Uuid::from_u128(n)))
    }

    #[test]
    fn tenants_take_turns_however_many_endpoints_they_have() {
        let mut turns = Turns::default();
        (0..1000).for_each(|n| turns.join(key("many", n)));
        turns.join(key("one", 0));
        turns.join(key("two", 0));
        turns.join(key("two", 1));
        let mut order = Vec::new();
        while let Some(((schema, id), share)) = turns.next(900) {
            order.push((schema.to_string(), id.uuid().as_u128(), share));
        }
        assert_eq!(order.len(), 1003);
        let first: Vec<_> = order.iter().take(6).map(|(schema, n, share)| (&**schema, *n, *share)).collect();
        let expected = [
            ("tenant_many", 0, 1),
            ("tenant_one", 0, 300),
            ("tenant_two", 0, 225),
            ("tenant_many", 1, 1),
            ("tenant_two", 1, 450),
            ("tenant_many", 2, 1),
        ];
        assert_eq!(first, expected);
        assert!(order[6..].iter().map(|(_, n, _)| *n).eq(3..1000), "one tenant's come in their order");
        assert!(turns.is_empty() && turns.endpoints.is_empty());
    }

    #[test]
    fn who_joins_again_comes_after_those_who_wait() {
        let mut turns = Turns::default();
        for key in [key("a", 1), key("b", 1), key("a", 2)] {
            turns.join(key);
        }
        let (first, _) = turns.next(1).unwrap();
        assert_eq!(first, key("a", 1));
        turns.join(first);
        let order: Vec<_> = std::iter::from_fn(|| turns.next(1)).map(|(key, _)| key).collect();
        assert_eq!(order, [key("b", 1), key("a", 2), key("a", 1)]);
    }
}
