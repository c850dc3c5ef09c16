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

/// Blanks between columns.
const GAP: u16 = 2;
/// To this many characters a column of text may be squeezed.
const TEXT_WIDTH_LEAST: usize = 16;

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

    /// Writes rows in columns, or where the terminal is too narrow for them, one below the other. Pages of one list
    /// share their `shape`.
    pub(crate) fn table<T: Row>(&self, rows: &[T], shape: &mut Shape) -> io::Result<()> {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.cells(self).iter().map(|cell| printable(cell)).collect()).collect();
        shape.widen(T::COLUMNS, &rows);
        let terminal_width = Table::new().width().map(usize::from);
        if terminal_width.is_some_and(|width| shape.least_width(T::COLUMNS) > width) {
            return rows.iter().try_for_each(|row| self.stacked(T::COLUMNS, row));
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if !shape.has_header {
            table.set_header(T::COLUMNS.iter().map(|column| self.header(column)));
            shape.has_header = true;
        }
        table.add_rows(rows);
        for ((column, width), shown) in T::COLUMNS.iter().zip(&shape.widths).zip(table.column_iter_mut()) {
            shown.set_padding((0, GAP));
            if column.kind != ColumnKind::Text {
                let width = u16::try_from(*width).unwrap_or(u16::MAX).saturating_add(GAP);
                shown.set_constraint(ColumnConstraint::Absolute(comfy_table::Width::Fixed(width)));
            }
            if column.kind == ColumnKind::Number {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
        let text = table.to_string();
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        self.line(lines.join("\n"))
    }

    fn header(&self, column: &Column) -> Cell {
        let cell = Cell::new(column.title);
        if self.style.is_colourful { cell.add_attribute(Attribute::Dim) } else { cell }
    }

    fn stacked(&self, columns: &[Column], row: &[String]) -> io::Result<()> {
        let width = columns.iter().map(|column| column.title.len()).max().unwrap_or(0);
        let mut cells = columns.iter().zip(row);
        if let Some((_, first)) = cells.next() {
            self.line(self.style.bold(first))?;
        }
        for (column, cell) in cells {
            let title = column.title.to_ascii_lowercase();
            self.line(format_args!("  {}  {cell}", self.style.dim(format_args!("{title:width$}"))))?;
        }
        Ok(())
    }

    /// Writes an object's fields, one below the other, in their order.
    pub(crate) fn record(&self, fields: &Pairs<Box<RawValue>>) -> io::Result<()> {
        let names: Vec<_> = fields.0.iter().map(|(name, _)| printable(name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, (_, value)) in names.iter().zip(&fields.0) {
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
    fn cells(&self, output: &Output) -> Vec<String>;
}

/// What the pages of one list have in common.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    widths: Vec<usize>,
    has_header: bool,
}

impl Shape {
    fn widen(&mut self, columns: &[Column], rows: &[Vec<String>]) {
        self.widths.resize(columns.len(), 0);
        for (index, (column, width)) in columns.iter().zip(&mut self.widths).enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            *width = cells.chain([column.title.len(), *width]).max().unwrap_or(0);
        }
    }

    /// Below this the columns would be unreadable.
    fn least_width(&self, columns: &[Column]) -> usize {
        let least = |(column, width): (&Column, &usize)| match column.kind {
            ColumnKind::Text => *width.min(&TEXT_WIDTH_LEAST),
            ColumnKind::Whole | ColumnKind::Number => *width,
        };
        columns.iter().zip(&self.widths).map(|pair| least(pair) + usize::from(GAP)).sum()
    }
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

/// For people.
pub(crate) fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
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
    fn columns_give_way_only_where_text_may_be_broken() {
        let columns = [Column::whole("ID"), Column::text("NAME"), Column::number("N")];
        let rows = |name: &str| vec![vec!["x".repeat(36), name.to_owned(), "1".to_owned()]];
        let mut shape = Shape::default();
        shape.widen(&columns, &rows("short"));
        assert_eq!(shape.least_width(&columns), 36 + 5 + 1 + 3 * 2);
        shape.widen(&columns, &rows(&"long".repeat(10)));
        assert_eq!(shape.least_width(&columns), 36 + TEXT_WIDTH_LEAST + 1 + 3 * 2);
        assert_eq!(shape.widths, [36, 40, 1]);
        shape.widen(&columns, &rows(""));
        assert_eq!(shape.widths, [36, 40, 1], "later pages keep what earlier ones had");
    }

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_as_a_command() {
        assert_eq!(printable("a\x1b[31mé\n\u{202e}"), "a\\u{1b}[31mé\n\\u{202e}");
    }
}
