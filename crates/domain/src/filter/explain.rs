//! What each clause of a filter saw in an event, for a person who wonders why it did or did not match.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::terms::{Group, Path, Term};
use super::{CLAUSE_ACTUAL_BYTES_MAX, Clause};
use crate::json::{Json, write_string};

/// One clause per test and per `$or` or `$nor`; the clauses of an `$and` stand for themselves.
pub(super) fn clauses(terms: &[Term], data: &Json<'_>) -> Vec<Clause> {
    let mut clauses = Vec::new();
    collect(terms, data, &mut clauses);
    clauses
}

fn collect(terms: &[Term], data: &Json<'_>, clauses: &mut Vec<Clause>) {
    for term in terms {
        match term {
            Term::Field { path, tests } => {
                let actual = seen(path, data).map(Seen::into_text);
                clauses.extend(tests.iter().map(|test| Clause {
                    path: path.as_str().to_owned(),
                    operator: test.operator.to_owned(),
                    expected: test.expected.to_string(),
                    actual: actual.clone(),
                    holds: test.holds(path.segments(), data),
                }));
            }
            Term::Group { group: Group::And, filters, .. } => {
                for terms in filters {
                    collect(terms, data, clauses);
                }
            }
            Term::Group { group, filters, expected } => clauses.push(Clause {
                path: String::new(),
                operator: group.name().to_owned(),
                expected: expected.to_string(),
                actual: Some(fields_seen(filters, data)),
                holds: group.holds(filters, data),
            }),
        }
    }
}

/// The values that filters look at, as the text of an object; missing fields are absent.
fn fields_seen(filters: &[Vec<Term>], data: &Json<'_>) -> String {
    let mut fields = BTreeMap::new();
    collect_fields(filters, data, &mut fields);
    let mut text = String::from("{");
    for (index, (path, value)) in fields.into_iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        write_string(&mut text, path).expect("writing to a string");
        text.push(':');
        text.push_str(&value);
    }
    text.push('}');
    text
}

fn collect_fields<'f>(filters: &'f [Vec<Term>], data: &Json<'_>, fields: &mut BTreeMap<&'f str, String>) {
    for term in filters.iter().flatten() {
        match term {
            Term::Field { path, .. } => {
                if let Some(value) = seen(path, data) {
                    fields.entry(path.as_str()).or_insert_with(|| value.into_text());
                }
            }
            Term::Group { filters, .. } => collect_fields(filters, data, fields),
        }
    }
}

/// What a path finds.
enum Seen<'d> {
    Value(&'d Json<'d>),
    /// The path leads through an array.
    Values(Vec<&'d Json<'d>>),
}

fn seen<'d>(path: &Path, data: &'d Json<'d>) -> Option<Seen<'d>> {
    let mut values = Vec::new();
    path.any(data, &mut |value| {
        values.push(value);
        false
    });
    if path.is_spread(data) {
        return (!values.is_empty()).then_some(Seen::Values(values));
    }
    values.pop().map(Seen::Value)
}

impl Seen<'_> {
    /// JSON text of at most about [`CLAUSE_ACTUAL_BYTES_MAX`] bytes.
    fn into_text(self) -> String {
        let mut text = Bounded(String::new());
        match write!(text, "{self}") {
            Ok(()) => text.0,
            Err(fmt::Error) => shortened(&text.0),
        }
    }
}

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Values(values) => {
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "[" } else { "," })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A text that refuses to grow beyond its bound, so that a large value is not printed only to be cut.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = CLAUSE_ACTUAL_BYTES_MAX - self.0.len();
        if part.len() <= room {
            self.0.push_str(part);
            return Ok(());
        }
        self.0.push_str(&part[..part.floor_char_boundary(room)]);
        Err(fmt::Error)
    }
}

/// The beginning of a JSON text, as a JSON string.
fn shortened(beginning: &str) -> String {
    let mut text = String::new();
    write_string(&mut text, &format!("{beginning}…")).expect("writing to a string");
    text
}
