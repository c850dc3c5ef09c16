//! Who wants which events: the catalogue in memory, as one matcher per tenant.
//!
//! The catalogue counts its changes. A claim of dispatches names the count that matching must know at least; if ours
//! is older, what changed since is read and applied before anything is matched. So a subscription is in force for
//! every event claimed after its commit, on every node, without any message between nodes.

use std::collections::{HashMap, HashSet};

use neo_events_domain::{
    Uuid,
    endpoint::Endpoint,
    event::DomainEvent,
    id::{EndpointId, SubscriptionId},
    matching::{LazyData, Matcher, Rule},
    retry::RetryPolicy,
    subscription::{Subscription, effective_context},
    tenant::Schema,
};
use neo_events_store::{CatalogueChanges, CatalogueVersion, Store, StoreError};

const CHANGES_PER_READ: u32 = 1000;

/// Every tenant's matcher.
#[derive(Default)]
pub(crate) struct Registry {
    tenants: HashMap<Schema, Tenant>,
}

/// An endpoint that wants an event.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) retry: RetryPolicy,
    pub(crate) subscription_ids: Vec<SubscriptionId>,
}

#[derive(Default)]
struct Tenant {
    version: CatalogueVersion,
    matcher: Matcher<SubscriptionId>,
    endpoints: HashMap<EndpointId, Route>,
    subscriptions: HashMap<SubscriptionId, Subscription>,
}

struct Route {
    is_active: bool,
    context_id: Option<Uuid>,
    retry: RetryPolicy,
    subscription_ids: HashSet<SubscriptionId>,
}

impl Registry {
    /// Brings a tenant at least to `version`.
    pub(crate) async fn refresh(
        &mut self,
        store: &dyn Store,
        schema: &Schema,
        version: CatalogueVersion,
    ) -> Result<(), StoreError> {
        let tenant = self.tenants.entry(schema.clone()).or_default();
        // To the end, not only to `version`: a row that mattered at `version` may have changed again since, and so
        // have moved behind it.
        let mut behind = tenant.version < version;
        while behind {
            let changes = store.catalogue_changes(schema, tenant.version, CHANGES_PER_READ).await?;
            behind = changes.more;
            tenant.apply(changes);
        }
        Ok(())
    }

    /// The endpoints that want an event, each once, in order of their ids.
    pub(crate) fn wanted(&self, schema: &Schema, event: &DomainEvent) -> Vec<Wanted> {
        let Some(tenant) = self.tenants.get(schema) else { return Vec::new() };
        let data = LazyData::new(event.event_data.as_str());
        let mut matched: Vec<_> = tenant
            .matcher
            .matching(&event.event_type, event.context_id, &data)
            .into_iter()
            .filter_map(|id| Some((tenant.subscriptions.get(&id)?.endpoint_id, id)))
            .collect();
        matched.sort_unstable();
        let by_endpoint = matched.chunk_by(|(one, _), (other, _)| one == other);
        by_endpoint
            .filter_map(|chunk| {
                tenant.endpoints.get(&chunk[0].0).map(|route| Wanted {
                    endpoint_id: chunk[0].0,
                    retry: route.retry,
                    subscription_ids: chunk.iter().map(|(_, id)| *id).collect(),
                })
            })
            .collect()
    }
}

impl Tenant {
    fn apply(&mut self, changes: CatalogueChanges) {
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
            touched.extend(self.learn_endpoint(&endpoint).iter().copied());
        }
        for subscription in changes.subscriptions {
            touched.insert(subscription.id);
            self.learn_subscription(subscription);
        }
        for id in touched {
            self.decide(id);
        }
        self.version = changes.version;
    }

    fn learn_endpoint(&mut self, endpoint: &Endpoint) -> &HashSet<SubscriptionId> {
        let route = self.endpoints.entry(endpoint.id).or_insert_with(|| Route::unknown(endpoint.retry));
        route.is_active = endpoint.is_active;
        route.context_id = endpoint.context_id;
        route.retry = endpoint.retry;
        &route.subscription_ids
    }

    fn learn_subscription(&mut self, subscription: Subscription) {
        // A change may name a subscription before its endpoint: the endpoint's own change comes with or after it.
        let unknown = || Route::unknown(RetryPolicy::STANDARD);
        let route = self.endpoints.entry(subscription.endpoint_id).or_insert_with(unknown);
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
        let route = self.endpoints.get(&subscription.endpoint_id).filter(|route| route.is_active);
        match route.filter(|_| subscription.is_active) {
            None => drop(self.matcher.remove(&id)),
            Some(route) => self.matcher.insert(Rule {
                key: id,
                pattern: subscription.pattern.clone(),
                context_id: effective_context(subscription.context_id, route.context_id),
                filter: subscription.filter.clone(),
            }),
        }
    }
}

impl Route {
    fn unknown(retry: RetryPolicy) -> Self {
        Self { is_active: false, context_id: None, retry, subscription_ids: HashSet::new() }
    }
}
