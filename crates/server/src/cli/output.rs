//! What people read: lines, colours, times, tables and records.
//!
//! Text that came from elsewhere is stripped of control characters first ([`printable`]), so that no event's data can
//! play with a terminal. Colour is for terminals alone. A reader that went away ends a command quietly.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use neo_events::{Sources, Timestamp};
use serde_json::value::RawValue;

use crate::{cli::json_text, wire::Pairs};

/// How times are shown to people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Times {
    /// `12 s ago`
    #[default]
    Relative,
    /// `2026-01-31T12:00:00Z`
    Rfc3339,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    is_colourful: bool,
}

impl Style {
    /// Colour on a terminal, unless nobody wants it.
    pub(crate) fn of(stream: &impl IsTerminal, is_colour_wanted: bool) -> Self {
        Self { is_colourful: is_colour_wanted && stream.is_terminal() }
    }

    /// No colours.
    pub(crate) const fn plain() -> Self {
        Self { is_colourful: false }
    }

    fn paint(self, code: u8, text: impl Display) -> String {
        if self.is_colourful { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// What matters.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint(1, text)
    }

    /// What matters less.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint(2, text)
    }

    /// What went wrong.
    pub(crate) fn red(self, text: impl Display) -> String {
        self.paint(31, text)
    }

    /// What went well.
    pub(crate) fn green(self, text: impl Display) -> String {
        self.paint(32, text)
    }

    /// What is not over, or needs a look.
    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.paint(33, text)
    }

    /// A delivery's or an attempt's status in its colour.
    pub(crate) fn status(self, status: &str) -> String {
        match status {
            "success" => self.green(status),
            "failed" | "timeout" => self.red(status),
            "retrying" | "pending" => self.yellow(status),
            _ => self.dim(status),
        }
    }
}

/// Standard output, and how people want it.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    /// Colours of standard output.
    pub(crate) style: Style,
    times: Times,
    sources: Sources,
}

impl Output {
    /// To standard output.
    pub(crate) fn new(style: Style, times: Times) -> Self {
        Self { style, times, sources: Sources::system() }
    }

    /// Writes a line.
    #[expect(
        clippy::unused_self,
        reason = "whoever writes has an Output: it is the only way to standard output"
    )]
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        writeln!(io::stdout(), "{text}")
    }

    /// Writes bytes as they are, and ends the line.
    #[expect(clippy::unused_self, reason = "as line")]
    pub(crate) fn raw_line(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }

    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        self.sources.now()
    }

    /// A time as people want it.
    pub(crate) fn time(&self, at: Timestamp) -> String {
        match self.times {
            Times::Relative => relative(at, self.now()),
            Times::Rfc3339 => at.to_string(),
        }
    }

    /// A time that may be missing.
    pub(crate) fn time_or_dash(&self, at: Option<Timestamp>) -> String {
        at.map_or_else(dash, |at| self.time(at))
    }

    /// Writes rows in columns that fit the terminal.
    pub(crate) fn table<T: Row>(&self, rows: &[T], with_header: bool) -> io::Result<()> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if with_header {
            let title = |column: &Column| {
                let cell = Cell::new(column.title);
                if self.style.is_colourful { cell.add_attribute(Attribute::Dim) } else { cell }
            };
            table.set_header(T::COLUMNS.iter().map(title));
        }
        for row in rows {
            table.add_row(row.cells(self));
        }
        for (column, shown) in T::COLUMNS.iter().zip(table.column_iter_mut()) {
            shown.set_padding((0, 2));
            if column.kind == ColumnKind::Whole {
                shown.set_constraint(ColumnConstraint::ContentWidth);
            }
            if column.kind == ColumnKind::Number {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
        let text = table.to_string();
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        self.line(lines.join("\n"))
    }

    /// Writes an object's fields, one below the other, in their order.
    pub(crate) fn record(&self, fields: &Pairs<Box<RawValue>>) -> io::Result<()> {
        let width = fields.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in &fields.0 {
            let value = self.value(name, value.get());
            let value = value.replace('\n', &format!("\n{:width$}  ", ""));
            self.line(format_args!("{}  {value}", self.style.dim(format_args!("{name:width$}"))))?;
        }
        Ok(())
    }

    fn value(&self, name: &str, json: &str) -> String {
        if json == "null" {
            return self.style.dim("–");
        }
        let Ok(text) = serde_json::from_str::<String>(json) else {
            return json_text::indented_if_long(json);
        };
        match text.parse::<Timestamp>() {
            Ok(at) if name.ends_with("_at") => {
                format!("{text}  {}", self.style.dim(relative(at, self.now())))
            }
            _ => printable(&text),
        }
    }
}

/// A row of a table.
pub(crate) trait Row {
    /// What the rows are, for people: `endpoints`.
    const NAME: &'static str;
    /// Their columns.
    const COLUMNS: &'static [Column];
    /// One cell a column.
    fn cells(&self, output: &Output) -> Vec<Cell>;
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    kind: ColumnKind,
}

/// How a column gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnKind {
    /// Never broken: ids and what else people copy.
    Whole,
    /// Wrapped where the terminal is narrow.
    Text,
    /// Aligned to the right.
    Number,
}

impl Column {
    /// Never broken: ids and what else people copy.
    pub(crate) const fn whole(title: &'static str) -> Self {
        Self { title, kind: ColumnKind::Whole }
    }

    /// Wrapped where the terminal is narrow.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, kind: ColumnKind::Text }
    }

    /// Aligned to the right.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, kind: ColumnKind::Number }
    }
}

/// A cell with text from elsewhere.
pub(crate) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(printable(text.as_ref()))
}

/// What stands for a value that is absent.
pub(crate) fn dash() -> String {
    "–".to_owned()
}

/// Text without control characters: each becomes an escape that shows it.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' || is_direction(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Characters that re-order what is shown (Unicode TR 36 §2.5).
fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `12 s ago`, `in 3 min`.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs();
    let amount = match seconds.unsigned_abs() {
        0 => return "now".to_owned(),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    };
    if seconds > 0 { format!("{amount} ago") } else { format!("in {amount}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_largest_fitting_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds_ago, expected) in [
            (0, "now"),
            (1, "1 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7200, "2 h ago"),
            (172_800, "2 d ago"),
            (-5, "in 5 s"),
        ] {
            let at = Timestamp::from_second(1_000_000 - seconds_ago).unwrap();
            assert_eq!(relative(at, now), expected);
        }
    }

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_as_a_command() {
        assert_eq!(printable("a\x1b[31mé\n\u{202e}"), "a\\u{1b}[31mé\n\\u{202e}");
    }
}
