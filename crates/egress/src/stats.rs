//! Counters of the pool, and the timings of one exchange.
//!
//! The counters are relaxed atomics: each is exact, a snapshot of several is not taken at one instant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where the time of an exchange went. What did not happen, because a connection was reused, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Resolving the name; next to nothing if the answer was cached.
    pub dns: Option<Duration>,
    /// Opening the TCP connection.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the ready connection to the head of the response.
    pub response: Option<Duration>,
}

/// A snapshot of what the pool has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConnectionStats {
    /// Calls of `send` and `probe`.
    pub total_requests: u64,
    /// Exchanges on a connection that had served another one before.
    pub connection_reuses: u64,
    /// Exchanges on a connection that was made for them.
    pub connections_opened: u64,
    /// Names that were answered from the cache.
    pub dns_cache_hits: u64,
    /// Requests that failed for the connection's sake: DNS, connecting, TLS, resets.
    pub connection_errors: u64,
    /// Connections that were closed instead of kept, because the pool was full.
    pub pool_exhausted_count: u64,
    /// Reuses per exchange, 0…1.
    pub connection_reuse_rate: f64,
    /// Connection errors per request, 0…1.
    pub error_rate: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: Counter,
    pub(crate) reuses: Counter,
    pub(crate) opened: Counter,
    pub(crate) dns_cache_hits: Counter,
    pub(crate) connection_errors: Counter,
    pub(crate) pool_exhausted: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn snapshot(&self) -> ConnectionStats {
        let total_requests = self.requests.get();
        let connection_reuses = self.reuses.get();
        let connections_opened = self.opened.get();
        let connection_errors = self.connection_errors.get();
        ConnectionStats {
            total_requests,
            connection_reuses,
            connections_opened,
            dns_cache_hits: self.dns_cache_hits.get(),
            connection_errors,
            pool_exhausted_count: self.pool_exhausted.get(),
            connection_reuse_rate: ratio(connection_reuses, connection_reuses + connections_opened),
            error_rate: ratio(connection_errors, total_requests),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate; the counters are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
