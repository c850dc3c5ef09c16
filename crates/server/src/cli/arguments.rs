//! Values of flags that more than one command takes, parsed once.

use std::ops::RangeInclusive;

use jiff::SignedDuration;
use neo_events::{
    Sources, Timestamp,
    domain::{
        event::{EVENT_DATA_BYTES_MAX, JsonObject},
        filter::Filter,
        time::parse,
    },
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::cli::failure::Failure;

/// What the server takes, in every profile.
const BACKOFF_MULTIPLIERS: RangeInclusive<f64> = 1.0..=5.0;

/// An id.
pub(crate) fn uuid(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "an id is a UUID, 36 characters; copy the whole of it".to_owned())
}

/// A JSON object, kept as it was written.
pub(crate) fn json_object(text: &str) -> Result<Box<RawValue>, String> {
    JsonObject::try_new(text, EVENT_DATA_BYTES_MAX).map_err(|rule| format!("it {rule}"))?;
    RawValue::from_string(text.to_owned()).map_err(|error| error.to_string())
}

/// A filter, kept as it was written. It is judged as the server judges it: the language has limits of its own.
pub(crate) fn filter(text: &str) -> Result<Box<RawValue>, String> {
    Filter::parse(text).map_err(|error| error.to_string())?;
    RawValue::from_string(text.to_owned()).map_err(|error| error.to_string())
}

/// A time: RFC 3339, or how long ago.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = parse(text) {
        return Ok(at);
    }
    let ago: SignedDuration = text
        .parse()
        .map_err(|_| "a time is RFC 3339 (2026-01-31T12:00:00Z) or how long ago (90m, 2h, 3h30m)")?;
    Sources::system().now().checked_sub(ago).map_err(|error| error.to_string())
}

/// A time that lies ahead: RFC 3339, or how long from now.
pub(crate) fn later(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = parse(text) {
        return Ok(at);
    }
    let ahead: SignedDuration = text
        .parse()
        .map_err(|_| "a time is RFC 3339 (2027-01-31T12:00:00Z) or how long from now (90m, 24h, 2160h)")?;
    Sources::system().now().checked_add(ahead).map_err(|error| error.to_string())
}

/// How each wait between attempts grows. Text that reads as NaN or infinite has no JSON and would be sent as nothing.
pub(crate) fn backoff_multiplier(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| BACKOFF_MULTIPLIERS.contains(number));
    number.ok_or_else(|| "must be a number between 1 and 5".to_owned())
}

/// The change of a field that may be set with `--FIELD` or emptied with `--clear FIELD`, but not both at once.
#[expect(clippy::option_option, reason = "absent, cleared and set are three cases, as on the wire")]
pub(crate) fn change<T>(
    field: &str,
    value: Option<T>,
    is_cleared: bool,
) -> Result<Option<Option<T>>, Failure> {
    match (value, is_cleared) {
        (Some(_), true) => {
            Err(Failure::Usage(format!("--{field} and --clear {field} cannot be given together")))
        }
        (None, true) => Ok(Some(None)),
        (value, false) => Ok(value.map(Some)),
    }
}

/// Refuses a span of time in which nothing can lie.
pub(crate) fn judge_span(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Failure> {
    match (from, to) {
        (Some(from), Some(to)) if from >= to => {
            Err(Failure::Usage(format!("--from ({from}) must lie before --to ({to}): nothing is in between")))
        }
        _ => Ok(()),
    }
}

/// A header, `Name: value`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written 'Name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use neo_events::domain::filter::{FILTER_BYTES_MAX, FILTER_LEVELS_MAX};

    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(time("2026-01-31T12:00:00+01:00").unwrap().to_string(), "2026-01-31T11:00:00Z");
        let now = Sources::system().now();
        let ago = now.duration_since(time("2h30m").unwrap());
        assert!((ago - SignedDuration::from_mins(150)).abs() < SignedDuration::from_secs(60), "{ago}");
        let ahead = later("2h30m").unwrap().duration_since(now);
        assert!((ahead - SignedDuration::from_mins(150)).abs() < SignedDuration::from_secs(60), "{ahead}");
        for wrong in
            ["", "yesterday", "2026-01-31", "2026-01-31T12Z", "2026-01-31T12:00:60Z", "20260131T120000Z"]
        {
            assert!(time(wrong).is_err() && later(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_begins_before_it_ends() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        for (from, to) in [(None, None), (at(5), None), (None, at(5)), (at(5), at(6))] {
            assert!(judge_span(from, to).is_ok(), "{from:?} {to:?}");
        }
        for (from, to) in [(at(6), at(5)), (at(5), at(5))] {
            assert!(judge_span(from, to).is_err(), "{from:?} {to:?}");
        }
    }

    #[test]
    fn a_multiplier_is_a_number_within_its_range() {
        for (text, number) in [("1", 1.0), ("1.5", 1.5), ("5.0", 5.0), ("2e0", 2.0)] {
            assert!((backoff_multiplier(text).unwrap() - number).abs() < f64::EPSILON, "{text}");
        }
        for wrong in ["", "NaN", "nan", "inf", "-inf", "infinity", "0.99", "5.01", "1e400", "two", "1,5"] {
            assert_eq!(backoff_multiplier(wrong).unwrap_err(), "must be a number between 1 and 5", "{wrong}");
        }
    }

    #[test]
    fn json_keeps_its_digits_and_must_be_an_object() {
        assert_eq!(json_object(r#"{"a": 1.00}"#).unwrap().get(), r#"{"a": 1.00}"#);
        assert!(json_object("[1]").is_err());
        assert!(json_object("{").is_err());
    }

    #[test]
    fn a_filter_is_judged_by_its_own_limits() {
        // An `$or` is a level of the language and two of JSON.
        let nested = |levels: usize| {
            format!("{}{{\"a\": 1.00}}{}", "{\"$or\": [".repeat(levels - 1), "]}".repeat(levels - 1))
        };
        assert_eq!(filter(&nested(FILTER_LEVELS_MAX)).unwrap().get(), nested(FILTER_LEVELS_MAX));
        assert!(filter(&nested(FILTER_LEVELS_MAX + 1)).unwrap_err().contains("deeper than 10 levels"));
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(FILTER_BYTES_MAX));
        assert!(filter(&long).unwrap_err().contains("at most 16384"));
        assert!(filter(r#"{"a": {"$gtr": 1}}"#).unwrap_err().contains("unknown operator `$gtr` at /a/$gtr"));
    }
}
