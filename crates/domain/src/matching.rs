//! One event against many rules, without looking at all of them.
//!
//! A tenant may have a hundred thousand subscriptions that differ by event type, context, or one equality or range of
//! numbers in their filters. The [`Matcher`] files each rule under its type pattern, its context and one condition of its
//! filter, if there is one of these: the equality under which the fewest others are filed already, or, if those are many, a
//! range. An event then meets the rules that are filed where it could match, and each of those is checked in full: the
//! index only ever proposes.
//!
//! **Cost of an event.** At most six shelves are visited (three patterns that fit its type × no context and its
//! own). In each, the paths of the filed conditions form a tree, and the event's data is walked along that tree:
//! however many different paths the rules name, a value of the data is visited at most once per shelf. So the
//! search is bounded by the size of the data and, for ranges, by how many different widths they have; the rest by the
//! candidates: the rules that a filed condition (or the lack of any) leaves open.
//!
//! It holds no lock and no clock; whoever shares a matcher guards it.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::ptr;
use std::sync::OnceLock;

use uuid::Uuid;

use crate::event_type::{EventPattern, EventType};
use crate::filter::{Equality, Filter, Range};
use crate::json::{self, Json};

mod ranges;

pub(crate) use ranges::{Span, rounded};

use ranges::Ranges;

/// Rules under one equality from which on a range is the better place.
const CROWD: usize = 64;

/// What one subscriber wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<K> {
    /// Who that is; unique within a matcher.
    pub key: K,
    /// Events of which type.
    pub pattern: EventPattern,
    /// Events of this context alone; `None` for those of every context and of none.
    pub context_id: Option<Uuid>,
    /// Events with such data.
    pub filter: Filter,
}

/// An event's data as text, read when the first filter asks for it, and only once.
#[derive(Debug)]
pub struct LazyData<'a> {
    text: &'a str,
    parsed: OnceLock<Option<Json<'a>>>,
}

impl<'a> LazyData<'a> {
    /// Data that was checked when the event was accepted.
    pub fn new(text: &'a str) -> Self {
        Self { text, parsed: OnceLock::new() }
    }

    /// The value. `None` only if the text is no JSON after all: then no filter matches that asks for anything.
    pub fn get(&self) -> Option<&Json<'a>> {
        self.parsed.get_or_init(|| json::parse(self.text, json::DEPTH_LIMIT).ok()).as_ref()
    }
}

/// A set of rules, indexed by what an event can tell about itself.
#[derive(Clone)]
pub struct Matcher<K> {
    /// Where each rule is in `slots`.
    by_key: HashMap<K, Slot>,
    slots: Vec<Option<Filed<K>>>,
    free: Vec<Slot>,
    exact: HashMap<EventType, Shelves>,
    categories: HashMap<Box<str>, Shelves>,
    all: Shelves,
}

type Slot = u32;
type Shelves = HashMap<Option<Uuid>, Shelf>;
type Posting = BTreeSet<Slot>;

/// A rule, and what it is filed under.
#[derive(Clone)]
struct Filed<K> {
    rule: Rule<K>,
    under: Condition,
}

/// One of a filter's conditions, by its position among those of its kind.
#[derive(Clone, Copy)]
enum Condition {
    Equality(usize),
    Range(usize),
    /// It has none to go by.
    None,
}

/// The rules of one pattern and one context.
#[derive(Clone, Default)]
struct Shelf {
    /// Those whose filter has no condition to go by.
    open: Posting,
    by_path: Node,
}

/// The place of one path in the tree of paths.
#[derive(Clone, Default)]
struct Node {
    fields: HashMap<Box<str>, Node>,
    /// By the fingerprint of the value: a collision proposes a rule too many, which its filter then refuses.
    values: HashMap<u64, Posting>,
    ranges: Ranges,
}

/// What an event's data has met in a tree.
struct Found<'m, 'p> {
    postings: &'p mut Vec<&'m Posting>,
    /// Where numbers were found that ranges are about, and which.
    numbers: Vec<(&'m Ranges, Span)>,
}

impl<K: Copy + Eq + Hash + Ord> Matcher<K> {
    /// A matcher without rules.
    pub fn new() -> Self {
        Self {
            by_key: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            exact: HashMap::new(),
            categories: HashMap::new(),
            all: HashMap::new(),
        }
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The rule with this key.
    pub fn get(&self, key: &K) -> Option<&Rule<K>> {
        let slot = *self.by_key.get(key)?;
        self.filed(slot).map(|filed| &filed.rule)
    }

    /// Adds a rule, in place of the one with the same key.
    pub fn insert(&mut self, rule: Rule<K>) {
        self.remove(&rule.key);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot::try_from(self.slots.len() - 1).expect("fewer than 2^32 rules fit into memory")
        });
        self.by_key.insert(rule.key, slot);
        let shelves = self.shelves_for(&rule.pattern);
        let under = shelves.entry(rule.context_id).or_default().insert(slot, &rule.filter);
        self.slots[slot as usize] = Some(Filed { rule, under });
    }

    /// Takes a rule out; whether it was there.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(slot) = self.by_key.remove(key) else {
            return false;
        };
        let Some(Filed { rule, under }) = self.slots[slot as usize].take() else {
            return false;
        };
        self.free.push(slot);
        let shelves = self.shelves_for(&rule.pattern);
        if let Some(shelf) = shelves.get_mut(&rule.context_id) {
            shelf.remove(slot, &rule.filter, under);
            if shelf.is_empty() {
                shelves.remove(&rule.context_id);
            }
        }
        self.drop_empty_shelves(&rule.pattern);
        true
    }

    /// The keys of all rules that an event matches, in order.
    pub fn matching(&self, event_type: &EventType, context_id: Option<Uuid>, data: &LazyData<'_>) -> Vec<K> {
        self.matching_while(event_type, context_id, data, || true).unwrap_or_default()
    }

    /// As [`Matcher::matching`], as long as `goes_on` says so, which is asked before each rule that the index leaves:
    /// none of them takes long, but there may be many. `None` if it was stopped.
    pub fn matching_while(
        &self,
        event_type: &EventType,
        context_id: Option<Uuid>,
        data: &LazyData<'_>,
        mut goes_on: impl FnMut() -> bool,
    ) -> Option<Vec<K>> {
        let candidates = self.candidates(event_type, context_id, data);
        let mut keys = Vec::new();
        for Filed { rule, .. } in candidates.into_iter().filter_map(|slot| self.filed(slot)) {
            if !goes_on() {
                return None;
            }
            keys.extend(is_match(&rule.filter, data).then_some(rule.key));
        }
        keys.sort_unstable();
        Some(keys)
    }

    /// The rules that the index cannot rule out, each once.
    fn candidates(&self, event_type: &EventType, context_id: Option<Uuid>, data: &LazyData<'_>) -> Vec<Slot> {
        let of_type =
            [self.exact.get(event_type), self.categories.get(event_type.category()), Some(&self.all)];
        let own_context = context_id.map(Some);
        let mut postings = Vec::new();
        for shelves in of_type.into_iter().flatten() {
            for context in [Some(None), own_context].into_iter().flatten() {
                if let Some(shelf) = shelves.get(&context) {
                    shelf.search(data, &mut postings);
                }
            }
        }
        merge(postings, self.slots.len())
    }

    fn filed(&self, slot: Slot) -> Option<&Filed<K>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn shelves_for(&mut self, pattern: &EventPattern) -> &mut Shelves {
        match pattern {
            EventPattern::Exact(event_type) => self.exact.entry(event_type.clone()).or_default(),
            EventPattern::Category(category) => self.categories.entry(category.as_str().into()).or_default(),
            EventPattern::All => &mut self.all,
        }
    }

    fn drop_empty_shelves(&mut self, pattern: &EventPattern) {
        match pattern {
            EventPattern::Exact(event_type) => drop_if_empty(&mut self.exact, event_type),
            EventPattern::Category(category) => drop_if_empty(&mut self.categories, category.as_str()),
            EventPattern::All => {}
        }
        if self.by_key.is_empty() {
            self.slots.clear();
            self.free.clear();
        }
    }
}

impl<K: Copy + Eq + Hash + Ord> Default for Matcher<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> fmt::Debug for Matcher<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").field("rules", &self.by_key.len()).finish_non_exhaustive()
    }
}

fn is_match(filter: &Filter, data: &LazyData<'_>) -> bool {
    filter.is_empty() || data.get().is_some_and(|data| filter.matches(data))
}

fn drop_if_empty<K, Q>(by_type: &mut HashMap<K, Shelves>, key: &Q)
where
    K: Eq + Hash + Borrow<Q>,
    Q: Eq + Hash + ?Sized,
{
    if by_type.get(key).is_some_and(HashMap::is_empty) {
        by_type.remove(key);
    }
}

/// The slots of all postings, each once. An array in the data may hit one posting, or many with the same
/// rules, thousands of times; the buffer never grows beyond a few times the number of rules.
fn merge(mut postings: Vec<&Posting>, slots_max: usize) -> Vec<Slot> {
    postings.sort_unstable_by_key(|posting| ptr::from_ref(*posting));
    postings.dedup_by_key(|posting| ptr::from_ref(*posting));
    let mut slots = Vec::new();
    for posting in postings {
        slots.extend(posting);
        if slots.len() > 2 * slots_max {
            slots.sort_unstable();
            slots.dedup();
        }
    }
    slots.sort_unstable();
    slots.dedup();
    slots
}

impl Shelf {
    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.by_path.is_empty()
    }

    /// Files a rule; answers under which condition of its filter.
    fn insert(&mut self, slot: Slot, filter: &Filter) -> Condition {
        let tree = &mut self.by_path;
        let equality = filter.equalities().enumerate().min_by_key(|(_, equality)| tree.load(equality));
        let is_crowded = equality.as_ref().is_none_or(|(_, equality)| tree.load(equality).0 >= CROWD);
        // Of several the narrowest; one that is open to a side is as wide as can be.
        let width = |range: &Range<'_>| range.span().to - range.span().from;
        let range = filter.ranges().enumerate().min_by(|(_, a), (_, b)| width(a).total_cmp(&width(b)));
        match (equality, range) {
            (_, Some((position, range))) if is_crowded => {
                tree.at(range.segments()).ranges.insert(range.span(), slot);
                Condition::Range(position)
            }
            (Some((position, equality)), _) => {
                for fingerprint in equality.fingerprints() {
                    tree.at(equality.segments()).values.entry(fingerprint).or_default().insert(slot);
                }
                Condition::Equality(position)
            }
            (None, _) => {
                self.open.insert(slot);
                Condition::None
            }
        }
    }

    fn remove(&mut self, slot: Slot, filter: &Filter, under: Condition) {
        match under {
            Condition::None => drop(self.open.remove(&slot)),
            Condition::Equality(position) => {
                let Some(equality) = filter.equalities().nth(position) else { return };
                for fingerprint in equality.fingerprints() {
                    self.by_path.prune(equality.segments(), &mut |node| {
                        if let Some(posting) = node.values.get_mut(&fingerprint) {
                            posting.remove(&slot);
                            if posting.is_empty() {
                                node.values.remove(&fingerprint);
                            }
                        }
                    });
                }
            }
            Condition::Range(position) => {
                let Some(range) = filter.ranges().nth(position) else { return };
                self.by_path.prune(range.segments(), &mut |node| node.ranges.remove(range.span(), slot));
            }
        }
    }

    /// Finds the postings of the rules that may match.
    fn search<'m>(&'m self, data: &LazyData<'_>, postings: &mut Vec<&'m Posting>) {
        if !self.open.is_empty() {
            postings.push(&self.open);
        }
        if !self.by_path.is_empty()
            && let Some(data) = data.get()
        {
            let mut found = Found { postings, numbers: Vec::new() };
            self.by_path.search(data, &mut found);
            found.look_up_numbers();
        }
    }
}

impl Found<'_, '_> {
    /// Bounds of one range may be met by different numbers of an array, so what counts is from where to where they go.
    fn look_up_numbers(mut self) {
        self.numbers.sort_unstable_by_key(|(ranges, _)| ptr::from_ref(*ranges));
        for of_one in self.numbers.chunk_by(|(one, _), (other, _)| ptr::eq(*one, *other)) {
            if let Some(seen) = of_one.iter().map(|(_, span)| *span).reduce(Span::with) {
                of_one[0].0.search(seen, self.postings);
            }
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.values.is_empty() && self.ranges.is_empty()
    }

    /// How bad a place an equality is to file a rule under: the longest posting it would join, then how many.
    fn load(&self, equality: &Equality<'_>) -> (usize, usize) {
        let node = equality.segments().iter().try_fold(self, |node, segment| node.fields.get(segment));
        let length =
            |fingerprint| node.and_then(|node| node.values.get(&fingerprint)).map_or(0, BTreeSet::len);
        (equality.fingerprints().map(length).max().unwrap_or(0), equality.fingerprints().count())
    }

    /// The place of a path.
    fn at(&mut self, segments: &[Box<str>]) -> &mut Self {
        segments.iter().fold(self, |node, segment| node.fields.entry(segment.clone()).or_default())
    }

    /// Takes something out of the place of a path, and what is empty then.
    fn prune(&mut self, segments: &[Box<str>], take_out: &mut dyn FnMut(&mut Self)) {
        let Some((first, rest)) = segments.split_first() else {
            take_out(self);
            return;
        };
        if let Some(node) = self.fields.get_mut(first) {
            node.prune(rest, take_out);
            if node.is_empty() {
                self.fields.remove(first);
            }
        }
    }

    /// Walks data and tree together. An array stands for its elements, as in filters.
    fn search<'m>(&'m self, data: &Json<'_>, found: &mut Found<'m, '_>) {
        match data {
            Json::Array(items) => items.iter().for_each(|item| self.search(item, found)),
            Json::Object(object) if self.fields.len() <= object.len() => {
                for (name, node) in &self.fields {
                    if let Some(value) = object.get(name) {
                        node.search(value, found);
                    }
                }
            }
            Json::Object(object) => {
                // A duplicate key that does not count may propose a rule too many.
                for (key, value) in object.iter() {
                    if let Some(node) = self.fields.get(key) {
                        node.search(value, found);
                    }
                }
            }
            scalar => {
                if !self.values.is_empty() {
                    found.postings.extend(self.values.get(&scalar.fingerprint()));
                }
                if let Json::Number(number) = scalar
                    && !self.ranges.is_empty()
                {
                    found.numbers.push((&self.ranges, Span::of(number)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(key: u32, pattern: &str, context_id: Option<u128>, filter: &str) -> Rule<u32> {
        Rule {
            key,
            pattern: pattern.parse().unwrap(),
            context_id: context_id.map(Uuid::from_u128),
            filter: filter.parse().unwrap(),
        }
    }

    #[test]
    fn removing_leaves_nothing_behind() {
        let filters =
            ["{}", r#"{"a":1}"#, r#"{"a.b.c":["x","y"],"a":1}"#, r#"{"a":[]}"#, r#"{"a":{"$gt":1}}"#];
        let mut matcher = Matcher::new();
        for key in 0..600 {
            let pattern = ["user.created", "user.*", "*"][key as usize % 3];
            let context_id = (key % 2 == 0).then_some(u128::from(key % 7));
            matcher.insert(rule(key, pattern, context_id, filters[key as usize % 5]));
        }
        for key in 0..600 {
            assert!(matcher.remove(&(key * 7 % 600)));
        }
        assert!(matcher.by_key.is_empty() && matcher.slots.is_empty() && matcher.free.is_empty());
        assert!(matcher.exact.is_empty() && matcher.categories.is_empty() && matcher.all.is_empty());
    }

    #[test]
    fn freed_slots_are_used_again() {
        let mut matcher = Matcher::new();
        matcher.insert(rule(0, "*", None, "{}"));
        for key in 1..100 {
            matcher.insert(rule(key, "*", None, "{}"));
            assert!(matcher.remove(&key));
        }
        assert_eq!(matcher.slots.len(), 2);
    }

    #[test]
    fn a_rule_is_filed_under_its_rarest_equality() {
        let mut matcher = Matcher::new();
        for key in 0..100 {
            matcher.insert(rule(key, "*", None, &format!(r#"{{"plan":"pro","id":{key}}}"#)));
        }
        let event_type = EventType::try_new("user.created").unwrap();
        let data = LazyData::new(r#"{"plan":"pro","id":50}"#);
        let candidates = matcher.candidates(&event_type, None, &data);
        assert!(candidates.len() <= 2, "{candidates:?}");
        assert_eq!(matcher.matching(&event_type, None, &data), [50]);
    }
}
