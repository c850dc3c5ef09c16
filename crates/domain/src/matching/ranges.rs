//! Rules that want a number between bounds, found by the numbers that an event has in that place.
//!
//! A range with one bound is filed under it, in order: a number meets all that begin below it, or end above it. A range
//! with two lies in a grid whose cells are at least as wide as the range, so that it touches two cells at most; there is
//! such a grid for each power of two that is the width of some range. A number meets one cell of each. So the search
//! costs a look-up for each width there is, and what it proposes beyond the ranges that hold the number are their near
//! neighbours.
//!
//! Filters compare numbers as exact decimals; here they are rounded to the nearest `f64`. Rounding keeps the order of
//! numbers, so a range may be proposed that its filter then refuses, and none is missed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{Posting, Slot};
use crate::json::Number;

/// From one number to another, both included. An end that is not finite is open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Span {
    /// Everything.
    pub(crate) const ALL: Self = Self { from: f64::NEG_INFINITY, to: f64::INFINITY };

    /// What both have.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.min(other.to) }
    }

    /// One number.
    pub(super) fn of(number: &Number<'_>) -> Self {
        let number = rounded(number);
        Self { from: number, to: number }
    }

    /// The least span that has both.
    pub(super) fn with(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

/// The nearest number that there is, never an open end, and zero without a sign.
pub(crate) fn rounded(number: &Number<'_>) -> f64 {
    let nearest: f64 = number.as_str().parse().unwrap_or(f64::MAX);
    nearest.clamp(f64::MIN, f64::MAX) + 0.0
}

/// Rules by the range that they want.
#[derive(Clone, Default)]
pub(super) struct Ranges {
    from: BTreeMap<Bound, Posting>,
    to: BTreeMap<Bound, Posting>,
    /// By the binary logarithm of the width of the cells, then by cell.
    grids: BTreeMap<i32, BTreeMap<i64, Posting>>,
}

/// Where a range is filed.
enum Place {
    From(Bound),
    To(Bound),
    Cells(i32, RangeInclusive<i64>),
}

impl Place {
    fn of(span: Span) -> Self {
        match (span.from.is_finite(), span.to.is_finite()) {
            (true, true) if span.from <= span.to => {
                let level = level(span);
                Self::Cells(level, cells(span, level))
            }
            // What no single number meets, an array of several may.
            (true, _) => Self::From(Bound(span.from)),
            (false, _) => Self::To(Bound(span.to)),
        }
    }
}

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty() && self.to.is_empty() && self.grids.is_empty()
    }

    pub(super) fn insert(&mut self, span: Span, slot: Slot) {
        match Place::of(span) {
            Place::From(bound) => drop(self.from.entry(bound).or_default().insert(slot)),
            Place::To(bound) => drop(self.to.entry(bound).or_default().insert(slot)),
            Place::Cells(level, cells) => {
                let grid = self.grids.entry(level).or_default();
                for cell in cells {
                    grid.entry(cell).or_default().insert(slot);
                }
            }
        }
    }

    /// Takes a slot out, and what is empty then.
    pub(super) fn remove(&mut self, span: Span, slot: Slot) {
        match Place::of(span) {
            Place::From(bound) => take_out(&mut self.from, &bound, slot),
            Place::To(bound) => take_out(&mut self.to, &bound, slot),
            Place::Cells(level, cells) => {
                let Some(grid) = self.grids.get_mut(&level) else { return };
                for cell in cells {
                    take_out(grid, &cell, slot);
                }
                if grid.is_empty() {
                    self.grids.remove(&level);
                }
            }
        }
    }

    /// Finds the postings of all ranges that have a number in common with what an event has from its least to its greatest.
    pub(super) fn search<'m>(&'m self, seen: Span, postings: &mut Vec<&'m Posting>) {
        postings.extend(self.from.range(..=Bound(seen.to)).map(|(_, posting)| posting));
        postings.extend(self.to.range(Bound(seen.from)..).map(|(_, posting)| posting));
        for (level, grid) in &self.grids {
            postings.extend(grid.range(cells(seen, *level)).map(|(_, posting)| posting));
        }
    }
}

fn take_out<K: Ord>(postings: &mut BTreeMap<K, Posting>, key: &K, slot: Slot) {
    if let Some(posting) = postings.get_mut(key) {
        posting.remove(&slot);
        if posting.is_empty() {
            postings.remove(key);
        }
    }
}

/// Of cells that are no narrower than the span, and whose numbers fit: the greatest is 2^53 cells from zero at most.
fn level(span: Span) -> i32 {
    let greatest = span.from.abs().max(span.to.abs());
    (exponent(span.to - span.from) + 1).max(exponent(greatest) - 52)
}

/// The binary logarithm of a number that is not negative, rounded down; that of the least normal number at the least.
fn exponent(number: f64) -> i32 {
    const BIAS: i32 = 1023;
    let biased = i32::try_from(number.to_bits() >> 52).unwrap_or_default();
    biased.max(1) - BIAS
}

/// The cells that a span touches.
fn cells(span: Span, level: i32) -> RangeInclusive<i64> {
    // A power of two: dividing by it is exact, or goes to zero or beyond all cells.
    let width = f64::exp2(f64::from(level));
    #[expect(clippy::cast_possible_truncation, reason = "beyond the last cell is as good as in it")]
    let cell = |number: f64| (number / width).floor() as i64;
    cell(span.from)..=cell(span.to)
}

/// A bound, in order.
#[derive(Clone, Copy, Debug)]
struct Bound(f64);

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bound {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of all magnitudes, often near each other.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            (-40..40_i32).prop_map(f64::from),
            (-40..40_i32).prop_map(|n| f64::from(n) / 8.0),
            any::<f64>().prop_filter("a number", |number| number.is_finite()),
            Just(0.0),
            Just(f64::MAX),
            Just(f64::MIN),
            Just(f64::MIN_POSITIVE),
            Just(5e-324),
        ]
        .prop_map(|number| number + 0.0)
    }

    fn span() -> impl Strategy<Value = Span> {
        (number(), number(), 0..4).prop_map(|(one, other, ends)| {
            let Span { from, to } = Span { from: one.min(other), to: one.max(other) };
            match ends {
                0 => Span { from, ..Span::ALL },
                1 => Span { to, ..Span::ALL },
                2 => Span { from, to: from },
                _ => Span { from, to },
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_range_that_has_a_number_in_common_is_proposed(
            ranges in prop::collection::vec(span(), 1..40), one in number(), other in number(),
        ) {
            let seen = Span { from: one.min(other), to: one.max(other) };
            let mut index = Ranges::default();
            for (slot, range) in (0..).zip(&ranges) {
                index.insert(*range, slot);
            }
            let mut postings = Vec::new();
            index.search(seen, &mut postings);
            let proposed: Posting = postings.into_iter().flatten().copied().collect();
            for (slot, range) in (0..).zip(&ranges) {
                if range.from <= seen.to && seen.from <= range.to {
                    prop_assert!(proposed.contains(&slot), "{range:?} {seen:?}");
                }
            }
            for (slot, range) in (0..).zip(&ranges) {
                index.remove(*range, slot);
            }
            prop_assert!(index.is_empty());
        }

        #[test]
        fn a_range_touches_two_cells_at_most(span in span()) {
            if let Place::Cells(_, cells) = Place::of(span) {
                let touched = i128::from(*cells.end()) - i128::from(*cells.start()) + 1;
                prop_assert!((1..=2).contains(&touched), "{span:?}: {touched}");
            }
        }
    }

    #[test]
    fn of_narrow_ranges_only_neighbours_are_proposed() {
        let mut index = Ranges::default();
        for slot in 0..10_000 {
            index.insert(Span { from: f64::from(slot), to: f64::from(slot) + 1.0 }, slot);
        }
        let mut postings = Vec::new();
        index.search(Span { from: 500.5, to: 500.5 }, &mut postings);
        let proposed = postings.into_iter().flatten().count();
        assert!((1..=6).contains(&proposed), "{proposed}");
    }
}
