//! Why a filter is refused, and where in it.

use super::{
    FILTER_BYTES_MAX, FILTER_CLAUSES_MAX, FILTER_LEVELS_MAX, FILTER_LIST_ITEMS_MAX, FILTER_NUMBER_BYTES_MAX,
    FILTER_PATH_SEGMENTS_MAX, FILTER_REGEX_BYTES_MAX, FILTER_REGEX_WEIGHT_MAX, FILTER_REGEXES_MAX,
};
use crate::json::{JsonError, Kind};

/// A filter that is refused: the reason, and the JSON pointer (RFC 6901) of the place inside the filter. Both have but
/// the beginning of a key that is longer than [`NAME_CHARS_SHOWN_MAX`](crate::violation::NAME_CHARS_SHOWN_MAX).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", Place(pointer))]
pub struct FilterError {
    pointer: String,
    reason: FilterErrorReason,
}

struct Place<'p>(&'p str);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " at {}", self.0) }
    }
}

impl FilterError {
    pub(super) fn new(pointer: &str, reason: FilterErrorReason) -> Self {
        Self { pointer: pointer.to_owned(), reason }
    }

    /// Where, as an RFC 6901 pointer inside the filter; empty for the filter as a whole.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// What is wrong.
    pub fn reason(&self) -> &FilterErrorReason {
        &self.reason
    }
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterErrorReason {
    /// The text is longer than [`FILTER_BYTES_MAX`].
    #[error("filter has {bytes} bytes, at most {FILTER_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes it has.
        bytes: usize,
    },
    /// The text is not JSON.
    #[error("filter is not valid JSON: {0}")]
    Json(JsonError),
    /// A filter is something other than an object.
    #[error("a filter must be an object, found {found}")]
    NotAnObject {
        /// What it is.
        found: Kind,
    },
    /// Nested deeper than [`FILTER_LEVELS_MAX`].
    #[error("filter is nested deeper than {FILTER_LEVELS_MAX} levels")]
    TooDeep,
    /// More clauses than [`FILTER_CLAUSES_MAX`].
    #[error("filter has more than {FILTER_CLAUSES_MAX} clauses")]
    TooManyClauses,
    /// A list longer than [`FILTER_LIST_ITEMS_MAX`].
    #[error("list has {items} items, at most {FILTER_LIST_ITEMS_MAX} are allowed")]
    TooManyItems {
        /// Items it has.
        items: usize,
    },
    /// A number longer than [`FILTER_NUMBER_BYTES_MAX`].
    #[error("number has {bytes} characters, at most {FILTER_NUMBER_BYTES_MAX} are allowed")]
    NumberTooLong {
        /// Characters it has.
        bytes: usize,
    },
    /// More `$regex` clauses than [`FILTER_REGEXES_MAX`].
    #[error("filter has more than {FILTER_REGEXES_MAX} regular expressions")]
    TooManyRegexes,
    /// A key is empty or whitespace.
    #[error("a field's name must not be empty")]
    EmptyKey,
    /// A key begins or ends with a dot, or has two in a row.
    #[error("a field's name must not have an empty part between its dots")]
    EmptySegment,
    /// A key has more parts than [`FILTER_PATH_SEGMENTS_MAX`].
    #[error("a field's name has {segments} parts, at most {FILTER_PATH_SEGMENTS_MAX} are allowed")]
    TooManySegments {
        /// Parts it has.
        segments: usize,
    },
    /// The same key twice in one object, perhaps but for whitespace around it.
    #[error("duplicate key `{key}`")]
    DuplicateKey {
        /// The key, trimmed.
        key: String,
    },
    /// A key begins with `$` and is none of the language's operators.
    #[error("unknown operator `{name}`")]
    UnknownOperator {
        /// What was written.
        name: String,
    },
    /// An operator that needs a field stands where fields stand.
    #[error("operator `{name}` must stand inside a field's condition")]
    OperatorWithoutField {
        /// The operator.
        name: String,
    },
    /// `$and`, `$or` or `$nor` stands inside a field's condition.
    #[error("`{name}` combines whole filters and must not stand inside a field's condition")]
    CombinatorInCondition {
        /// The combinator.
        name: String,
    },
    /// An object of operators has a key that is none.
    #[error("`{key}` stands among operators but is none; operators and fields cannot be mixed")]
    FieldAmongOperators {
        /// The key.
        key: String,
    },
    /// A field is given an object without operators.
    #[error("`{key}` is not an operator; write a nested field with a dot, a whole object with $eq")]
    NotAnOperator {
        /// The key.
        key: String,
    },
    /// A field's condition, or a filter inside another, has no clause.
    #[error("an empty object says nothing here")]
    EmptyObject,
    /// A list of filters has no members.
    #[error("`{name}` needs at least one filter")]
    EmptyList {
        /// The combinator.
        name: String,
    },
    /// An operator is given something that it cannot work with.
    #[error("`{operator}` takes {expected}, found {found}")]
    Operand {
        /// The operator.
        operator: String,
        /// What it takes.
        expected: &'static str,
        /// What it was given.
        found: Kind,
    },
    /// A regular expression that does not parse, or that needs look-around or back-references.
    #[error("malformed regular expression: {detail}")]
    MalformedRegex {
        /// What the parser says, in one line.
        detail: String,
    },
    /// A regular expression that compiles to more than [`FILTER_REGEX_BYTES_MAX`].
    #[error("regular expression compiles to more than {FILTER_REGEX_BYTES_MAX} bytes")]
    RegexTooLarge,
    /// Regular expressions that together weigh more than [`FILTER_REGEX_WEIGHT_MAX`].
    #[error(
        "regular expressions of the filter weigh {weight} together, at most {FILTER_REGEX_WEIGHT_MAX} is allowed: a character or an anchor weighs 10, a class 10 and its ranges, each times its repetitions"
    )]
    RegexesTooHeavy {
        /// What they weigh, up to the one that is refused.
        weight: usize,
    },
}
