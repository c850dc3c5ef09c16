//! Endpoints: register, change, rotate, test.

use std::time::Duration;

use neo_events_domain::{
    SignedDuration, Timestamp,
    delivery::Trigger,
    endpoint::{Endpoint, EndpointDraft, EndpointPatch, SealedSecret},
    event::EventDraft,
    id::{DeliveryId, EndpointId},
    signing::SigningSecret,
    stats::{EndpointStats, STATS_DAYS_MAX},
    violation::{Rule, Violations},
};
use neo_events_engine::DeliveryWatch;
use neo_events_store::{Appended, EndpointQuery, NewDelivery, Page, PageRequest, Updated, Usage};
use tokio::time::timeout;

use crate::{Conflict, DeliveryHistory, Error, Tenant, context::no_rows};

/// How often an update is decided anew because somebody else wrote meanwhile.
pub(crate) const UPDATE_TRIES_MAX: u32 = 20;
/// Longest overlap of a rotated secret with the one before: a week.
pub const ROTATION_OVERLAP_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The type of test events.
const TEST_EVENT_TYPE: &str = "endpoint.test";
const TEST_PAYLOAD: &str = r#"{"message":"This is a test event from neo-events."}"#;
/// How soon after it was written a test is looked at, if nothing is heard of it: another node may make its attempt.
const TEST_POLL_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Each further look takes twice as long to come, up to this.
const TEST_POLL_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How much longer than the endpoint's timeout a test is waited for.
const TEST_PATIENCE: Duration = Duration::from_secs(2);

/// An endpoint with its secret, which is shown only now.
#[derive(Debug, Clone)]
pub struct CreatedEndpoint {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its newest secret.
    pub secret: SigningSecret,
}

/// An endpoint after its secret was rotated.
#[derive(Debug, Clone)]
pub struct RotatedSecret {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its newest secret, which is shown only now.
    pub secret: SigningSecret,
    /// The one before, while it still signs; `None` without overlap.
    pub previous: Option<SigningSecret>,
}

impl Tenant {
    /// Registers an endpoint. Without a secret (absent or empty) one is generated.
    pub async fn create_endpoint(
        &self,
        draft: EndpointDraft,
        secret_token: Option<&str>,
    ) -> Result<CreatedEndpoint, Error> {
        let id = self.sources().new_id();
        let draft = EndpointDraft { context_id: self.written_context(draft.context_id)?, ..draft };
        let judged_url = self.judge_url(&draft.endpoint_url);
        let secret = self.secret(secret_token);
        let validated = draft.validate(id, self.sources().now(), self.shared.limits, judged_url);
        let (mut endpoint, secret) = match (validated, secret) {
            (Ok(endpoint), Ok(secret)) => (endpoint, secret),
            (Err(violations), Ok(_)) | (Ok(_), Err(violations)) => return Err(violations.into()),
            (Err(violations), Err(more)) => return Err(violations.and(more).into()),
        };
        endpoint.secrets.push(SealedSecret { sealed: self.seal(id, &secret), expires_at: None });
        self.store().insert_endpoint(&self.schema, &endpoint).await?;
        Ok(CreatedEndpoint { endpoint, secret })
    }

    /// One endpoint.
    pub async fn endpoint(&self, id: EndpointId) -> Result<Endpoint, Error> {
        let endpoint = self.store().endpoint(&self.schema, id).await?;
        endpoint.filter(|endpoint| self.sees(endpoint.context_id)).ok_or(Error::NotFound("endpoint"))
    }

    /// Endpoints, newest first.
    pub async fn endpoints(&self, query: &EndpointQuery, page: PageRequest) -> Result<Page<Endpoint>, Error> {
        let Ok(context_id) = self.listed_context(query.context_id) else { return Ok(no_rows()) };
        let query = EndpointQuery { context_id, ..query.clone() };
        Ok(self.store().endpoints(&self.schema, &query, page).await?)
    }

    /// Changes an endpoint. Another URL drops verification. `url`, or if it is absent the patch's, is judged by the
    /// address policy.
    pub async fn update_endpoint(
        &self,
        id: EndpointId,
        patch: EndpointPatch,
        url: Option<&str>,
    ) -> Result<Endpoint, Error> {
        let in_patch = patch.endpoint_url.map(|url| url.and_then(|url| self.judge_url(&url)));
        let patch = EndpointPatch { endpoint_url: url.map(|url| self.judge_url(url)).or(in_patch), ..patch };
        let limits = self.shared.limits;
        self.change_endpoint(id, |endpoint, now| Ok(endpoint.patched(patch.clone(), now, limits)?)).await
    }

    /// Takes new deliveries, and its held ones go on.
    pub async fn activate_endpoint(&self, id: EndpointId) -> Result<Endpoint, Error> {
        self.change_endpoint(id, |endpoint, now| Ok(endpoint.activated(now))).await
    }

    /// Takes no new deliveries, and its pending ones are held.
    pub async fn deactivate_endpoint(&self, id: EndpointId) -> Result<Endpoint, Error> {
        self.change_endpoint(id, |endpoint, now| Ok(endpoint.deactivated(now))).await
    }

    /// Notes that its owner showed to own the URL, by whatever means.
    pub async fn mark_endpoint_verified(&self, id: EndpointId) -> Result<Endpoint, Error> {
        self.change_endpoint(id, |endpoint, now| Ok(endpoint.verified(now))).await
    }

    /// The URL must be verified again.
    pub async fn unverify_endpoint(&self, id: EndpointId) -> Result<Endpoint, Error> {
        self.change_endpoint(id, |endpoint, now| Ok(endpoint.unverified(now))).await
    }

    /// Signs with a new secret from now on; the one before, which is answered too, goes on signing for `overlap`, from
    /// 0 up to [`ROTATION_OVERLAP_MAX`]. All of them are sealed under the first master key afterwards.
    pub async fn rotate_secret(
        &self,
        id: EndpointId,
        secret_token: Option<&str>,
        overlap: SignedDuration,
    ) -> Result<RotatedSecret, Error> {
        if !(SignedDuration::ZERO..=ROTATION_OVERLAP_MAX).contains(&overlap) {
            let rule = Rule::OutOfRange { min: 0.0, max: ROTATION_OVERLAP_MAX.as_secs_f64() };
            return Err(Violations::one("/overlap_seconds", rule).into());
        }
        let secret = self.secret(secret_token)?;
        let endpoint = self
            .change_endpoint(id, |mut endpoint, now| {
                for kept in &mut endpoint.secrets {
                    if let Ok(token) = self.shared.keyring.open(&self.schema, id, &kept.sealed) {
                        kept.sealed = self.shared.keyring.seal(&self.schema, id, &token);
                    }
                }
                let sealed = self.seal(id, &secret);
                Ok(endpoint.with_rotated_secret(sealed, overlap, self.sources().wall(), now))
            })
            .await?;
        let previous = endpoint.secrets.get(1).and_then(|previous| {
            let token = self.shared.keyring.open(&self.schema, id, &previous.sealed).ok()?;
            SigningSecret::try_new(&token, 1).ok()
        });
        Ok(RotatedSecret { endpoint, secret, previous })
    }

    /// Notes that an endpoint was used by other means than a delivery.
    pub async fn mark_endpoint_used(&self, id: EndpointId) -> Result<(), Error> {
        self.endpoint(id).await?;
        let usage = Usage { endpoints: vec![(id, self.sources().now())], subscriptions: Vec::new() };
        Ok(self.store().note_usage(&self.schema, usage).await?)
    }

    /// Deletes an endpoint with its subscriptions. Deliveries that are not over are cancelled.
    pub async fn delete_endpoint(&self, id: EndpointId) -> Result<(), Error> {
        self.endpoint(id).await?;
        let was_there = self.store().delete_endpoint(&self.schema, id, self.sources().now()).await?;
        self.shared.engine.endpoint_changed(&self.schema, id);
        if was_there { Ok(()) } else { Err(Error::NotFound("endpoint")) }
    }

    /// Statistics of the last `days` days, 1…90.
    pub async fn endpoint_stats(&self, id: EndpointId, days: u32) -> Result<EndpointStats, Error> {
        if !(1..=STATS_DAYS_MAX).contains(&days) {
            let rule = Rule::OutOfRange { min: 1.0, max: STATS_DAYS_MAX.into() };
            return Err(Violations::one("/days", rule).into());
        }
        self.endpoint(id).await?;
        let since = SignedDuration::from_hours(24 * i64::from(days));
        let since = self.sources().now().saturating_sub(since).unwrap_or(Timestamp::MIN);
        Ok(self.store().endpoint_stats(&self.schema, id, since).await?)
    }

    /// Sends a test event to this endpoint alone, once, and waits for its end as long as the endpoint's timeout
    /// allows. `payload` is JSON object text. Refused as [`Busy`](crate::Busy) while too many calls wait for receivers.
    pub async fn test_endpoint(
        &self,
        id: EndpointId,
        payload: Option<&str>,
    ) -> Result<DeliveryHistory, Error> {
        let _place = self.shared.reaching.begin(&self.schema)?;
        let endpoint = self.endpoint(id).await?;
        if !endpoint.is_active {
            return Err(Conflict::EndpointInactive.into());
        }
        let draft = EventDraft {
            context_id: endpoint.context_id,
            ..EventDraft::new(TEST_EVENT_TYPE, payload.unwrap_or(TEST_PAYLOAD))
        };
        let event = draft.validate(self.sources().now(), self.sources().bytes()).map_err(at_payload)?;
        let delivery = NewDelivery {
            id: self.sources().new_id(),
            endpoint_id: id,
            trigger: Trigger::Test,
            subscription_ids: Vec::new(),
            max_attempts: 1,
            retry: endpoint.retry,
        };
        let delivery_id = delivery.id;
        let watch = self.shared.engine.watch(delivery_id);
        let appended =
            self.store().append_directed(&self.schema, event, delivery, self.sources().now()).await?;
        if appended == Appended::TypeDisabled {
            return Err(Error::type_disabled());
        }
        self.shared.engine.due_now(&self.schema, id);
        let patience = Duration::from_secs(endpoint.timeout_seconds.into()) + TEST_PATIENCE;
        // Whoever's patience is over sees how far it came.
        timeout(patience, self.ended(delivery_id, &watch)).await.unwrap_or(Ok(()))?;
        self.delivery_history(delivery_id).await
    }

    /// Waits until a delivery that is not over is.
    async fn ended(&self, id: DeliveryId, watch: &DeliveryWatch) -> Result<(), Error> {
        let mut interval = TEST_POLL_INTERVAL_MIN;
        loop {
            // Told or not, the tables are the truth: another node may make the attempt.
            let _ = timeout(interval, watch.changed()).await;
            if self.delivery(id).await?.delivery.state.is_final() {
                return Ok(());
            }
            interval = (2 * interval).min(TEST_POLL_INTERVAL_MAX);
        }
    }

    /// Reads, decides and writes, again if somebody else wrote meanwhile.
    pub(crate) async fn change_endpoint(
        &self,
        id: EndpointId,
        decide: impl Fn(Endpoint, Timestamp) -> Result<Endpoint, Error>,
    ) -> Result<Endpoint, Error> {
        for _ in 0..UPDATE_TRIES_MAX {
            let endpoint = decide(self.endpoint(id).await?, self.sources().now())?;
            match self.store().update_endpoint(&self.schema, &endpoint).await? {
                Updated::Written => {
                    self.shared.engine.endpoint_changed(&self.schema, id);
                    return Ok(endpoint);
                }
                Updated::Stale | Updated::TypeDisabled => {}
                Updated::Missing => return Err(Error::NotFound("endpoint")),
            }
        }
        Err(Conflict::Contended.into())
    }

    fn judge_url(&self, url: &str) -> Result<String, Rule> {
        let judged = self.shared.egress.policy().judge_url(url);
        judged.map(|target| target.as_str().to_owned()).map_err(|refused| Rule::Target(refused.to_string()))
    }

    fn secret(&self, token: Option<&str>) -> Result<SigningSecret, Violations> {
        match token.filter(|token| !token.is_empty()) {
            None => Ok(SigningSecret::generate(self.sources().bytes())),
            Some(token) => SigningSecret::try_new(token, self.shared.limits.secret_bytes_min)
                .map_err(|rule| Violations::one("/secret_token", rule)),
        }
    }

    fn seal(&self, id: EndpointId, secret: &SigningSecret) -> Vec<u8> {
        self.shared.keyring.seal(&self.schema, id, secret.reveal_token())
    }
}

fn at_payload(violations: Violations) -> Violations {
    violations.renamed("/event_data", "/payload")
}
