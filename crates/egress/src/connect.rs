//! From a target to an open connection: resolve, judge, connect, check the peer, TLS, HTTP.
//!
//! The addresses that are judged are the addresses that are connected to; nothing resolves a second time in between.
//! If the policy refuses one address of a name, the name is refused: a receiver that lists an inside address among
//! its own has no honest reason to. After connecting, the peer is compared with what was judged and judged again,
//! which a redirecting socket layer would not survive.
//!
//! If this machine has no more files or ports to open, that is no fault of the receiver's: it is waited for, as long as
//! connecting may take, and then told by its name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{EgressConfig, EgressError};
use crate::connection::{Connection, Http1};
use crate::failure::{FailureKind, Fault, OwnShortage};
use crate::http2::Http2;
use crate::resolve::{Answer, DnsCache, Resolve, ResolveError};
use crate::stats::{Counters, Timings};
use crate::stream::{Allowance, MeteredTcp, Stream};
use crate::target::{Scheme, Target};
use crate::tls::TlsConnectors;

/// The next address is tried when the one before has not answered for this long (RFC 8305).
const FALLBACK_DELAY: Duration = Duration::from_millis(250);
/// How soon it is tried again when this machine has no more files or ports to open.
const SHORTAGE_DELAY: Duration = Duration::from_millis(50);
/// Addresses that are tried for one connection.
const ATTEMPTS_MAX: usize = 6;
/// Bytes that a peer may send before the first exchange: a TLS handshake with long certificate chains.
const HANDSHAKE_BYTES_MAX: u64 = 256 * 1024;
/// The kernel's receive buffer. Small, because what a flooding receiver can push at us is this and no more.
const RECEIVE_BUFFER_BYTES: u32 = 64 * 1024;

/// Whether a cached DNS answer will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dns {
    Cached,
    Anew,
}

/// What a connection is opened to, and how.
pub(crate) struct Route<'a> {
    pub(crate) target: &'a Target,
    pub(crate) verify_tls: bool,
    pub(crate) dns: Dns,
    /// The longest that it may take.
    pub(crate) within: Duration,
    /// Streams that an HTTP/2 connection is taken to allow until the receiver says.
    pub(crate) http2_streams_max: usize,
}

pub(crate) struct Connector {
    config: EgressConfig,
    dns: DnsCache,
    tls: TlsConnectors,
    counters: Arc<Counters>,
}

impl Connector {
    pub(crate) fn try_new(
        config: EgressConfig,
        resolver: Arc<dyn Resolve>,
        counters: Arc<Counters>,
    ) -> Result<Self, EgressError> {
        let tls = TlsConnectors::try_new(config.ca_file_pem.as_deref())?;
        let dns = DnsCache::new(resolver, config.dns_cache_ttl, config.dns_cache_entries_max);
        Ok(Self { config, dns, tls, counters })
    }

    pub(crate) fn config(&self) -> &EgressConfig {
        &self.config
    }

    /// The longest that connecting may take for a request with this timeout.
    pub(crate) fn timeout(&self, total: Duration) -> Duration {
        self.config.connect_timeout_max.min(total / 3)
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, route: Route<'_>, timings: &mut Timings) -> Result<Connection, Fault> {
        let until = Instant::now() + route.within;
        let connection = timeout(route.within, self.open(&route, until, timings)).await;
        let connection = connection.unwrap_or_else(|_| Err(Fault::timeout_connect()))?;
        self.counters.opened.increment();
        Ok(connection)
    }

    async fn open(
        &self,
        route: &Route<'_>,
        until: Instant,
        timings: &mut Timings,
    ) -> Result<Connection, Fault> {
        let target = route.target;
        let addresses = self.resolve(target, route.dns, until, timings).await?;
        for address in addresses.iter() {
            self.config.policy.judge_address(*address)?;
        }
        let begun = Instant::now();
        let tcp = self.connect_tcp(&addresses, target.port(), until).await?;
        timings.connect = Some(begun.elapsed());

        let allowance = Allowance::new(HANDSHAKE_BYTES_MAX);
        let metered = MeteredTcp::new(tcp, allowance.clone());
        let stream = match target.scheme() {
            Scheme::Http => Stream::plain(metered),
            Scheme::Https => {
                let begun = Instant::now();
                let connector = self.tls.get(route.verify_tls);
                let session = connector.connect(server_name(target)?, metered).await;
                timings.tls = Some(begun.elapsed());
                Stream::tls(session.map_err(|error| Fault::from_handshake(&error))?)
            }
        };
        let connection = if stream.chose_http2() {
            let http2 = Http2::open(stream, allowance, &self.config, route.http2_streams_max);
            http2.await.map(Connection::Http2)
        } else {
            Http1::open(stream, allowance, &self.config).await.map(|http1| Connection::Http1(http1.into()))
        };
        connection.map_err(|error| Fault::from_exchange(&error))
    }

    async fn resolve(
        &self,
        target: &Target,
        dns: Dns,
        until: Instant,
        timings: &mut Timings,
    ) -> Result<Arc<[IpAddr]>, Fault> {
        if let Some(address) = target.address() {
            return Ok(Arc::new([address]));
        }
        let begun = Instant::now();
        let answer = self.look_up(target.host(), dns, until).await;
        timings.dns = Some(begun.elapsed());
        match answer {
            Ok(Answer::Fresh(addresses)) => Ok(addresses),
            Ok(Answer::Cached(addresses)) => {
                self.counters.dns_cache_hits.increment();
                Ok(addresses)
            }
            Err(ResolveError::NotFound) => Err(Fault::new(FailureKind::Dns, "the name has no address")),
            Err(error) if is_shortage_of_resolver(&error) => Err(Fault::own_shortage()),
            Err(ResolveError::Failed(_)) => Err(Fault::new(FailureKind::Dns, "the name cannot be resolved")),
        }
    }

    /// Asks, and if this machine is short of what that takes, again until then.
    async fn look_up(&self, host: &str, dns: Dns, until: Instant) -> Result<Answer, ResolveError> {
        loop {
            let answer = match dns {
                Dns::Cached => self.dns.lookup(host).await,
                Dns::Anew => self.dns.lookup_anew(host).await.map(Answer::Fresh),
            };
            let next_attempt = Instant::now() + SHORTAGE_DELAY;
            match answer {
                Err(error) if is_shortage_of_resolver(&error) && next_attempt < until => {
                    sleep_until(next_attempt).await;
                }
                answer => return answer,
            }
        }
    }

    async fn connect_tcp(&self, addresses: &[IpAddr], port: u16, until: Instant) -> Result<TcpStream, Fault> {
        let stream = match addresses {
            [address] => connect_one(SocketAddr::new(address.to_canonical(), port), until).await,
            addresses => connect_first(interleave(addresses), port, until).await,
        };
        let stream = stream.map_err(|error| Fault::from_connect(&error))?;
        let peer = stream.peer_addr().map_err(|error| Fault::from_connect(&error))?.ip().to_canonical();
        self.config.policy.judge_address(peer)?;
        if !addresses.iter().any(|address| address.to_canonical() == peer) {
            return Err(Fault::new(FailureKind::TargetRefused, "the target is not allowed"));
        }
        Ok(stream)
    }
}

fn server_name(target: &Target) -> Result<ServerName<'static>, Fault> {
    match target.address() {
        Some(address) => Ok(ServerName::from(address)),
        None => ServerName::try_from(target.host().to_owned())
            .map_err(|_| Fault::new(FailureKind::Tls, "no certificate can be for this name")),
    }
}

/// Connects, and if this machine is short of what that takes, again until then.
async fn connect_one(address: SocketAddr, until: Instant) -> io::Result<TcpStream> {
    loop {
        match connect_at_once(address).await {
            Err(error) if is_own_shortage(&error, address) => {}
            outcome => return outcome,
        }
        let next_attempt = Instant::now() + SHORTAGE_DELAY;
        if next_attempt >= until {
            return Err(io::Error::other(OwnShortage));
        }
        sleep_until(next_attempt).await;
    }
}

fn is_shortage_of_resolver(error: &ResolveError) -> bool {
    matches!(error, ResolveError::Failed(cause) if OwnShortage::is_cause_of(cause.as_ref()))
}

/// No port is left, if an IPv4 address cannot be connected from; with IPv6, this machine may simply have no address.
fn is_own_shortage(error: &io::Error, address: SocketAddr) -> bool {
    let no_port = error.kind() == io::ErrorKind::AddrNotAvailable && address.is_ipv4();
    no_port || OwnShortage::is_cause_of(error)
}

async fn connect_at_once(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.connect(address).await
}

/// IPv6 and IPv4 in turn, IPv6 first, each in the order of the answer.
fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut sixes = addresses.iter().filter(|address| address.is_ipv6());
    let mut fours = addresses.iter().filter(|address| address.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        let before = order.len();
        order.extend(sixes.next());
        order.extend(fours.next());
        if order.len() == before {
            order.truncate(ATTEMPTS_MAX);
            return order;
        }
    }
}

/// Connects to the first address that answers. A further attempt begins when the one before has failed or has been
/// silent for [`FALLBACK_DELAY`]; the losers are closed.
async fn connect_first(addresses: Vec<IpAddr>, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::from(io::ErrorKind::HostUnreachable);
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(connect_one(SocketAddr::new(address.to_canonical(), port), until));
        }
        let next_attempt = Instant::now() + FALLBACK_DELAY;
        tokio::select! {
            finished = attempts.join_next() => match finished {
                None => return Err(failure),
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failure = weightier(failure, error),
                Some(Err(_cancelled)) => {}
            },
            () = sleep_until(next_attempt), if waiting.len() > 0 => {}
        }
    }
}

/// "Refused" says more about a host than "no route" of an address family that this machine lacks.
fn weightier(one: io::Error, other: io::Error) -> io::Error {
    if one.kind() == io::ErrorKind::ConnectionRefused { one } else { other }
}
