//! Runs seeds, and shows the first that fails in the smallest form that was found.
//!
//! ```text
//! cargo run --release -p neo-events-simulation -- --seeds 1000000
//! cargo run --release -p neo-events-simulation -- --seed 7 --log
//! cargo run --release -p neo-events-simulation -- --bugs
//! ```

mod arguments;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use arguments::{Arguments, USAGE, What};
use neo_events_simulation::{Bug, Happening, Options, Outcome, run, shrink};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments.what {
        What::One => one(&arguments.options),
        What::Many { from, count } => many(&arguments.options, from, count, arguments.threads),
        What::Bugs { count } => bugs(&arguments.options, count),
    }
}

/// One run, with its log if it was asked for.
fn one(options: &Options) -> ExitCode {
    let outcome = run(options);
    for line in &outcome.log {
        println!("{line}");
    }
    match &outcome.violation {
        None => {
            let counts = outcome.counts;
            println!("{options}: every property held ({counts}; run {:016x})", outcome.number);
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("{options}: {violation}");
            ExitCode::FAILURE
        }
    }
}

/// Seed after seed, until one fails.
fn many(options: &Options, from: u64, count: u64, threads: u64) -> ExitCode {
    let (next, end) = (AtomicU64::new(from), from.saturating_add(count));
    let (failed, with_prompt_claims) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let began = Instant::now();
    let work = |is_first: bool| {
        let mut told = Instant::now();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || failed.load(Ordering::Relaxed) < seed {
                return;
            }
            let outcome = run(&Options { seed, ..options.clone() });
            if outcome.violation.is_some() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
            with_prompt_claims.fetch_add(
                u64::from(outcome.happened.contains_key(&Happening::PromptClaim)),
                Ordering::Relaxed,
            );
            if is_first && told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                println!("{} seeds in {:.0} s", seed - from, began.elapsed().as_secs_f64());
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || work(thread == 0));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    match failed.into_inner() {
        u64::MAX => {
            let prompt = with_prompt_claims.into_inner();
            println!("every property held for {count} seeds from {from} on, in {seconds:.1} s");
            println!("in {prompt} of them claims had to be prompt");
            ExitCode::SUCCESS
        }
        seed => tell_failed(&Options { seed, ..options.clone() }),
    }
}

fn tell_failed(options: &Options) -> ExitCode {
    let Some(violation) = run(options).violation else {
        println!("{options} failed and does not fail again: the run depends on something but its seed");
        return ExitCode::FAILURE;
    };
    println!("{options}: {violation}");
    let (smallest, violation) = shrink(options, &violation);
    println!("smallest: {smallest}: {violation}");
    println!("read it:  cargo run --release -p neo-events-simulation -- {smallest} --log");
    ExitCode::FAILURE
}

/// Which property catches each planted bug, after how many seeds, as a table.
fn bugs(options: &Options, count: u64) -> ExitCode {
    println!("| planted bug | what it is | caught by | after seeds | smallest run |");
    println!("| --- | --- | --- | --- | --- |");
    let mut all_caught = true;
    for bug in Bug::ALL {
        let of_seed = |seed| Options { seed, bug: Some(*bug), ..options.clone() };
        let caught = (0..count).find_map(|seed| match run(&of_seed(seed)) {
            Outcome { violation: Some(violation), .. } => Some((seed, violation)),
            _ => None,
        });
        let (name, what) = (bug.as_str(), bug.describe());
        let Some((seed, violation)) = caught else {
            println!("| `{name}` |{what} | not caught | {count} | |");
            all_caught = false;
            continue;
        };
        let (smallest, _) = shrink(&of_seed(seed), &violation);
        println!("| `{name}` |{what} | `{}` | {} | `{smallest}` |", violation.property, seed + 1);
    }
    if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
