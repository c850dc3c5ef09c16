//! Names to addresses: the resolver's interface, and the cache in front of whichever it is.
//!
//! The cache holds answers, not judgements: an answer is judged each time it is used. It is bounded in entries and
//! in time, and an answer's own time to live counts where it is shorter. Failures are not cached here, so that a name
//! which begins to resolve is noticed at the next attempt; the system's resolver remembers them for a few seconds.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses beyond these are neither judged nor used.
const ADDRESSES_MAX: usize = 32;

/// The future that [`Resolve::lookup`] returns.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Resolved, ResolveError>> + Send + 'a>>;

/// Finds the addresses of a name. Implement it to bring another resolver.
pub trait Resolve: Send + Sync {
    /// All addresses of `host`, which is an ASCII name without a trailing dot. Called within the connect timeout.
    fn lookup<'a>(&'a self, host: &'a str) -> Lookup<'a>;
}

/// The answer to a lookup.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Every address of the name. If the policy refuses one of them, none is used.
    pub addresses: Vec<IpAddr>,
    /// How long the answer may be used. Zero: once.
    pub ttl: Duration,
}

/// A lookup without an answer.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has no address.
    #[error("the name has no address")]
    NotFound,
    /// There was no answer to be had. If the cause is an [`std::io::Error`] of this machine's, for want of files or
    /// buffers to open, it is asked for again as long as connecting may take.
    #[error("the lookup failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// Whether an answer came from the cache.
pub(crate) enum Answer {
    Cached(Arc<[IpAddr]>),
    Fresh(Arc<[IpAddr]>),
}

pub(crate) struct DnsCache {
    resolver: Arc<dyn Resolve>,
    ttl_max: Duration,
    entries_max: usize,
    entries: Mutex<HashMap<Box<str>, Entry>>,
}

struct Entry {
    addresses: Arc<[IpAddr]>,
    expires: Instant,
}

impl DnsCache {
    pub(crate) fn new(resolver: Arc<dyn Resolve>, ttl_max: Duration, entries_max: usize) -> Self {
        Self { resolver, ttl_max, entries_max, entries: Mutex::new(HashMap::new()) }
    }

    pub(crate) async fn lookup(&self, host: &str) -> Result<Answer, ResolveError> {
        if let Some(addresses) = self.cached(host, Instant::now()) {
            return Ok(Answer::Cached(addresses));
        }
        self.lookup_anew(host).await.map(Answer::Fresh)
    }

    /// Asks the resolver whatever the cache holds, and leaves the answer there.
    pub(crate) async fn lookup_anew(&self, host: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        let mut resolved = self.resolver.lookup(host).await?;
        if resolved.addresses.is_empty() {
            return Err(ResolveError::NotFound);
        }
        resolved.addresses.truncate(ADDRESSES_MAX);
        let addresses: Arc<[IpAddr]> = resolved.addresses.into();
        let ttl = resolved.ttl.min(self.ttl_max);
        if !ttl.is_zero() {
            self.keep(host, &addresses, ttl);
        }
        Ok(addresses)
    }

    fn cached(&self, host: &str, now: Instant) -> Option<Arc<[IpAddr]>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(host).filter(|entry| now < entry.expires).map(|entry| entry.addresses.clone())
    }

    fn keep(&self, host: &str, addresses: &Arc<[IpAddr]>, ttl: Duration) {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.entries_max && !entries.contains_key(host) {
            entries.retain(|_, entry| now < entry.expires);
        }
        if entries.len() >= self.entries_max && !entries.contains_key(host) {
            // Any one will do: the map's order is random, so nobody can choose whose answer is forgotten.
            if let Some(victim) = entries.keys().next().cloned() {
                entries.remove(&victim);
            }
        }
        entries.insert(host.into(), Entry { addresses: addresses.clone(), expires: now + ttl });
    }
}
