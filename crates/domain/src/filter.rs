//! The filter language of subscriptions, over an event's `event_data`.
//!
//! ```json
//! {"plan": ["enterprise", "pro"], "region": {"$in": ["us-east"]}, "usage.seats": {"$gte": 10}}
//! ```
//!
//! A filter is an object; all its keys must hold. It is compiled once, when it is written, and everything
//! that could go wrong goes wrong then ([`FilterError`]: what, where, which limit). Matching cannot fail, does
//! not allocate, and costs at most the clauses times the document; where there are regular expressions, their weight
//! ([`FILTER_REGEX_WEIGHT_MAX`]) times the document.
//!
//! **Fields.** A key is trimmed and non-empty. Dots descend into objects; where an array stands on the way, or
//! at the end, it stands for its elements, at any depth. So `a.b` finds every `b` in `{"a":[{"b":1},{"b":2}]}`.
//! A numeric segment is a field name, never an index. A field whose own name has a dot cannot be reached.
//! Of duplicate keys in the data the last counts; a filter with duplicate keys is refused.
//!
//! **Conditions.** A scalar means `$eq`, a list `$in`, an object holds operators, all of which must hold. An
//! operator holds if *some* value of the field satisfies it, each operator for itself: `{"$gt":5,"$lt":3}`
//! holds for `[1,10]`.
//!
//! | operator | takes | holds if some value |
//! | --- | --- | --- |
//! | `$eq` | anything | is equal |
//! | `$in` | a list | equals a member; never, if the list is empty |
//! | `$gt` `$gte` `$lt` `$lte` | a number or a string | is of the same kind and ordered so; strings by code point |
//! | `$contains` | anything | is a string with that substring, or an array with an equal element |
//! | `$prefix` `$suffix` | a string | is a string that begins or ends so |
//! | `$regex` | a string | is a string in which the pattern is found (syntax of the `regex` crate, not anchored) |
//! | `$exists` | a boolean | is there at all; `false` negates |
//! | `$elemMatch` | an object | is an array of which one element satisfies everything: operators, or a filter (then the element is an object) |
//! | `$ne` `$nin` `$not` | as `$eq`, as `$in`, any condition | negations: what they negate does not hold, as for a missing field |
//!
//! `$and`, `$or` and `$nor` stand where a field may stand and take a list of filters.
//!
//! **Equality** is by value and deep. Numbers are exact decimals, the order of an object's keys is nothing. An
//! array or object given to `$eq`, `$ne`, `$in`, `$nin` or `$contains` equals the whole value or one element
//! of it. `null` equals only `null`; a field that is `null` exists. A missing field equals nothing and has
//! `$exists: false`; an empty array equals no scalar, yet it exists.
//!
//! **`$contains`** looks at an array's elements as they are: `["xy"]` does not contain `"x"`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::json::Json;
use crate::matching::Span;

mod error;
mod explain;
mod parse;
mod terms;
mod weight;

pub use error::{FilterError, FilterErrorReason};

use parse::Origin;
use terms::{Group, Members, Path, Term, Test, all_hold};

/// Bytes of a filter's text.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Levels of nesting: each object of fields or operators inside another is one more, lists are none. A value
/// to compare with may itself be nested so deep.
pub const FILTER_LEVELS_MAX: usize = 10;
/// Clauses of a filter, at all levels: every operator, written or meant, is one.
pub const FILTER_CLAUSES_MAX: usize = 100;
/// Members of a list.
pub const FILTER_LIST_ITEMS_MAX: usize = 1000;
/// Characters of a number: it is compared anew with each value.
pub const FILTER_NUMBER_BYTES_MAX: usize = 64;
/// Dot-separated parts of a key.
pub const FILTER_PATH_SEGMENTS_MAX: usize = 32;
/// Regular expressions of a filter.
pub const FILTER_REGEXES_MAX: usize = 10;
/// What all regular expressions of a filter may weigh together: a character or an anchor 10, a class 10 and one for each
/// of its ranges, and each as often as it may be repeated. So a filter costs at most some 400 steps for a byte of the
/// event, and some 400 KiB of memory.
pub const FILTER_REGEX_WEIGHT_MAX: usize = 4000;
/// Bytes that one compiled regular expression may take.
pub const FILTER_REGEX_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an observed value that an explanation shows in full.
pub const CLAUSE_ACTUAL_BYTES_MAX: usize = 4096;

/// A compiled filter: immutable, cheap to clone. Equal if written equally.
#[derive(Clone)]
pub struct Filter(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    terms: Vec<Term>,
}

/// What one clause of a filter made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// The field, as in the filter; empty for `$or` and `$nor`, which look at several.
    pub path: String,
    /// The operator; `$eq` or `$in` where a scalar or a list was written.
    pub operator: String,
    /// What the operator was given, as JSON text.
    pub expected: String,
    /// The value seen, as JSON text, or `None` if the field is missing. If the path leads through an array, an
    /// array of all values found. For `$or` and `$nor` an object of the fields they look at. A text longer than
    /// [`CLAUSE_ACTUAL_BYTES_MAX`] is replaced by a JSON string of its beginning, which ends in `…`.
    pub actual: Option<String>,
    /// Whether the clause holds.
    pub holds: bool,
}

/// A condition that every event matching the filter meets: one of these scalars is found at this path.
#[derive(Clone, Copy)]
pub struct Equality<'f> {
    path: &'f Path,
    members: &'f Members,
}

/// Another such condition: some number at this path lies between these bounds, roughly; and if there are two, another
/// number may be what meets the second.
#[derive(Clone, Copy)]
pub(crate) struct Range<'f> {
    path: &'f Path,
    span: Span,
}

impl Filter {
    /// Compiles a filter from its JSON text, an object.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let terms = parse::terms(text, Origin::Given)?;
        Ok(Self(Arc::new(Compiled { text: text.into(), terms })))
    }

    /// Compiles one that was accepted when it was written. What it costs is not judged again: a limit that has become
    /// stricter since must not keep a tenant's events from being matched.
    pub fn parse_stored(text: &str) -> Result<Self, FilterError> {
        let terms = parse::terms(text, Origin::Stored)?;
        Ok(Self(Arc::new(Compiled { text: text.into(), terms })))
    }

    /// The filter `{}`, which matches everything.
    pub fn empty() -> Self {
        Self(Arc::new(Compiled { text: "{}".into(), terms: Vec::new() }))
    }

    /// Whether the filter has no clause and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.terms.is_empty()
    }

    /// The filter's text, as it was written.
    pub fn as_json(&self) -> &str {
        &self.0.text
    }

    /// Whether all clauses hold.
    pub fn matches(&self, data: &Json<'_>) -> bool {
        all_hold(&self.0.terms, data)
    }

    /// Every clause with what it saw, also those after one that fails. The filter matches if all of them hold.
    /// The clauses of an `$and` stand for themselves, an `$or` or a `$nor` is one clause.
    pub fn explain(&self, data: &Json<'_>) -> Vec<Clause> {
        explain::clauses(&self.0.terms, data)
    }

    /// The conditions that an index may rely on: clauses of the filter (or of an `$and` in it) that ask for
    /// equality with a scalar or for membership in a list of scalars. Each is *necessary*: what
    /// [`Filter::matches`] also satisfies [`Equality::admits`].
    pub fn equalities(&self) -> impl Iterator<Item = Equality<'_>> {
        let mut found = Vec::new();
        collect_equalities(&self.0.terms, &mut found);
        found.into_iter()
    }

    /// The conditions that an index may rely on besides: clauses that compare with numbers, of each field together.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<'_>> {
        let mut found = Vec::new();
        collect_ranges(&self.0.terms, &mut found);
        found.into_iter()
    }
}

fn collect_ranges<'f>(terms: &'f [Term], found: &mut Vec<Range<'f>>) {
    for term in terms {
        match term {
            Term::Field { path, tests } => {
                let span = tests.iter().filter_map(Test::required_span).reduce(Span::and);
                found.extend(span.map(|span| Range { path, span }));
            }
            Term::Group { group: Group::And, filters, .. } => {
                for terms in filters {
                    collect_ranges(terms, found);
                }
            }
            Term::Group { group: Group::Or | Group::Nor, .. } => {}
        }
    }
}

impl<'f> Range<'f> {
    /// The path, segment by segment.
    pub(crate) fn segments(&self) -> &'f [Box<str>] {
        self.path.segments()
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }
}

fn collect_equalities<'f>(terms: &'f [Term], found: &mut Vec<Equality<'f>>) {
    for term in terms {
        match term {
            Term::Field { path, tests } => found.extend(
                tests
                    .iter()
                    .filter_map(|test| test.required_members())
                    .filter(|members| !members.has_containers())
                    .map(|members| Equality { path, members }),
            ),
            Term::Group { group: Group::And, filters, .. } => {
                for terms in filters {
                    collect_equalities(terms, found);
                }
            }
            Term::Group { group: Group::Or | Group::Nor, .. } => {}
        }
    }
}

impl<'f> Equality<'f> {
    /// The path, segment by segment.
    pub fn segments(&self) -> &'f [Box<str>] {
        self.path.segments()
    }

    /// The scalars, each once; none if no event can match.
    pub fn values(&self) -> impl Iterator<Item = &'f Json<'static>> + use<'f> {
        self.members.iter()
    }

    /// [`Json::fingerprint`] of each of the scalars.
    pub fn fingerprints(&self) -> impl Iterator<Item = u64> + use<'f> {
        self.members.fingerprints()
    }

    /// Whether the condition holds for an event.
    pub fn admits(&self, data: &Json<'_>) -> bool {
        self.path.any(data, &mut |value| self.members.meets(value))
    }
}

impl fmt::Debug for Equality<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in ", self.path.as_str())?;
        f.debug_list().entries(self.values().map(|value| Cow::<str>::Owned(value.to_string()))).finish()
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.as_json())
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}
