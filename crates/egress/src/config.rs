//! The limits of an [`Egress`](crate::Egress), each with its unit, and what can be wrong with its configuration.

use std::time::Duration;

use crate::policy::TargetPolicy;
use crate::resolve::ResolveError;

/// Less is too little to parse a head in.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// How an [`Egress`](crate::Egress) works. Start from [`EgressConfig::new`] and change fields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EgressConfig {
    /// What may be connected to.
    pub policy: TargetPolicy,
    /// Idle HTTP/1.1 connections kept per origin; 0 keeps none anywhere. 30.
    pub idle_per_origin_max: usize,
    /// Unused connections kept in all; of HTTP/2 ones about as many again. 0 keeps none of HTTP/1.1. 100.
    pub idle_total_max: usize,
    /// How long an HTTP/1.1 connection beyond these numbers is kept all the same: under load it is needed again within
    /// milliseconds, and making it anew costs more than the request. 1 s.
    pub idle_surplus_timeout: Duration,
    /// Idle HTTP/1.1 connections at any moment, those included; at least `idle_total_max`. 1024.
    pub idle_surplus_total_max: usize,
    /// An unused connection is closed after this time; sooner if the receiver says `Keep-Alive: timeout=…`. 30 s.
    pub idle_timeout: Duration,
    /// A connection takes no new request after this time, so that a receiver which moves is followed. 300 s.
    pub connection_age_max: Duration,
    /// The longest that a DNS answer is used; less if its own time to live is shorter. 300 s.
    pub dns_cache_ttl: Duration,
    /// Names in the DNS cache. 4096.
    pub dns_cache_entries_max: usize,
    /// Certificates in PEM that are trusted besides the bundled roots.
    pub ca_file_pem: Option<Vec<u8>>,
    /// Bytes of a response body that are read. 64 KiB.
    pub response_bytes_max: usize,
    /// Bytes of a response head that are read; at least 8 KiB. 64 KiB.
    pub response_header_bytes_max: usize,
    /// Header fields of an HTTP/1.1 response. 100.
    pub response_headers_max: usize,
    /// The longest that connecting may take, whatever the total timeout. 10 s.
    pub connect_timeout_max: Duration,
    /// A receiver with requests in flight over HTTP/2 that says nothing is asked for a sign of life this often. Less
    /// than the shortest timeout, so that a dead connection is told from a slow answer. 3 s.
    pub http2_ping_interval: Duration,
    /// The connection is given up, with what is in flight, without one after this time. 10 s.
    pub http2_ping_timeout: Duration,
}

impl EgressConfig {
    /// The defaults, for this policy.
    pub fn new(policy: TargetPolicy) -> Self {
        Self {
            policy,
            idle_per_origin_max: 30,
            idle_total_max: 100,
            idle_surplus_timeout: Duration::from_secs(1),
            idle_surplus_total_max: 1024,
            idle_timeout: Duration::from_secs(30),
            connection_age_max: Duration::from_mins(5),
            dns_cache_ttl: Duration::from_mins(5),
            dns_cache_entries_max: 4096,
            ca_file_pem: None,
            response_bytes_max: 64 * 1024,
            response_header_bytes_max: 64 * 1024,
            response_headers_max: 100,
            connect_timeout_max: Duration::from_secs(10),
            http2_ping_interval: Duration::from_secs(3),
            http2_ping_timeout: Duration::from_secs(10),
        }
    }

    pub(crate) fn head_bytes_max(&self) -> usize {
        self.response_header_bytes_max.max(HEAD_BYTES_MIN)
    }

    /// What one exchange may cost to read: head and body, and the same again for framing.
    pub(crate) fn exchange_bytes_max(&self) -> u64 {
        2 * (self.head_bytes_max() + self.response_bytes_max) as u64
    }
}

/// An [`Egress`](crate::Egress) that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The CA file is not a PEM file with certificates.
    #[error("the CA file holds no usable certificate")]
    CaFile(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The system's resolver configuration cannot be used.
    #[error("the system's DNS configuration cannot be used")]
    Resolver(#[source] ResolveError),
}
