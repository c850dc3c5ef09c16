//! Any steps in any order: what holds after each of them.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What happens to the places of three tenants with two endpoints each.
#[derive(Debug, Clone)]
enum Step {
    /// An endpoint owes something; all that there is room for is claimed.
    Claim {
        endpoint: u128,
    },
    /// The first few in hand, counted from somewhere, ask for their turn.
    AskForTurns {
        from: usize,
    },
    /// Some of those in flight are answered.
    Answer {
        from: usize,
        count: usize,
        health: AttemptHealth,
    },
    /// Some of those that were answered are recorded.
    Record {
        from: usize,
        count: usize,
    },
    /// Many attempts of a tenant are answered that have nothing to do with these endpoints.
    HoldUp {
        tenant: u128,
        count: u32,
    },
    /// They are recorded.
    LetGo {
        tenant: u128,
    },
    NoticeSilence,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let health = prop_oneof![
        4 => Just(AttemptHealth::Good),
        1 => Just(AttemptHealth::Erred),
        1 => Just(AttemptHealth::Failed),
        1 => Just(AttemptHealth::Slow),
    ];
    let step = prop_oneof![
        4 => (0..6_u128).prop_map(|endpoint| Step::Claim { endpoint }),
        4 => any::<usize>().prop_map(|from| Step::AskForTurns { from }),
        6 => (any::<usize>(), 1..100_usize, health)
            .prop_map(|(from, count, health)| Step::Answer { from, count, health }),
        3 => (any::<usize>(), 1..100_usize).prop_map(|(from, count)| Step::Record { from, count }),
        3 => (0..3_u128, 1..600_u32).prop_map(|(tenant, count)| Step::HoldUp { tenant, count }),
        3 => (0..3_u128).prop_map(|tenant| Step::LetGo { tenant }),
        1 => Just(Step::NoticeSilence),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The places of one walk, by how far they have come.
#[derive(Default)]
struct Walk {
    admission: Arc<Admission>,
    in_hand: Vec<Place>,
    /// Each with the message that is to call it.
    queued: Vec<(Place, oneshot::Receiver<()>)>,
    in_flight: Vec<Place>,
    answered: Vec<Place>,
    held_up: [u32; 3],
}

impl Walk {
    fn tenant(n: u128) -> Schema {
        Schema::tenant(&format!("t{n}")).unwrap()
    }

    fn key(endpoint: u128) -> Key {
        (Self::tenant(endpoint % 3), EndpointId::from_uuid(Uuid::from_u128(endpoint)))
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Claim { endpoint } => {
                self.admission.owe(Self::key(endpoint), at(0));
                let admission = Arc::clone(&self.admission);
                let mut reservation = admission.reserve(at(1));
                for quota in reservation.quotas() {
                    let key = (quota.schema.clone(), quota.endpoint_id);
                    let places = (0..quota.max).map(|_| Arc::clone(&admission).place(key.clone()));
                    self.in_hand.extend(places);
                }
                let reserved: Vec<_> = reservation.quotas().to_vec();
                reservation.end(|key| {
                    let quota =
                        reserved.iter().find(|quota| (&quota.schema, quota.endpoint_id) == (&key.0, key.1));
                    Claimed { deliveries: quota.unwrap().max, next_due_at: None }
                });
            }
            Step::AskForTurns { from } => {
                for mut place in some(&mut self.in_hand, from, 50) {
                    let queued = self.admission.state().join_queue(&place.key, NOBODY);
                    if let Some(called) = queued {
                        self.queued.push((place, called));
                    } else {
                        place.stage = Stage::AtEndpoint;
                        self.in_flight.push(place);
                    }
                }
            }
            Step::Answer { from, count, health } => {
                for mut place in some(&mut self.in_flight, from, count) {
                    place.answered(health);
                    self.answered.push(place);
                }
            }
            Step::Record { from, count } => drop(some(&mut self.answered, from, count)),
            Step::HoldUp { tenant, count } => {
                // They hold places, and there are not more than there are.
                let free = IN_HAND_MAX - self.admission.state().in_hand;
                let count = count.min(free);
                let mut state = self.admission.state();
                state.in_hand += count;
                (0..count).for_each(|_| state.begin_record(&Self::tenant(tenant)));
                self.held_up[usize::try_from(tenant).unwrap()] += count;
            }
            Step::LetGo { tenant } => {
                let count = std::mem::take(&mut self.held_up[usize::try_from(tenant).unwrap()]);
                let mut state = self.admission.state();
                state.leave_node(count);
                (0..count).for_each(|_| state.end_record(&Self::tenant(tenant)));
            }
            Step::NoticeSilence => self.admission.notice_silence(),
        }
        self.hear_calls();
    }

    /// Who is called is in flight; who is sent away gives its place back.
    fn hear_calls(&mut self) {
        for (mut place, mut called) in std::mem::take(&mut self.queued) {
            match called.try_recv() {
                Ok(()) => {
                    place.stage = Stage::AtEndpoint;
                    self.in_flight.push(place);
                }
                Err(oneshot::error::TryRecvError::Empty) => self.queued.push((place, called)),
                Err(oneshot::error::TryRecvError::Closed) => drop(place),
            }
        }
    }

    fn check(&self) {
        let state = self.admission.state();
        let held_up: u32 = self.held_up.iter().sum();
        let places = self.in_hand.len() + self.queued.len() + self.in_flight.len() + self.answered.len();
        assert_eq!(state.in_hand, u32::try_from(places).unwrap() + held_up);
        assert!(state.in_hand <= IN_HAND_MAX);
        let (mut shares, mut of_tenant) =
            (RestrictedShares::default(), HashMap::<Schema, RestrictedShares>::new());
        for (key, load) in &state.endpoints {
            let of_it = |places: &[Place]| places.iter().filter(|place| place.key == *key).count();
            assert_eq!(load.in_flight as usize, of_it(&self.in_flight));
            let is_blocked = state.unrecorded.blocks_new_work_for(&key.0);
            assert!(
                load.queue.is_empty() || load.in_flight >= load.bound || is_blocked,
                "{} stand queued with nothing in their way",
                load.queue.len()
            );
            shares.count(load);
            of_tenant.entry(key.0.clone()).or_default().count(load);
        }
        of_tenant.retain(|_, held| *held != RestrictedShares::default());
        assert_eq!((&state.shares.held, &state.shares.of_tenant), (&shares, &of_tenant));
        for key in &state.blocked {
            let load = &state.endpoints[key];
            let waits_for_share = state.shares.free(key, load, 1) == 0;
            assert!(
                waits_for_share || state.unrecorded.blocks_new_work_for(&key.0) || !load.has_room(),
                "an endpoint has no turn with nothing in its way"
            );
        }
    }
}

/// As many as are asked for, counted from somewhere.
fn some(places: &mut Vec<Place>, from: usize, count: usize) -> Vec<Place> {
    let from = from.checked_rem(places.len()).unwrap_or(0);
    places.drain(from..places.len().min(from + count)).collect()
}

proptest! {
    #[test]
    fn whatever_happens_nobody_waits_with_nothing_in_the_way(steps in steps()) {
        let mut walk = Walk::default();
        for step in &steps {
            walk.take(step);
            walk.check();
        }
        for tenant in 0..3 {
            walk.take(&Step::LetGo { tenant });
        }
        let admission = Arc::clone(&walk.admission);
        drop(walk);
        prop_assert_eq!(admission.state().in_hand, 0, "every place comes back");
    }
}
