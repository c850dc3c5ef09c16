//! How much a regular expression costs, told from its text.
//!
//! Searching takes at worst the expression's positions times the text's bytes, and compiling takes memory by positions
//! and by the ranges of classes (`\w` has hundreds). Sixteen bytes as `1[01]{3000}x` are three thousand positions: a
//! second or two for one event, wherever a filter is tried. So both are counted before anything is compiled.

use regex_syntax::hir::{Class, Hir, HirKind};

/// What a position weighs, in units of one range of a class.
const POSITION: usize = 10;

/// The weight of an expression; `None` if it does not parse, which compiling it explains better.
pub(super) fn weight(pattern: &str) -> Option<usize> {
    regex_syntax::parse(pattern).ok().map(|expression| of(&expression))
}

/// The parser bounds how deep an expression nests.
fn of(expression: &Hir) -> usize {
    match expression.kind() {
        HirKind::Empty => 1,
        // A state of its own at every byte, where the text makes the fast engine give up (`\b` beside what is not ASCII).
        HirKind::Look(_) => POSITION,
        HirKind::Literal(literal) => POSITION.saturating_mul(literal.0.len()),
        HirKind::Class(Class::Unicode(class)) => POSITION + class.ranges().len(),
        HirKind::Class(Class::Bytes(class)) => POSITION + class.ranges().len(),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            of(&repetition.sub).saturating_mul(usize::try_from(times).unwrap_or(usize::MAX))
        }
        HirKind::Capture(capture) => of(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(of).fold(0, usize::saturating_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_ranges_are_counted_as_often_as_they_may_stand() {
        for (pattern, expected) in [
            ("", 1),
            ("^abc$", 50),
            (r"\B\B\b", 30),
            ("[01]", 11),
            ("[01]{1000}", 11_000),
            ("[01]{2,5}x*", 65),
            ("(?:ab|[0-9a-f]){3,}", 96),
            ("(a)(b)", 20),
            ("(?-u:\\w)", 14),
        ] {
            assert_eq!(weight(pattern), Some(expected), "{pattern}");
        }
        assert!(weight("\\w").is_some_and(|weight| weight > 500));
        assert_eq!(weight("("), None);
    }
}
