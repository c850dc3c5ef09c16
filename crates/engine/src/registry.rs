//! Who wants which events: the catalogue in memory, as one matcher per tenant.
//!
//! The catalogue counts its changes. A claim of dispatches names the count that matching must know at least; if ours
//! is older, what changed since is read and applied before anything is matched. So a subscription is in force for
//! every event claimed after its commit, on every node, without any message between nodes. Who matches an event before
//! it is stored names the count that it was matched with, and the store compares.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use neo_events_domain::{
    Uuid,
    endpoint::Endpoint,
    event_type::EventType,
    id::{EndpointId, SubscriptionId},
    matching::{LazyData, Matcher, Rule},
    subscription::{Subscription, effective_context},
    tenant::Schema,
};
use neo_events_store::{CatalogueChanges, CatalogueVersion, Store, StoreError};
use tokio::time::Instant;

const CHANGES_PER_READ: u32 = 1000;
/// An event that takes longer to match keeps the thread that serves for too long, if it was not by chance.
const COSTLY: Duration = Duration::from_millis(20);
const COSTLY_IN_A_ROW: u32 = 2;
/// How long a tenant whose filters took too long is matched on other threads alone.
const COSTLY_FOR: Duration = Duration::from_secs(10);

/// Every tenant's matcher, shared by the passes and by publishers. Each has a lock of its own: matching may take long, and
/// then keeps nobody but that tenant.
#[derive(Default)]
pub(crate) struct Registry {
    tenants: RwLock<HashMap<Schema, Arc<RwLock<Tenant>>>>,
}

/// What matching must know of an event.
pub(crate) struct Subject<'a> {
    pub(crate) event_type: &'a EventType,
    pub(crate) context_id: Option<Uuid>,
    pub(crate) data: &'a str,
}

/// Who wants an event, as of a catalogue.
pub(crate) struct Matches {
    pub(crate) version: CatalogueVersion,
    /// Each endpoint once, in order of their ids.
    pub(crate) wanted: Vec<Wanted>,
}

/// What came of matching.
pub(crate) enum Matched {
    /// As of the catalogue that is known.
    Known(Matches),
    /// Nothing is known of the tenant, or it is being written.
    Unknown,
    /// It took, or would take, longer than it may here.
    TooCostly,
}

/// An endpoint that wants an event.
pub(crate) struct Wanted {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) subscription_ids: Vec<SubscriptionId>,
}

#[derive(Default)]
struct Tenant {
    version: CatalogueVersion,
    matcher: Matcher<SubscriptionId>,
    endpoints: HashMap<EndpointId, Route>,
    subscriptions: HashMap<SubscriptionId, Subscription>,
    costs: Mutex<Costs>,
}

/// What matching one event took lately.
#[derive(Default)]
struct Costs {
    /// So many times in a row it took too long.
    slow: u32,
    /// It is not tried before this on a thread that serves.
    costly_until: Option<Instant>,
}

impl Costs {
    fn is_costly(&self, now: Instant) -> bool {
        self.costly_until.is_some_and(|until| now < until)
    }

    /// Once may be the processor's fault, which had something else to do.
    fn took(&mut self, time: Duration, now: Instant) {
        self.slow = if time > COSTLY { self.slow + 1 } else { 0 };
        if self.slow >= COSTLY_IN_A_ROW {
            (self.slow, self.costly_until) = (0, Some(now + COSTLY_FOR));
        }
    }
}

/// An endpoint and what leads to it.
#[derive(Default)]
struct Route {
    /// `None` as long as only a subscription has named it: its own change comes with or after that.
    endpoint: Option<Arc<Endpoint>>,
    subscription_ids: HashSet<SubscriptionId>,
}

impl Registry {
    /// Forgets everything: what was interrupted while it was written may be half a truth.
    pub(crate) fn clear(&self) {
        write(&self.tenants).clear();
        self.tenants.clear_poison();
    }

    /// Brings a tenant at least to `version`, and answers which of the endpoints that it knew are not what they were.
    /// Of a tenant, one at a time does this.
    pub(crate) async fn refresh(
        &self,
        store: &dyn Store,
        schema: &Schema,
        version: CatalogueVersion,
    ) -> Result<Vec<EndpointId>, StoreError> {
        let known =
            |registry: &Self| registry.tenant(schema).map(|tenant| read(&tenant).version).unwrap_or_default();
        // To the end, not only to `version`: a row that mattered at `version` may have changed again since, and so
        // have moved behind it. Who knows of more than there is has read on meanwhile, or knows what is not so any more.
        let mut behind = known(self) != version;
        let mut touched = Vec::new();
        while behind {
            let since = known(self);
            let changes = store.catalogue_changes(schema, since, CHANGES_PER_READ).await?;
            if changes.version < since {
                tracing::info!(%schema, "what is subscribed is read anew: the database was away");
                let forgotten = write(&self.tenants).remove(schema).unwrap_or_default();
                touched.extend(read(&forgotten).endpoints.keys());
                continue;
            }
            behind = changes.more;
            let tenant = Arc::clone(write(&self.tenants).entry(schema.clone()).or_default());
            touched.extend(write(&tenant).apply(changes));
        }
        Ok(touched)
    }

    /// Who wants an event, as far as is known. Takes as long as it takes, on a thread that may be kept.
    pub(crate) fn matches(&self, schema: &Schema, of: &Subject<'_>) -> Matched {
        self.tenant(schema).map_or(Matched::Unknown, |tenant| read(&tenant).matches(of, || true))
    }

    /// The same on a thread that serves, with what time there is.
    pub(crate) fn matches_until(&self, schema: &Schema, of: &Subject<'_>, deadline: Instant) -> Matched {
        self.tenant(schema).map_or(Matched::Unknown, |tenant| read(&tenant).matches_until(of, deadline))
    }

    /// The same for publishers, who do not wait while somebody writes either. Whoever matched something costly would
    /// else keep all of the tenant's others waiting, each on a thread that serves.
    pub(crate) fn matches_at_once(&self, schema: &Schema, of: &Subject<'_>, deadline: Instant) -> Matched {
        // Nor of what a panic left behind: half a truth is none.
        let Some(tenant) = self.tenant(schema) else { return Matched::Unknown };
        tenant.try_read().map_or(Matched::Unknown, |tenant| tenant.matches_until(of, deadline))
    }

    fn tenant(&self, schema: &Schema) -> Option<Arc<RwLock<Tenant>>> {
        read(&self.tenants).get(schema).cloned()
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Tenant {
    /// A tenant whose filters took too long a moment ago is not tried: each try keeps a thread, for as long as a filter
    /// takes.
    fn matches_until(&self, of: &Subject<'_>, deadline: Instant) -> Matched {
        let began = Instant::now();
        if began > deadline || self.costs().is_costly(began) {
            return Matched::TooCostly;
        }
        let matched = self.matches(of, || Instant::now() <= deadline);
        let now = Instant::now();
        self.costs().took(now - began, now);
        matched
    }

    fn costs(&self) -> MutexGuard<'_, Costs> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn matches(&self, of: &Subject<'_>, goes_on: impl FnMut() -> bool) -> Matched {
        let data = LazyData::new(of.data);
        let found = self.matcher.matching_while(of.event_type, of.context_id, &data, goes_on);
        let Some(found) = found else { return Matched::TooCostly };
        let mut matched: Vec<_> =
            found.into_iter().filter_map(|id| Some((self.subscriptions.get(&id)?.endpoint_id, id))).collect();
        matched.sort_unstable();
        let wanted = matched.chunk_by(|(one, _), (other, _)| one == other).filter_map(|chunk| {
            let endpoint = self.endpoints.get(&chunk[0].0)?.endpoint.as_ref()?;
            let subscription_ids = chunk.iter().map(|(_, id)| *id).collect();
            Some(Wanted { endpoint: Arc::clone(endpoint), subscription_ids })
        });
        Matched::Known(Matches { version: self.version, wanted: wanted.collect() })
    }

    /// Answers which endpoints it knew otherwise.
    fn apply(&mut self, changes: CatalogueChanges) -> Vec<EndpointId> {
        let ids = changes.endpoints.iter().map(|endpoint| &endpoint.id).chain(&changes.deleted_endpoints);
        let known = ids.filter(|id| self.endpoints.contains_key(id)).copied().collect();
        for id in changes.deleted_subscriptions {
            self.forget_subscription(id);
        }
        for id in changes.deleted_endpoints {
            let gone = self.endpoints.remove(&id);
            gone.into_iter()
                .flat_map(|route| route.subscription_ids)
                .for_each(|id| self.forget_subscription(id));
        }
        let mut touched = HashSet::new();
        for endpoint in changes.endpoints {
            touched.extend(self.learn_endpoint(endpoint).iter().copied());
        }
        for subscription in changes.subscriptions {
            touched.insert(subscription.id);
            self.learn_subscription(subscription);
        }
        for id in touched {
            self.decide(id);
        }
        self.version = changes.version;
        known
    }

    fn learn_endpoint(&mut self, endpoint: Endpoint) -> &HashSet<SubscriptionId> {
        let route = self.endpoints.entry(endpoint.id).or_default();
        route.endpoint = Some(Arc::new(endpoint));
        &route.subscription_ids
    }

    fn learn_subscription(&mut self, subscription: Subscription) {
        let route = self.endpoints.entry(subscription.endpoint_id).or_default();
        route.subscription_ids.insert(subscription.id);
        self.subscriptions.insert(subscription.id, subscription);
    }

    fn forget_subscription(&mut self, id: SubscriptionId) {
        self.matcher.remove(&id);
        let gone = self.subscriptions.remove(&id);
        if let Some(route) = gone.and_then(|gone| self.endpoints.get_mut(&gone.endpoint_id)) {
            route.subscription_ids.remove(&id);
        }
    }

    /// Puts a subscription into the matcher, or takes it out.
    fn decide(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let route = self.endpoints.get(&subscription.endpoint_id);
        let endpoint = route.and_then(|route| route.endpoint.as_ref()).filter(|endpoint| endpoint.is_active);
        match endpoint.filter(|_| subscription.is_active) {
            None => drop(self.matcher.remove(&id)),
            Some(endpoint) => self.matcher.insert(Rule {
                key: id,
                pattern: subscription.pattern.clone(),
                context_id: effective_context(subscription.context_id, endpoint.context_id),
                filter: subscription.filter.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neo_events_domain::{
        Timestamp,
        endpoint::{EndpointDraft, Profile},
        subscription::SubscriptionDraft,
    };

    fn endpoint(n: u128) -> Endpoint {
        let (draft, limits) = (
            EndpointDraft::standard("receiver", "https://example.com/"),
            Profile::Production.endpoint_limits(),
        );
        let url = Ok(draft.endpoint_url.clone());
        draft.validate(id(n), Timestamp::UNIX_EPOCH, limits, url).unwrap()
    }

    fn id(n: u128) -> EndpointId {
        EndpointId::from_uuid(Uuid::from_u128(n))
    }

    #[test]
    fn endpoints_that_were_known_otherwise_are_named() {
        let mut tenant = Tenant::default();
        let changes = |endpoints: &[u128], deleted: &[u128]| CatalogueChanges {
            endpoints: endpoints.iter().map(|n| endpoint(*n)).collect(),
            deleted_endpoints: deleted.iter().map(|n| id(*n)).collect(),
            ..CatalogueChanges::default()
        };
        assert_eq!(tenant.apply(changes(&[1, 2, 3], &[])), [], "nothing was known of them");
        assert_eq!(tenant.apply(changes(&[2, 4], &[3, 5])), [id(2), id(3)]);
        assert_eq!(tenant.apply(changes(&[], &[3])), [], "it is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_whose_filters_took_too_long_is_not_tried_again_at_once() {
        let mut tenant = Tenant::default();
        let wants_all = SubscriptionDraft { event_type: "*".into(), ..SubscriptionDraft::default() };
        let subscription_id = SubscriptionId::from_uuid(Uuid::from_u128(7));
        tenant.apply(CatalogueChanges {
            endpoints: vec![endpoint(1)],
            subscriptions: vec![
                wants_all.validate(subscription_id, &endpoint(1), Timestamp::UNIX_EPOCH).unwrap(),
            ],
            ..CatalogueChanges::default()
        });
        let registry = Registry::default();
        let schema = Schema::tenant("acme").unwrap();
        write(&registry.tenants).insert(schema.clone(), Arc::new(RwLock::new(tenant)));
        let event_type = "user.created".parse::<EventType>().unwrap();
        let subject = Subject { event_type: &event_type, context_id: None, data: "{}" };
        let wanted = |matched| match matched {
            Matched::Known(matches) => matches.wanted.len(),
            Matched::Unknown | Matched::TooCostly => 0,
        };
        let soon = || Instant::now() + Duration::from_millis(1);
        assert_eq!(wanted(registry.matches_until(&schema, &subject, soon())), 1);
        let over = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(wanted(registry.matches_at_once(&schema, &subject, over)), 0, "there is no time");
        assert_eq!(
            wanted(registry.matches_at_once(&schema, &subject, soon())),
            1,
            "which says nothing of the tenant"
        );
        let took = |time| read(&registry.tenant(&schema).unwrap()).costs().took(time, Instant::now());
        for time in [2 * COSTLY, COSTLY, 2 * COSTLY] {
            took(time);
            assert_eq!(wanted(registry.matches_at_once(&schema, &subject, soon())), 1, "once is chance");
        }
        (0..COSTLY_IN_A_ROW).for_each(|_| took(2 * COSTLY));
        assert_eq!(
            wanted(registry.matches_at_once(&schema, &subject, soon())),
            0,
            "it would take long again"
        );
        assert_eq!(wanted(registry.matches(&schema, &subject)), 1, "where it keeps nobody");
        tokio::time::advance(COSTLY_FOR).await;
        assert_eq!(wanted(registry.matches_at_once(&schema, &subject, soon())), 1);
    }
}
