//! Times: read from text as RFC 3339 has them and nothing more, kept to the microsecond, and never beyond the calendar.
//!
//! The parser beneath reads further forms (without seconds, with a time zone's name, with a sign before the year),
//! which whoever sends them means otherwise or did not mean at all, and which the next program refuses.

use jiff::{SignedDuration, Timestamp, civil::DateTime};

use crate::violation::Rule;

/// Reads a time of RFC 3339 §5.6: `2026-11-21T12:00:00.5+01:00`. As there, `T` and `Z` may be lower case, and a space
/// may stand for `T`. The 60th second is refused: no store's calendar has it. The last time is 9999-12-30T22:00:00Z:
/// at whatever offset it is written, its year has four digits.
pub fn parse(text: &str) -> Result<Timestamp, Rule> {
    const MALFORMED: Rule = Rule::Malformed { expected: "an RFC 3339 time such as 2026-11-21T12:00:00Z" };
    const TOO_FINE: Rule = Rule::Malformed {
        expected: "an RFC 3339 time such as 2026-11-21T12:00:00Z, with at most nine digits of a fraction",
    };
    const BEYOND: Rule = Rule::Malformed { expected: "a time no later than 9999-12-30T22:00:00Z" };
    if !has_form(text.as_bytes()) {
        return Err(MALFORMED);
    }
    text.parse().map_err(|_| {
        let (date_time, rest) = text.split_at(DATE_TIME.len());
        let has_day = date_time.parse::<DateTime>().is_ok();
        if has_day && fraction_digits(rest.as_bytes()) > FRACTION_DIGITS_MAX {
            TOO_FINE
        } else if has_day && date_time.starts_with(LAST_MONTH) {
            BEYOND
        } else {
            MALFORMED
        }
    })
}

/// Stores keep microseconds; finer digits are cut here, so that what is answered is what was stored.
pub fn to_micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// A time that is later by so much, or the last of the calendar.
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

const DATE_TIME: &[u8] = b"0000-00-00T00:00:00";
/// What is read: nanoseconds.
const FRACTION_DIGITS_MAX: usize = 9;
/// With an offset, its days before the last may be beyond the last time, too.
const LAST_MONTH: &str = "9999-12-";

fn has_form(text: &[u8]) -> bool {
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        other => byte == other,
    };
    let Some((date_time, rest)) = text.split_at_checked(DATE_TIME.len()) else { return false };
    date_time.iter().zip(DATE_TIME).all(fits)
        && date_time[17] <= b'5'
        && without_fraction(rest).is_some_and(is_offset)
}

/// What comes after `.5`, if that is there.
fn without_fraction(text: &[u8]) -> Option<&[u8]> {
    let Some(fraction) = text.strip_prefix(b".") else { return Some(text) };
    let digits = fraction_digits(text);
    (digits > 0).then(|| &fraction[digits..])
}

/// How many digits come after `.`.
fn fraction_digits(text: &[u8]) -> usize {
    let fraction = text.strip_prefix(b".").unwrap_or_default();
    fraction.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn is_offset(text: &[u8]) -> bool {
    match text {
        b"Z" | b"z" => true,
        [b'+' | b'-', hours @ .., b':', tens @ b'0'..=b'5', ones] => {
            let is_hour = matches!(hours, [b'0' | b'1', b'0'..=b'9'] | [b'2', b'0'..=b'3']);
            is_hour && tens.is_ascii_digit() && ones.is_ascii_digit()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_rfc_allows_is_read() {
        for (text, expected) in [
            ("2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z"),
            ("2026-11-21t12:00:00z", "2026-11-21T12:00:00Z"),
            ("2026-11-21 12:00:00z", "2026-11-21T12:00:00Z"),
            ("2026-11-21T12:00:00.5Z", "2026-11-21T12:00:00.5Z"),
            ("2026-11-21T12:00:00.123456789+00:00", "2026-11-21T12:00:00.123456789Z"),
            ("2026-11-21T12:00:00-00:00", "2026-11-21T12:00:00Z"),
            ("2026-11-21T23:59:59+23:59", "2026-11-21T00:00:59Z"),
            ("2026-11-21T12:00:00-05:30", "2026-11-21T17:30:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ] {
            assert_eq!(parse(text).map(|at| at.to_string()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_last_time_is_named_where_a_later_one_is_refused() {
        let last = "9999-12-30T22:00:00Z";
        assert_eq!(parse(last).unwrap(), Timestamp::from_second(Timestamp::MAX.as_second()).unwrap());
        for text in [
            "9999-12-30T22:00:01Z",
            "9999-12-31T00:00:00Z",
            "9999-12-31 23:59:59.9z",
            "9999-12-30T20:00:00-05:00",
            "9999-12-29T23:00:00-23:59",
        ] {
            assert_eq!(
                parse(text).unwrap_err().to_string(),
                format!("must be a time no later than {last}"),
                "{text}"
            );
        }
        for never in ["9999-02-29T00:00:00Z", "9999-12-32T00:00:00Z"] {
            let rule = parse(never).unwrap_err().to_string();
            assert_eq!(rule, "must be an RFC 3339 time such as 2026-11-21T12:00:00Z", "{never}");
        }
    }

    #[test]
    fn digits_beyond_the_ninth_are_named_where_they_are_the_reason() {
        for text in ["2026-11-21T12:00:00.1234567891Z", "2026-11-21T12:00:00.0000000000+01:00"] {
            let rule = parse(text).unwrap_err().to_string();
            assert!(rule.ends_with("with at most nine digits of a fraction"), "{text}: {rule}");
        }
        let never = parse("2026-02-29T12:00:00.1234567891Z").unwrap_err();
        assert!(!never.to_string().contains("fraction"), "{never}");
    }

    #[test]
    fn other_forms_and_times_that_never_are_are_refused() {
        for text in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21T12Z",
            "2026-11-21T12:00Z",
            "2026-11-21T12:00:00",
            "2026-11-21T12:00:60Z",
            "2026-11-21T12:00:99Z",
            "2026-11-21T12:60:00Z",
            "2026-11-21T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T12:00:00,5Z",
            "2026-11-21T12:00:00.Z",
            "2026-11-21T12:00:00Z[America/New_York]",
            "2026-11-21T12:00:00+01:00[Europe/Paris]",
            "2026-11-21T12:00:00Z[u-ca=hebrew]",
            "2026-11-21T12:00:00+01",
            "2026-11-21T12:00:00+0100",
            "2026-11-21T12:00:00+01:00:00",
            "2026-11-21T12:00:00+24:00",
            "2026-11-21T12:00:00+01:60",
            "2026-11-21T12:00:00 01:00",
            "20261121T120000Z",
            "20261121T12:00:00Z",
            "2026-W47-6T12:00:00Z",
            "+002026-11-21T12:00:00Z",
            "-000001-11-21T12:00:00Z",
            "2026-11-21_12:00:00Z",
            "2026-11-21  12:00:00Z",
            " 2026-11-21T12:00:00Z",
            "2026-11-21T12:00:00Z ",
            "2026-11-21T12:00:00\u{2212}01:00",
            "２026-11-21T12:00:00Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
