//! What a filter compiles to, and whether it holds.
//!
//! A term is a field with its tests, or a group of filters. A negation is a flag on the positive test, so
//! that both can never drift apart.

use regex::Regex;

use crate::json::Json;
use crate::matching::{Span, rounded};

/// One requirement of a filter.
pub(super) enum Term {
    /// A field, all of whose tests must hold.
    Field { path: Path, tests: Vec<Test> },
    /// Several filters, combined. `expected` is their JSON text.
    Group { group: Group, filters: Vec<Vec<Term>>, expected: Box<str> },
}

/// How whole filters are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    And,
    Or,
    Nor,
}

/// One operator with what it was given.
pub(super) struct Test {
    pub(super) operator: &'static str,
    /// JSON text.
    pub(super) expected: Box<str>,
    pub(super) is_negated: bool,
    pub(super) check: Check,
}

/// What a test asks, before any negation.
pub(super) enum Check {
    OneOf(Members),
    Ordered(Order, Json<'static>),
    Contains(Json<'static>),
    Exists,
    Prefix(Box<str>),
    Suffix(Box<str>),
    Regex(Box<Regex>),
    /// A condition of its own on the same field, for `$not`.
    All(Vec<Test>),
    Element(Element),
}

/// The order comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What `$elemMatch` asks of one element.
pub(super) enum Element {
    Filter(Vec<Term>),
    Operators(Vec<Test>),
}

/// Whether all terms hold.
pub(super) fn all_hold(terms: &[Term], data: &Json<'_>) -> bool {
    terms.iter().all(|term| term.holds(data))
}

impl Term {
    fn holds(&self, data: &Json<'_>) -> bool {
        match self {
            Self::Field { path, tests } => tests.iter().all(|test| test.holds(path.segments(), data)),
            Self::Group { group, filters, .. } => group.holds(filters, data),
        }
    }
}

impl Group {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::And => "$and",
            Self::Or => "$or",
            Self::Nor => "$nor",
        }
    }

    pub(super) fn holds(self, filters: &[Vec<Term>], data: &Json<'_>) -> bool {
        match self {
            Self::And => filters.iter().all(|terms| all_hold(terms, data)),
            Self::Or => filters.iter().any(|terms| all_hold(terms, data)),
            Self::Nor => !filters.iter().any(|terms| all_hold(terms, data)),
        }
    }
}

impl Test {
    /// Whether the test holds for the field that `segments` leads to, seen from `data`.
    pub(super) fn holds(&self, segments: &[Box<str>], data: &Json<'_>) -> bool {
        let is_met = match &self.check {
            // Operators inside `$not` look at the field's values each for itself, like all others.
            Check::All(tests) => tests.iter().all(|test| test.holds(segments, data)),
            check => descend(data, segments, &mut |value| check.is_met_by(value)),
        };
        is_met != self.is_negated
    }

    /// The values of which the field must have one, if that is what the test asks.
    pub(super) fn required_members(&self) -> Option<&Members> {
        match &self.check {
            Check::OneOf(members) if !self.is_negated => Some(members),
            _ => None,
        }
    }

    /// The span in which the field must have a number, if that is what the test asks.
    pub(super) fn required_span(&self) -> Option<Span> {
        match &self.check {
            Check::Ordered(order, Json::Number(operand)) if !self.is_negated => {
                let bound = rounded(operand);
                Some(match order {
                    Order::Greater | Order::GreaterOrEqual => Span { from: bound, ..Span::ALL },
                    Order::Less | Order::LessOrEqual => Span { to: bound, ..Span::ALL },
                })
            }
            _ => None,
        }
    }
}

impl Check {
    /// Whether one value of the field is enough to answer yes.
    fn is_met_by(&self, value: &Json<'_>) -> bool {
        match self {
            Self::OneOf(members) => members.meets(value),
            Self::Ordered(order, operand) => with_elements(value, &|v| order.holds(v, operand)),
            Self::Contains(operand) => contains(value, operand),
            Self::Exists => true,
            Self::Prefix(prefix) => with_elements(value, &|v| has(v, |text| text.starts_with(&**prefix))),
            Self::Suffix(suffix) => with_elements(value, &|v| has(v, |text| text.ends_with(&**suffix))),
            Self::Regex(regex) => with_elements(value, &|v| has(v, |text| regex.is_match(text))),
            Self::All(tests) => tests.iter().all(|test| test.holds(&[], value)),
            Self::Element(element) => {
                value.as_array().is_some_and(|items| items.iter().any(|i| element.holds(i)))
            }
        }
    }
}

impl Order {
    fn holds(self, value: &Json<'_>, operand: &Json<'_>) -> bool {
        let ordering = match (value, operand) {
            (Json::Number(a), Json::Number(b)) => a.cmp(b),
            (Json::String(a), Json::String(b)) => a.cmp(b), // bytes of UTF-8 sort as code points do
            _ => return false,
        };
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

impl Element {
    fn holds(&self, element: &Json<'_>) -> bool {
        match self {
            Self::Filter(terms) => element.as_object().is_some() && all_hold(terms, element),
            Self::Operators(tests) => tests.iter().all(|test| test.holds(&[], element)),
        }
    }
}

fn has(value: &Json<'_>, property: impl Fn(&str) -> bool) -> bool {
    value.as_str().is_some_and(property)
}

fn contains(value: &Json<'_>, operand: &Json<'_>) -> bool {
    match (value, operand) {
        (Json::String(text), Json::String(part)) => text.contains(&**part),
        (Json::Array(items), _) => items.contains(operand),
        _ => false,
    }
}

/// Whether `test` holds for the value, or for some element if it is an array.
fn with_elements(value: &Json<'_>, test: &dyn Fn(&Json<'_>) -> bool) -> bool {
    test(value) || value.as_array().is_some_and(|items| items.iter().any(|item| with_elements(item, test)))
}

/// Where a field is: the dotted name and its parts.
pub(super) struct Path {
    text: Box<str>,
    segments: Box<[Box<str>]>,
}

impl Path {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.into(), segments: text.split('.').map(Into::into).collect() }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn segments(&self) -> &[Box<str>] {
        &self.segments
    }

    /// Whether `test` holds for some value at this path. Arrays on the way are passed element by element; one
    /// at the end is passed whole.
    pub(super) fn any<'d>(&self, data: &'d Json<'d>, test: &mut dyn FnMut(&'d Json<'d>) -> bool) -> bool {
        descend(data, &self.segments, test)
    }

    /// Whether the path leads through an array, so that it may find several values.
    pub(super) fn is_spread(&self, data: &Json<'_>) -> bool {
        let mut here = data;
        for segment in &self.segments {
            match here {
                Json::Array(_) => return true,
                Json::Object(object) => match object.get(segment) {
                    Some(value) => here = value,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }
}

fn descend<'d>(
    data: &'d Json<'d>,
    segments: &[Box<str>],
    test: &mut dyn FnMut(&'d Json<'d>) -> bool,
) -> bool {
    let Some((first, rest)) = segments.split_first() else {
        return test(data);
    };
    match data {
        Json::Array(items) => items.iter().any(|item| descend(item, segments, test)),
        Json::Object(object) => object.get(first).is_some_and(|value| descend(value, rest, test)),
        _ => false,
    }
}

/// A set of values to compare with, ordered by fingerprint so that a long list is searched, not scanned.
pub(super) struct Members {
    by_fingerprint: Vec<(u64, Json<'static>)>,
    has_containers: bool,
}

impl Members {
    /// Up to so many members, comparing with each beats hashing the value.
    const SCANNED_MAX: usize = 4;

    pub(super) fn new(values: impl Iterator<Item = Json<'static>>) -> Self {
        let mut by_fingerprint: Vec<_> = values.map(|value| (value.fingerprint(), value)).collect();
        by_fingerprint.sort_by_key(|(fingerprint, _)| *fingerprint);
        by_fingerprint.dedup();
        let has_containers = by_fingerprint.iter().any(|(_, value)| !value.is_scalar());
        Self { by_fingerprint, has_containers }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Json<'static>> {
        self.by_fingerprint.iter().map(|(_, value)| value)
    }

    pub(super) fn fingerprints(&self) -> impl Iterator<Item = u64> {
        self.by_fingerprint.iter().map(|(fingerprint, _)| *fingerprint)
    }

    /// Whether an array or an object is among them.
    pub(super) fn has_containers(&self) -> bool {
        self.has_containers
    }

    /// Whether a value, or some element of it, is a member.
    pub(super) fn meets(&self, value: &Json<'_>) -> bool {
        with_elements(value, &|v| self.contains(v))
    }

    fn contains(&self, value: &Json<'_>) -> bool {
        if !self.has_containers && !value.is_scalar() {
            return false;
        }
        if self.by_fingerprint.len() <= Self::SCANNED_MAX {
            return self.iter().any(|member| member == value);
        }
        let fingerprint = value.fingerprint();
        let start = self.by_fingerprint.partition_point(|(other, _)| *other < fingerprint);
        self.by_fingerprint[start..]
            .iter()
            .take_while(|(other, _)| *other == fingerprint)
            .any(|(_, member)| member == value)
    }
}
