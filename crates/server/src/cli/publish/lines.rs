//! Events of a file or a pipe, read line by line: what is no JSON object is told with its reason, the rest is for the
//! server to judge.
//!
//! A line that is longer than any event can be is skipped, and only a few are read ahead: memory does not grow with the
//! file.

use std::{
    io::{self, BufRead, Read},
    thread,
};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::NOT_UTF8;

/// Longest line: data and metadata at their limits, and the rest.
const LINE_BYTES_MAX: usize = 512 * 1024;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Lines that are read before they are wanted.
const LINES_AHEAD_MAX: usize = 64;

/// An event of a file, or why it is none.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) event: Result<String, String>,
}

/// Reads in a thread of its own, a few lines ahead: whoever writes into a pipe may take long, and a signal is to end the
/// command meanwhile.
pub(super) fn read_beside(reader: Box<dyn BufRead + Send>) -> mpsc::Receiver<io::Result<Line>> {
    let (sender, lines) = mpsc::channel(LINES_AHEAD_MAX);
    let mut reading = Lines { reader, number: 0 };
    // Nobody waits for its end: it may be in the middle of a read that never ends.
    thread::spawn(move || {
        while let Some(line) = reading.next().transpose() {
            let is_broken = line.is_err();
            if sender.blocking_send(line).is_err() || is_broken {
                return;
            }
        }
    });
    lines
}

/// Reads events line by line, or the one event that spans the whole file.
struct Lines<'a> {
    reader: Box<dyn BufRead + Send + 'a>,
    number: u64,
}

impl Lines<'_> {
    fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(mut bytes) = self.read_line()? else { return Ok(None) };
            self.number += 1;
            let number = self.number;
            // What some editors put before the first line (RFC 8259 §8.1 lets readers pass over it).
            if number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
            }
            let is_whole = bytes.ends_with(b"\n");
            while bytes.ends_with(b"\n") || bytes.ends_with(b"\r") {
                bytes.pop();
            }
            if bytes.len() > LINE_BYTES_MAX {
                if !is_whole {
                    self.skip_line()?;
                }
                return Ok(Some(Line {
                    number,
                    event: Err(format!("is longer than {LINE_BYTES_MAX} bytes")),
                }));
            }
            let Ok(text) = String::from_utf8(bytes) else {
                return Ok(Some(Line { number, event: Err(NOT_UTF8.to_owned()) }));
            };
            if text.trim().is_empty() {
                continue;
            }
            let event = match parse_event(&text) {
                Parsed::Event => Ok(text),
                Parsed::Unfinished(reason) if number == 1 => self.document(&text, reason)?,
                Parsed::Refused(reason) | Parsed::Unfinished(reason) => Err(reason),
            };
            return Ok(Some(Line { number, event: event.map(|text| text.trim().to_owned()) }));
        }
    }

    /// The first line begins an event that later lines may end: then the whole file is one. If the second line is
    /// an event of its own, only the first is faulty.
    fn document(&mut self, first: &str, reason: String) -> io::Result<Result<String, String>> {
        let rest_max = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut rest = Vec::new();
        self.reader.by_ref().take(rest_max + 1).read_to_end(&mut rest)?;
        let is_whole = rest.len() <= LINE_BYTES_MAX;
        // The limit may have cut a character in two, and the second line may be well where a later one is not.
        let valid = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let is_text = valid.len() == rest.len();
        let text = format!("{first}\n{valid}");
        if is_whole && is_text && matches!(parse_event(&text), Parsed::Event) {
            // White space between tokens means nothing; on one line it can go into a batch.
            return Ok(Ok(text.replace(['\n', '\r'], " ")));
        }
        let mut later = text.lines().skip(1).filter(|line| !line.trim().is_empty());
        if later.next().is_some_and(|line| matches!(parse_event(line), Parsed::Event)) {
            let after = std::mem::replace(&mut self.reader, Box::new(io::empty()));
            self.reader = Box::new(io::Cursor::new(rest).chain(after));
            return Ok(Err(reason));
        }
        Ok(Err(match parse_event(&text) {
            _ if !is_whole => format!("begins an event longer than {LINE_BYTES_MAX} bytes"),
            _ if !is_text => NOT_UTF8.to_owned(),
            Parsed::Refused(reason) | Parsed::Unfinished(reason) => reason,
            Parsed::Event => reason,
        }))
    }

    /// A line with its end, or of a longer one enough to tell that it is too long.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        Ok((read > 0).then_some(bytes))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        while let Some(part) = self.read_line()? {
            if part.ends_with(b"\n") {
                break;
            }
        }
        Ok(())
    }
}

/// The parser's words. It counts the lines of the text that it was given: of a single one, the column is enough.
fn within(text: &str, error: &serde_json::Error) -> String {
    let words = error.to_string();
    if text.contains('\n') { words } else { words.replace(" at line 1 column ", " at column ") }
}

enum Parsed {
    Event,
    Unfinished(String),
    Refused(String),
}

fn parse_event(text: &str) -> Parsed {
    /// Enough to see that it is an object.
    #[derive(Deserialize)]
    struct AnyObject {}
    match serde_json::from_str::<AnyObject>(text) {
        Ok(_) if text.trim_start().starts_with('{') => Parsed::Event,
        Ok(_) => not_an_object(text),
        Err(error) if error.is_eof() && !text.trim_start().starts_with('[') => {
            Parsed::Unfinished(format!("is not complete JSON: {}", within(text, &error)))
        }
        Err(error) if error.is_data() || text.trim_start().starts_with('[') => not_an_object(text),
        Err(error) => Parsed::Refused(format!("is not valid JSON: {}", within(text, &error))),
    }
}

fn not_an_object(text: &str) -> Parsed {
    let advice = if text.trim_start().starts_with('[') {
        " (an array: one event a line, as by `jq -c '.[]'`)"
    } else {
        ""
    };
    Parsed::Refused(format!("is not a JSON object{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines { reader: Box::new(text.as_ref()), number: 0 };
        let mut read = Vec::new();
        while let Some(Line { number, event }) = lines.next().unwrap() {
            read.push((number, event));
        }
        read
    }

    #[test]
    fn lines_are_events_and_faulty_ones_are_named() {
        let found = read("{\"a\": 1}\n\n[1]\n{\"b\": \n{\"c\": 1.00} \n\"x\"\nnope");
        let events: Vec<_> = found
            .iter()
            .filter_map(|(number, event)| Some((*number, event.as_ref().ok()?.as_str())))
            .collect();
        assert_eq!(events, [(1, "{\"a\": 1}"), (5, "{\"c\": 1.00}")]);
        let refused: Vec<_> =
            found.iter().filter(|(_, event)| event.is_err()).map(|(number, _)| *number).collect();
        assert_eq!(refused, [3, 4, 6, 7]);
        for list in ["[{\"a\": 1}, {\"b\": 2}]", "[\n{\"a\": 1}\n]"] {
            let found = read(list);
            let [(1, Err(reason)), ..] = found.as_slice() else { panic!("{found:?}") };
            assert!(reason.contains("one event a line"), "{reason}");
        }
    }

    #[test]
    fn a_fault_is_told_by_one_number_of_its_line_and_a_byte_order_mark_is_none() {
        let found = read("\u{feff}{\"a\": 1}\nnope");
        let [(1, Ok(_)), (2, Err(reason))] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(reason, "is not valid JSON: expected ident at column 2");
        assert!(matches!(read("\u{feff}{\n\"a\": 1}").as_slice(), [(1, Ok(_))]));
    }

    #[test]
    fn one_event_may_span_lines() {
        assert_eq!(read("{\n  \"a\": 1\n}\n"), [(1, Ok("{   \"a\": 1 }".to_owned()))]);
        assert!(matches!(read("{\n \"a\": 1\n}\n{}").as_slice(), [(1, Err(_))]));
        assert!(matches!(read("{\"a\": \n{\"b\": 1}\n").as_slice(), [(1, Err(_)), (2, Ok(_))]));
    }

    #[test]
    fn an_event_that_is_not_text_is_refused() {
        let not_utf8 = || Err(NOT_UTF8.to_owned());
        assert_eq!(read(b"{\n \"a\": \"\xff\"\n}\n"), [(1, not_utf8())]);
        assert_eq!(read(b"{\n \"a\": 1\n}\n\xe2\x82"), [(1, not_utf8())]);
        // The second line is an event: only the first and the third are faulty.
        let found = read(b"{\"a\": \n{\"b\": 1}\n{\"c\": \"\xff\"}\n{\"d\": 1}\n");
        let [(1, Err(_)), (2, Ok(_)), (3, third), (4, Ok(_))] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(*third, not_utf8());
        // The limit cuts a character of a later line in two.
        for space in ["", " "] {
            let third = format!("{{\"c\":{space}\"{}\"}}", "é".repeat(LINE_BYTES_MAX / 2));
            let found = read(format!("{{\"a\": \n{{\"b\":1}}\n{third}\n{{}}"));
            assert!(matches!(found.as_slice(), [(1, Err(_)), (2, Ok(_)), (3, Err(_)), (4, Ok(_))]));
        }
        let long = read(format!("{{\n \"a\":\"{}\"\n}}", "é".repeat(LINE_BYTES_MAX)));
        assert!(matches!(long.as_slice(), [(1, Err(reason)), ..] if reason.contains("longer than")));
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_as_a_whole() {
        let long = format!("{{\"a\":\"{}\"}}\n{{}}", "x".repeat(2 * LINE_BYTES_MAX));
        let found = read(&long);
        assert!(matches!(found.as_slice(), [(1, Err(_)), (2, Ok(_))]), "{}", found.len());
        for end in ["\n", "\r\n"] {
            for (bytes, fits) in
                [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false), (LINE_BYTES_MAX + 2, false)]
            {
                let line = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
                let found = read(format!("{line}{end}{{}}{end}"));
                let [(1, first), (2, Ok(_))] = found.as_slice() else { panic!("{bytes}: {}", found.len()) };
                assert_eq!(first.is_ok(), fits, "{bytes}");
            }
        }
    }
}
