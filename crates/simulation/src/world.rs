//! The world: nodes that run the real engine over one store, a network, a clock, people.

mod catalogue;
mod healing;
mod nodes;
mod people;
mod trouble;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use neo_events_domain::{
    Timestamp,
    id::EventId,
    tenant::{Schema, Tenant},
};
use neo_events_engine::{Clock, Keyring, MasterKey, Passes, Sources};
use neo_events_store::Tenants;
use tokio::task::JoinSet;

use crate::{
    clock::SimulatedClock,
    effect::Watcher,
    happening::Tally,
    judge::{Judge, Trace},
    layers::Stragglers,
    memory::{Holder, MemoryStore},
    network::Network,
    options::Options,
    plan::Action,
    random::Dice,
    weather::Weather,
};
use nodes::Node;

/// Nodes in a world.
const NODES: usize = 2;
/// Tenants in a world besides `admin`.
const TENANTS: [&str; 2] = ["acme", "zeta"];
/// Endpoints that a tenant begins with, at most.
const ENDPOINTS_MAX: u64 = 3;

/// Everything that a run has.
pub(crate) struct World {
    options: Options,
    clock: SimulatedClock,
    judge: Judge,
    tally: Tally,
    memory: MemoryStore,
    weather: Weather,
    stragglers: Stragglers,
    network: Network,
    keyring: Arc<Keyring>,
    sources: Sources,
    nodes: Vec<Node>,
    holders: Holder,
    schemas: Vec<Schema>,
    accepted: Arc<Mutex<BTreeSet<EventId>>>,
    publishers: JoinSet<()>,
    /// Whether nodes have sessions, so that the leases of dead ones are freed before they expire.
    has_sessions: bool,
    /// Whether what could not be settled stays with its holder until that gives it back.
    keeps_unsettled: bool,
    /// What each node does; where the work is divided, all are needed.
    passes: [Passes; NODES],
    /// Whether the wall clock never jumps.
    keeps_time: bool,
    /// How far it went back so far; `None`: it has never jumped.
    jumped_back_micros: Option<i64>,
    to_be_freed: Arc<Mutex<Vec<Freeing>>>,
}

/// Leases that somebody will free.
struct Freeing {
    at: Duration,
    what: Leases,
}

enum Leases {
    Of(Holder),
    These(Vec<u64>),
}

impl World {
    /// A world with some tenants, endpoints and subscriptions, and all nodes running.
    pub(crate) async fn new(options: &Options) -> Self {
        let clock = SimulatedClock::new();
        let dice = Dice::new(options.seed, "world", 0);
        let tally = Tally::default();
        let judge = Judge::new(clock.clone(), Trace::new(options.is_logged), tally.clone());
        let watcher = {
            let judge = judge.clone();
            Watcher::new(move |schema, effect| judge.effect(schema, effect))
        };
        let sources = Sources::new(Arc::new(clock.clone()), Arc::new(dice.clone()));
        let keyring = Keyring::new(&[MasterKey::generate(&sources)], sources.clone());
        let has_sessions = dice.per_mille(700);
        let mut world = Self {
            options: options.clone(),
            clock,
            judge,
            tally: tally.clone(),
            memory: MemoryStore::new(watcher),
            weather: Weather::fair(Dice::new(options.seed, "weather", 0), tally.clone()),
            stragglers: Stragglers::default(),
            network: Network::new(tally),
            keyring: Arc::new(keyring.expect("one key is enough")),
            sources,
            nodes: (0..NODES).map(Node::new).collect(),
            holders: 0,
            schemas: vec![Schema::admin()],
            accepted: Arc::default(),
            publishers: JoinSet::new(),
            has_sessions,
            // Without sessions nobody would free what a dead node kept.
            keeps_unsettled: has_sessions && Dice::new(options.seed, "unsettled", 0).per_mille(400),
            passes: passes(&Dice::new(options.seed, "passes", 0)),
            keeps_time: Dice::new(options.seed, "time", 0).per_mille(400),
            jumped_back_micros: None,
            to_be_freed: Arc::default(),
        };
        world.furnish(&dice).await;
        for node in 0..NODES {
            world.start(node).await;
        }
        world
    }

    async fn furnish(&mut self, dice: &Dice) {
        for slug in TENANTS {
            let schema = Schema::tenant(slug).expect("a slug");
            let tenant = Tenant { schema: schema.clone(), name: None, created_at: self.clock.wall() };
            self.memory.create_tenant(&tenant).await.expect("the model never fails");
            self.schemas.push(schema);
        }
        for schema in self.schemas.clone() {
            for _ in 0..dice.between(1, ENDPOINTS_MAX) {
                self.add_endpoint(&schema, dice).await;
            }
        }
    }

    pub(crate) const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// One step: something happens, then time goes on.
    pub(crate) async fn step(&mut self, number: u32) {
        let dice = Dice::new(self.options.seed, "step", number.into());
        let action = Action::draw(&dice, &self.options);
        self.judge.begin_step(number);
        self.judge.note(|| format!("— step {number}: {action:?}"));
        self.act(action, &dice).await;
        tokio::time::sleep(pause(&dice)).await;
        self.bury_the_dead(&dice).await;
        self.free_what_is_to_be_freed();
        self.restart_what_is_down(&dice).await;
    }

    async fn act(&mut self, action: Action, dice: &Dice) {
        match action {
            Action::Publish => self.publish(dice),
            Action::Wait => {}
            Action::Configure => self.configure(dice).await,
            Action::Cancel => self.cancel(dice).await,
            Action::Retry => self.retry(dice).await,
            Action::ChangeReceiver => self.change_receiver(dice),
            Action::CutNetwork => self.cut_network(dice),
            Action::CutStore => self.cut_store(dice),
            Action::Damage => self.damage(dice),
            Action::ChangeWeather => self.change_weather(dice),
            Action::JumpClock => self.jump_clock(dice),
            Action::Crash => self.crash(dice).await,
            Action::ShutDown => self.shut_down(dice).await,
            Action::LoseSession => self.lose_session(dice),
        }
    }

    /// Whether the wall clock has jumped.
    const fn has_jumped(&self) -> bool {
        self.jumped_back_micros.is_some()
    }

    /// What the wall says, to people and their tools.
    fn wall(&self) -> Timestamp {
        self.sources.wall()
    }

    fn free_later(&self, wait: Duration, what: Leases) {
        let at = self.clock.elapsed() + wait;
        self.to_be_freed.lock().unwrap_or_else(PoisonError::into_inner).push(Freeing { at, what });
    }

    fn free_what_is_to_be_freed(&self) {
        let now = self.clock.elapsed();
        let mut waiting = self.to_be_freed.lock().unwrap_or_else(PoisonError::into_inner);
        let (ripe, later) = std::mem::take(&mut *waiting).into_iter().partition(|free| free.at <= now);
        *waiting = later;
        drop(waiting);
        for Freeing { what, .. } in Vec::<Freeing>::into_iter(ripe) {
            match what {
                Leases::Of(holder) => self.memory.free_leases_of(holder),
                Leases::These(tokens) => self.memory.free_tokens(&tokens),
            }
        }
    }
}

/// Mostly equal nodes, sometimes one that dispatches and one that delivers.
fn passes(dice: &Dice) -> [Passes; NODES] {
    if dice.per_mille(850) {
        return [Passes::ALL; NODES];
    }
    [Passes { deliver: false, ..Passes::ALL }, Passes { dispatch: false, ..Passes::ALL }]
}

/// How long until the next step: mostly moments, sometimes seconds, rarely minutes.
fn pause(dice: &Dice) -> Duration {
    let millis = match dice.below(100) {
        0..=69 => dice.between(1, 400),
        70..=94 => dice.between(400, 4000),
        95..=98 => dice.between(4000, 15_000),
        _ => dice.between(15_000, 100_000),
    };
    Duration::from_millis(millis)
}
