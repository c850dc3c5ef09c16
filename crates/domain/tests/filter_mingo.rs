//! Filters against an independent implementation of the language that ours descends from: the npm package
//! `mingo`, over random filters and documents. `mingo/README.md` lists where the two differ on purpose.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use neo_events_domain::filter::Filter;
use neo_events_domain::json;

mod filter_random;

use filter_random::Generator;

const PAIRS: usize = 5_000;
const SEED_DEFAULT: u64 = 0x6e65_6f65_7665_6e74;

const HINT: &str = "this test needs node, and mingo in .test-tools: run scripts/test, which installs it";

#[expect(clippy::disallowed_methods, reason = "a seed for tests is no setting of the product")]
fn seed() -> u64 {
    std::env::var("NEO_EVENTS_SEED")
        .map_or(SEED_DEFAULT, |seed| seed.parse().expect("NEO_EVENTS_SEED is a u64"))
}

struct Pair {
    filter: String,
    document: String,
}

fn pairs(seed: u64) -> Vec<Pair> {
    let mut generator = Generator::new(seed, true);
    (0..PAIRS).map(|_| Pair { filter: generator.filter(), document: generator.document() }).collect()
}

/// What mingo says of each pair, as a line of JSON.
fn ask_mingo(pairs: &[Pair]) -> Vec<String> {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = crate_dir.join("../../.test-tools");
    assert!(tools.join("node_modules/mingo").is_dir(), "{HINT} (looked in {})", tools.display());

    let mut node = Command::new("node")
        .arg(crate_dir.join("tests/mingo/evaluate.mjs"))
        .arg(&tools)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{HINT} ({error})"));
    let mut lines = String::new();
    for Pair { filter, document } in pairs {
        writeln!(lines, "{{\"filter\":{filter},\"document\":{document}}}").expect("writing to a string");
    }
    // From a thread, since node begins to answer before it has read all.
    let mut stdin = node.stdin.take().expect("stdin is piped");
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = node.wait_with_output().expect("node answers");
    writer.join().expect("the writer does not panic").expect("node reads all");
    assert!(output.status.success(), "{HINT} (node ended with {})", output.status);
    String::from_utf8(output.stdout).expect("node answers in UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn filters_agree_with_mingo() {
    let seed = seed();
    println!("NEO_EVENTS_SEED={seed}");
    let pairs = pairs(seed);
    let answers = ask_mingo(&pairs);
    assert_eq!(answers.len(), pairs.len());

    let mut matched = 0;
    let mut differing = Vec::new();
    for (pair, theirs) in pairs.iter().zip(&answers) {
        let filter = Filter::parse(&pair.filter).unwrap_or_else(|error| panic!("{}: {error}", pair.filter));
        let ours = filter.matches(&json::parse(&pair.document, 10).unwrap());
        matched += usize::from(ours);
        if ours.to_string() != *theirs {
            differing.push(format!("{} on {}: ours {ours}, mingo's {theirs}", pair.filter, pair.document));
        }
    }
    differing.sort_by_key(String::len);
    let shown = &differing[..differing.len().min(20)];
    assert!(
        differing.is_empty(),
        "seed {seed}: {} of {PAIRS} differ:\n{}",
        differing.len(),
        shown.join("\n")
    );
    assert!((PAIRS / 20..PAIRS * 19 / 20).contains(&matched), "{matched} matches of {PAIRS} prove little");
}
