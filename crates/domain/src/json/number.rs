//! JSON numbers as exact decimals.
//!
//! A number is kept as its text and compared by value: `1`, `1.0` and `10e-1` are equal, and
//! `0.1` is not the nearest double. Nothing is ever expanded, so `1e999999999` costs its eleven characters:
//! a comparison looks at the sign, then at the power of ten of the first digit, then at the digits.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::{JsonError, Reason, read::Reader};

/// A number of a JSON text, as written. `Eq`, `Ord` and `Hash` go by its value, in time linear in its text.
#[derive(Clone, Debug)]
pub struct Number<'a>(Cow<'a, str>);

impl<'a> Number<'a> {
    /// Reads a number that stands alone, without whitespace around it.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        let mut reader = Reader { text, at: 0, depth_max: 0 };
        let number = reader.number()?;
        if number.len() < text.len() {
            return Err(reader.error(Reason::TrailingContent));
        }
        Ok(Self(Cow::Borrowed(number)))
    }

    /// A number from a text that was read as one.
    pub(super) fn from_checked(text: &'a str) -> Self {
        debug_assert!(Number::parse(text).is_ok(), "not a number: {text}");
        Self(Cow::Borrowed(text))
    }

    /// The number as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same number, independent of the text it was read from.
    pub fn into_owned(self) -> Number<'static> {
        Number(Cow::Owned(self.0.into_owned()))
    }
}

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most numbers are small integers; the rest fails to parse at its first odd character.
        if let (Ok(a), Ok(b)) = (self.0.parse::<i64>(), other.0.parse::<i64>()) {
            return a.cmp(&b);
        }
        Decimal::new(&self.0).cmp(&Decimal::new(&other.0))
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number<'_> {}

impl Hash for Number<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Decimal::new(&self.0).hash(state);
    }
}

/// The value `± 0.d₁d₂d₃… × 10^(exponent + point)` with `d₁ ≠ 0`, or zero if there are no digits.
///
/// The digits are those of `head` and then those of `tail`, with neither leading nor trailing zeros.
struct Decimal<'a> {
    is_negative: bool,
    head: &'a [u8],
    tail: &'a [u8],
    point: i64,
    exponent: Exponent<'a>,
}

/// The part behind the `e`. Its length has no limit but the text's, so it is never turned into an integer.
struct Exponent<'a> {
    is_negative: bool,
    digits: &'a [u8],
}

impl<'a> Decimal<'a> {
    fn new(text: &'a str) -> Self {
        let (is_negative, magnitude) = match text.strip_prefix('-') {
            Some(magnitude) => (true, magnitude),
            None => (false, text),
        };
        let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, ""));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));

        let mut head = trim_zeros_start(integer.as_bytes());
        let mut tail = trim_zeros_end(fraction.as_bytes());
        let mut point = signed(head.len());
        if head.is_empty() {
            let significant = trim_zeros_start(tail);
            point = -signed(tail.len() - significant.len());
            tail = significant;
        }
        if tail.is_empty() {
            head = trim_zeros_end(head);
        }
        Self { is_negative, head, tail, point, exponent: Exponent::new(exponent) }
    }

    fn digits(&self) -> impl Iterator<Item = u8> {
        self.head.iter().chain(self.tail).copied()
    }

    fn is_zero(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.is_zero(), self.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let sign = self.sign();
        match sign.cmp(&other.sign()) {
            Ordering::Equal if sign == 0 => Ordering::Equal,
            Ordering::Equal if sign < 0 => other.cmp_magnitude(self),
            Ordering::Equal => self.cmp_magnitude(other),
            unequal => unequal,
        }
    }

    /// Compares two values other than zero without their signs.
    fn cmp_magnitude(&self, other: &Self) -> Ordering {
        let shift = i128::from(self.point) - i128::from(other.point);
        let power = self.exponent.minus(&other.exponent) + shift;
        power.cmp(&0).then_with(|| self.digits().cmp(other.digits()))
    }
}

impl Hash for Decimal<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        /// So many digits fit into a `u64`.
        const DIGITS_PER_WORD: usize = 19;
        state.write_i8(self.sign());
        if self.is_zero() {
            return;
        }
        // Equal powers are equal modulo 2^64 too, however the text splits them.
        state.write_i64(self.exponent.wrapping_value().wrapping_add(self.point));
        let mut word = 0_u64;
        for (index, digit) in self.digits().enumerate() {
            word = word * 10 + u64::from(digit - b'0');
            if index % DIGITS_PER_WORD == DIGITS_PER_WORD - 1 {
                state.write_u64(word);
                word = 0;
            }
        }
        state.write_u64(word);
    }
}

impl<'a> Exponent<'a> {
    fn new(text: &'a str) -> Self {
        let is_negative = text.starts_with('-');
        let digits = text.trim_start_matches(['+', '-']).as_bytes();
        Self { is_negative, digits: trim_zeros_start(digits) }
    }

    /// `self - other`, exact unless it is beyond ±10³⁰, where only its sign is right. No `point` comes near.
    fn minus(&self, other: &Self) -> i128 {
        const FAR: i128 = 10_i128.pow(30);
        let mut difference = 0_i128;
        for position in (0..self.digits.len().max(other.digits.len())).rev() {
            difference = difference * 10 + self.digit(position) - other.digit(position);
            // The digits to come cannot bring it back: each adds at most 18 to ten times this.
            if difference.abs() > FAR {
                return difference;
            }
        }
        difference
    }

    /// The digit that counts 10^`position`, with the exponent's sign.
    fn digit(&self, position: usize) -> i128 {
        let index = self.digits.len().checked_sub(position + 1);
        let digit = index.map_or(0, |index| i128::from(self.digits[index] - b'0'));
        if self.is_negative { -digit } else { digit }
    }

    fn wrapping_value(&self) -> i64 {
        let magnitude = self
            .digits
            .iter()
            .fold(0_i64, |value, digit| value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')));
        if self.is_negative { magnitude.wrapping_neg() } else { magnitude }
    }
}

fn trim_zeros_start(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

fn trim_zeros_end(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().rev().take_while(|digit| **digit == b'0').count();
    &digits[..digits.len() - zeros]
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
