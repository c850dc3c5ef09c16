//! What can go wrong for a caller.

use neo_events_domain::{
    delivery::IllegalTransition,
    event::AGGREGATE_VERSION_MAX,
    violation::{Rule, Violations},
};
use neo_events_store::StoreError;

use crate::Busy;

/// Why a call was refused or failed. Nothing of it was stored, unless it is a [`StoreError::Unavailable`]: a call whose
/// answer was lost may have been carried out. Publish again with the same id then, and read before you change again.
/// A [`StoreError::TooSlow`] of [`Tenant::test_endpoint`](crate::Tenant::test_endpoint), too, may come from looking for
/// the outcome, once the test's event is stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks rules; every fault is named.
    #[error("{0}")]
    Invalid(#[from] Violations),
    /// This tenant has no such row.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The input is fine, but what is stored forbids it.
    #[error("{0}")]
    Conflict(#[from] Conflict),
    /// What belongs to the whole tenant is not changed from within a context.
    #[error(
        "{0} belong to the whole tenant: a handle or key that is bound to a context may read them, not change them"
    )]
    BeyondContext(&'static str),
    /// Too many calls of a kind that takes long are under way.
    #[error("{0}")]
    Busy(#[from] Busy),
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What is stored forbids it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// An event with this id and other content was published before.
    #[error("an event with this id and other content was published before")]
    IdReused,
    /// Somebody else published to the aggregate.
    #[error("the aggregate's newest version is {newest}, not the expected one")]
    StaleVersion {
        /// The newest version, 0 if none.
        newest: u32,
    },
    /// The aggregate has reached the last version.
    #[error("the aggregate has reached its last version, {AGGREGATE_VERSION_MAX}")]
    VersionsExhausted,
    /// Something with the same name is there already.
    #[error("there is one already")]
    Exists,
    /// The delivery's state does not allow it.
    #[error("{0}")]
    Illegal(#[from] IllegalTransition),
    /// The endpoint is inactive; what it is owed is held.
    #[error("the endpoint is inactive; activate it first")]
    EndpointInactive,
    /// The endpoint of the delivery is deleted.
    #[error("the endpoint of this delivery is deleted: there is nobody to deliver to")]
    EndpointDeleted,
    /// Others kept changing the same row.
    #[error("the row kept changing meanwhile; read it and try again")]
    Contended,
}

impl Error {
    pub(crate) fn type_disabled() -> Self {
        Self::Invalid(Violations::one("/event_type", Rule::Conflict("is disabled in the catalogue")))
    }
}
