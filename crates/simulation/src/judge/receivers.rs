//! Receivers: what reaches them, and how much at a time.

use std::{collections::BTreeMap, time::Duration};

use neo_events_domain::{
    Timestamp,
    delivery::ReceivedResponse,
    id::{EndpointId, EventId, RequestId},
    payload,
    tenant::Schema,
};
use neo_events_engine::{Clock, TransportRequest};

use super::{Account, InFlight, Judge, trace::short};
use crate::{life::Life, property::Property};

/// Deliveries in flight to an endpoint that never answered well.
const BOUND_FIRST: u32 = 2;
/// Most deliveries in flight to an endpoint from one node.
const BOUND_MAX: u32 = 64;

/// What a request says of itself.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) request_id: RequestId,
    pub(crate) to: EndpointId,
    /// By the wall.
    pub(super) left_at: Timestamp,
    pub(super) url: String,
    event_id: EventId,
    attempt: u32,
    tenant: String,
    /// With names in lower case.
    headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Sent {
    /// Reads a request that leaves at this time; `None` if it is not one of ours.
    fn read(request: &TransportRequest<'_>, left_at: Timestamp) -> Option<Self> {
        let in_lower_case = request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let headers: BTreeMap<_, _> = in_lower_case.map(|(name, value)| (name, value.to_string())).collect();
        Some(Self {
            request_id: headers.get("x-neo-request-id")?.parse().ok()?,
            to: request.url.rsplit('/').next()?.parse().ok()?,
            left_at,
            url: request.url.to_string(),
            event_id: headers.get("webhook-id")?.parse().ok()?,
            attempt: headers.get("x-neo-attempt")?.parse().ok()?,
            tenant: headers.get("x-neo-tenant-id")?.clone(),
            body: request.body.to_vec(),
            headers,
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }
}

/// A request on its way: it counts as in flight until this is dropped.
pub(crate) struct OnItsWay {
    judge: Judge,
    key: (u32, EndpointId),
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if let Some(in_flight) = self.judge.account().in_flight.get_mut(&self.key) {
            in_flight.now -= 1;
        }
    }
}

impl Judge {
    /// What a request says that leaves now; `None` if it is not one of ours.
    pub(crate) fn read(&self, request: &TransportRequest<'_>) -> Option<Sent> {
        Sent::read(request, self.account().clock.wall())
    }

    /// A request leaves its node.
    pub(crate) fn leaves(&self, life: &Life, sent: &Sent) -> OnItsWay {
        let key = (life.holder, sent.to);
        let mut account = self.account();
        let first = InFlight { now: 0, bound: BOUND_FIRST, bound_max: BOUND_FIRST };
        let in_flight = account.in_flight.entry(key).or_insert(first);
        in_flight.now += 1;
        let (now, bound) = (in_flight.now, in_flight.bound_max);
        account.require(now <= bound, Property::InFlightIsBounded, || {
            format!("{now} requests on their way to {}, allowed are {bound}", short(sent.to))
        });
        OnItsWay { judge: self.clone(), key }
    }

    /// A request reaches its receiver.
    pub(crate) fn arrives(&self, life: &Life, sent: &Sent) {
        let mut account = self.account();
        account.note(|| {
            let (event, to, node) = (short(sent.event_id), short(sent.to), life.node);
            format!("event {event} attempt {} reaches {to} from node {node}", sent.attempt)
        });
        let request = account.requests.entry(sent.request_id).or_default();
        request.holder = life.holder;
        request.arrivals += 1;
        let is_first = request.arrivals == 1;
        account.require(is_first, Property::RequestsArriveOnce, || {
            format!("request {} arrived again", short(sent.request_id))
        });
        account.arrived(life, sent);
    }

    /// A receiver's whole answer reaches the node, or none does.
    pub(crate) fn answered(
        &self,
        life: &Life,
        sent: &Sent,
        answer: Option<&ReceivedResponse>,
        is_fast: bool,
    ) {
        let mut account = self.account();
        let status = answer.map(|answer| answer.status);
        let request = account.requests.entry(sent.request_id).or_default();
        (request.answered, request.asked) = (status, answer.map(asked_by).unwrap_or_default());
        if let Some(in_flight) = account.in_flight.get_mut(&(life.holder, sent.to)) {
            let is_well = is_fast && status.is_some_and(|status| !matches!(status, 408 | 429 | 500..=599));
            in_flight.bound =
                if is_well { (in_flight.bound * 2).min(BOUND_MAX) } else { (in_flight.bound / 2).max(2) };
            in_flight.bound_max = in_flight.bound_max.max(in_flight.bound);
        }
    }
}

/// How long a receiver asks to be left alone; ours say so in seconds.
fn asked_by(answer: &ReceivedResponse) -> Duration {
    let of_busy = answer.headers.iter().filter(|_| matches!(answer.status, 429 | 503));
    let mut asked = of_busy.filter(|(name, _)| name == "retry-after").map(|(_, value)| value.parse());
    asked.next().and_then(Result::ok).map_or(Duration::ZERO, Duration::from_secs)
}

impl Account {
    fn arrived(&mut self, life: &Life, sent: &Sent) {
        let of_endpoint = self.endpoints.get(&sent.to).map(|known| known.schema.clone());
        let event = self.events.get(&sent.event_id);
        let of_event = event.map(|known| known.schema.clone());
        let is_whole = event.is_some_and(|known| payload::standard(&known.event).as_bytes() == sent.body);
        let tenant = of_endpoint.as_ref().map(Schema::tenant_header);
        let is_apart = of_endpoint == of_event && tenant.as_ref() == Some(&sent.tenant);
        self.require(is_apart, Property::TenantsApart, || {
            format!("{} of tenant {of_endpoint:?} got an event of {of_event:?}", short(sent.to))
        });
        self.require(is_whole, Property::BodiesArriveWhole, || format!("event {}", short(sent.event_id)));
        let Some(id) = self.by_pair.get(&(sent.event_id, sent.to)).copied() else {
            let what = format!("event {} reached {}", short(sent.event_id), short(sent.to));
            return self.violated(Property::NothingUnwanted, what);
        };
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let (next, granted_at) =
            (delivery.recorded + 1, delivery.granted_at.get(&(life.holder, sent.attempt)));
        let granted_at = granted_at.copied().unwrap_or(Duration::MAX);
        let is_held = delivery.lease.is_some_and(|lease| lease.holder == life.holder)
            && !delivery.losers.contains(&life.holder);
        // Who lost the lease meanwhile may come late, with a number that was used.
        let fits = if is_held { sent.attempt == next } else { sent.attempt <= next };
        self.require(fits, Property::AttemptsCountByOne, || {
            format!("delivery {} was sent as attempt {} and is to be {next}", short(id), sent.attempt)
        });
        self.is_in_form(sent, granted_at);
    }
}
