//! Leases: the right to work on a row, for a while, held by one.

use neo_events_domain::Timestamp;

/// The right to work on something until a time. Consumed by settling; not cloneable; fenced by its token, so that a
/// holder that wakes up late cannot settle what it no longer holds.
#[derive(Debug)]
#[must_use = "settle or release it, or it blocks its work until it expires"]
pub struct Lease<T> {
    key: i64,
    token: u64,
    expires_at: Timestamp,
    work: T,
}

impl<T> Lease<T> {
    /// For backends: grants the row `key`. The token must never have been granted for that row before.
    pub const fn grant(key: i64, token: u64, expires_at: Timestamp, work: T) -> Self {
        Self { key, token, expires_at, work }
    }

    /// The backend's key of the row, if the work itself does not name it.
    pub const fn key(&self) -> i64 {
        self.key
    }

    /// The fencing token.
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// When others may claim it.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// What is to be done.
    pub const fn work(&self) -> &T {
        &self.work
    }
}
