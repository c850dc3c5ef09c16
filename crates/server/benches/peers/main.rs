//! neo-events and other systems that deliver webhooks, on this machine, under the same load, one after the other: how many
//! they deliver in a second, how long it takes, and what a kill costs.
//!
//! ```sh
//! cargo bench -p neo-events-server --bench peers -- svix=PATH convoy=PATH outpost=PATH
//! ```
//!
//! `docs/peers.md` says how to get them, what is measured, and what came of it.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod ground;
mod ledger;
mod line;
mod load;
mod systems;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use self::{
    ground::Ground,
    ledger::{Ledger, Receiver},
    load::{flat_out, steadily},
    systems::{Candidate, System},
};

const USAGE: &str = "give it systems to compare with: svix=PATH, svix-volatile=PATH, convoy=PATH, \
                     convoy-on-postgres=PATH, outpost=PATH (docs/peers.md); with none it measures neo-events alone. \
                     throughput, latency and kill are done if none of them is named";
const SCENARIOS: [&str; 3] = ["throughput", "latency", "kill"];
const MANY_ENDPOINTS: usize = 10;
/// How long events are published at full speed.
const LOAD: Duration = Duration::from_secs(10);
const EACH_SECOND: u32 = 50;
const STEADY: Duration = Duration::from_secs(20);
/// Of the load, before the kill.
const BEFORE_KILL: Duration = Duration::from_secs(3);
/// As long as something new arrives within this, what is missing may still come.
const PATIENCE: Duration = Duration::from_mins(2);
/// After a kill, to see what is sent once more.
const REPEATS_SEEN_FOR: Duration = Duration::from_mins(1);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let (scenarios, systems): (Vec<_>, Vec<_>) =
        arguments.iter().map(String::as_str).partition(|argument| SCENARIOS.contains(argument));
    let others: Option<Vec<_>> = systems.iter().map(|system| Candidate::parse(system)).collect();
    let Some(others) = others else {
        println!("{USAGE}");
        return;
    };
    if others.is_empty() {
        println!("{USAGE}");
    }
    let wants = |scenario| scenarios.is_empty() || scenarios.contains(&scenario);
    runtime.block_on(async {
        for candidate in [vec![Candidate::NeoEvents], others].concat() {
            println!("{}", candidate.name());
            if wants("throughput") {
                throughput(&candidate, 1).await;
                throughput(&candidate, MANY_ENDPOINTS).await;
            }
            if wants("latency") {
                latency(&candidate).await;
            }
            if wants("kill") {
                kill(&candidate).await;
            }
        }
    });
}

/// A system that runs, and who gets its webhooks.
struct Scene {
    ledger: Arc<Ledger>,
    system: System,
    _receiver: Receiver,
    _ground: Ground,
}

impl Scene {
    async fn set(candidate: &Candidate, endpoints: usize) -> Self {
        let ledger = Arc::new(Ledger::new(endpoints));
        let receiver = Receiver::start(&ledger).await;
        let mut ground = Ground::prepare().await;
        let system = candidate.start(&mut ground, &receiver.urls(endpoints)).await;
        Self { ledger, system, _receiver: receiver, _ground: ground }
    }

    /// Says what should not be.
    fn complain(&self) {
        let (missing, unsigned) = (self.ledger.missing(), self.ledger.unsigned());
        if missing > 0 {
            println!("    {missing} of {} deliveries are missing", self.ledger.first_arrivals() + missing);
        }
        if unsigned > 0 {
            println!("    {unsigned} webhooks came without a signature");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

async fn throughput(candidate: &Candidate, endpoints: usize) {
    let scene = Scene::set(candidate, endpoints).await;
    let (ledger, system) = (&scene.ledger, &scene.system);
    let began = Instant::now();
    let ended = flat_out(system.api, &system.publish, ledger, LOAD).await;
    let published = per_second(ledger.acknowledged(), began.elapsed());
    ledger.wait(PATIENCE).await;
    println!(
        "  {endpoints} endpoints: {published:.0} events/s published, {:.0} deliveries/s, {} repeats, {} MiB",
        per_second(ledger.first_arrivals(), ledger.took()),
        ledger.repeats(),
        system.resident_peak_mib(),
    );
    if ended.early > 0 {
        println!("    {} callers were refused: {}", ended.early, ended.why);
    }
    scene.complain();
}

async fn latency(candidate: &Candidate) {
    let scene = Scene::set(candidate, 1).await;
    let (ledger, system) = (&scene.ledger, &scene.system);
    let ended = steadily(system.api, &system.publish, ledger, EACH_SECOND, STEADY).await;
    ledger.wait(PATIENCE).await;
    let all = ledger.latencies();
    let at = |percent: usize| all[(all.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1000.0;
    println!("  {EACH_SECOND} events/s: to the receiver {:.2} ms at p50, {:.2} at p99", at(50), at(99));
    if ended.early > 0 {
        println!("    {} callers were refused: {}", ended.early, ended.why);
    }
    scene.complain();
}

/// SIGKILL under load, and another start at once.
async fn kill(candidate: &Candidate) {
    let mut scene = Scene::set(candidate, 1).await;
    let publish = Arc::clone(&scene.system.publish);
    let load = flat_out(scene.system.api, &publish, &scene.ledger, LOAD);
    let mut load = std::pin::pin!(load);
    tokio::select! {
        ended = &mut load => panic!("it refuses: {}", ended.why),
        () = sleep(BEFORE_KILL) => {}
    }
    let killed = Instant::now();
    scene.system.kill();
    // Callers find their connections broken.
    load.await;
    let acknowledged = scene.ledger.acknowledged();
    scene.system.start().await;
    let started = killed.elapsed();
    scene.ledger.wait(PATIENCE).await;
    sleep(REPEATS_SEEN_FOR).await;
    println!(
        "  killed: {acknowledged} events were acknowledged, of which {} never arrived; {} repeats; ready again after \
         {:.1} s, caught up after {:.1} s",
        scene.ledger.missing(),
        scene.ledger.repeats(),
        started.as_secs_f64(),
        scene.ledger.caught_up_after(killed).as_secs_f64(),
    );
}
