//! What goes wrong.

use neo_events_domain::SignedDuration;

use super::World;
use crate::{
    happening::Happening,
    network::Manner,
    random::Dice,
    weather::{Failing, Rates},
};

const SECOND: i64 = 1_000_000;
/// Without sessions leases expire by the clock: then it must not go back further than a run can wait.
const BACK_MAX: i64 = 60 * SECOND;

impl World {
    pub(super) fn change_receiver(&self, dice: &Dice) {
        let Some(id) = self.judge.any_endpoint(dice) else { return };
        let manner = Manner::draw(dice);
        self.judge.note(|| format!("receiver {} is {manner:?}", crate::judge::short(id)));
        self.network.set(id, manner);
    }

    pub(super) fn cut_network(&self, dice: &Dice) {
        let (node, is_cut) = (self.some_node(dice), dice.per_mille(500));
        self.judge.note(|| format!("node {node} has no network: {is_cut}"));
        self.network.cut(node, is_cut);
    }

    pub(super) fn cut_store(&self, dice: &Dice) {
        let (node, is_cut) = (self.some_node(dice), dice.per_mille(500));
        self.judge.note(|| format!("node {node} does not reach the store: {is_cut}"));
        self.weather.cut(node, is_cut);
    }

    /// A tenant's calls fail for a while, or a delivery cannot be recorded until somebody mends its row.
    pub(super) fn damage(&self, dice: &Dice) {
        if dice.per_mille(120) {
            let Some(id) = self.judge.any_open_delivery(dice) else { return };
            self.judge.note(|| format!("the row of delivery {} is damaged", crate::judge::short(id)));
            return self.weather.damage(id);
        }
        let Some(schema) = dice.pick(&self.schemas) else { return };
        let each = [Failing::Unreachable, Failing::Full, Failing::ReadOnly, Failing::Broken];
        let how = if dice.per_mille(400) { None } else { dice.pick(&each).copied() };
        self.judge.note(|| format!("{schema}: calls fail: {how:?}"));
        self.weather.ail(schema, how);
    }

    fn some_node(&self, dice: &Dice) -> usize {
        usize::try_from(dice.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    pub(super) fn change_weather(&self, dice: &Dice) {
        let is_fair = dice.per_mille(300);
        let rates = Rates::draw(dice, &self.options);
        self.weather.change(if is_fair { Rates::default() } else { rates });
    }

    pub(super) fn jump_clock(&mut self, dice: &Dice) {
        let seconds = |most: u64| i64::try_from(dice.between(1, most)).unwrap_or(1) * SECOND;
        let far = self.has_sessions;
        let jump = match dice.below(10) {
            0..=3 => seconds(30),
            4 | 5 => seconds(if far { 7200 } else { 600 }),
            6 if far => seconds(400 * 24 * 3600),
            6..=8 => -seconds(30),
            _ => -seconds(if far { 7200 } else { 30 }),
        };
        if self.keeps_time {
            return;
        }
        let back = self.jumped_back_micros.unwrap_or(0) - jump.min(0);
        if jump < 0 && !far && back > BACK_MAX {
            return;
        }
        self.jumped_back_micros = Some(back);
        self.tally.note(if jump < 0 { Happening::JumpBack } else { Happening::JumpAhead });
        self.judge.note(|| format!("the wall clock jumps by {:?}", SignedDuration::from_micros(jump)));
        self.clock.jump(jump);
    }

    pub(super) fn lose_session(&self, dice: &Dice) {
        let Some(running) = self.any_running(dice).filter(|_| self.has_sessions) else { return };
        self.judge.note(|| format!("node {} is taken for dead", running.life.node));
        self.tally.note(Happening::SessionLost);
        self.memory.free_leases_of(running.life.holder);
    }
}
