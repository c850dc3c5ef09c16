//! One run, from its options to what was found.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt, panic,
    sync::Once,
};

use tokio::runtime::Builder;

use crate::{
    happening::Happening,
    options::Options,
    property::{Property, Violation},
    world::World,
};

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// The same for two runs if, and as good as only if, everything happened in them in the same way.
    pub number: u64,
    /// The readable log, if one was asked for.
    pub log: Vec<String>,
    /// What there was in it.
    pub counts: Counts,
    /// How often what happened in it; what did not happen is not in it.
    pub happened: BTreeMap<Happening, u64>,
}

/// How much happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events stored.
    pub events: u64,
    /// Deliveries written.
    pub deliveries: u64,
    /// Requests that reached a receiver.
    pub requests: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, deliveries, requests } = self;
        write!(f, "{events} events, {deliveries} deliveries, {requests} requests")
    }
}

/// Makes a run. The same options make the same run.
pub fn run(options: &Options) -> Outcome {
    let _watched = Watched::begin();
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime that only keeps time").block_on(simulate(options))
}

async fn simulate(options: &Options) -> Outcome {
    let mut world = World::new(options).await;
    for number in 0..options.steps {
        world.step(number).await;
        if is_over(&world) {
            return outcome(&world);
        }
    }
    world.judge().begin_step(options.steps);
    world.heal().await;
    world.settle().await;
    if !is_over(&world) {
        world.fail_in_the_calm().await;
    }
    if !is_over(&world) {
        world.take_over().await;
    }
    if !is_over(&world) {
        world.stop().await;
    }
    is_over(&world);
    outcome(&world)
}

fn is_over(world: &World) -> bool {
    if let Some(panic) = PANIC.take() {
        world.judge().violated(Property::NothingPanics, panic);
    }
    world.judge().violation().is_some()
}

fn outcome(world: &World) -> Outcome {
    let judge = world.judge();
    let (number, log) = judge.read_trace();
    let (violation, counts, happened) = (judge.violation(), judge.counts(), judge.happened());
    Outcome { violation, number, log, counts, happened }
}

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A run on this thread. A task that panics is caught by the runtime, and its supervisor goes on: the simulation must
/// see it all the same, and says so by a violation instead of a backtrace.
struct Watched;

impl Watched {
    fn begin() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if IS_WATCHED.get() {
                    PANIC.with_borrow_mut(|first| {
                        first.get_or_insert_with(|| info.to_string());
                    });
                } else {
                    before(info);
                }
            }));
        });
        PANIC.take();
        IS_WATCHED.set(true);
        Self
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        IS_WATCHED.set(false);
        // The simulation's own.
        if std::thread::panicking() {
            eprintln!("{}", PANIC.take().unwrap_or_default());
        }
    }
}
