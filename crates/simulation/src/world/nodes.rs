//! Nodes: start, crash, shutdown.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use neo_events_domain::tenant::Schema;
use neo_events_engine::{Engine, EngineHandle, Shutdown, Sources, Transport};
use neo_events_store::{EventLog, EventQuery, PageRequest, Store};

use super::{Freeing, Leases, World};
use crate::{
    bugs::{Bug, PlantedTransport},
    happening::Happening,
    layers::{Layers, Unheard},
    life::Life,
    network::SimulatedTransport,
    property::Property,
    random::Dice,
};

/// Most steps that a node lives on when it is to die: some seconds if it has nothing to do.
const STEPS_MAX: u64 = 80;

/// A node, running or down.
pub(super) struct Node {
    number: usize,
    pub(super) running: Option<Running>,
    down_until: Duration,
}

/// A life of a node.
pub(super) struct Running {
    pub(super) life: Life,
    pub(super) sources: Sources,
    pub(super) handle: EngineHandle,
    engine: Engine,
}

/// How a publisher gets in.
pub(super) type Door = (EngineHandle, Sources);

impl Node {
    pub(super) const fn new(number: usize) -> Self {
        Self { number, running: None, down_until: Duration::ZERO }
    }
}

impl World {
    pub(super) async fn start(&mut self, node: usize) {
        self.holders += 1;
        let life = Life::new(node, self.holders);
        let dice = |name| Dice::new(self.options.seed, name, u64::from(life.holder));
        let sources = Sources::new(Arc::new(self.clock.clone()), Arc::new(dice("engine")));
        // As whoever embeds the engine does.
        let (admin, page) = (Schema::admin(), PageRequest::first(1));
        let newest = self.memory.events(&admin, &EventQuery::default(), page).await;
        for newest in newest.expect("the model never fails").items {
            sources.not_before(newest.event.created_at);
        }
        let store = self.store_of(&life, &sources);
        let transport = SimulatedTransport {
            life: life.clone(),
            network: self.network.clone(),
            judge: self.judge.clone(),
            dice: dice("transport"),
        };
        let mut transport: Arc<dyn Transport> = Arc::new(transport);
        if let Some(bug) = self.options.bug {
            transport = Arc::new(PlantedTransport::new(bug, transport));
        }
        let (keyring, clock) = (Arc::clone(&self.keyring), sources.clone());
        let engine = Engine::start(store, transport, keyring, clock, self.passes[node]);
        self.judge.note(|| format!("node {node} starts as {}", life.holder));
        let handle = engine.handle();
        self.nodes[node].running = Some(Running { life, sources, handle, engine });
    }

    fn store_of(&self, life: &Life, sources: &Sources) -> Arc<dyn Store> {
        let layers = Layers {
            life: life.clone(),
            memory: self.memory.handle(life.holder),
            weather: self.weather.clone(),
            judge: self.judge.clone(),
            tally: self.tally.clone(),
            sources: sources.clone(),
            bug: self.options.bug,
            unheard: self.unheard(),
            stragglers: self.stragglers.clone(),
            keeps_unsettled: self.keeps_unsettled,
        };
        layers.stack()
    }

    /// With sessions, a node gives back what it was granted and did not hear of.
    fn unheard(&self) -> Unheard {
        let (clock, to_be_freed, has_sessions) =
            (self.clock.clone(), Arc::clone(&self.to_be_freed), self.has_sessions);
        Arc::new(move |_, tokens| {
            if has_sessions && !tokens.is_empty() {
                let at = neo_events_engine::Clock::elapsed(&clock) + Duration::from_secs(2);
                let what = Leases::These(tokens);
                to_be_freed.lock().unwrap_or_else(PoisonError::into_inner).push(Freeing { at, what });
            }
        })
    }

    /// A running node.
    pub(super) fn any_running(&self, dice: &Dice) -> Option<&Running> {
        let running: Vec<_> = self.nodes.iter().filter_map(|node| node.running.as_ref()).collect();
        dice.pick(&running).copied()
    }

    /// What a publisher knows of nodes: those that run when it begins.
    pub(super) fn doors(&self) -> Vec<Door> {
        let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
        running.map(|running| (running.handle.clone(), running.sources.clone())).collect()
    }

    /// One of the nodes, running or down.
    fn any_node(&self, dice: &Dice) -> usize {
        usize::try_from(dice.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    fn take(&mut self, node: usize, dice: &Dice) -> Option<Running> {
        let node = &mut self.nodes[node];
        node.down_until = neo_events_engine::Clock::elapsed(&self.clock) + down_time(dice);
        node.running.take()
    }

    /// A node dies wherever it is, at once or some steps from here: whatever it has begun stays as it is, and nothing more
    /// happens.
    pub(super) async fn crash(&mut self, dice: &Dice) {
        let node = self.any_node(dice);
        let Some(Running { life, .. }) = &self.nodes[node].running else { return };
        if dice.per_mille(300) {
            life.end();
            return self.bury(node, dice).await;
        }
        let steps = dice.between(1, STEPS_MAX);
        self.judge.note(|| format!("node {node} has {steps} steps to live"));
        life.end_after(steps);
    }

    /// What is left of those that have died at one of their steps goes.
    pub(super) async fn bury_the_dead(&mut self, dice: &Dice) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.as_ref().is_some_and(|running| running.life.is_over()) {
                self.tally.note(Happening::CrashAtStep);
                self.bury(node, dice).await;
            }
        }
    }

    async fn bury(&mut self, node: usize, dice: &Dice) {
        let Some(Running { life, engine, .. }) = self.take(node, dice) else { return };
        self.judge.note(|| format!("node {node} is dead"));
        self.tally.note(Happening::Crash);
        drop(engine);
        // Its tasks are dropped one within the other.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.is_gone(&life, dice.between(3000, 5000));
    }

    /// Who was to die lives on.
    pub(super) fn spare_all(&self) {
        self.nodes.iter().filter_map(|node| node.running.as_ref()).for_each(|running| running.life.spare());
    }

    /// A node dies while somebody publishes: at one of its steps, or soon after.
    pub(super) async fn crash_while_publishing(&mut self, dice: &Dice) {
        let node = self.any_node(dice);
        if let Some(running) = &self.nodes[node].running {
            running.life.end_after(dice.between(1, STEPS_MAX));
        }
        for _ in 0..3 {
            self.publish(dice);
        }
        tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
        self.bury_the_dead(dice).await;
        if let Some(running) = &self.nodes[node].running {
            running.life.end();
            self.bury(node, dice).await;
        }
    }

    /// A node is told to stop, and may or may not have the time.
    pub(super) async fn shut_down(&mut self, dice: &Dice) {
        let taken = self.take(self.any_node(dice), dice);
        let Some(Running { life, sources, engine, .. }) = taken else { return };
        let grace = Duration::from_millis(dice.below(4) * dice.between(1, 2000));
        self.judge.stops(life.holder);
        let went = engine.shutdown(grace).await;
        self.judge.note(|| format!("node {} was shut down: {went:?}", life.node));
        match went {
            Shutdown::Drained => {
                self.tally.note(Happening::Drained);
                self.judge.has_drained(&life, sources.now());
            }
            Shutdown::CutOff => self.tally.note(Happening::CutOff),
        }
        life.end();
        self.is_gone(&life, dice.between(0, 3000));
    }

    fn is_gone(&self, life: &Life, freed_after_ms: u64) {
        self.judge.over(life.holder);
        if self.has_sessions {
            let late_ms = if self.options.bug == Some(Bug::LateBurial) { 10_000 } else { 0 };
            self.free_later(Duration::from_millis(freed_after_ms + late_ms), Leases::Of(life.holder));
        }
    }

    pub(super) async fn restart_what_is_down(&mut self, dice: &Dice) {
        let now = neo_events_engine::Clock::elapsed(&self.clock);
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            if node.running.is_none() && node.down_until <= now && dice.per_mille(500) {
                debug_assert_eq!(node.number, number);
                self.start(number).await;
            }
        }
    }

    /// All nodes stop, one after the other, in the midst of work, and have the time.
    pub(crate) async fn stop(&mut self) {
        self.judge.note(|| "— all stop".to_owned());
        let dice = Dice::new(self.options.seed, "stopping", 0);
        for number in 0..self.nodes.len() {
            if self.nodes[number].running.is_none() {
                continue;
            }
            for schema in self.schemas.clone() {
                self.publish_to(schema, dice.between(1, 3), &dice);
            }
            tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
            let Some(Running { life, sources, engine, .. }) = self.nodes[number].running.take() else {
                continue;
            };
            self.judge.stops(life.holder);
            match engine.shutdown(Duration::from_secs(15)).await {
                Shutdown::Drained => self.judge.has_drained(&life, sources.now()),
                Shutdown::CutOff => {
                    let what = "a node that has the time to drain is cut off";
                    self.judge.violated(Property::EverythingSettles, what);
                }
            }
        }
        while self.publishers.join_next().await.is_some() {}
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        self.judge.judge_the_stop(&accepted);
    }
}

fn down_time(dice: &Dice) -> Duration {
    Duration::from_millis(if dice.per_mille(800) {
        dice.between(0, 8000)
    } else {
        dice.between(8000, 90_000)
    })
}
