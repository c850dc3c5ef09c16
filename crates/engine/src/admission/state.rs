//! Who has how many places, whose turn it is, and who stands in line: what [`Admission`](super::Admission) decides by,
//! without its lock.

use std::collections::{BTreeSet, HashMap, VecDeque};

use neo_events_domain::{SignedDuration, Timestamp, id::DeliveryId, tenant::Schema};
use neo_events_store::EndpointQuota;
use tokio::sync::oneshot;

use super::{Bearing, Key};
use crate::sources::later;

/// Most deliveries in hand on a node.
pub(super) const IN_HAND_MAX: u32 = 1024;
/// Most deliveries in hand for endpoints that have not answered yet or failed at last: dead endpoints, however many, cannot
/// fill the node.
pub(super) const UNPROVEN_IN_HAND_MAX: u32 = IN_HAND_MAX / 4;
/// Most deliveries in hand for endpoints that were slow at last. A part of their own: those that hang hold it for as long as
/// their timeouts last, and who is new or fails at once must not wait for that.
pub(super) const SLOW_IN_HAND_MAX: u32 = IN_HAND_MAX / 4;
/// Most of both kinds together: the rest of the node is left to those that answer well, also where many that were new are
/// found to hang at once.
pub(super) const NOT_WELL_IN_HAND_MAX: u32 = IN_HAND_MAX / 4 * 3;
/// Most deliveries in flight to one endpoint.
pub(super) const ENDPOINT_IN_FLIGHT_MAX: u32 = 64;
/// For each that may be in flight to an endpoint that answers well, so many may be in hand.
pub(super) const IN_HAND_PER_FLIGHT: u32 = 3;
/// Deliveries in flight to an endpoint that has not answered yet, or keeps failing.
pub(super) const ENDPOINT_IN_FLIGHT_MIN: u32 = 2;
/// But only once so many may be in flight: an endpoint that fails now and then would else be claimed for and given back from,
/// again and again.
pub(super) const LINE_BOUND_MIN: u32 = 16;
/// Least time between two turns of an endpoint that has just failed though its bound is at its least. It doubles with each
/// further failure: refusing costs a dead receiver nothing, and claiming for it costs the database as much as for a live one.
pub(super) const REST_MIN: SignedDuration = SignedDuration::from_millis(4);
/// And the most it comes to: far less than the second within which an attempt begins that is due.
pub(super) const REST_MAX: SignedDuration = SignedDuration::from_millis(256);
/// Endpoints whose bound is kept though they owe nothing.
pub(super) const ENDPOINTS_REMEMBERED: usize = 10_000;

/// Every endpoint's places and turns.
#[derive(Default)]
pub(super) struct State {
    pub(super) in_hand: u32,
    pub(super) parts: Parts,
    pub(super) flows: HashMap<Key, Flow>,
    /// Endpoints in [`Due::Later`].
    pub(super) later: BTreeSet<(Timestamp, Key)>,
    /// Endpoints in [`Due::Ready`], in turn.
    pub(super) ready: VecDeque<Key>,
    /// Endpoints in [`Due::Ready`] whose turn must wait until a place of their part is free, or their tenant is no longer
    /// barred.
    pub(super) blocked: VecDeque<Key>,
    pub(super) unrecorded: Unrecorded,
}

/// Attempts that have been answered and are not recorded yet, of each tenant that has any. They keep their places on the
/// node: one tenant whose attempts cannot be recorded, for a lock or a damaged table, must not come to hold all of them.
#[derive(Default, Debug)]
pub(super) struct Unrecorded {
    of_tenant: HashMap<Schema, u32>,
    all: u32,
    /// Tenants that were barred at the last look.
    barred_before: Vec<Schema>,
}

impl Unrecorded {
    /// Whether a tenant has three quarters of what the others leave of the node: nothing new is begun for it. Less would
    /// bar a busy tenant whenever the database takes a moment longer.
    pub(super) fn bars(&self, schema: &Schema) -> bool {
        let own = self.of_tenant.get(schema).copied().unwrap_or(0);
        own > 0 && own >= (IN_HAND_MAX - (self.all - own)) / 4 * 3
    }

    /// Who is barred now and was at the last look.
    fn barred_for_long(&mut self) -> Vec<Schema> {
        let barred: Vec<_> = self.of_tenant.keys().filter(|schema| self.bars(schema)).cloned().collect();
        let before = std::mem::replace(&mut self.barred_before, barred.clone());
        barred.into_iter().filter(|schema| before.contains(schema)).collect()
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

/// What is in hand for endpoints that are not proven.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) unproven: u32,
    pub(super) slow: u32,
}

impl Parts {
    /// The part that an endpoint's deliveries are counted in, and its most; none of one that is proven.
    const fn of(&mut self, flow: &Flow) -> Option<(&mut u32, u32)> {
        match (flow.proven, flow.slow) {
            (true, _) => None,
            (false, false) => Some((&mut self.unproven, UNPROVEN_IN_HAND_MAX)),
            (false, true) => Some((&mut self.slow, SLOW_IN_HAND_MAX)),
        }
    }

    /// How many more of an endpoint's may be taken in hand, of one `share`th of its part. Those that have just been found to
    /// be silent may have made a part more than full.
    fn free(&mut self, flow: &Flow, share: u32) -> u32 {
        let of_both = NOT_WELL_IN_HAND_MAX.saturating_sub(self.unproven + self.slow);
        self.of(flow).map_or(u32::MAX, |(held, max)| (max / share).saturating_sub(*held).min(of_both))
    }

    fn count(&mut self, flow: &Flow) {
        if let Some((held, _)) = self.of(flow) {
            *held += flow.charge();
        }
    }

    fn discount(&mut self, flow: &Flow) {
        if let Some((held, _)) = self.of(flow) {
            *held -= flow.charge();
        }
    }
}

pub(super) struct Flow {
    /// Until they are answered; those that are only being claimed included.
    pub(super) in_hand: u32,
    /// How many of them are only being claimed.
    pub(super) reserved: u32,
    /// How many of them are being attempted.
    pub(super) in_flight: u32,
    /// Most of those.
    pub(super) bound: u32,
    /// Who waits for an attempt to end.
    pub(super) line: VecDeque<Waiting>,
    /// Whether there were attempts in flight when it was looked last, and none has ended since.
    is_silent: bool,
    /// Whether its last answer was a good one.
    pub(super) proven: bool,
    /// If not: whether it was late, or none came.
    slow: bool,
    /// When it took places last.
    pub(super) turn_at: Timestamp,
    /// Least time from one turn to the next.
    pub(super) rest: SignedDuration,
    pub(super) due: Due,
}

/// A delivery that stands in line.
pub(super) struct Waiting {
    pub(super) delivery_id: DeliveryId,
    call: oneshot::Sender<()>,
}

/// Where an endpoint stands in the order of turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It owes nothing, as far as is known.
    No,
    /// From this time on.
    Later(Timestamp),
    /// Now, and it has room.
    Ready,
    /// Now, but its own bound is reached.
    Full,
}

impl State {
    pub(super) fn reserve(&mut self, now: Timestamp) -> Vec<EndpointQuota> {
        self.ripen(now);
        let mut quotas = Vec::new();
        let turns = self.ready.len();
        for turn in 0..turns {
            let free = IN_HAND_MAX - self.in_hand;
            if free == 0 {
                break;
            }
            let waiting = u32::try_from(turns - turn).unwrap_or(u32::MAX);
            let Some(key) = self.ready.pop_front() else { break };
            quotas.extend(self.take_turn(key, free.div_ceil(waiting), now));
        }
        quotas
    }

    /// Endpoints that have become due join the turns.
    pub(super) fn ripen(&mut self, now: Timestamp) {
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.later.pop_first() else { break };
            let Some(flow) = self.flows.get_mut(&key) else { continue };
            flow.due = if flow.has_room() { Due::Ready } else { Due::Full };
            if flow.due == Due::Ready {
                self.ready.push_back(key);
            }
        }
    }

    fn take_turn(&mut self, key: Key, share: u32, now: Timestamp) -> Option<EndpointQuota> {
        let flow = self.flows.get_mut(&key)?;
        let allowed = share.min(self.parts.free(flow, 1));
        if !flow.has_room() {
            // It has failed since it joined the turns, and bears less.
            flow.due = Due::Full;
            return None;
        }
        let max = (flow.in_hand_max() - flow.in_hand).min(allowed);
        if max == 0 || self.unrecorded.bars(&key.0) {
            self.blocked.push_back(key);
            return None;
        }
        self.parts.discount(flow);
        flow.in_hand += max;
        self.parts.count(flow);
        flow.reserved += max;
        flow.turn_at = now;
        flow.due = Due::No;
        self.in_hand += max;
        Some(EndpointQuota { schema: key.0, endpoint_id: key.1, max })
    }

    /// Takes a place out of turn. While others wait, older deliveries of this endpoint or another one, a part of the
    /// places is theirs: what comes new may use the rest. If it had to wait with them, an endpoint that once had something
    /// waiting would be claimed from for as long as events come, for there would always be something.
    pub(super) fn take_ahead(&mut self, key: &Key, now: Timestamp) -> bool {
        let share = if self.ready.is_empty() { 1 } else { 2 };
        let flow = self.flows.entry(key.clone()).or_insert_with(Flow::new);
        let is_barred = self.parts.free(flow, share) == 0 || self.unrecorded.bars(&key.0);
        if self.in_hand >= IN_HAND_MAX / share || is_barred || !flow.has_room_ahead(now) {
            return false;
        }
        self.parts.discount(flow);
        flow.in_hand += 1;
        self.parts.count(flow);
        flow.turn_at = now;
        self.in_hand += 1;
        true
    }

    /// What was reserved is claimed, or not needed.
    pub(super) fn claimed(&mut self, key: &Key, reserved: u32) {
        if let Some(flow) = self.flows.get_mut(key) {
            flow.reserved -= reserved;
        }
    }

    pub(super) fn owe(&mut self, key: Key, at: Timestamp) {
        let flow = self.flows.entry(key.clone()).or_insert_with(Flow::new);
        let at = at.max(flow.rested_at());
        match flow.due {
            Due::Ready | Due::Full => return,
            Due::Later(earlier) if earlier <= at => return,
            Due::Later(later) => drop(self.later.remove(&(later, key.clone()))),
            Due::No => {}
        }
        flow.due = Due::Later(at);
        self.later.insert((at, key));
    }

    /// What each attempt in flight will have come to where none was answered since the last look.
    pub(super) fn notice_silence(&mut self) {
        let mut silent = Vec::new();
        for (key, flow) in &mut self.flows {
            if flow.is_silent && flow.in_flight > 0 {
                silent.push((key.clone(), flow.in_flight));
            }
            flow.is_silent = flow.in_flight > 0;
        }
        for (key, in_flight) in silent {
            (0..in_flight).for_each(|_| self.learn(&key, Bearing::Slowly));
        }
        // Of the part that they are no longer counted in, places are free.
        self.ready.append(&mut self.blocked);
        for schema in self.unrecorded.barred_for_long() {
            self.send_lines_away_of(&schema);
        }
    }

    pub(super) fn learn(&mut self, key: &Key, bearing: Bearing) {
        let before = self.parts;
        let Some(flow) = self.flows.get_mut(key) else { return };
        self.parts.discount(flow);
        let proven = bearing == Bearing::Well;
        flow.bound = if proven {
            (flow.bound * 2).min(ENDPOINT_IN_FLIGHT_MAX)
        } else {
            (flow.bound / 2).max(ENDPOINT_IN_FLIGHT_MIN)
        };
        flow.rest = match bearing {
            Bearing::Well => SignedDuration::ZERO,
            Bearing::Badly | Bearing::Slowly if flow.bound == ENDPOINT_IN_FLIGHT_MIN => {
                (flow.rest * 2).clamp(REST_MIN, REST_MAX)
            }
            Bearing::Badly | Bearing::Slowly => flow.rest,
        };
        flow.proven = proven;
        flow.slow = bearing == Bearing::Slowly;
        flow.dismiss_line_of_the_dead();
        self.parts.count(flow);
        self.unblock_since(before);
    }

    /// Whoever waits for a place of a part joins the turns if there are more of them than before. Most answers free none.
    fn unblock_since(&mut self, before: Parts) {
        if self.parts.unproven < before.unproven || self.parts.slow < before.slow {
            self.ready.append(&mut self.blocked);
        }
    }

    /// An attempt of this tenant's is over and about to be recorded.
    pub(super) fn begin_record(&mut self, schema: &Schema) {
        self.unrecorded.count(schema);
    }

    /// It is recorded, or never will be.
    pub(super) fn end_record(&mut self, schema: &Schema) {
        let was_barred = self.unrecorded.bars(schema);
        self.unrecorded.discount(schema);
        if was_barred && !self.unrecorded.bars(schema) {
            self.ready.append(&mut self.blocked);
            let of_it = self.flows.iter_mut().filter(|(key, _)| key.0 == *schema);
            of_it.for_each(|(_, flow)| flow.call_next());
        }
    }

    pub(super) fn send_lines_away_of(&mut self, schema: &Schema) {
        let of_it = self.flows.iter_mut().filter(|(key, _)| key.0 == *schema);
        of_it.for_each(|(_, flow)| flow.line.clear());
    }

    /// The right to one attempt, or else a place in line.
    pub(super) fn join_line(&mut self, key: &Key, delivery_id: DeliveryId) -> Option<oneshot::Receiver<()>> {
        let is_barred = self.unrecorded.bars(&key.0);
        let flow = self.flows.entry(key.clone()).or_insert_with(Flow::new);
        if flow.line.is_empty() && flow.in_flight < flow.bound && !is_barred {
            flow.in_flight += 1;
            return None;
        }
        let (call, called) = oneshot::channel();
        flow.line.push_back(Waiting { delivery_id, call });
        Some(called)
    }

    /// Whoever is next may go.
    pub(super) fn end_attempt(&mut self, key: &Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.in_flight -= 1;
        flow.is_silent = false;
        flow.dismiss_line_of_the_dead();
        if !self.unrecorded.bars(&key.0) {
            flow.call_next();
        }
    }

    /// What was reserved and not claimed. Answers as [`State::leave_endpoint`] does.
    pub(super) fn give_back(&mut self, key: &Key, places: u32) -> bool {
        self.leave_node(places);
        self.leave_endpoint(key, places)
    }

    pub(super) const fn leave_node(&mut self, places: u32) {
        self.in_hand -= places;
    }

    /// Answers whether there is something to claim now, or earlier than was known.
    pub(super) fn leave_endpoint(&mut self, key: &Key, places: u32) -> bool {
        let (before, remembered) = (self.parts, self.flows.len());
        let mut is_due_later = false;
        let Some(flow) = self.flows.get_mut(key) else { return !self.ready.is_empty() };
        self.parts.discount(flow);
        flow.in_hand -= places;
        self.parts.count(flow);
        if flow.due == Due::Full && flow.has_room() {
            if flow.rest.is_zero() {
                flow.due = Due::Ready;
                self.ready.push_back(key.clone());
            } else {
                let at = flow.rested_at();
                flow.due = Due::Later(at);
                self.later.insert((at, key.clone()));
                is_due_later = true;
            }
        }
        if flow.in_hand == 0 && flow.due == Due::No && remembered > ENDPOINTS_REMEMBERED {
            self.flows.remove(key);
        }
        self.unblock_since(before);
        is_due_later || !self.ready.is_empty()
    }
}

impl Flow {
    const fn new() -> Self {
        Self {
            in_hand: 0,
            reserved: 0,
            in_flight: 0,
            bound: ENDPOINT_IN_FLIGHT_MIN,
            line: VecDeque::new(),
            is_silent: false,
            proven: false,
            slow: false,
            turn_at: Timestamp::UNIX_EPOCH,
            rest: SignedDuration::ZERO,
            due: Due::No,
        }
    }

    pub(super) const fn in_hand_max(&self) -> u32 {
        let has_line = self.proven && self.bound >= LINE_BOUND_MIN;
        if has_line { self.bound * IN_HAND_PER_FLIGHT } else { self.bound }
    }

    /// What it counts for in its part, if it is not proven. What it was given when it answered well is no more than all may
    /// have: the dead would else keep others waiting until their attempts have timed out.
    fn charge(&self) -> u32 {
        self.in_hand.min(self.bound)
    }

    /// Whoever stands in line may go, as many as it bears.
    fn call_next(&mut self) {
        while self.in_flight < self.bound
            && let Some(next) = self.line.pop_front()
        {
            self.in_flight += u32::from(next.call.send(()).is_ok());
        }
    }

    /// An endpoint that has failed until its bound is at its least bears no line.
    fn dismiss_line_of_the_dead(&mut self) {
        if self.bound == ENDPOINT_IN_FLIGHT_MIN && !self.proven {
            self.line.clear();
        }
    }

    const fn has_room(&self) -> bool {
        self.in_hand < self.in_hand_max()
    }

    /// From when on it may have another turn.
    fn rested_at(&self) -> Timestamp {
        later(self.turn_at, self.rest)
    }

    /// Whether a delivery that is only being written may be taken in hand at once.
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
        if waits { self.proven && self.in_hand - self.reserved < self.bound } else { self.has_room() }
    }
}
