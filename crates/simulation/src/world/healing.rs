//! The end of all trouble, and waiting until everything is over.

use std::{sync::PoisonError, time::Duration};

use neo_events_domain::{SignedDuration, Timestamp};
use neo_events_engine::{Clock, Passes};

use super::{NODES, World, catalogue::endpoints};
use crate::{happening::Happening, property::Property, random::Dice};

/// How long what is damaged stays so while all else is well: longer than an attempt may hold its lease.
const DAMAGED_FOR: Duration = Duration::from_secs(360 + 40);
/// How often is looked whether everything is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Longest that anything waits when nothing goes wrong: for retries, timeouts and `Retry-After`.
const WAIT_MAX: Duration = Duration::from_mins(2);
/// Longest that a lease lasts, and what the clock went back.
const LEASES_MAX: Duration = Duration::from_mins(6 + 1);
/// After this time a silent session is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How soon what it left must be done then: finding it takes half a second, and receivers are fast.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(2);
/// What hangs when the trouble ends has ended by then.
const CALM_AFTER: SignedDuration = SignedDuration::from_secs(15);

impl World {
    /// Nothing goes wrong any more: receivers are good, nodes run, endpoints are active, the clock is right.
    pub(crate) async fn heal(&mut self) {
        self.judge.note(|| "— everything heals".to_owned());
        let dice = Dice::new(self.options.seed, "healing", 0);
        self.bury_the_dead(&dice).await;
        self.spare_all();
        self.weather.heal();
        self.network.heal();
        let are_equal = self.passes == [Passes::ALL; NODES];
        let one_stays_dead =
            are_equal && self.nodes.iter().any(|node| node.running.is_some()) && dice.per_mille(300);
        for number in 0..self.nodes.len() {
            if self.nodes[number].running.is_none() && !one_stays_dead {
                self.start(number).await;
            }
        }
        self.mend(&dice).await;
        self.set_the_clock();
        if !self.has_jumped() {
            let now = self.wall().saturating_add(CALM_AFTER).unwrap_or(Timestamp::MAX);
            self.judge.calm(now);
        }
    }

    /// Somebody mends what is damaged, sometimes late.
    async fn mend(&self, dice: &Dice) {
        let is_late = dice.per_mille(500);
        if is_late && self.weather.damaged().into_iter().any(|id| self.judge.is_open(id)) {
            self.judge.note(|| "— but for what is damaged".to_owned());
            tokio::time::sleep(DAMAGED_FOR).await;
            self.free_what_is_to_be_freed();
        }
        self.weather.mend();
    }

    /// A node dies with work in its hands while nothing else is wrong: the other one has done it soon after the leases
    /// are freed.
    pub(crate) async fn take_over(&mut self) {
        let are_two = self.nodes.iter().all(|node| node.running.is_some());
        if !are_two || !self.has_sessions || self.has_jumped() || self.passes != [Passes::ALL; NODES] {
            return;
        }
        self.judge.note(|| "— a node dies, the other takes over".to_owned());
        let dice = Dice::new(self.options.seed, "taking over", 0);
        self.crash_while_publishing(&dice).await;
        while self.publishers.join_next().await.is_some() {}
        tokio::time::sleep(SILENCE_MAX).await;
        self.free_what_is_to_be_freed();
        tokio::time::sleep(TAKEN_OVER_WITHIN).await;
        self.tally.note(Happening::TakenOver);
        if !self.judge.is_over() {
            self.judge.violated(Property::WorkIsTakenOver, "something is not over yet");
        }
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        self.judge.judge_the_end(&accepted);
    }

    /// Also what a 410 disables that was on its way when everything healed.
    async fn activate_all(&self) {
        for schema in &self.schemas {
            for endpoint in endpoints(&self.memory, schema).await {
                if !endpoint.is_active {
                    self.set_active(schema, &endpoint, true).await;
                }
            }
        }
    }

    /// A wall that is behind what is due is set to it, unless that is so far that tending must find it. This stands for
    /// waiting: what a node wrote whose clock ran ahead is late by that much on a node whose clock is right.
    fn set_the_clock(&self) {
        if !self.has_jumped() {
            return;
        }
        let wall = self.clock.wall();
        let clocks = self.nodes.iter().filter_map(|node| Some(node.running.as_ref()?.sources.now()));
        let Some(due) = clocks.filter_map(|now| self.memory.last_due_within_policy(now)).max() else {
            return;
        };
        let wait = due.duration_since(wall);
        if wait > SignedDuration::from_secs(60) {
            self.clock.jump(i64::try_from(wait.as_micros()).unwrap_or(0));
        }
    }

    /// Waits until everything is over, and a little longer, in which nothing more may happen.
    pub(crate) async fn settle(&mut self) {
        let patience = if self.has_sessions { WAIT_MAX } else { WAIT_MAX + LEASES_MAX };
        self.wait_until_over(patience).await;
    }

    /// Where no clock has jumped and everything is over, some requests fail while nothing else is wrong: there are first
    /// attempts and retries, and each must be claimed soon.
    pub(crate) async fn fail_in_the_calm(&mut self) {
        if self.has_jumped() {
            return;
        }
        self.judge.note(|| "— calm, but for some requests".to_owned());
        let dice = Dice::new(self.options.seed, "calm", 0);
        self.judge.calm(self.wall());
        self.network.fail_now_and_then();
        for schema in self.schemas.clone() {
            // Few: an endpoint that fails rests between two turns, and whoever stands in line must wait for that.
            self.publish_to(schema, dice.between(1, 3), &dice);
            tokio::time::sleep(Duration::from_millis(dice.between(0, 1500))).await;
        }
        tokio::time::sleep(Duration::from_secs(dice.between(1, 6))).await;
        self.network.heal();
        self.wait_until_over(WAIT_MAX).await;
    }

    /// What is still late may be the beginning of more.
    fn is_over(&self) -> bool {
        self.stragglers.are_done() && self.judge.is_over()
    }

    async fn wait_until_over(&mut self, patience: Duration) {
        let until = self.clock.elapsed() + patience;
        // Whoever publishes ends before, in vain if its nodes are dead.
        while self.publishers.join_next().await.is_some() {}
        while !self.is_over() && self.judge.violation().is_none() {
            if self.clock.elapsed() > until {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.free_what_is_to_be_freed();
            self.activate_all().await;
            self.set_the_clock();
        }
        tokio::time::sleep(4 * LOOK_INTERVAL).await;
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        self.judge.judge_the_end(&accepted);
    }
}
