//! What is wrong with an input: where (a JSON pointer, RFC 6901) and which rule it breaks.
//!
//! A validation collects every violation before it answers, so that a caller mends an input in one go.

use std::{borrow::Cow, fmt};

use crate::{event_type::EventTypeError, filter::FilterErrorReason, json::JsonError};

/// Most characters of an input's own names that are repeated where it is refused.
pub const NAME_CHARS_SHOWN_MAX: usize = 100;

/// A name as a refusal repeats it: of a long one the beginning, which ends in `…`. An input that is filled with a name
/// is not sent back as often as the refusal says it.
pub fn shortened(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(NAME_CHARS_SHOWN_MAX) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
    }
}

/// A name, [`shortened`], as a part of a JSON pointer (RFC 6901 §3).
pub fn pointer_token(name: &str) -> String {
    shortened(name).replace('~', "~0").replace('/', "~1")
}

/// One fault of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// JSON pointer to the field; empty for the whole document. Of the input's own names, which may be long, it has what
    /// [`pointer_token`] leaves of them.
    pub pointer: Cow<'static, str>,
    /// The rule it breaks.
    pub rule: Rule,
}

/// The rules an input can break.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Rule {
    /// A field that must be given is missing.
    #[error("is required")]
    Required,
    /// A field that is not known here.
    #[error("is not a known field")]
    Unknown,
    /// A field that is given twice.
    #[error("is given twice")]
    Repeated,
    /// Text that must say something is blank.
    #[error("must not be empty")]
    Empty,
    /// Over a limit of length or size.
    #[error("is {actual} {unit} long, the limit is {max}")]
    TooLong {
        /// What it has.
        actual: usize,
        /// What it may have.
        max: usize,
        /// `characters`, `bytes`, …
        unit: &'static str,
    },
    /// Below a least length.
    #[error("must have at least {min} {unit}")]
    TooShort {
        /// What it must have.
        min: usize,
        /// `characters`, `bytes`, …
        unit: &'static str,
    },
    /// Too many elements.
    #[error("has {actual} {unit}, the limit is {max}")]
    TooMany {
        /// What it has.
        actual: usize,
        /// What it may have.
        max: usize,
        /// `headers`, `events`, …
        unit: &'static str,
    },
    /// A number outside its range.
    #[error("must be between {min} and {max}")]
    OutOfRange {
        /// Smallest value allowed.
        min: f64,
        /// Largest value allowed.
        max: f64,
    },
    /// A number outside the range that the deployment's profile leaves of it.
    #[error("must be between {min} and {max} in profile {profile}")]
    OutOfProfile {
        /// Smallest value allowed.
        min: u32,
        /// Largest value allowed.
        max: u32,
        /// `development`, `staging` or `production`.
        profile: &'static str,
    },
    /// Not of the form it must have.
    #[error("must be {expected}")]
    Malformed {
        /// The form it must have.
        expected: &'static str,
    },
    /// Not valid JSON, or JSON beyond our limits.
    #[error("is not acceptable JSON: {0}")]
    Json(JsonError),
    /// Not a `category.action`, or not a pattern of such.
    #[error("{0}")]
    EventType(EventTypeError),
    /// Not a filter.
    #[error("{0}")]
    Filter(FilterErrorReason),
    /// Not a target that may be connected to; the text tells nothing about the inside of a network.
    #[error("{0}")]
    Target(String),
    /// A header that a user may not set.
    #[error("must not set the header {name}: {reason}")]
    Header {
        /// The header, lower-cased.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Two fields that contradict each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// A value that nobody sent: it was stored when other rules held, and stands in the way of any change.
    #[error("is stored from before and refused in profile {profile}: it {rule}; change it too")]
    Stored {
        /// `development`, `staging` or `production`.
        profile: &'static str,
        /// The rule it breaks.
        rule: Box<Self>,
    },
    /// A reference to a row that does not exist.
    #[error("names no {0} of this tenant")]
    NoSuch(&'static str),
}

/// All faults of one input; never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The one fault of an input.
    pub fn one(pointer: impl Into<Cow<'static, str>>, rule: Rule) -> Self {
        Self(vec![Violation { pointer: pointer.into(), rule }])
    }

    /// These and others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// With a pointer's first part replaced: a part of one input became the whole of another.
    #[must_use]
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        for violation in &mut self.0 {
            if let Some(rest) = violation.pointer.strip_prefix(from) {
                violation.pointer = format!("{to}{rest}").into();
            }
        }
        self
    }

    /// The faults, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Violation { pointer, rule }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let subject = if pointer.is_empty() { "the input" } else { pointer.as_ref() };
            write!(f, "{separator}{subject} {rule}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Collects violations while an input is read.
#[derive(Debug, Default)]
pub struct Faults(Vec<Violation>);

impl Faults {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a fault.
    pub fn add(&mut self, pointer: impl Into<Cow<'static, str>>, rule: Rule) {
        self.0.push(Violation { pointer: pointer.into(), rule });
    }

    /// Notes a fault if the condition does not hold.
    pub fn require(&mut self, holds: bool, pointer: &'static str, rule: impl FnOnce() -> Rule) {
        if !holds {
            self.add(pointer, rule());
        }
    }

    /// The value, or a noted fault.
    pub fn take<T>(&mut self, pointer: &'static str, result: Result<T, Rule>) -> Option<T> {
        result.map_err(|rule| self.add(pointer, rule)).ok()
    }

    /// Text of 1…`chars_max` characters after trimming.
    pub fn name(&mut self, pointer: &'static str, text: &str, chars_max: usize) -> String {
        let trimmed = text.trim();
        self.require(!trimmed.is_empty(), pointer, || Rule::Empty);
        self.require(!trimmed.contains(char::is_control), pointer, || Rule::Malformed {
            expected: "one line of text without control characters",
        });
        self.length(pointer, trimmed, chars_max)
    }

    /// Text of at most `chars_max` characters.
    pub fn text(&mut self, pointer: &'static str, text: &str, chars_max: usize) -> String {
        self.require(!text.contains('\0'), pointer, || Rule::Malformed { expected: "text without NUL" });
        self.length(pointer, text, chars_max)
    }

    fn length(&mut self, pointer: &'static str, text: &str, chars_max: usize) -> String {
        let actual = text.chars().count();
        self.require(actual <= chars_max, pointer, || Rule::TooLong {
            actual,
            max: chars_max,
            unit: "characters",
        });
        text.to_owned()
    }

    /// A number within bounds.
    pub fn range(&mut self, pointer: &'static str, value: f64, min: f64, max: f64) {
        self.require(value >= min && value <= max, pointer, || Rule::OutOfRange { min, max });
    }

    /// Notes what was found elsewhere, each as `told` makes it of its pointer and rule.
    pub fn take_over(&mut self, others: Self, told: impl Fn(&str, Rule) -> Rule) {
        self.0.extend(
            others
                .0
                .into_iter()
                .map(|Violation { pointer, rule }| Violation { rule: told(&pointer, rule), pointer }),
        );
    }

    /// The violations found, if any.
    pub fn found(self) -> Result<(), Violations> {
        if self.0.is_empty() { Ok(()) } else { Err(Violations(self.0)) }
    }
}
