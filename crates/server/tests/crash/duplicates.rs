//! What may arrive twice: what a node had in flight or had not recorded yet when it was killed, and nothing else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::ledger::Endpoint;

/// What a kill may leave unrecorded, of each endpoint: the engine has at most 64 in flight to one on a node, and this load
/// keeps fewer than that answered and waiting for their record. In a debug build, whose records may take their time, it is
/// all that a node has in hand.
const UNRECORDED_AT_ONCE_MAX: usize = if cfg!(debug_assertions) { 1024 } else { 2 * 64 };
/// How long an attempt that was answered may wait for its record, while the database is there, in a release build. Others
/// get more, on machines that have other things to do.
const UNRECORDED_MAX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
/// What a process had sent may arrive a moment after its death: the receiver has other things to do, too.
const AFTERLIFE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// What was killed, and when.
#[derive(Default)]
pub(crate) struct Casualties {
    nodes: Vec<Kill>,
    outages: Vec<Outage>,
    /// Nodes that were killed as they started.
    stillborn: usize,
}

/// The death of a node under load, and of those that died as they started in its place: what they had begun is of the same
/// kill, and allows for no more.
struct Kill {
    at: Instant,
    last: Instant,
}

/// From the death of the database until the nodes that are there are served again.
struct Outage {
    began: Instant,
    ended: Option<Instant>,
}

impl Casualties {
    /// A node is dead now, and was struck at some time since this one.
    pub(crate) fn node_died(&mut self, at: Instant) {
        self.nodes.push(Kill { at, last: Instant::now() });
    }

    /// Its successor, too, and it was not ready yet.
    pub(crate) fn successor_died(&mut self) {
        self.nodes.last_mut().unwrap().last = Instant::now();
        self.stillborn += 1;
    }

    /// The same of the database.
    pub(crate) fn database_died(&mut self, at: Instant) {
        self.outages.push(Outage { began: at, ended: None });
    }

    pub(crate) fn database_serves(&mut self) {
        self.outages.last_mut().unwrap().ended = Some(Instant::now());
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn databases(&self) -> usize {
        self.outages.len()
    }

    /// Every attempt that was made twice was so because of a kill: it had not been answered long before that. No kill is to
    /// blame for more than may have been unrecorded.
    pub(crate) fn judge(&self, endpoint: &Endpoint) {
        let (mut by_kill, mut longest) = (BTreeMap::new(), Duration::ZERO);
        let arrivals = endpoint.receiver.arrivals.all();
        for (id, pair) in arrivals.iter().flat_map(|(id, all)| all.windows(2).map(move |pair| (id, pair))) {
            assert!(pair[0].attempt <= pair[1].attempt, "{id}: an attempt came after the next one");
            if pair[0].attempt < pair[1].attempt {
                continue;
            }
            let (first, second) = (pair[0].at, pair[1].at);
            let Some((kill, before)) = self.to_blame(first, second) else {
                panic!("{}: {id} was sent twice without a kill in between", endpoint.name);
            };
            assert!(
                before <= UNRECORDED_MAX,
                "{}: {id} was sent again after a kill, and had arrived {before:.2?} before it",
                endpoint.name
            );
            longest = longest.max(before);
            *by_kill.entry(kill).or_insert(0_usize) += 1;
        }
        let most = by_kill.values().copied().max().unwrap_or_default();
        println!(
            "  {}: {} duplicates after {} kills of nodes, {} of their successors as they started and {} of the database; \
             at most {most} after one, which had arrived {longest:.2?} before it",
            endpoint.name,
            by_kill.values().sum::<usize>(),
            self.nodes.len(),
            self.stillborn,
            self.outages.len()
        );
        assert!(
            most <= UNRECORDED_AT_ONCE_MAX,
            "{}: {most} duplicates of one kill: more than may have been unrecorded",
            endpoint.name
        );
    }

    /// The first kill after the first of two arrivals and before the second, or the last one before both whose victim's request
    /// may have come so late; and how long before it the first was.
    fn to_blame(&self, first: Instant, second: Instant) -> Option<(usize, Duration)> {
        let is_before = |kill: &Kill| kill.at <= second;
        let after = self.nodes.iter().position(|kill| first <= kill.last && is_before(kill));
        let late = || self.nodes.iter().rposition(|kill| first <= kill.last + AFTERLIFE && is_before(kill));
        let nth = after.or_else(late)?;
        Some((nth, self.served_between(first, self.nodes[nth].at)))
    }

    /// How long the database was there.
    fn served_between(&self, from: Instant, to: Instant) -> Duration {
        let down = |outage: &Outage| {
            let ended = outage.ended.map_or(to, |ended| ended.min(to));
            ended.saturating_duration_since(outage.began.max(from))
        };
        to.saturating_duration_since(from).saturating_sub(self.outages.iter().map(down).sum())
    }
}
