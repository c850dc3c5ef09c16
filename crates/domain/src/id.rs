//! Identifiers: `Id<Kind>` is a UUID that knows what it identifies.
//!
//! Ids that we make are UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then 74 random bits, so that they sort
//! by time and rows are appended at the right edge of an index. Time and random bytes are arguments.

use std::{cmp::Ordering, fmt, hash, marker::PhantomData, str::FromStr};

use jiff::Timestamp;
use uuid::Uuid;

/// Random bytes that make one id.
pub type IdEntropy = [u8; 10];

/// The id of one kind of row.
pub struct Id<Kind> {
    uuid: Uuid,
    kind: PhantomData<fn() -> Kind>,
}

/// Kinds that have ids. They are never constructed.
pub mod kind {
    /// A domain event.
    pub enum Event {}
    /// An entry of the event-type catalogue.
    pub enum EventTypeEntry {}
    /// A webhook endpoint.
    pub enum Endpoint {}
    /// A subscription.
    pub enum Subscription {}
    /// A delivery.
    pub enum Delivery {}
    /// One HTTP request of a delivery; the value of `X-Neo-Request-ID`.
    pub enum Request {}
    /// An API key.
    pub enum ApiKey {}
}

/// Id of a domain event.
pub type EventId = Id<kind::Event>;
/// Id of an entry of the event-type catalogue.
pub type EventTypeEntryId = Id<kind::EventTypeEntry>;
/// Id of an endpoint.
pub type EndpointId = Id<kind::Endpoint>;
/// Id of a subscription.
pub type SubscriptionId = Id<kind::Subscription>;
/// Id of a delivery.
pub type DeliveryId = Id<kind::Delivery>;
/// Id of one HTTP request.
pub type RequestId = Id<kind::Request>;
/// Id of an API key.
pub type ApiKeyId = Id<kind::ApiKey>;

impl<Kind> Id<Kind> {
    /// A UUIDv7 of this instant.
    pub fn new(now: Timestamp, random: IdEntropy) -> Self {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self::from_uuid(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id with this value, whatever its version.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }

    /// The value.
    pub const fn uuid(self) -> Uuid {
        self.uuid
    }

    /// When it was made, in Unix milliseconds; `None` if it is not a UUIDv7.
    pub fn unix_millis(self) -> Option<i64> {
        if self.uuid.get_version_num() != 7 || self.uuid.get_variant() != uuid::Variant::RFC4122 {
            return None;
        }
        let bytes = self.uuid.as_bytes();
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&bytes[..6]);
        Some(i64::from_be_bytes(millis))
    }
}

impl<Kind> Clone for Id<Kind> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Kind> Copy for Id<Kind> {}
impl<Kind> PartialEq for Id<Kind> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<Kind> Eq for Id<Kind> {}
impl<Kind> PartialOrd for Id<Kind> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<Kind> Ord for Id<Kind> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<Kind> hash::Hash for Id<Kind> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<Kind> fmt::Display for Id<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uuid, f)
    }
}
impl<Kind> fmt::Debug for Id<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.uuid, f)
    }
}
impl<Kind> FromStr for Id<Kind> {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::from_str(text).map(Self::from_uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_tell_it() {
        let at = |millis| Timestamp::from_millisecond(millis).unwrap();
        let early = EventId::new(at(1_700_000_000_000), [0xff; 10]);
        let late = EventId::new(at(1_700_000_000_001), [0; 10]);
        assert!(early < late);
        assert_eq!(late.unix_millis(), Some(1_700_000_000_001));
        assert_eq!(late.uuid().get_version_num(), 7);
        assert_eq!(EventId::from_uuid(Uuid::nil()).unix_millis(), None);
    }
}
