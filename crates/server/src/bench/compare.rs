//! Two reports beside each other: what a change of the program, the machine or the settings did.

use std::{fs, io, path::Path};

use serde::Serialize;

use super::report::{FORMAT, ModeReport, Report, figure};
use crate::cli::{
    failure::Failure,
    output::{Column, Output, Row, Shape, dash},
};

/// Figures of the same modes, and their ratios.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// Version, commit and kind of build of both programs.
    pub(crate) before: String,
    /// The same.
    pub(crate) after: String,
    /// What else is different, so that the ratios are to be read with care.
    pub(crate) differences: Vec<String>,
    /// Those that both reports have.
    pub(crate) modes: Vec<ModeComparison>,
}

/// Of one mode.
#[derive(Debug, Serialize)]
pub(crate) struct ModeComparison {
    mode: &'static str,
    figures: Vec<Compared>,
}

/// One figure.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Compared {
    name: &'static str,
    before: Option<f64>,
    after: Option<f64>,
    /// After to before.
    ratio: Option<f64>,
}

/// Reads what `bench --json` wrote.
pub(crate) fn read(path: &Path) -> Result<Report, Failure> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| Failure::Input { name: name.clone(), source })?;
    let report: Report = serde_json::from_str(&text).map_err(|error| Failure::Input {
        name: name.clone(),
        source: io::Error::other(format!("it is no report of `neo-events bench --json`: {error}")),
    })?;
    if report.bench_format == FORMAT {
        return Ok(report);
    }
    let reason = format!("its format is {}, this version reads {FORMAT}", report.bench_format);
    Err(Failure::Input { name, source: io::Error::other(reason) })
}

/// Compares them.
pub(crate) fn compare(before: &Report, after: &Report) -> Comparison {
    let pairs = before.modes.iter().filter_map(|one| {
        let other = after.modes.iter().find(|other| other.mode == one.mode)?;
        Some(compare_mode(one, other))
    });
    Comparison {
        before: before.environment.program(),
        after: after.environment.program(),
        differences: differences(before, after),
        modes: pairs.collect(),
    }
}

fn differences(before: &Report, after: &Report) -> Vec<String> {
    let (one, other) = (&before.environment, &after.environment);
    let mut found = Vec::new();
    let mut judge = |name: &str, one: String, other: String| {
        if one != other {
            found.push(format!("{name}: {one} / {other}"));
        }
    };
    judge("build", one.build.clone(), other.build.clone());
    judge("cores", one.cores.to_string(), other.cores.to_string());
    judge(
        "processor",
        one.processor.clone().unwrap_or_default(),
        other.processor.clone().unwrap_or_default(),
    );
    judge("system", one.system.clone(), other.system.clone());
    judge("database", one.database.clone(), other.database.clone());
    judge("load", before.settings.describe(), after.settings.describe());
    judge("batch size", before.settings.batch_size.to_string(), after.settings.batch_size.to_string());
    found
}

fn compare_mode(before: &ModeReport, after: &ModeReport) -> ModeComparison {
    let figures = figures(before).into_iter().zip(figures(after)).map(|((name, before), (_, after))| {
        let ratio =
            before.zip(after).filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before);
        Compared { name, before, after, ratio }
    });
    ModeComparison { mode: before.mode.name(), figures: figures.collect() }
}

fn figures(mode: &ModeReport) -> [(&'static str, Option<f64>); 13] {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mib = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / (1024.0 * 1024.0));
    let median = &mode.median;
    [
        ("ingest/s", Some(median.ingest_per_second)),
        ("deliveries/s", Some(median.deliveries_per_second)),
        ("bare client/s", Some(median.bare_per_second)),
        ("ratio to bare client", Some(median.ratio)),
        ("publish p50 ms", Some(median.publish_ms.p50)),
        ("publish p99 ms", Some(median.publish_ms.p99)),
        ("first byte p50 ms", Some(median.first_byte_ms.p50)),
        ("first byte p99 ms", Some(median.first_byte_ms.p99)),
        ("server CPU s", median.server_cpu_seconds),
        ("database CPU s", median.database_cpu_seconds),
        ("bench CPU s", median.bench_cpu_seconds),
        ("server memory MiB", mib(mode.memory.server_peak_bytes)),
        ("database memory MiB", mib(mode.memory.database_peak_bytes)),
    ]
}

impl Comparison {
    /// For people.
    pub(crate) fn show(&self, output: &Output) -> io::Result<()> {
        for (name, program) in [("before", &self.before), ("after", &self.after)] {
            output.line(format_args!("{}  {program}", output.style.dim(format_args!("{name:6}"))))?;
        }
        for difference in &self.differences {
            output.line(output.style.yellow(format_args!("different {difference}")))?;
        }
        for mode in &self.modes {
            output.line("")?;
            output.line(output.style.bold(mode.mode))?;
            output.table(&mode.figures, &mut Shape::default())?;
        }
        Ok(())
    }
}

impl Row for Compared {
    const NAME: &'static str = "figures";
    const COLUMNS: &'static [Column] = &[
        Column::whole("FIGURE"),
        Column::number("BEFORE"),
        Column::number("AFTER"),
        Column::number("AFTER/BEFORE"),
    ];

    fn cells(&self, _: &Output) -> Vec<String> {
        let shown = |value: Option<f64>| value.map_or_else(dash, figure);
        let ratio = self.ratio.map_or_else(dash, |ratio| format!("{ratio:.3}"));
        vec![self.name.to_owned(), shown(self.before), shown(self.after), ratio]
    }
}
