//! The command line, read by hand: a crate for tests needs no parser.

use std::collections::BTreeSet;

use neo_events_simulation::{Bug, Options, Trouble};

/// What is printed when the command line is not understood.
pub(crate) const USAGE: &str = "\
neo-events-simulation [--seeds N] [--from N] [--threads N]   seed after seed, until one fails
neo-events-simulation --seed N [--log]                       one seed, with its log
neo-events-simulation --bugs [--seeds N]                     which property catches each planted bug
  --steps N           steps of a run before everything heals
  --without A,B       leave out kinds of trouble
  --bug NAME          plant a bug";

const SEEDS_DEFAULT: u64 = 1000;

/// What to do.
pub(crate) enum What {
    /// One seed.
    One,
    /// Many.
    Many {
        /// The first.
        from: u64,
        /// How many.
        count: u64,
    },
    /// Every planted bug.
    Bugs {
        /// At most so many seeds for each.
        count: u64,
    },
}

/// The command line.
pub(crate) struct Arguments {
    pub(crate) what: What,
    pub(crate) options: Options,
    pub(crate) threads: u64,
}

impl Arguments {
    /// Reads what stands behind the program's name.
    pub(crate) fn read(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut seed, mut from, mut count, mut is_bugs, mut threads) = (None, 0, SEEDS_DEFAULT, false, 1);
        let mut options = Options::of_seed(0);
        while let Some(name) = given.next() {
            let mut value = || given.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--seed" => seed = Some(number(&value()?)?),
                "--from" => from = number(&value()?)?,
                "--seeds" => count = number(&value()?)?,
                "--threads" => threads = number(&value()?)?.max(1),
                "--steps" => {
                    options.steps = u32::try_from(number(&value()?)?).map_err(|_| "too many steps")?;
                }
                "--without" => options.without = troubles(&value()?)?,
                "--bug" => options.bug = Some(bug(&value()?)?),
                "--bugs" => is_bugs = true,
                "--log" => options.is_logged = true,
                _ => return Err(format!("{name} is unknown")),
            }
        }
        let what = match seed {
            _ if is_bugs => What::Bugs { count },
            None => What::Many { from, count },
            Some(seed) => {
                options.seed = seed;
                What::One
            }
        };
        Ok(Self { what, options, threads })
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{text} is not a number"))
}

fn troubles(text: &str) -> Result<BTreeSet<Trouble>, String> {
    let known = || Trouble::ALL.iter().map(|trouble| trouble.as_str()).collect::<Vec<_>>().join(", ");
    let one = |name: &str| name.parse().map_err(|_| format!("{name} is not one of {}", known()));
    text.split(',').map(one).collect()
}

fn bug(name: &str) -> Result<Bug, String> {
    let known = || Bug::ALL.iter().map(|bug| bug.as_str()).collect::<Vec<_>>().join(", ");
    name.parse().map_err(|_| format!("{name} is not one of {}", known()))
}
