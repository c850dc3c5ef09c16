//! `neo-events bench`: reads what is to be measured, refuses what makes no sense, and shows what was found.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use neo_events::{BATCH_EVENTS_MAX, domain::event::EVENT_DATA_BYTES_MAX};

use crate::{
    bench::{
        self, compare,
        database::Database,
        payload::{PAYLOAD_BYTES_MIN, event},
        plan::{Mode, Plan, Settings},
        subject::LIBRARY_NEEDS_SQLITE,
    },
    cli::{failure::Failure, output::Output, session::to_json},
};

pub(crate) const EXAMPLES: &str = "\
It starts a server of its own on a temporary SQLite file (or on --database) and
a receiver, publishes, waits for every delivery, and sets the result beside a
bare HTTP client that posts the same webhooks to the same receiver in turn. It
ends with 1 and says what is missing if a delivery does not arrive.

Examples:
  neo-events bench                                   10 000 events one by one
  neo-events bench --mode single,batch,library --endpoints 3
  neo-events bench --rate 200 --events 2000          latencies at a fixed rate
  neo-events bench --json > before.json              and > after.json, then
  neo-events bench --compare before.json after.json

A database given with --database should be one for benches: its events stay. The
temporary file is made where TMPDIR says: that disk is measured.";

/// Most webhooks of a round: the ledger holds each.
const DELIVERIES_MAX: u64 = 20_000_000;
/// Most bytes of a batch; the server takes 10 MiB.
const BATCH_BYTES_MAX: u64 = 10 * 1024 * 1024;
const WARM_UP_DEFAULT_MAX: u64 = 1000;

/// What says how to measure.
const NOT_TO_COMPARE: [&str; 12] = [
    "events",
    "payload_bytes",
    "concurrency",
    "endpoints",
    "mode",
    "batch_size",
    "rate",
    "rounds",
    "warm_up",
    "deadline",
    "database",
    "database_pid",
];

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Events of a round, up to 10 000 000
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    events: u64,
    /// Size of each event's data, 34 to 102400
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = payload_bytes)]
    payload_bytes: usize,
    /// Publish calls at once, and connections of the bare client, up to 1024
    #[arg(long, value_name = "C", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Endpoints that get every event, up to 100
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    endpoints: u16,
    /// How to publish; may be given more than once, or as a list
    #[arg(long, value_enum, value_delimiter = ',', default_value = "single")]
    mode: Vec<Mode>,
    /// With --mode batch: events of a call, up to 1000 [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=BATCH_EVENTS_MAX as u64))]
    batch_size: Option<u64>,
    /// Events a second at fixed times, times counted from when each was due [default: as fast as answers come]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Rounds, each between two runs of the bare client, up to 100
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Events before the first round, up to 1 000 000 [default: a tenth of --events, at most 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    warm_up: Option<u64>,
    /// Seconds to wait for the next delivery before it counts as missing, up to 3600
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Where the server keeps its data: sqlite:PATH or `postgres://…` [default: a temporary SQLite file]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// First process of a PostgreSQL server on this machine, if it is not found: its CPU time and memory are counted
    #[arg(long, value_name = "PID", requires = "database", value_parser = clap::value_parser!(u32).range(1..))]
    database_pid: Option<u32>,
    /// Measure nothing; set two reports of `bench --json` beside each other
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with_all = NOT_TO_COMPARE)]
    compare: Option<Vec<PathBuf>>,
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let range = PAYLOAD_BYTES_MIN..=EVENT_DATA_BYTES_MAX;
    let bytes = text.parse().ok().filter(|bytes| range.contains(bytes));
    bytes.ok_or_else(|| format!("{PAYLOAD_BYTES_MIN} to {EVENT_DATA_BYTES_MAX} bytes"))
}

/// Runs the command.
pub(crate) async fn run(args: BenchArgs, output: &Output, is_json: bool) -> Result<(), Failure> {
    if let Some([before, after]) = args.compare.as_deref() {
        let comparison = compare::compare(&compare::read(before)?, &compare::read(after)?);
        if is_json {
            return Ok(output.line(to_json(&comparison)?)?);
        }
        return Ok(comparison.show(output)?);
    }
    let plan = plan(args)?;
    warn_of_debug_build()?;
    let report = bench::run(&plan).await?;
    if is_json {
        output.line(to_json(&report)?)?;
    } else {
        report.show(output)?;
    }
    let missing = report.modes.iter().find_map(|mode| mode.missing.as_ref());
    missing.map_or(Ok(()), |missing| Err(Failure::Serve { message: missing.describe(), advice: None }))
}

/// On standard error, so that programs' output stays whole.
fn warn_of_debug_build() -> io::Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    writeln!(
        io::stderr(),
        "WARNING: this is a DEBUG build, many times slower than a release build. Its figures say nothing about \
         neo-events.\n         Build with `cargo build --release` and run target/release/neo-events bench."
    )
}

fn plan(args: BenchArgs) -> Result<Plan, Failure> {
    let usage = |text: &str| Failure::Usage(text.to_owned());
    let database = Database::parse(args.database, args.database_pid).map_err(usage)?;
    let settings = Settings {
        events: args.events,
        payload_bytes: args.payload_bytes,
        concurrency: args.concurrency.into(),
        endpoints: args.endpoints.into(),
        batch_size: args.batch_size.unwrap_or(100),
        rate: args.rate,
        rounds: args.rounds,
        warm_up: args.warm_up.unwrap_or((args.events / 10).clamp(1, WARM_UP_DEFAULT_MAX)),
    };
    let repeats = args.mode.iter().enumerate().any(|(index, mode)| args.mode[..index].contains(mode));
    let is_postgres = matches!(database, Database::Postgres { .. });
    let has = |mode| args.mode.contains(&mode);
    if repeats {
        return Err(usage("--mode names a mode twice"));
    }
    if has(Mode::Sql) && !is_postgres {
        return Err(usage("--mode sql calls a function of PostgreSQL: give --database postgres://…"));
    }
    if has(Mode::Library) && is_postgres {
        return Err(usage(LIBRARY_NEEDS_SQLITE));
    }
    if args.batch_size.is_some() && !has(Mode::Batch) {
        return Err(usage("--batch-size is for --mode batch"));
    }
    judge_sizes(&settings, has(Mode::Batch))?;
    Ok(Plan { settings, modes: args.mode, database, patience: Duration::from_secs(args.deadline) })
}

fn judge_sizes(settings: &Settings, has_batches: bool) -> Result<(), Failure> {
    let deliveries = settings.deliveries();
    if deliveries > DELIVERIES_MAX {
        return Err(Failure::Usage(format!(
            "--events times --endpoints is {deliveries}: a round has at most {DELIVERIES_MAX} deliveries"
        )));
    }
    let bytes = (event(0, settings.payload_bytes).len() as u64 + 1) * settings.batch_size + 16;
    if has_batches && bytes > BATCH_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "--batch-size times --payload-bytes: a batch of {bytes} bytes is more than the server takes, \
             {BATCH_BYTES_MAX}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn planned(arguments: &[&str]) -> Result<Plan, String> {
        let line =
            Line::try_parse_from([&["bench"], arguments].concat()).map_err(|error| error.to_string())?;
        plan(line.args).map_err(|failure| failure.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let plan = planned(&[]).unwrap();
        let settings = &plan.settings;
        assert_eq!((settings.events, settings.payload_bytes, settings.concurrency), (10_000, 1024, 32));
        assert_eq!((settings.endpoints, settings.rounds, settings.warm_up), (1, 3, 1000));
        assert_eq!((settings.batch_size, settings.rate), (100, None));
        assert_eq!((plan.modes, plan.database), (vec![Mode::Single], Database::Temporary));
        assert_eq!(planned(&["--events", "5"]).unwrap().settings.warm_up, 1);
        let modes = planned(&["--mode", "batch,library", "--mode", "single"]).unwrap().modes;
        assert_eq!(modes, [Mode::Batch, Mode::Library, Mode::Single]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        let postgres = "postgres://localhost/x";
        for (arguments, reason) in [
            (&["--mode", "sql"][..], "--database postgres://"),
            (&["--mode", "sql", "--database", "sqlite:x"], "--database postgres://"),
            (&["--mode", "library", "--database", postgres], "library on SQLite"),
            (&["--mode", "single,single"], "twice"),
            (&["--mode", "none"], "none"),
            (&["--batch-size", "5"], "--mode batch"),
            (&["--mode", "batch", "--batch-size", "1001"], "1..=1000"),
            (
                &["--mode", "batch", "--batch-size", "1000", "--payload-bytes", "102400"],
                "more than the server takes",
            ),
            (&["--events", "0"], "1..=10000000"),
            (&["--events", "1000000", "--endpoints", "100"], "at most 20000000"),
            (&["--payload-bytes", "33"], "34 to 102400"),
            (&["--payload-bytes", "102401"], "34 to 102400"),
            (&["--concurrency", "0"], "1..=1024"),
            (&["--endpoints", "101"], "1..=100"),
            (&["--rate", "0"], "1..=1000000"),
            (&["--rounds", "0"], "1..=100"),
            (&["--warm-up", "0"], "1..=1000000"),
            (&["--deadline", "0"], "1..=3600"),
            (&["--database", "mysql:x"], "sqlite:PATH"),
            (&["--database-pid", "7"], "--database"),
            (&["--database", "sqlite:x", "--database-pid", "7"], "PostgreSQL"),
            (&["--compare", "a"], "--compare"),
            (&["--compare", "a", "b", "--events", "5"], "--compare"),
            (&["--compare", "a", "b", "--database", postgres], "--compare"),
        ] {
            let refusal = planned(arguments).expect_err(&arguments.join(" "));
            assert!(refusal.contains(reason), "{arguments:?}: {refusal}");
        }
        assert!(planned(&["--mode", "sql", "--database", postgres, "--database-pid", "7"]).is_ok());
    }
}
