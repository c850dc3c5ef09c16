//! Endpoints and subscriptions come, change and go.

use neo_events_domain::{
    SignedDuration, Uuid,
    endpoint::{Endpoint, EndpointDraft, EndpointPatch, Profile, SealedSecret},
    id::{EndpointId, SubscriptionId},
    signing::SigningSecret,
    subscription::{SubscriptionDraft, SubscriptionPatch},
    tenant::Schema,
};
use neo_events_store::{Catalogue, EndpointQuery, PageRequest, SubscriptionQuery};

use super::World;
use crate::{judge::Wish, memory::MemoryStore, random::Dice};

const PATTERNS: [&str; 5] = ["*", "user.*", "user.created", "user.deleted", "order.placed"];
const FILTERS: [Option<&str>; 4] =
    [None, None, Some(r#"{"n":{"$gte":5}}"#), Some(r#"{"plan":["pro","team"],"n":{"$lt":8}}"#)];
/// Where signatures of bodies may go.
const SIGNATURE_HEADERS: [Option<&str>; 3] = [None, None, Some("X-Hub-Signature-256")];
/// For how long the secret before a rotated one still signs, in seconds.
const OVERLAPS: [i64; 4] = [0, 3, 60, 86_400];
/// Contexts that events and endpoints may be of.
pub(super) const CONTEXTS: [Option<Uuid>; 4] = [None, None, None, Some(Uuid::from_u128(0xc0))];

const NEVER_FAILS: &str = "the model never fails";

impl World {
    /// A new endpoint with one or two subscriptions.
    pub(super) async fn add_endpoint(&self, schema: &Schema, dice: &Dice) {
        let id = EndpointId::new(self.wall(), dice.bytes());
        let draft = EndpointDraft {
            timeout_seconds: Some(u32::try_from(dice.between(5, 10)).unwrap_or(5)),
            max_retry_attempts: Some(u32::try_from(dice.between(0, 4)).unwrap_or(0)),
            retry_backoff_seconds: Some(u32::try_from(dice.between(1, 3)).unwrap_or(1)),
            retry_backoff_multiplier: Some([1.0, 1.5, 2.0][usize::try_from(dice.below(3)).unwrap_or(0)]),
            context_id: *dice.pick(&CONTEXTS).unwrap_or(&None),
            signature_header: dice.pick(&SIGNATURE_HEADERS).copied().flatten().map(ToOwned::to_owned),
            ..EndpointDraft::standard("receiver", format!("https://receiver.example/{id}"))
        };
        let url = Ok(draft.endpoint_url.clone());
        let limits = Profile::Production.endpoint_limits();
        let mut endpoint = draft.validate(id, self.wall(), limits, url).expect("a valid draft");
        let sealed = self.new_secret(schema, id, SignedDuration::ZERO, dice);
        endpoint.secrets = vec![SealedSecret { sealed, expires_at: None }];
        self.memory.insert_endpoint(schema, &endpoint).await.expect(NEVER_FAILS);
        for _ in 0..dice.between(1, 2) {
            self.add_subscription(schema, &endpoint, dice).await;
        }
    }

    /// A secret that we generate, or one that somebody made up.
    fn new_secret(&self, schema: &Schema, id: EndpointId, overlap: SignedDuration, dice: &Dice) -> Vec<u8> {
        let token = if dice.per_mille(700) {
            SigningSecret::generate(dice.bytes()).reveal_token().to_owned()
        } else {
            format!("open sesame {:016x}", dice.draw())
        };
        self.judge.is_to_sign_with(id, &token, self.wall(), overlap);
        self.keyring.seal(schema, id, &token)
    }

    async fn add_subscription(&self, schema: &Schema, endpoint: &Endpoint, dice: &Dice) {
        let draft = SubscriptionDraft {
            event_type: (*dice.pick(&PATTERNS).unwrap_or(&"*")).to_owned(),
            event_filters: dice.pick(&FILTERS).copied().flatten().map(ToOwned::to_owned),
            ..SubscriptionDraft::default()
        };
        let id = SubscriptionId::new(self.wall(), dice.bytes());
        let subscription = draft.validate(id, endpoint, self.wall()).expect("a valid draft");
        self.memory.insert_subscription(schema, &subscription).await.expect(NEVER_FAILS);
    }

    /// Something about who gets what changes.
    pub(super) async fn configure(&self, dice: &Dice) {
        let Some(schema) = dice.pick(&self.schemas) else { return };
        let running = self.any_running(dice);
        if running.is_some_and(|running| !self.is_let_through(running.life.node, schema)) {
            return;
        }
        let endpoints = endpoints(&self.memory, schema).await;
        let Some(endpoint) = dice.pick(&endpoints) else { return self.add_endpoint(schema, dice).await };
        match dice.below(16) {
            0 => self.add_endpoint(schema, dice).await,
            1 => {
                // What it is owed ends with it, some of it later.
                self.judge.is_asked(Wish::Remove(endpoint.id));
                drop(self.memory.delete_endpoint(schema, endpoint.id, self.wall()).await);
            }
            2 | 3 => self.add_subscription(schema, endpoint, dice).await,
            4..=6 => self.change_subscription(schema, dice).await,
            7 => self.change_policy(schema, endpoint, dice).await,
            8 | 9 => self.set_active(schema, endpoint, false).await,
            10..=12 => self.rotate_secret(schema, endpoint, dice).await,
            13 => self.move_target(schema, endpoint, dice).await,
            _ => self.set_active(schema, endpoint, true).await,
        }
        if let Some(running) = running
            && self.is_answered(running.life.node)
            && dice.per_mille(500)
        {
            running.handle.endpoint_changed(schema, endpoint.id);
        }
    }

    pub(super) async fn set_active(&self, schema: &Schema, endpoint: &Endpoint, is_active: bool) {
        let endpoint = endpoint.clone();
        let changed =
            if is_active { endpoint.activated(self.wall()) } else { endpoint.deactivated(self.wall()) };
        self.memory.update_endpoint(schema, &changed).await.expect(NEVER_FAILS);
    }

    async fn change_policy(&self, schema: &Schema, endpoint: &Endpoint, dice: &Dice) {
        let patch = EndpointPatch {
            max_retry_attempts: Some(u32::try_from(dice.between(0, 4)).unwrap_or(0)),
            ..EndpointPatch::default()
        };
        let limits = Profile::Production.endpoint_limits();
        let changed = endpoint.clone().patched(patch, self.wall(), limits).expect("a valid patch");
        self.memory.update_endpoint(schema, &changed).await.expect(NEVER_FAILS);
    }

    async fn rotate_secret(&self, schema: &Schema, endpoint: &Endpoint, dice: &Dice) {
        let overlap = SignedDuration::from_secs(dice.pick(&OVERLAPS).copied().unwrap_or(0));
        let sealed = self.new_secret(schema, endpoint.id, overlap, dice);
        let rotated = endpoint.clone().with_rotated_secret(sealed, overlap, self.wall(), self.wall());
        self.memory.update_endpoint(schema, &rotated).await.expect(NEVER_FAILS);
    }

    /// The receiver moves, and is told by its id all the same.
    async fn move_target(&self, schema: &Schema, endpoint: &Endpoint, dice: &Dice) {
        let url = format!("https://receiver.example/{}/{}", dice.below(1000), endpoint.id);
        let patch = EndpointPatch { endpoint_url: Some(Ok(url)), ..EndpointPatch::default() };
        let limits = Profile::Production.endpoint_limits();
        let moved = endpoint.clone().patched(patch, self.wall(), limits).expect("a valid patch");
        self.memory.update_endpoint(schema, &moved).await.expect(NEVER_FAILS);
    }

    async fn change_subscription(&self, schema: &Schema, dice: &Dice) {
        let all = self
            .memory
            .subscriptions(schema, &SubscriptionQuery::default(), PageRequest::first(100))
            .await
            .expect(NEVER_FAILS)
            .items;
        let Some(subscription) = dice.pick(&all) else { return };
        if dice.per_mille(300) {
            return drop(self.memory.delete_subscription(schema, subscription.id).await);
        }
        let pattern = dice.per_mille(500).then(|| dice.pick(&PATTERNS).copied().unwrap_or("*").to_owned());
        let filter = dice.pick(&FILTERS).copied().flatten().map(ToOwned::to_owned);
        let is_active = Some(pattern.is_some() || filter.is_some() || !subscription.is_active);
        let patch = SubscriptionPatch {
            event_type: pattern,
            event_filters: filter,
            is_active,
            ..SubscriptionPatch::default()
        };
        let changed = subscription.clone().patched(patch, self.wall()).expect("a valid patch");
        self.memory.update_subscription(schema, &changed).await.expect(NEVER_FAILS);
    }
}

/// A tenant's endpoints.
pub(super) async fn endpoints(memory: &MemoryStore, schema: &Schema) -> Vec<Endpoint> {
    let page = PageRequest::first(1000);
    memory.endpoints(schema, &EndpointQuery::default(), page).await.expect(NEVER_FAILS).items
}
