//! JSON text laid out for people without reading it as values: keys keep their order and numbers their digits.

use serde_json::value::RawValue;

use super::output::printable;

const INDENT: &str = "  ";
/// Text up to this many characters stays on its line.
const LINE_CHARS_MAX: usize = 80;

/// JSON text on one line if it is short, else one member a line. Control characters cannot pass.
pub(crate) fn indented_if_long(json: &str) -> String {
    if json.chars().count() <= LINE_CHARS_MAX && !json.contains('\n') {
        printable(json)
    } else {
        indented(json)
    }
}

/// Whether text from elsewhere is JSON: anything else would be torn apart where it is laid out.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// JSON text, one member a line.
pub(crate) fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut chars = json.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => copy_string(&mut chars, &mut text),
            '{' | '[' => {
                text.push(c);
                while chars.next_if(|next| next.is_whitespace()).is_some() {}
                if let Some(closing) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(closing);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_whitespace() => {}
            c => text.push(c),
        }
    }
    printable(&text)
}

fn copy_string(chars: &mut impl Iterator<Item = char>, text: &mut String) {
    text.push('"');
    let mut is_escaped = false;
    for c in chars {
        text.push(c);
        match c {
            '"' if !is_escaped => return,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n(INDENT, depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_changes() {
        let json = r#"{"b" :1.0e2,"a":[ ] ,"c":["x\"}",{}, 12345678901234567890.10]}"#;
        let expected = r#"{
  "b": 1.0e2,
  "a": [],
  "c": [
    "x\"}",
    {},
    12345678901234567890.10
  ]
}"#;
        assert_eq!(indented(json), expected);
        assert_eq!(indented(expected), expected);
        assert_eq!(indented_if_long("{\"a\": 1}"), "{\"a\": 1}");
    }

    #[test]
    fn json_is_told_from_what_looks_like_it() {
        for text in ["{}", " [1, {\"a\": \"\\n\"}]\n", "\"x\"", "1.0e2", "null"] {
            assert!(is_json(text), "{text}");
        }
        for text in ["", "{", "{a: 1}", "<html>{}</html>", "Error: no, thanks", "{} {}", "{\"cut\": \"of"] {
            assert!(!is_json(text), "{text}");
        }
    }
}
