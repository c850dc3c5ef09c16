//! What a bench found: for programs as JSON, for people as tables.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    environment::Environment,
    floor::FloorFigures,
    measure::{Percentiles, median},
    plan::{Mode, Settings},
};
use crate::cli::output::{Column, Output, Row, Shape, dash};

/// Of the JSON: grows when a program that reads it would have to change.
pub(crate) const FORMAT: u32 = 1;
/// Deliveries that are named of those missing.
pub(crate) const MISSING_NAMED_MAX: usize = 10;

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`FORMAT`].
    pub(crate) bench_format: u32,
    /// On what.
    pub(crate) environment: Environment,
    /// How.
    pub(crate) settings: Settings,
    /// One for each mode, in the order given. A mode with something missing is the last.
    pub(crate) modes: Vec<ModeReport>,
}

/// Of one mode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ModeReport {
    /// Which.
    pub(crate) mode: Mode,
    /// Whether what is measured runs in the bench's own process: then its CPU time and memory hold those of load
    /// generator and receiver.
    pub(crate) is_in_process: bool,
    /// What `ratio` compares.
    pub(crate) ratio_of: RatioOf,
    /// The rounds that were complete.
    pub(crate) rounds: Vec<Figures>,
    /// Of the bare client: before the first round and after each.
    pub(crate) bare_client: Vec<BareFigures>,
    /// Of the rounds, each figure for itself.
    pub(crate) median: Figures,
    /// With a rate and one event a call over HTTP: what a publish call cannot do without, median of the rounds.
    #[serde(default)]
    pub(crate) floor: Option<FloorFigures>,
    /// Of the whole mode.
    pub(crate) memory: Memory,
    /// What did not arrive.
    pub(crate) missing: Option<Missing>,
}

/// What the ratio to the bare client compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RatioOf {
    /// Deliveries a second to its requests a second: higher is better.
    DeliveriesPerSecond,
    /// At a fixed rate: half of the times to the receiver to half of its calls' times. Lower is better.
    FirstByteP50,
}

/// Of one round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Events published.
    pub(crate) events: u64,
    /// Events times endpoints, each counted once.
    pub(crate) deliveries: u64,
    /// Webhooks that came again.
    pub(crate) duplicates: u64,
    /// Webhooks whose signatures were checked; all were valid.
    pub(crate) signatures_checked: u64,
    /// Events a second, from the first call to the last answer.
    pub(crate) ingest_per_second: f64,
    /// Deliveries a second, from the first call to the last arrival.
    pub(crate) deliveries_per_second: f64,
    /// From a publish call, or when it was due, to its answer.
    pub(crate) publish_ms: Percentiles,
    /// From the same moment to each arrival of the call's events: once the head of the request is there.
    pub(crate) first_byte_ms: Percentiles,
    /// Of the process under test.
    pub(crate) server_cpu_seconds: Option<f64>,
    /// Of the database's processes.
    pub(crate) database_cpu_seconds: Option<f64>,
    /// Of the bench itself.
    pub(crate) bench_cpu_seconds: Option<f64>,
    /// The bare client's, mean of before and after.
    pub(crate) bare_per_second: f64,
    /// See `ratio_of`.
    pub(crate) ratio: f64,
}

impl Figures {
    /// Each figure for itself.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        let known = |figure: fn(&Self) -> Option<f64>| {
            let values: Option<Vec<f64>> = rounds.iter().map(figure).collect();
            values.filter(|values| !values.is_empty()).map(median)
        };
        let all = |figure: fn(&Self) -> Percentiles| {
            Percentiles::median(&rounds.iter().map(figure).collect::<Vec<_>>())
        };
        let first = rounds.first().cloned().unwrap_or_default();
        Self {
            events: first.events,
            deliveries: first.deliveries,
            duplicates: middle(rounds, |round| round.duplicates),
            signatures_checked: middle(rounds, |round| round.signatures_checked),
            ingest_per_second: of(|round| round.ingest_per_second),
            deliveries_per_second: of(|round| round.deliveries_per_second),
            publish_ms: all(|round| round.publish_ms),
            first_byte_ms: all(|round| round.first_byte_ms),
            server_cpu_seconds: known(|round| round.server_cpu_seconds),
            database_cpu_seconds: known(|round| round.database_cpu_seconds),
            bench_cpu_seconds: known(|round| round.bench_cpu_seconds),
            bare_per_second: of(|round| round.bare_per_second),
            ratio: of(|round| round.ratio),
        }
    }
}

fn middle(rounds: &[Figures], figure: fn(&Figures) -> u64) -> u64 {
    let mut values: Vec<u64> = rounds.iter().map(figure).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Of the bare client.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct BareFigures {
    /// Requests a second.
    pub(crate) requests_per_second: f64,
    /// From a call, or when it was due, to its answer.
    pub(crate) call_ms: Percentiles,
}

/// The most memory that was in use.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Resident in the process under test, as the kernel noted it.
    pub(crate) server_peak_bytes: Option<u64>,
    /// Of the database's processes, seen four times a second.
    pub(crate) database_peak_bytes: Option<u64>,
}

/// Deliveries that did not arrive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Missing {
    /// `warm-up` or `round N`.
    pub(crate) phase: String,
    /// Of how many.
    pub(crate) expected: usize,
    /// How many.
    pub(crate) count: usize,
    /// Waited for since the last arrival.
    pub(crate) patience_seconds: u64,
    /// Some of them.
    pub(crate) first: Vec<MissingDelivery>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MissingDelivery {
    /// The number in the event's data, `bench`.
    pub(crate) event: u64,
    /// The endpoint's, from 0.
    pub(crate) endpoint: usize,
}

impl Missing {
    /// In a sentence.
    pub(crate) fn describe(&self) -> String {
        let Self { phase, expected, count, patience_seconds, first } = self;
        let named: Vec<_> =
            first.iter().map(|one| format!("event {} to endpoint {}", one.event, one.endpoint)).collect();
        let more = if first.len() < *count { ", …" } else { "" };
        format!(
            "{count} of {expected} deliveries ({phase}) did not arrive within {patience_seconds} s of the one before: \
             {}{more}",
            named.join(", ")
        )
    }
}

impl Report {
    /// For people.
    pub(crate) fn show(&self, output: &Output) -> io::Result<()> {
        self.show_environment(output)?;
        self.modes.iter().try_for_each(|mode| mode.show(output))
    }

    fn show_environment(&self, output: &Output) -> io::Result<()> {
        let (environment, settings, style) = (&self.environment, &self.settings, output.style);
        let line = |name: &str, value: String| {
            output.line(format_args!("{}  {value}", style.dim(format_args!("{name:9}"))))
        };
        line("version", environment.program())?;
        let processor = environment.processor.as_deref().unwrap_or("unknown processor");
        let memory = environment.memory_bytes.map(|bytes| format!(", {} of memory", mib(bytes)));
        line("machine", format!("{} cores, {processor}{}", environment.cores, memory.unwrap_or_default()))?;
        line("system", environment.system.clone())?;
        line("database", format!("{}; processes: {}", environment.database, environment.database_processes))?;
        line("load", settings.describe())?;
        let shared =
            "load generator, receiver and bare client are one process, on the same cores as the server";
        line("", style.dim(shared))?;
        if environment.is_debug_build() {
            line("", style.red("DEBUG BUILD: these figures say nothing about neo-events"))?;
        }
        Ok(())
    }
}

impl ModeReport {
    fn show(&self, output: &Output) -> io::Result<()> {
        let style = output.style;
        output.line("")?;
        output.line(format_args!("{}  {}", style.bold(self.mode.name()), self.mode.describe()))?;
        if let Some(missing) = &self.missing {
            output.line(style.red(missing.describe()))?;
        }
        if self.rounds.is_empty() {
            return Ok(());
        }
        output.line("")?;
        let numbered = self.rounds.iter().zip(1..).map(|(figures, number)| (format!("{number}"), figures));
        let rows: Vec<_> = numbered
            .chain([("median".to_owned(), &self.median)])
            .map(|(name, figures)| RoundRow { name, figures: figures.clone() })
            .collect();
        output.table(&rows, &mut Shape::default())?;
        output.line("")?;
        let bare: Vec<_> = self.bare_client.iter().map(|bare| bare.call_ms).collect();
        let mut rows = vec![
            ("publish call to its answer", self.median.publish_ms),
            ("publish call to the receiver", self.median.first_byte_ms),
            ("bare client's call to its answer", Percentiles::median(&bare)),
        ];
        if let Some(floor) = self.floor {
            rows.extend([("a row's commit", floor.commit_ms), ("GET /livez", floor.livez_ms)]);
        }
        let rows: Vec<_> = rows.into_iter().map(|(name, times)| TimesRow { name, times }).collect();
        output.table(&rows, &mut Shape::default())?;
        output.line("")?;
        for note in notes(self) {
            output.line(note)?;
        }
        Ok(())
    }
}

fn notes(mode: &ModeReport) -> Vec<String> {
    let process =
        if mode.is_in_process { "this process (with load generator and receiver)" } else { "server" };
    let sum = |figure: fn(&Figures) -> u64| mode.rounds.iter().map(figure).sum::<u64>();
    let ratio = match mode.ratio_of {
        RatioOf::DeliveriesPerSecond => "deliveries/s to the bare client's requests/s; higher is better",
        RatioOf::FirstByteP50 => "p50 to the receiver to the bare client's p50; lower is better",
    };
    let memory = &mode.memory;
    let server = memory.server_peak_bytes.map_or_else(dash, mib);
    let mut notes = vec![
        format!("ratio: {ratio}"),
        format!("times in ms, medians of the rounds; CPU of a round: {process}, database, bench"),
        format!("memory: {process} at most {server}"),
    ];
    if let Some(ratio) = mode.floor.and_then(|floor| floor.ratio(&mode.median.publish_ms)) {
        notes.push(format!("publish call to its answer: {ratio:.2} x (a row's commit + GET /livez), at p50"));
    }
    if let Some(bytes) = memory.database_peak_bytes {
        notes.push(format!("memory: database at most {}", mib(bytes)));
    }
    notes.push(format!(
        "{} deliveries arrived; {} came twice; {} signatures checked, all valid",
        sum(|round| round.deliveries),
        sum(|round| round.duplicates),
        sum(|round| round.signatures_checked)
    ));
    notes
}

/// `38 MiB`
pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}

/// With as many digits as are worth something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(dash, |value| format!("{value:.2} s"))
}

struct RoundRow {
    name: String,
    figures: Figures,
}

impl Row for RoundRow {
    const NAME: &'static str = "rounds";
    const COLUMNS: &'static [Column] = &[
        Column::whole("ROUND"),
        Column::number("INGEST/S"),
        Column::number("DELIVERIES/S"),
        Column::number("BARE CLIENT/S"),
        Column::number("RATIO"),
        Column::number("SERVER CPU"),
        Column::number("DATABASE CPU"),
        Column::number("BENCH CPU"),
    ];

    fn cells(&self, _: &Output) -> Vec<String> {
        let round = &self.figures;
        vec![
            self.name.clone(),
            figure(round.ingest_per_second),
            figure(round.deliveries_per_second),
            figure(round.bare_per_second),
            format!("{:.3}", round.ratio),
            seconds(round.server_cpu_seconds),
            seconds(round.database_cpu_seconds),
            seconds(round.bench_cpu_seconds),
        ]
    }
}

struct TimesRow {
    name: &'static str,
    times: Percentiles,
}

impl Row for TimesRow {
    const NAME: &'static str = "times";
    const COLUMNS: &'static [Column] = &[
        Column::whole("MILLISECONDS"),
        Column::number("P50"),
        Column::number("P90"),
        Column::number("P95"),
        Column::number("P99"),
        Column::number("MAX"),
    ];

    fn cells(&self, _: &Output) -> Vec<String> {
        let Percentiles { p50, p90, p95, p99, max } = self.times;
        [self.name.to_owned()].into_iter().chain([p50, p90, p95, p99, max].map(figure)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_of_each_figure_and_of_nothing_unknown() {
        let round = |rate: f64, ratio: f64, cpu: Option<f64>| Figures {
            events: 5,
            deliveries: 10,
            ingest_per_second: rate,
            ratio,
            server_cpu_seconds: Some(rate),
            database_cpu_seconds: cpu,
            ..Figures::default()
        };
        let median =
            Figures::median(&[round(1.0, 0.9, Some(1.0)), round(2.0, 0.1, None), round(9.0, 0.5, None)]);
        assert_eq!((median.events, median.deliveries), (5, 10));
        assert_eq!((figure(median.ingest_per_second), figure(median.ratio)), ("2.00".into(), "0.50".into()));
        assert_eq!((median.server_cpu_seconds, median.database_cpu_seconds), (Some(2.0), None));
    }

    #[test]
    fn what_is_missing_is_named() {
        let first = vec![MissingDelivery { event: 7, endpoint: 1 }];
        let missing = Missing { phase: "round 2".into(), expected: 20, count: 2, patience_seconds: 3, first };
        assert_eq!(
            missing.describe(),
            "2 of 20 deliveries (round 2) did not arrive within 3 s of the one before: event 7 to endpoint 1, …"
        );
    }

    #[test]
    fn figures_have_the_digits_that_are_worth_something() {
        assert_eq!([0.0, 0.123, 12.34, 10_522.4].map(figure), ["0", "0.12", "12.3", "10522"]);
    }
}
