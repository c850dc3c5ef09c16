//! Whether the goals of [performance](../../../docs/performance.md) are reached on this machine, by `neo-events bench` on
//! both databases: five rounds of each load, each on a database of its own, and before each of them what reqwest, the
//! client that most programs in Rust have, posts to a receiver that is as cheap as the bench's. Prints the tables of
//! [benchmarks](../../../docs/benchmarks.md); takes some fifteen minutes.
//!
//! ```sh
//! cargo bench -p neo-events-server --bench goals
//! cargo bench -p neo-events-server --bench goals -- sqlite single    # one database, one load
//! ```

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "clients/posting.rs"]
mod posting;

use std::process::Command;

use neo_events_test_postgres::Cluster;
use posting::{listen, serve_bare, turn_of_reqwest};
use serde_json::Value;
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
const KEY: &str = "bWFzdGVyIGtleSBvZiB0ZXN0cyBvbmx5LCAzMiBieXQ=";

/// What is asked of the bench.
struct Load {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Of a pooled client's requests a second, deliveries a second; none where latencies are measured.
    goal: Option<f64>,
}

const LOADS: [Load; 4] = [
    Load { name: "single", arguments: &["--mode", "single", "--events", "20000"], goal: Some(0.25) },
    Load { name: "batch", arguments: &["--mode", "batch", "--events", "30000"], goal: Some(0.35) },
    Load {
        name: "endpoints",
        arguments: &["--mode", "single", "--events", "5000", "--endpoints", "10"],
        goal: Some(0.5),
    },
    Load { name: "steady", arguments: &["--mode", "single", "--events", "1500", "--rate", "50"], goal: None },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Database {
    Sqlite,
    Postgres,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |names: &[&str], name: &str| {
        let chosen: Vec<_> = wanted.iter().filter(|one| names.contains(&one.as_str())).collect();
        chosen.is_empty() || chosen.iter().any(|one| *one == name)
    };
    runtime.block_on(async {
        let listener = listen().await;
        let address = listener.local_addr().unwrap();
        let mut receivers = JoinSet::new();
        receivers.spawn(serve_bare(listener));
        for (database, name) in [(Database::Sqlite, "sqlite"), (Database::Postgres, "postgres")] {
            let loads = LOADS.each_ref().map(|load| load.name);
            if !wants(&["sqlite", "postgres"], name) {
                continue;
            }
            println!("\n{name}, medians of {ROUNDS} rounds (least to most)\n");
            println!("| load | deliveries/s | ratio | to reqwest | goal | CPU of server, database | memory at most |");
            println!("| --- | --- | --- | --- | --- | --- | --- |");
            for load in LOADS.iter().filter(|load| load.goal.is_some() && wants(&loads, load.name)) {
                let mut rounds = Vec::new();
                for _ in 0..ROUNDS {
                    let pooled = turn_of_reqwest(address).await;
                    rounds.push(Round::of(&run(database, load, 1).await, pooled));
                }
                rates(load, &rounds);
            }
            for load in LOADS.iter().filter(|load| load.goal.is_none() && wants(&loads, load.name)) {
                latencies(&run(database, load, 3).await);
            }
        }
    });
}

/// What a round came to.
struct Round {
    per_second: f64,
    ratio: f64,
    to_pooled: f64,
    server_us: f64,
    database_us: Option<f64>,
    memory_mib: f64,
}

impl Round {
    fn of(mode: &Value, pooled_per_second: f64) -> Self {
        let median = &mode["median"];
        assert_eq!(median["duplicates"], 0, "something came twice: {mode}");
        let each = median["deliveries"].as_f64().unwrap() / 1e6;
        let per_second = median["deliveries_per_second"].as_f64().unwrap();
        Self {
            per_second,
            ratio: median["ratio"].as_f64().unwrap(),
            to_pooled: per_second / pooled_per_second,
            server_us: median["server_cpu_seconds"].as_f64().unwrap() / each,
            database_us: median["database_cpu_seconds"].as_f64().map(|seconds| seconds / each),
            memory_mib: mode["memory"]["server_peak_bytes"].as_f64().unwrap() / f64::from(1 << 20),
        }
    }
}

fn rates(load: &Load, rounds: &[Round]) {
    let of = |value: fn(&Round) -> f64, digits| Spread::of(rounds.iter().map(value)).to_text(digits);
    let database = if rounds[0].database_us.is_some() {
        format!(", {} µs", of(|round| round.database_us.unwrap_or_default(), 0))
    } else {
        String::new()
    };
    println!(
        "| {} | {} | {} | {} | {} | {} µs{database} | {:.0} MiB |",
        load.name,
        of(|round| round.per_second, 0),
        of(|round| round.ratio, 3),
        of(|round| round.to_pooled, 2),
        load.goal.unwrap_or_default(),
        of(|round| round.server_us, 0),
        Spread::of(rounds.iter().map(|round| round.memory_mib)).most,
    );
}

/// p50 and p99 in milliseconds, by rounds, and the floor under a publish call.
fn latencies(mode: &Value) {
    let of = |which: &str, percentile: &str| {
        let rounds = mode["rounds"].as_array().unwrap();
        Spread::of(rounds.iter().map(|round| round[which][percentile].as_f64().unwrap())).to_text(2)
    };
    println!(
        "\n50 events/s, ms, p50 and p99: call to its answer {} and {}, call to the receiver {} and {}",
        of("publish_ms", "p50"),
        of("publish_ms", "p99"),
        of("first_byte_ms", "p50"),
        of("first_byte_ms", "p99")
    );
    let floor = ["commit_ms", "livez_ms"].map(|of| mode["floor"][of]["p50"].as_f64().unwrap());
    println!("a row's commit {:.2}, /livez {:.2}", floor[0], floor[1]);
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }

    fn to_text(&self, digits: usize) -> String {
        let Self { least, median, most } = self;
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// Runs the bench on a database of its own. Answers its only mode.
async fn run(database: Database, load: &Load, rounds: u32) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neo-events"));
    command.args(["bench", "--json", "--rounds", &rounds.to_string()]).args(load.arguments);
    command.env("NEO_EVENTS_MASTER_KEY", KEY);
    let cluster = match database {
        Database::Sqlite => None,
        Database::Postgres => Some(Cluster::start(&[("max_wal_size", "4GB")]).await),
    };
    if let Some(cluster) = &cluster {
        command.args(["--database", &cluster.url()]);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["modes"][0].take()
}
