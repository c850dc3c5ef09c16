//! Event data of an exact size that carry their event's number, so that a webhook is recognised by its body alone.

/// Shortest data: the number and nothing else to fill them.
pub(crate) const PAYLOAD_BYTES_MIN: usize = OPENING.len() + NUMBER_DIGITS + FILLER.len() + CLOSING.len();
/// The type of every event; nobody but the bench's own endpoints should subscribe to it.
pub(crate) const EVENT_TYPE: &str = "bench.load";

const OPENING: &str = r#"{"bench":""#;
const NUMBER_DIGITS: usize = 12;
const FILLER: &str = r#"","fill":""#;
const CLOSING: &str = r#""}"#;
/// What stands before the number wherever the data are embedded.
const MARKER: &[u8] = br#""bench":""#;

/// `{"bench":"000000000042","fill":"xxx…"}`, at least [`PAYLOAD_BYTES_MIN`] bytes.
pub(crate) fn payload(number: u64, bytes: usize) -> String {
    let fill = "x".repeat(bytes.saturating_sub(PAYLOAD_BYTES_MIN));
    format!("{OPENING}{number:0NUMBER_DIGITS$}{FILLER}{fill}{CLOSING}")
}

/// An event with that payload, as the API takes it.
pub(crate) fn event(number: u64, bytes: usize) -> String {
    format!(r#"{{"event_type":"{EVENT_TYPE}","event_data":{}}}"#, payload(number, bytes))
}

/// The number of the event that a webhook's body is about.
pub(crate) fn number_in(body: &[u8]) -> Option<u64> {
    let from = number_start(body)?;
    std::str::from_utf8(body.get(from..from + NUMBER_DIGITS)?).ok()?.parse().ok()
}

/// The same body about another event.
pub(crate) fn with_number(body: &[u8], number: u64) -> Option<Vec<u8>> {
    let from = number_start(body)?;
    let mut body = body.to_vec();
    body.get_mut(from..from + NUMBER_DIGITS)?.copy_from_slice(format!("{number:0NUMBER_DIGITS$}").as_bytes());
    Some(body)
}

fn number_start(body: &[u8]) -> Option<usize> {
    let at = body.windows(MARKER.len()).position(|window| window == MARKER)?;
    Some(at + MARKER.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_exactly_the_size_that_was_asked_for() {
        for bytes in [PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MIN + 1, 1024, 100 * 1024] {
            for number in [0, 7, 999_999_999_999] {
                let payload = payload(number, bytes);
                assert_eq!(payload.len(), bytes);
                assert!(serde_json::from_str::<serde_json::Value>(&payload).unwrap().is_object());
            }
        }
    }

    #[test]
    fn numbers_are_found_and_replaced_wherever_the_data_stand() {
        let body = event(42, 64);
        assert_eq!(number_in(body.as_bytes()), Some(42));
        let other = with_number(body.as_bytes(), 4711).unwrap();
        assert_eq!(other, event(4711, 64).into_bytes());
        assert_eq!(number_in(b"{}"), None);
        assert_eq!(number_in(br#"{"bench":"12"#), None, "cut short");
    }
}
