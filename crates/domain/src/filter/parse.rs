//! From a filter's text to its terms. Everything that can be wrong with a filter is found here.

use std::collections::BTreeSet;

use regex::RegexBuilder;

use super::error::{FilterError, FilterErrorReason as Reason};
use super::terms::{Check, Element, Group, Members, Order, Path, Term, Test};
use super::weight::weight;
use super::{
    FILTER_BYTES_MAX, FILTER_CLAUSES_MAX, FILTER_LEVELS_MAX, FILTER_LIST_ITEMS_MAX, FILTER_NUMBER_BYTES_MAX,
    FILTER_PATH_SEGMENTS_MAX, FILTER_REGEX_BYTES_MAX, FILTER_REGEX_WEIGHT_MAX, FILTER_REGEXES_MAX,
};
use crate::json::{self, Json, Kind, Object};
use crate::violation::{pointer_token, shortened};

/// Levels of JSON that a filter within [`FILTER_LEVELS_MAX`] can have: an object and a list per level, then a
/// list of values as deep as they may be.
const JSON_LEVELS_MAX: usize = 3 * FILTER_LEVELS_MAX + 1;

/// The operators of the language, for telling a misplaced one from an unknown one.
const OPERATORS: [&str; 15] = [
    "$eq",
    "$ne",
    "$in",
    "$nin",
    "$gt",
    "$gte",
    "$lt",
    "$lte",
    "$contains",
    "$exists",
    "$prefix",
    "$suffix",
    "$regex",
    "$not",
    "$elemMatch",
];
const COMBINATORS: [Group; 3] = [Group::And, Group::Or, Group::Nor];

/// Where a filter comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody writes it now.
    Given,
    /// It was accepted before, perhaps by other limits.
    Stored,
}

/// Compiles a whole filter.
pub(super) fn terms(text: &str, origin: Origin) -> Result<Vec<Term>, FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError::new("", Reason::TooLong { bytes: text.len() }));
    }
    let json = json::parse(text, JSON_LEVELS_MAX).map_err(|error| {
        let reason = match error.reason() {
            json::Reason::TooDeep { .. } => Reason::TooDeep,
            _ => Reason::Json(error),
        };
        FilterError::new("", reason)
    })?;
    let mut parser = Parser { origin, pointer: String::new(), clauses: 0, regexes: 0, regex_weight: 0 };
    let object = parser.object(&json)?;
    parser.filter(object, 1)
}

/// How long the longest number in a value is, as it is written; 0 if there is none.
fn longest_number(value: &Json<'_>) -> usize {
    match value {
        Json::Number(number) => number.as_str().len(),
        Json::Array(items) => items.iter().map(longest_number).max().unwrap_or(0),
        Json::Object(object) => object.iter().map(|(_, value)| longest_number(value)).max().unwrap_or(0),
        Json::Null | Json::Bool(_) | Json::String(_) => 0,
    }
}

/// Where the parser is, and what it has counted.
struct Parser {
    origin: Origin,
    /// RFC 6901.
    pointer: String,
    clauses: usize,
    regexes: usize,
    regex_weight: usize,
}

type Parsed<T> = Result<T, FilterError>;

impl Parser {
    fn refuse<T>(&self, reason: Reason) -> Parsed<T> {
        Err(FilterError::new(&self.pointer, reason))
    }

    /// Runs `step` with the pointer one token further in.
    fn within<T>(&mut self, token: &str, step: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let outer = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&pointer_token(token));
        let result = step(self);
        self.pointer.truncate(outer);
        result
    }

    /// Runs `step` for each key, trimmed, with its value, at its pointer.
    fn each_key<T>(
        &mut self,
        object: &Object<'_>,
        mut step: impl FnMut(&mut Self, &str, &Json<'_>) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut seen = BTreeSet::new();
        let mut results = Vec::new();
        for (key, value) in object.iter() {
            results.push(self.within(key, |parser| {
                let name = key.trim();
                if !seen.insert(name) {
                    return parser.refuse(Reason::DuplicateKey { key: shortened(name).into_owned() });
                }
                step(parser, name, value)
            })?);
        }
        Ok(results)
    }

    fn filter(&mut self, object: &Object<'_>, level: usize) -> Parsed<Vec<Term>> {
        self.check_level(level)?;
        self.each_key(object, |parser, name, value| parser.term(name, value, level))
    }

    fn term(&mut self, name: &str, value: &Json<'_>, level: usize) -> Parsed<Term> {
        if name.is_empty() {
            return self.refuse(Reason::EmptyKey);
        }
        if !name.starts_with('$') {
            let path = self.path(name)?;
            return Ok(Term::Field { path, tests: self.condition(value, level)? });
        }
        if let Some(group) = COMBINATORS.into_iter().find(|group| group.name() == name) {
            return self.group(group, value, level);
        }
        let is_known = OPERATORS.contains(&name);
        let name = shortened(name).into_owned();
        self.refuse(if is_known {
            Reason::OperatorWithoutField { name }
        } else {
            Reason::UnknownOperator { name }
        })
    }

    fn path(&self, name: &str) -> Parsed<Path> {
        let path = Path::new(name);
        let segments = path.segments().len();
        if segments > FILTER_PATH_SEGMENTS_MAX {
            return self.refuse(Reason::TooManySegments { segments });
        }
        if path.segments().iter().any(|segment| segment.is_empty()) {
            return self.refuse(Reason::EmptySegment);
        }
        Ok(path)
    }

    fn group(&mut self, group: Group, value: &Json<'_>, level: usize) -> Parsed<Term> {
        self.count_clause()?;
        let items = self.list(group.name(), "a list of filters", value)?;
        if items.is_empty() {
            return self.refuse(Reason::EmptyList { name: group.name().to_owned() });
        }
        let mut filters = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            filters.push(self.within(&index.to_string(), |parser| {
                let object = parser.object(item)?;
                parser.check_not_empty(object)?;
                parser.filter(object, level + 1)
            })?);
        }
        Ok(Term::Group { group, filters, expected: value.to_string().into() })
    }

    /// What a field, or `$not`, may be given: a scalar, a list or an object of operators.
    fn condition(&mut self, value: &Json<'_>, level: usize) -> Parsed<Vec<Test>> {
        match value {
            Json::Object(object) => self.operators(object, level + 1),
            Json::Array(_) => Ok(vec![self.test("$in", value, level)?]),
            _ => Ok(vec![self.test("$eq", value, level)?]),
        }
    }

    fn operators(&mut self, object: &Object<'_>, level: usize) -> Parsed<Vec<Test>> {
        self.check_level(level)?;
        self.check_not_empty(object)?;
        let has_operators = object.iter().any(|(key, _)| key.trim().starts_with('$'));
        self.each_key(object, |parser, name, value| {
            let key = shortened(name).into_owned();
            match (name.starts_with('$'), has_operators) {
                (true, _) => parser.test(name, value, level),
                (false, true) => parser.refuse(Reason::FieldAmongOperators { key }),
                (false, false) => parser.refuse(Reason::NotAnOperator { key }),
            }
        })
    }

    /// One operator. `level` is that of the object it stands in.
    fn test(&mut self, name: &str, value: &Json<'_>, level: usize) -> Parsed<Test> {
        self.count_clause()?;
        let (operator, is_negated, check) = match name {
            "$eq" => ("$eq", false, self.one_of(std::slice::from_ref(value))?),
            "$ne" => ("$ne", true, self.one_of(std::slice::from_ref(value))?),
            "$in" => ("$in", false, self.one_of_list("$in", value)?),
            "$nin" => ("$nin", true, self.one_of_list("$nin", value)?),
            "$gt" => ("$gt", false, self.ordered(name, Order::Greater, value)?),
            "$gte" => ("$gte", false, self.ordered(name, Order::GreaterOrEqual, value)?),
            "$lt" => ("$lt", false, self.ordered(name, Order::Less, value)?),
            "$lte" => ("$lte", false, self.ordered(name, Order::LessOrEqual, value)?),
            "$contains" => ("$contains", false, Check::Contains(self.literal(value)?)),
            "$exists" => ("$exists", !self.boolean(name, value)?, Check::Exists),
            "$prefix" => ("$prefix", false, Check::Prefix(self.text(name, value)?.into())),
            "$suffix" => ("$suffix", false, Check::Suffix(self.text(name, value)?.into())),
            "$regex" => ("$regex", false, self.regex(value)?),
            "$not" => ("$not", true, Check::All(self.condition(value, level)?)),
            "$elemMatch" => ("$elemMatch", false, Check::Element(self.element(value, level + 1)?)),
            _ => return self.refuse(unknown_in_condition(name)),
        };
        Ok(Test { operator, expected: value.to_string().into(), is_negated, check })
    }

    fn one_of(&self, values: &[Json<'_>]) -> Parsed<Check> {
        let literals = values.iter().map(|value| self.literal(value)).collect::<Parsed<Vec<_>>>()?;
        Ok(Check::OneOf(Members::new(literals.into_iter())))
    }

    fn one_of_list(&self, operator: &'static str, value: &Json<'_>) -> Parsed<Check> {
        let items = self.list(operator, "a list", value)?;
        if items.len() > FILTER_LIST_ITEMS_MAX {
            return self.refuse(Reason::TooManyItems { items: items.len() });
        }
        self.one_of(items)
    }

    fn ordered(&self, operator: &str, order: Order, value: &Json<'_>) -> Parsed<Check> {
        match value {
            Json::Number(_) | Json::String(_) => Ok(Check::Ordered(order, self.literal(value)?)),
            _ => self.refuse(operand(operator, "a number or a string", value.kind())),
        }
    }

    fn regex(&mut self, value: &Json<'_>) -> Parsed<Check> {
        let pattern = self.text("$regex", value)?;
        self.regexes += 1;
        if self.regexes > FILTER_REGEXES_MAX {
            return self.refuse(Reason::TooManyRegexes);
        }
        self.regex_weight = self.regex_weight.saturating_add(weight(pattern).unwrap_or(0));
        if self.regex_weight > FILTER_REGEX_WEIGHT_MAX && self.origin == Origin::Given {
            return self.refuse(Reason::RegexesTooHeavy { weight: self.regex_weight });
        }
        let mut builder = RegexBuilder::new(pattern);
        // The lazily built automaton is a cache beside the program; it may grow as large again.
        builder.size_limit(FILTER_REGEX_BYTES_MAX).dfa_size_limit(FILTER_REGEX_BYTES_MAX);
        match builder.build() {
            Ok(regex) => Ok(Check::Regex(Box::new(regex))),
            Err(regex::Error::CompiledTooBig(_)) => self.refuse(Reason::RegexTooLarge),
            Err(error) => self.refuse(Reason::MalformedRegex { detail: last_line(&error) }),
        }
    }

    fn element(&mut self, value: &Json<'_>, level: usize) -> Parsed<Element> {
        let Json::Object(object) = value else {
            return self.refuse(operand("$elemMatch", "a filter or an object of operators", value.kind()));
        };
        self.check_not_empty(object)?;
        let is_operator =
            |key: &str| key.starts_with('$') && COMBINATORS.iter().all(|group| group.name() != key);
        if object.iter().any(|(key, _)| is_operator(key.trim())) {
            return self.operators(object, level).map(Element::Operators);
        }
        self.filter(object, level).map(Element::Filter)
    }

    /// A value to compare with.
    fn literal(&self, value: &Json<'_>) -> Parsed<Json<'static>> {
        if value.depth() > FILTER_LEVELS_MAX {
            return self.refuse(Reason::TooDeep);
        }
        let bytes = longest_number(value);
        if bytes > FILTER_NUMBER_BYTES_MAX && self.origin == Origin::Given {
            return self.refuse(Reason::NumberTooLong { bytes });
        }
        Ok(value.clone().into_owned())
    }

    fn object<'j>(&self, value: &'j Json<'j>) -> Parsed<&'j Object<'j>> {
        match value {
            Json::Object(object) => Ok(object),
            _ => self.refuse(Reason::NotAnObject { found: value.kind() }),
        }
    }

    fn list<'j>(&self, name: &str, expected: &'static str, value: &'j Json<'j>) -> Parsed<&'j [Json<'j>]> {
        match value {
            Json::Array(items) => Ok(items),
            _ => self.refuse(operand(name, expected, value.kind())),
        }
    }

    fn text<'j>(&self, operator: &str, value: &'j Json<'_>) -> Parsed<&'j str> {
        match value {
            Json::String(text) => Ok(text),
            _ => self.refuse(operand(operator, "a string", value.kind())),
        }
    }

    fn boolean(&self, operator: &str, value: &Json<'_>) -> Parsed<bool> {
        match value {
            Json::Bool(value) => Ok(*value),
            _ => self.refuse(operand(operator, "true or false", value.kind())),
        }
    }

    fn check_level(&self, level: usize) -> Parsed<()> {
        if level > FILTER_LEVELS_MAX { self.refuse(Reason::TooDeep) } else { Ok(()) }
    }

    fn check_not_empty(&self, object: &Object<'_>) -> Parsed<()> {
        if object.is_empty() { self.refuse(Reason::EmptyObject) } else { Ok(()) }
    }

    fn count_clause(&mut self) -> Parsed<()> {
        self.clauses += 1;
        if self.clauses > FILTER_CLAUSES_MAX { self.refuse(Reason::TooManyClauses) } else { Ok(()) }
    }
}

fn operand(operator: &str, expected: &'static str, found: Kind) -> Reason {
    Reason::Operand { operator: operator.to_owned(), expected, found }
}

fn unknown_in_condition(name: &str) -> Reason {
    let is_combinator = COMBINATORS.iter().any(|group| group.name() == name);
    let name = shortened(name).into_owned();
    if is_combinator { Reason::CombinatorInCondition { name } } else { Reason::UnknownOperator { name } }
}

/// The parser of regular expressions draws a picture and ends with `error: …`; one line has room for that.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
