//! Connections that wait for their next request.
//!
//! Each origin has a stack of idle HTTP/1.1 connections (the warmest is taken first, so that surplus ones age out), or
//! HTTP/2 connections that are shared: one, and another beside it when that has as many exchanges as it is to have. A
//! receiver lets only so many begin on a connection, and endpoints that hang must not use up what others need. Origins
//! are spread over shards with a lock each, which is never held across an await. One pool serves one policy;
//! connections whose certificates were not checked are kept apart.
//!
//! A pool that holds more than it should keeps the surplus for a moment: a burst ends when its last answer comes, and
//! the next one needs all its connections again. What nobody took within that moment makes way, the longest idle first,
//! when another connection comes back or a sweep finds it. A sweep also closes what has been idle or has lived for too
//! long, or was closed by its peer.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::EgressConfig;
use crate::connection::{Connection, Http1};
use crate::http2::{Exchange, Http2};
use crate::stats::Counters;
use crate::target::Origin;

const SHARDS: usize = 16;
/// Exchanges on an HTTP/2 connection, after which another one is made beside it. Receivers commonly allow 100 or more;
/// where they allow fewer, that counts.
const H2_EXCHANGES_MAX: usize = 64;
/// HTTP/2 connections to an origin, after which they get more exchanges, where the receiver lets them.
const H2_CONNECTIONS_MAX: usize = 16;

/// What connections are pooled by.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) origin: Arc<Origin>,
    pub(crate) verify_tls: bool,
}

/// Whether a connection from the pool will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Welcome,
    Never,
}

/// What the pool has for a place.
pub(crate) enum Found {
    /// A connection that can be used at once.
    Ready(Connection),
    /// Nothing; connect.
    Nothing,
    /// Nothing, but the receiver is known to speak HTTP/2: connect under this lock, after looking again, so that one
    /// connection is made and not one for each waiting request.
    NothingYet(Gate),
}

pub(crate) type Gate = Arc<tokio::sync::Mutex<()>>;

pub(crate) struct Pool {
    hasher: RandomState,
    shards: [Mutex<HashMap<Arc<Origin>, Lanes>>; SHARDS],
    idle_total: AtomicUsize,
    limits: Limits,
    counters: Arc<Counters>,
}

struct Limits {
    idle_per_origin_max: usize,
    idle_total_max: usize,
    surplus_timeout: Duration,
    surplus_total_max: usize,
    idle_timeout: Duration,
    age_max: Duration,
}

/// Verified and unverified connections to an origin.
#[derive(Default)]
struct Lanes([Lane; 2]);

#[derive(Default)]
struct Lane {
    idle: VecDeque<Idle>,
    /// The first that has room is used, so that surplus ones age out.
    http2: Vec<Arc<Http2>>,
    http2_gate: Option<Gate>,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
    kept_for: Duration,
}

impl Pool {
    pub(crate) fn new(config: &EgressConfig, counters: Arc<Counters>) -> Self {
        let keeps_nothing = config.idle_total_max == 0 || config.idle_per_origin_max == 0;
        Self {
            hasher: RandomState::new(),
            shards: Default::default(),
            idle_total: AtomicUsize::new(0),
            limits: Limits {
                idle_per_origin_max: config.idle_per_origin_max,
                idle_total_max: config.idle_total_max,
                surplus_timeout: if keeps_nothing { Duration::ZERO } else { config.idle_surplus_timeout },
                surplus_total_max: config.idle_surplus_total_max.max(config.idle_total_max),
                idle_timeout: config.idle_timeout,
                age_max: config.connection_age_max,
            },
            counters,
        }
    }

    pub(crate) fn take(&self, place: &Place) -> Found {
        let now = Instant::now();
        let mut shard = self.shard(&place.origin);
        let Some(lanes) = shard.get_mut(&place.origin) else { return Found::Nothing };
        let lane = lanes.lane(place.verify_tls);
        lane.http2.retain(|http2| self.limits.admits_http2(http2, now));
        if let Some(exchange) = lane.begin_http2() {
            return Found::Ready(Connection::Http2(exchange));
        }
        while let Some(mut idle) = lane.idle.pop_back() {
            self.idle_total.fetch_sub(1, Ordering::Relaxed);
            if self.limits.admits(&idle, now) && idle.connection.is_ready() {
                return Found::Ready(Connection::Http1(idle.connection));
            }
        }
        match &lane.http2_gate {
            Some(gate) if lane.http2_streams_max() > 1 => Found::NothingYet(gate.clone()),
            _ => Found::Nothing,
        }
    }

    /// Streams that a new HTTP/2 connection may be taken to allow.
    pub(crate) fn http2_streams_max(&self, place: &Place) -> usize {
        let mut shard = self.shard(&place.origin);
        let lane = shard.get_mut(&place.origin).map(|lanes| lanes.lane(place.verify_tls));
        lane.map_or(H2_EXCHANGES_MAX, |lane| lane.http2_streams_max())
    }

    /// Keeps a connection whose exchange is over, if it can serve another one; for no longer than `idle_max`.
    pub(crate) fn give_back(&self, place: &Place, mut connection: Box<Http1>, idle_max: Option<Duration>) {
        let idle_timeout = self.limits.idle_timeout;
        let kept_for = idle_max.map_or(idle_timeout, |idle_max| idle_max.min(idle_timeout));
        if kept_for.is_zero() {
            return;
        }
        let now = Instant::now();
        if now.duration_since(connection.born()) >= self.limits.age_max || !connection.is_ready() {
            return;
        }
        let mut shard = self.shard(&place.origin);
        let lane = shard.entry(place.origin.clone()).or_default().lane(place.verify_tls);
        lane.http2_gate = None;
        lane.idle.push_back(Idle { connection, since: now, kept_for });
        let total = self.idle_total.fetch_add(1, Ordering::Relaxed) + 1;
        let evicted = match lane.pop_surplus(&self.limits, now) {
            None if total > self.limits.total_max_at_once() => pop_longest_idle(&mut shard),
            evicted => evicted,
        };
        drop(shard);
        if evicted.is_some() {
            self.count_evicted(1);
        }
    }

    fn count_evicted(&self, count: usize) {
        self.idle_total.fetch_sub(count, Ordering::Relaxed);
        (0..count).for_each(|_| self.counters.pool_exhausted.increment());
    }

    /// Lets others share an HTTP/2 connection. If there is one already that has room, and may be reused, that one is used
    /// for the exchange instead.
    pub(crate) fn share(&self, place: &Place, exchange: Exchange, reuse: Reuse) -> Exchange {
        let now = Instant::now();
        let mut shard = self.shard(&place.origin);
        let lane = shard.entry(place.origin.clone()).or_default().lane(place.verify_tls);
        lane.http2_gate.get_or_insert_default();
        lane.http2.retain(|http2| self.limits.admits_http2(http2, now));
        let present = if reuse == Reuse::Welcome { lane.begin_http2() } else { None };
        let in_use = present.unwrap_or_else(|| {
            lane.http2.push(exchange.connection().clone());
            exchange
        });
        let evicted = pop_unused_http2(&mut shard, self.limits.idle_total_max.div_ceil(SHARDS));
        drop(shard);
        if evicted.is_some() {
            self.counters.pool_exhausted.increment();
        }
        in_use
    }

    /// Takes an HTTP/2 connection out of use that refused a request, or keeps too much. Exchanges in flight end as they
    /// may.
    pub(crate) fn retire(&self, place: &Place, connection: &Arc<Http2>) {
        let mut shard = self.shard(&place.origin);
        let Some(lanes) = shard.get_mut(&place.origin) else { return };
        let lane = lanes.lane(place.verify_tls);
        lane.http2.retain(|present| !Arc::ptr_eq(present, connection));
    }

    /// Closes what is not to be used again or is too much, and forgets origins without connections.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut shard = lock(shard);
            self.close_surplus_of_lanes(&mut shard, now);
            shard.retain(|_, lanes| {
                for lane in &mut lanes.0 {
                    let before = lane.idle.len();
                    lane.idle.retain_mut(|idle| self.limits.admits(idle, now) && idle.connection.is_ready());
                    self.idle_total.fetch_sub(before - lane.idle.len(), Ordering::Relaxed);
                    lane.http2.retain(|http2| {
                        let unused = exchanges_of(http2) == 0
                            && now.duration_since(http2.used()) >= self.limits.idle_timeout;
                        !unused && self.limits.admits_http2(http2, now)
                    });
                }
                lanes.0.iter().any(|lane| !lane.idle.is_empty() || !lane.http2.is_empty())
            });
        }
        for shard in &self.shards {
            self.close_surplus_in_all(&mut lock(shard), now);
        }
    }

    fn close_surplus_of_lanes(&self, shard: &mut HashMap<Arc<Origin>, Lanes>, now: Instant) {
        for lane in shard.values_mut().flat_map(|lanes| &mut lanes.0) {
            while let Some(_closed) = lane.pop_surplus(&self.limits, now) {
                self.count_evicted(1);
            }
        }
    }

    /// Only once no lane alone has too many: else those with few would pay for those with many.
    fn close_surplus_in_all(&self, shard: &mut HashMap<Arc<Origin>, Lanes>, now: Instant) {
        let mut over = self.idle_total.load(Ordering::Relaxed).saturating_sub(self.limits.idle_total_max);
        while over > 0
            && let Some(since) = longest_idle(shard).and_then(Lane::idle_since)
            && self.limits.is_surplus_over(since, now)
            && let Some(_closed) = pop_longest_idle(shard)
        {
            self.count_evicted(1);
            over -= 1;
        }
    }

    fn shard(&self, origin: &Origin) -> MutexGuard<'_, HashMap<Arc<Origin>, Lanes>> {
        let hash = self.hasher.hash_one(origin);
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
        lock(&self.shards[hash as usize % SHARDS])
    }
}

impl Limits {
    fn admits(&self, idle: &Idle, now: Instant) -> bool {
        now.duration_since(idle.since) < idle.kept_for
            && now.duration_since(idle.connection.born()) < self.age_max
    }

    /// Whether what has been idle since then is not needed for the next burst.
    fn is_surplus_over(&self, since: Instant, now: Instant) -> bool {
        now.duration_since(since) >= self.surplus_timeout
    }

    /// Most idle connections at any moment.
    fn total_max_at_once(&self) -> usize {
        if self.surplus_timeout.is_zero() { self.idle_total_max } else { self.surplus_total_max }
    }

    fn admits_http2(&self, connection: &Http2, now: Instant) -> bool {
        connection.is_open() && now.duration_since(connection.born()) < self.age_max
    }
}

impl Lanes {
    fn lane(&mut self, verify_tls: bool) -> &mut Lane {
        &mut self.0[usize::from(verify_tls)]
    }
}

impl Lane {
    /// Begins an exchange on a shared connection; where there are as many as there are to be, on the one with the
    /// fewest.
    fn begin_http2(&self) -> Option<Exchange> {
        let with_room = self.http2.iter().find_map(|http2| http2.begin(H2_EXCHANGES_MAX));
        let is_full = self.http2.len() >= H2_CONNECTIONS_MAX;
        with_room.or_else(|| {
            let fewest = self.http2.iter().filter(|_| is_full).min_by_key(|http2| exchanges_of(http2));
            fewest?.begin(usize::MAX)
        })
    }

    /// As its connections say, the last one made first of all.
    fn http2_streams_max(&self) -> usize {
        self.http2.last().map_or(H2_EXCHANGES_MAX, |http2| http2.streams_max().min(H2_EXCHANGES_MAX))
    }

    fn idle_since(&mut self) -> Option<Instant> {
        self.idle.front().map(|idle| idle.since)
    }

    /// The longest idle connection, if there are more than the origin may keep and it is not needed for the next burst.
    fn pop_surplus(&mut self, limits: &Limits, now: Instant) -> Option<Idle> {
        let is_surplus = self.idle.len() > limits.idle_per_origin_max;
        let is_over = |idle: &mut Idle| limits.is_surplus_over(idle.since, now);
        if is_surplus { self.idle.pop_front_if(is_over) } else { None }
    }
}

/// The lane with the longest idle connection.
fn longest_idle(shard: &mut HashMap<Arc<Origin>, Lanes>) -> Option<&mut Lane> {
    shard
        .values_mut()
        .flat_map(|lanes| &mut lanes.0)
        .filter(|lane| !lane.idle.is_empty())
        .min_by_key(|lane| lane.idle.front().map(|idle| idle.since))
}

fn pop_longest_idle(shard: &mut HashMap<Arc<Origin>, Lanes>) -> Option<Idle> {
    longest_idle(shard)?.idle.pop_front()
}

/// The HTTP/2 connection that nobody has used for longest, if there are more than `kept_max` of them in a shard: they
/// count for the total per shard.
fn pop_unused_http2(shard: &mut HashMap<Arc<Origin>, Lanes>, kept_max: usize) -> Option<Arc<Http2>> {
    let lanes = || shard.values().flat_map(|lanes| &lanes.0).flat_map(|lane| &lane.http2);
    if lanes().count() <= kept_max {
        return None;
    }
    let unused = lanes().filter(|http2| exchanges_of(http2) == 0).min_by_key(|http2| http2.used())?.clone();
    for lane in shard.values_mut().flat_map(|lanes| &mut lanes.0) {
        lane.http2.retain(|present| !Arc::ptr_eq(present, &unused));
    }
    Some(unused)
}

/// How many exchanges a connection of the pool has now.
fn exchanges_of(pooled: &Arc<Http2>) -> usize {
    Arc::strong_count(pooled) - 1
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
