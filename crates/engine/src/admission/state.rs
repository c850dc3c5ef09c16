//! Which endpoint holds how many places, whose turn it is, and what waits in each endpoint's queue: what
//! [`Admission`](super::Admission) decides by, without its lock.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher},
};

use neo_events_domain::{SignedDuration, Timestamp, id::DeliveryId, tenant::Schema, time::later};
use neo_events_store::EndpointQuota;
use tokio::sync::oneshot;

use super::{AttemptHealth, Key, turns::Turns};

/// Most deliveries in hand on a node.
pub(super) const IN_HAND_MAX: u32 = 1024;
/// Most deliveries in hand for endpoints that have not answered yet or whose last attempt failed: so dead endpoints,
/// however many there are, cannot fill the node.
pub(super) const UNPROVEN_IN_HAND_MAX: u32 = IN_HAND_MAX / 4;
/// Most deliveries in hand for endpoints whose last attempt was slow. They have a share of their own because endpoints
/// that hang hold their places until their timeouts end; endpoints that are new or that fail at once must not wait for
/// that.
pub(super) const SLOW_IN_HAND_MAX: u32 = IN_HAND_MAX / 4;
/// Most of both kinds together. The rest of the node is left to endpoints that answer well, even when many new
/// endpoints are found to hang at the same time, and the share of the slow ones becomes more than full.
pub(super) const RESTRICTED_IN_HAND_MAX: u32 = IN_HAND_MAX / 4 * 3;
/// While fewer attempts than this are unrecorded, of all tenants together, none of them is blocked: one that holds three
/// quarters of what the others leave holds three quarters of the node with them, but for what rounding takes.
pub(super) const UNRECORDED_BLOCKING_MIN: u32 = IN_HAND_MAX / 4 * 3 - 2;
/// Most deliveries in flight to one endpoint.
pub(super) const ENDPOINT_IN_FLIGHT_MAX: u32 = 64;
/// For each delivery that may be in flight to an endpoint that answers well, this many may be in hand.
pub(super) const IN_HAND_PER_FLIGHT: u32 = 3;
/// Deliveries in flight to an endpoint that has not answered yet, or keeps failing.
pub(super) const ENDPOINT_IN_FLIGHT_MIN: u32 = 2;
/// An endpoint has a queue only if at least this many deliveries may be in flight to it. With less, an endpoint that
/// fails now and then would have deliveries claimed for it and given back, again and again.
pub(super) const QUEUE_BOUND_MIN: u32 = 16;
/// Least time between two turns of an endpoint whose bound is [`ENDPOINT_IN_FLIGHT_MIN`] and which has just failed
/// again. It doubles with each further failure. To refuse costs a dead receiver nothing, but to claim for it costs the
/// database as much as for one that works.
pub(super) const REST_MIN: SignedDuration = SignedDuration::from_millis(4);
/// The most that this time can become: much less than the second within which an attempt that is due must begin.
pub(super) const REST_MAX: SignedDuration = SignedDuration::from_millis(256);
/// The same where it has answered, with an error: it does not like what it was sent, and may like what waits behind.
pub(super) const REST_AFTER_ERRORS_MAX: SignedDuration = SignedDuration::from_millis(32);
/// Beyond this many endpoints, those that owe nothing and have nothing in hand are forgotten, with their bounds.
pub(super) const ENDPOINTS_REMEMBERED: usize = 10_000;

/// Every endpoint's places and turns.
#[derive(Default)]
pub(super) struct State {
    /// Deliveries in hand on the node, until their attempts are recorded; those that are only being claimed are
    /// included.
    pub(super) in_hand: u32,
    pub(super) shares: Shares,
    /// What goes through all of them takes an order that depends on nothing but what happened: so a simulation replays
    /// exactly. Whoever could choose keys so that they collide chooses none: they are made here.
    pub(super) endpoints: HashMap<Key, EndpointLoad, BuildHasherDefault<DefaultHasher>>,
    /// Endpoints in [`Due::Later`].
    pub(super) later: BTreeSet<(Timestamp, Key)>,
    /// Endpoints in [`Due::Ready`] that wait for their turns.
    pub(super) ready: Turns,
    /// Endpoints in [`Due::Ready`] that had no turn because their share was full or their tenant was blocked. They join
    /// the turns again when that may have changed.
    pub(super) blocked: VecDeque<Key>,
    pub(super) unrecorded: Unrecorded,
}

/// How many attempts of each tenant have been answered and are not recorded yet. They keep their places on the node. If
/// a tenant's attempts cannot be recorded, because of a lock or a damaged table, that tenant must not end up with all
/// places.
#[derive(Default, Debug)]
pub(super) struct Unrecorded {
    of_tenant: HashMap<Schema, u32>,
    all: u32,
    /// Tenants that were blocked when [`Self::blocked_for_long`] was called last.
    blocked_before: Vec<Schema>,
}

impl Unrecorded {
    /// Whether a tenant's unrecorded attempts hold three quarters of the places that the other tenants' leave. Then
    /// nothing new is begun for it. A lower limit would block a busy tenant whenever the database takes a moment
    /// longer.
    pub(super) fn blocks_new_work_for(&self, schema: &Schema) -> bool {
        let own = self.of(schema);
        own > 0 && own >= (IN_HAND_MAX - (self.all - own)) / 4 * 3
    }

    pub(super) fn of(&self, schema: &Schema) -> u32 {
        self.of_tenant.get(schema).copied().unwrap_or(0)
    }

    /// Tenants for which nothing new is begun. Of several some are unblocked by what others record: each one's limit
    /// depends on what the others leave.
    fn blocked(&self) -> Vec<Schema> {
        if self.all < UNRECORDED_BLOCKING_MIN {
            return Vec::new();
        }
        self.of_tenant.keys().filter(|schema| self.blocks_new_work_for(schema)).cloned().collect()
    }

    /// Tenants that are blocked now and were blocked at the call before.
    fn blocked_for_long(&mut self) -> Vec<Schema> {
        let blocked = self.blocked();
        let before = std::mem::replace(&mut self.blocked_before, blocked.clone());
        blocked.into_iter().filter(|schema| before.contains(schema)).collect()
    }

    fn count(&mut self, schema: &Schema) {
        self.all += 1;
        match self.of_tenant.get_mut(schema) {
            Some(own) => *own += 1,
            None => drop(self.of_tenant.insert(schema.clone(), 1)),
        }
    }

    fn discount(&mut self, schema: &Schema) {
        if let Some(own) = self.of_tenant.get_mut(schema) {
            self.all -= 1;
            *own -= 1;
            if *own == 0 {
                self.of_tenant.remove(schema);
            }
        }
    }
}

/// How many deliveries are in hand for endpoints that do not answer well: each kind may have a share of the node.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RestrictedShares {
    pub(super) unproven: u32,
    pub(super) slow: u32,
}

impl RestrictedShares {
    /// What is taken of the share that an endpoint's deliveries are counted in, and the most of it; `None` for an
    /// endpoint that answers well, which has no such limit.
    const fn of(&mut self, load: &EndpointLoad) -> Option<(&mut u32, u32)> {
        match load.standing {
            Standing::Good => None,
            Standing::Unproven => Some((&mut self.unproven, UNPROVEN_IN_HAND_MAX)),
            Standing::Slow => Some((&mut self.slow, SLOW_IN_HAND_MAX)),
        }
    }

    const fn both(self) -> u32 {
        self.unproven + self.slow
    }

    pub(super) fn count(&mut self, load: &EndpointLoad) {
        if let Some((held, _)) = self.of(load) {
            *held += load.charge();
        }
    }

    fn discount(&mut self, load: &EndpointLoad) {
        if let Some((held, _)) = self.of(load) {
            *held -= load.charge();
        }
    }
}

/// The shares, and who holds how much of them: a tenant whose endpoints hang must leave places to those of others that
/// are new, or have failed once.
#[derive(Default, Debug)]
pub(super) struct Shares {
    pub(super) held: RestrictedShares,
    pub(super) of_tenant: HashMap<Schema, RestrictedShares>,
}

impl Shares {
    /// How many more deliveries of an endpoint may be taken in hand, if only one part in `divisor` of its share may be
    /// used. A share can be more than full: endpoints that are found to be silent are moved to it with all that they
    /// have. Of both together a tenant may hold three quarters of what the others leave.
    pub(super) fn free(&self, (schema, _): &Key, load: &EndpointLoad, divisor: u32) -> u32 {
        let mut held = self.held;
        let (both, own) = (held.both(), self.of_tenant.get(schema).map_or(0, |own| own.both()));
        let of_both = RESTRICTED_IN_HAND_MAX.saturating_sub(both);
        let of_own = (RESTRICTED_IN_HAND_MAX.saturating_sub(both - own) / 4 * 3).saturating_sub(own);
        let room = of_both.min(of_own);
        held.of(load).map_or(u32::MAX, |(held, max)| (max / divisor).saturating_sub(*held).min(room))
    }

    fn count(&mut self, (schema, _): &Key, load: &EndpointLoad) {
        self.held.count(load);
        if load.standing != Standing::Good && load.charge() > 0 {
            self.of_tenant.entry(schema.clone()).or_default().count(load);
        }
    }

    fn discount(&mut self, (schema, _): &Key, load: &EndpointLoad) {
        self.held.discount(load);
        if let Some(own) = self.of_tenant.get_mut(schema) {
            own.discount(load);
            if own.both() == 0 {
                self.of_tenant.remove(schema);
            }
        }
    }
}

/// What one endpoint has in hand and in flight, and what it may have.
pub(super) struct EndpointLoad {
    /// Deliveries in hand that have not been answered yet, including those that are only being claimed.
    pub(super) in_hand: u32,
    /// How many of them are only being claimed.
    pub(super) reserved: u32,
    /// How many of them are being attempted.
    pub(super) in_flight: u32,
    /// Most that may be attempted at once.
    pub(super) bound: u32,
    /// Deliveries in hand that wait until an attempt has ended.
    pub(super) queue: VecDeque<Waiting>,
    /// Whether attempts were in flight when [`State::notice_silence`] was called last, and none has ended since.
    is_silent: bool,
    /// By its last attempt.
    pub(super) standing: Standing,
    /// When it took places last.
    pub(super) turn_at: Timestamp,
    /// Least time from one turn to the next.
    pub(super) rest: SignedDuration,
    pub(super) due: Due,
}

/// What the last attempt says of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There was none yet, or it failed at once.
    Unproven,
    /// It was answered well and fast.
    Good,
    /// It was answered late, or not yet although it was time.
    Slow,
}

/// A delivery that waits in its endpoint's queue.
pub(super) struct Waiting {
    pub(super) delivery_id: DeliveryId,
    call: oneshot::Sender<()>,
}

/// Where an endpoint stands in the order of turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It owes nothing, as far as is known.
    No,
    /// It has something due from this time on.
    Later(Timestamp),
    /// It has something due now, and room for it.
    Ready,
    /// It has something due now, but as much in hand as it may have.
    Full,
}

impl State {
    /// Gives every endpoint whose turn it is its share of the free places.
    pub(super) fn reserve(&mut self, now: Timestamp) -> Vec<EndpointQuota> {
        self.ripen(now);
        let mut quotas = Vec::new();
        while self.in_hand < IN_HAND_MAX {
            let Some((key, fair_share)) = self.ready.next(IN_HAND_MAX - self.in_hand) else { break };
            quotas.extend(self.take_turn(key, fair_share, now));
        }
        quotas
    }

    /// Endpoints that have become due join the turns.
    pub(super) fn ripen(&mut self, now: Timestamp) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.later.pop_first() else { break };
            let Some(load) = self.endpoints.get_mut(&key) else { continue };
            load.due = if load.has_room() { Due::Ready } else { Due::Full };
            if load.due == Due::Ready {
                self.ready.join(key);
            }
        }
    }

    fn take_turn(&mut self, key: Key, fair_share: u32, now: Timestamp) -> Option<EndpointQuota> {
        let load = self.endpoints.get_mut(&key)?;
        let allowed = fair_share.min(self.shares.free(&key, load, 1));
        if !load.has_room() {
            // It has failed since it joined the turns, so it may have less.
            load.due = Due::Full;
            return None;
        }
        let max = (load.in_hand_max() - load.in_hand).min(allowed);
        if max == 0 || self.unrecorded.blocks_new_work_for(&key.0) {
            self.blocked.push_back(key);
            return None;
        }
        self.shares.discount(&key, load);
        load.in_hand += max;
        self.shares.count(&key, load);
        load.reserved += max;
        load.turn_at = now;
        load.due = Due::No;
        self.in_hand += max;
        Some(EndpointQuota { schema: key.0, endpoint_id: key.1, max })
    }

    /// Takes a place out of turn, for a delivery that is only being written. While older deliveries wait, of this
    /// endpoint or of others, some of the places are theirs and a new one may use the rest. A new one must not have to
    /// wait behind them: then something would always be waiting for as long as events come, and all of it would have to
    /// be claimed.
    pub(super) fn take_ahead(&mut self, key: &Key, now: Timestamp) -> bool {
        let divisor = if self.ready.is_empty() { 1 } else { 2 };
        let load = self.endpoints.entry(key.clone()).or_insert_with(EndpointLoad::new);
        let is_blocked =
            self.shares.free(key, load, divisor) == 0 || self.unrecorded.blocks_new_work_for(&key.0);
        if self.in_hand >= IN_HAND_MAX / divisor || is_blocked || !load.has_room_ahead(now) {
            return false;
        }
        self.shares.discount(key, load);
        load.in_hand += 1;
        self.shares.count(key, load);
        load.turn_at = now;
        self.in_hand += 1;
        true
    }

    /// What was reserved is claimed, or not needed.
    pub(super) fn claimed(&mut self, key: &Key, reserved: u32) {
        if let Some(load) = self.endpoints.get_mut(key) {
            load.reserved -= reserved;
        }
    }

    pub(super) fn owe(&mut self, key: Key, at: Timestamp) {
        let load = self.endpoints.entry(key.clone()).or_insert_with(EndpointLoad::new);
        let at = at.max(load.rested_at());
        match load.due {
            Due::Ready | Due::Full => return,
            Due::Later(earlier) if earlier <= at => return,
            Due::Later(later) => drop(self.later.remove(&(later, key.clone()))),
            Due::No => {}
        }
        load.due = Due::Later(at);
        self.later.insert((at, key));
    }

    /// Endpoints that had attempts in flight at the call before, and have answered none of them since, are taken for
    /// slow: as if each attempt in flight had been.
    pub(super) fn notice_silence(&mut self) {
        let mut silent = Vec::new();
        for (key, load) in &mut self.endpoints {
            if load.is_silent && load.in_flight > 0 {
                silent.push((key.clone(), load.in_flight));
            }
            load.is_silent = load.in_flight > 0;
        }
        for (key, in_flight) in silent {
            (0..in_flight).for_each(|_| self.learn(&key, AttemptHealth::Slow));
        }
        // They are no longer counted in the share that they were in: places of it are free.
        self.unblock();
        for schema in self.unrecorded.blocked_for_long() {
            self.return_queued_of(&schema);
        }
    }

    /// What an attempt says of its endpoint: how much it may have in flight, when it has its next turn, which share it
    /// is in.
    pub(super) fn learn(&mut self, key: &Key, health: AttemptHealth) {
        let before = self.shares.held;
        let Some(load) = self.endpoints.get_mut(key) else { return };
        self.shares.discount(key, load);
        load.standing = match health {
            AttemptHealth::Good => Standing::Good,
            AttemptHealth::Erred | AttemptHealth::Failed => Standing::Unproven,
            AttemptHealth::Slow => Standing::Slow,
        };
        load.bound = match health {
            AttemptHealth::Good => (load.bound * 2).min(ENDPOINT_IN_FLIGHT_MAX),
            AttemptHealth::Erred | AttemptHealth::Failed | AttemptHealth::Slow => {
                (load.bound / 2).max(ENDPOINT_IN_FLIGHT_MIN)
            }
        };
        let longer = |max| {
            let is_failing = load.bound == ENDPOINT_IN_FLIGHT_MIN;
            if is_failing { (load.rest * 2).clamp(REST_MIN, max) } else { load.rest }
        };
        load.rest = match health {
            AttemptHealth::Good => SignedDuration::ZERO,
            AttemptHealth::Erred => longer(REST_AFTER_ERRORS_MAX),
            AttemptHealth::Failed | AttemptHealth::Slow => longer(REST_MAX),
        };
        load.drop_queue_if_failing();
        self.shares.count(key, load);
        self.unblock_since(before);
    }

    /// Endpoints that wait for a place of their share join the turns again if a share has more free places than before.
    /// Most answers free none.
    fn unblock_since(&mut self, before: RestrictedShares) {
        if self.shares.held.unproven < before.unproven || self.shares.held.slow < before.slow {
            self.unblock();
        }
    }

    fn unblock(&mut self) {
        self.blocked.drain(..).for_each(|key| self.ready.join(key));
    }

    /// An attempt of this tenant's is over and is going to be recorded.
    pub(super) fn begin_record(&mut self, schema: &Schema) {
        self.unrecorded.count(schema);
    }

    /// It is recorded, or never will be.
    pub(super) fn end_record(&mut self, schema: &Schema) {
        let mut unblocked = self.unrecorded.blocked();
        self.unrecorded.discount(schema);
        unblocked.retain(|schema| !self.unrecorded.blocks_new_work_for(schema));
        if !unblocked.is_empty() {
            self.unblock();
            let of_them = self.endpoints.iter_mut().filter(|(key, _)| unblocked.contains(&key.0));
            of_them.for_each(|(_, load)| load.call_next());
        }
    }

    /// All that is queued for endpoints of this tenant is to be given back.
    pub(super) fn return_queued_of(&mut self, schema: &Schema) {
        let of_it = self.endpoints.iter_mut().filter(|(key, _)| key.0 == *schema);
        of_it.for_each(|(_, load)| load.queue.clear());
    }

    /// `None` if the attempt may begin at once; then it counts as in flight. Otherwise the delivery is queued: the
    /// message says that its attempt may begin, and a closed channel that it is to be given back.
    pub(super) fn join_queue(&mut self, key: &Key, delivery_id: DeliveryId) -> Option<oneshot::Receiver<()>> {
        let is_blocked = self.unrecorded.blocks_new_work_for(&key.0);
        let load = self.endpoints.entry(key.clone()).or_insert_with(EndpointLoad::new);
        if load.queue.is_empty() && load.in_flight < load.bound && !is_blocked {
            load.in_flight += 1;
            return None;
        }
        let (call, called) = oneshot::channel();
        load.queue.push_back(Waiting { delivery_id, call });
        Some(called)
    }

    /// An attempt is no longer in flight: the next that is queued may begin.
    pub(super) fn end_attempt(&mut self, key: &Key) {
        let Some(load) = self.endpoints.get_mut(key) else { return };
        load.in_flight -= 1;
        load.is_silent = false;
        load.drop_queue_if_failing();
        if !self.unrecorded.blocks_new_work_for(&key.0) {
            load.call_next();
        }
    }

    /// Gives back places of deliveries that were reserved and not claimed, or claimed and not attempted. Answers as
    /// [`Self::leave_endpoint`] does.
    pub(super) fn give_back(&mut self, key: &Key, places: u32) -> bool {
        self.leave_node(places);
        self.leave_endpoint(key, places)
    }

    /// Frees places on the node.
    pub(super) const fn leave_node(&mut self, places: u32) {
        self.in_hand -= places;
    }

    /// Frees places at an endpoint. Answers whether there is something to claim now, or earlier than was known.
    pub(super) fn leave_endpoint(&mut self, key: &Key, places: u32) -> bool {
        let (before, remembered) = (self.shares.held, self.endpoints.len());
        let mut is_due_later = false;
        let Some(load) = self.endpoints.get_mut(key) else { return !self.ready.is_empty() };
        self.shares.discount(key, load);
        load.in_hand -= places;
        self.shares.count(key, load);
        if load.due == Due::Full && load.has_room() {
            if load.rest.is_zero() {
                load.due = Due::Ready;
                self.ready.join(key.clone());
            } else {
                let at = load.rested_at();
                load.due = Due::Later(at);
                self.later.insert((at, key.clone()));
                is_due_later = true;
            }
        }
        if load.in_hand == 0 && load.due == Due::No && remembered > ENDPOINTS_REMEMBERED {
            self.endpoints.remove(key);
        }
        self.unblock_since(before);
        is_due_later || !self.ready.is_empty()
    }
}

impl EndpointLoad {
    const fn new() -> Self {
        Self {
            in_hand: 0,
            reserved: 0,
            in_flight: 0,
            bound: ENDPOINT_IN_FLIGHT_MIN,
            queue: VecDeque::new(),
            is_silent: false,
            standing: Standing::Unproven,
            turn_at: Timestamp::UNIX_EPOCH,
            rest: SignedDuration::ZERO,
            due: Due::No,
        }
    }

    const fn is_good(&self) -> bool {
        matches!(self.standing, Standing::Good)
    }

    /// Most that may be in hand: beyond what may be in flight only if it answers well.
    pub(super) const fn in_hand_max(&self) -> u32 {
        let may_queue = self.is_good() && self.bound >= QUEUE_BOUND_MIN;
        if may_queue { self.bound * IN_HAND_PER_FLIGHT } else { self.bound }
    }

    /// How much of its share it takes, if it does not answer well. What it holds beyond its bound, from the time when
    /// it answered well, does not count: otherwise endpoints that have died would keep the others in their share
    /// waiting until their attempts time out.
    fn charge(&self) -> u32 {
        self.in_hand.min(self.bound)
    }

    /// Calls deliveries from the queue until as many are in flight as may be.
    fn call_next(&mut self) {
        while self.in_flight < self.bound
            && let Some(next) = self.queue.pop_front()
        {
            self.in_flight += u32::from(next.call.send(()).is_ok());
        }
    }

    /// An endpoint that has failed until its bound is the least has no queue: what waits is given back.
    fn drop_queue_if_failing(&mut self) {
        if self.bound == ENDPOINT_IN_FLIGHT_MIN && !self.is_good() {
            self.queue.clear();
        }
    }

    pub(super) const fn has_room(&self) -> bool {
        self.in_hand < self.in_hand_max()
    }

    /// When it may have another turn.
    fn rested_at(&self) -> Timestamp {
        later(self.turn_at, self.rest)
    }

    /// Whether a delivery that is only being written may be taken in hand at once. While older ones wait in the
    /// database, only an endpoint that answers well has room for new ones, and less of it.
    fn has_room_ahead(&self, now: Timestamp) -> bool {
        if now < self.rested_at() {
            return false;
        }
        let waits = self.reserved > 0
            || match self.due {
                Due::No => false,
                Due::Later(at) => at <= now,
                Due::Ready | Due::Full => true,
            };
        if waits { self.is_good() && self.in_hand - self.reserved < self.bound } else { self.has_room() }
    }
}
