//! The JSON reader: what it accepts, what it says of the rest, and how its numbers compare.

use neo_events_domain::json::{self, DEPTH_LIMIT, Json, Kind, Number, Reason};
use proptest::prelude::*;

/// Both ways of reading must agree; answers what they say.
fn read(text: &str, depth_max: usize) -> Result<Kind, json::JsonError> {
    let checked = json::check(text, depth_max);
    assert_eq!(json::parse(text, depth_max).map(|value| value.kind()), checked, "{text}");
    checked
}

#[test]
fn valid_texts_are_accepted() {
    let check = |text: &str, kind: Kind| assert_eq!(read(text, 10), Ok(kind), "{text}");
    check("null", Kind::Null);
    check(" true ", Kind::Bool);
    check("false\n", Kind::Bool);
    check("\t\r\n [ ] ", Kind::Array);
    check("{}", Kind::Object);
    check(r#"{"a":1,"a":2, "" : [null , {}]}"#, Kind::Object);
    for number in
        ["0", "-0", "10", "-1.50", "1e5", "1E+5", "0e-0", "0.0e00", "123456789012345678901234567890"]
    {
        check(number, Kind::Number);
    }
    for string in
        [r#""""#, r#""\"\\\/\b\f\n\r\t""#, r#""\u0000\uFFff""#, r#""\ud83d\ude00""#, "\"\u{7f}ü😀\u{2028}\""]
    {
        check(string, Kind::String);
    }
}

#[test]
fn other_texts_are_refused_with_place_and_reason() {
    let check =
        |text: &str, complaint: &str| assert_eq!(read(text, 3).unwrap_err().to_string(), complaint, "{text}");
    check("", "unexpected end of the text at byte 0");
    check("  ", "unexpected end of the text at byte 2");
    check("nul", "unexpected end of the text at byte 3");
    check("nulL", "expected null, true or false at byte 3");
    check("True", "expected a value at byte 0");
    check("NaN", "expected a value at byte 0");
    check("\u{feff}{}", "expected a value at byte 0");
    check("\u{a0}1", "expected a value at byte 0");
    check("'a'", "expected a value at byte 0");
    check("+1", "expected a value at byte 0");
    check(".5", "expected a value at byte 0");
    check("[1,]", "expected a value at byte 3");
    check("[1 2]", "expected a comma or a closing bracket at byte 3");
    check("[1", "unexpected end of the text at byte 2");
    check("{\"a\":1,}", "expected a key in double quotes at byte 7");
    check("{a:1}", "expected a key in double quotes at byte 1");
    check("{\"a\" 1}", "expected a colon at byte 5");
    check("{\"a\":1 \"b\"}", "expected a comma or a closing brace at byte 7");
    check("{\"a\":", "unexpected end of the text at byte 5");
    check("1 2", "unexpected content after the value at byte 2");
    check("{}}", "unexpected content after the value at byte 2");
    check("1/*c*/", "unexpected content after the value at byte 1");
    check("01", "invalid number at byte 1");
    check("-", "unexpected end of the text at byte 1");
    check("-a", "invalid number at byte 1");
    check("1.", "unexpected end of the text at byte 2");
    check("1.e1", "invalid number at byte 2");
    check("1e", "unexpected end of the text at byte 2");
    check("[1e+]", "invalid number at byte 4");
    check("0x1", "unexpected content after the value at byte 1");
    check("\"", "unexpected end of the text at byte 1");
    check("\"a\nb\"", "unescaped control character in a string at byte 2");
    check("\"12345678901234\u{1f}\"", "unescaped control character in a string at byte 15");
    check("\"\\x\"", "invalid escape in a string at byte 1");
    check("\"\\", "unexpected end of the text at byte 2");
    check("\"\\u12", "unexpected end of the text at byte 5");
    check("\"\\u12g4\"", "invalid escape in a string at byte 1");
    check("\"\\u+123\"", "invalid escape in a string at byte 1");
    check("\"ab\\ud800\"", "lone surrogate in a string at byte 3");
    check("\"\\ud800x\"", "lone surrogate in a string at byte 1");
    check("\"\\ud800\\u0041\"", "lone surrogate in a string at byte 1");
    check("\"\\udc00\\ud800\"", "lone surrogate in a string at byte 1");
    check("\"\\ud800\\ud800\"", "lone surrogate in a string at byte 1");
    check("\"\\udc00\\udc00\"", "lone surrogate in a string at byte 1");
    check("[[[[]]]]", "nested deeper than 3 levels at byte 3");
}

#[test]
fn what_was_read_says_where_it_failed_and_how_much_it_has() {
    assert_eq!(json::parse("[1,]", 3).unwrap_err().offset(), 3);
    let value = json::parse(r#"{"a":1,"b":2,"a":3}"#, 3).unwrap();
    let Json::Object(object) = value else { panic!("an object") };
    assert_eq!((object.len(), object.is_empty()), (3, false));
}

#[test]
fn depth_counts_brackets() {
    for (text, depth) in [("1", 0), ("{}", 1), ("[]", 1), (r#"{"a":{}}"#, 2), (r#"[1,{"a":[]},2]"#, 3)] {
        assert!(read(text, depth).is_ok(), "{text}");
        assert_eq!(json::parse(text, depth).unwrap().depth(), depth, "{text}");
        if depth > 0 {
            assert_eq!(
                read(text, depth - 1).unwrap_err().reason(),
                Reason::TooDeep { max: depth - 1 },
                "{text}"
            );
        }
    }
}

#[test]
fn no_text_exhausts_the_stack() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(read(&deep(DEPTH_LIMIT), usize::MAX).is_ok());
    let error = read(&deep(DEPTH_LIMIT + 1), usize::MAX).unwrap_err();
    assert_eq!(error.reason(), Reason::TooDeep { max: DEPTH_LIMIT });
    assert!(read(&"[".repeat(1_000_000), usize::MAX).is_err());
    assert!(read(&"{\"a\":".repeat(1_000_000), usize::MAX).is_err());
}

#[test]
fn strings_are_unescaped() {
    let check =
        |text: &str, expected: &str| assert_eq!(json::parse(text, 0).unwrap().as_str(), Some(expected));
    check(r#""plain ü""#, "plain ü");
    check(r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t");
    check(r#""a\u00fcb\ud83d\ude00c\u0000""#, "aüb😀c\0");
    check(r#""\ud7ff\ue000\udbff\udfff""#, "\u{d7ff}\u{e000}\u{10ffff}");
}

#[test]
fn of_duplicate_keys_the_last_counts() {
    let small = r#"{"a":1,"b":2,"a":3}"#.to_owned();
    let many: Vec<_> = (0..40).map(|n| format!("\"k{n}\":0,\"k{n}\":1")).collect();
    let large = format!("{{\"a\":1,{},\"a\":3}}", many.join(","));
    for (text, k17) in [(small, None), (large, Some("1"))] {
        let value = json::parse(&text, 1).unwrap();
        assert_eq!(value.get("a").unwrap().to_string(), "3");
        assert!(value.get("z").is_none() && value.get("").is_none() && value.get("k").is_none());
        assert_eq!(value.to_string(), text, "members stay in the order of the text");
        assert_eq!(value.get("k17").map(ToString::to_string).as_deref(), k17);
    }
    assert_eq!(json::parse(r#"{"a":1,"a":2}"#, 1), json::parse(r#"{"a":2}"#, 1));
}

#[test]
fn equality_is_deep_and_by_value() {
    let check = |a: &str, b: &str, expected: bool| {
        let (a, b) = (json::parse(a, 9).unwrap(), json::parse(b, 9).unwrap());
        assert_eq!(a == b, expected, "{a} {b}");
        assert!(!expected || a.fingerprint() == b.fingerprint(), "{a} {b}");
        assert_eq!(a.clone().into_owned(), a);
    };
    check(r#"{"a":1,"b":[1.0]}"#, r#"{"b":[1],"a":10e-1}"#, true);
    check(r#"{"a":1,"a":1}"#, r#"{"a":1,"b":1}"#, false);
    check(r#"{"a":1}"#, r#"{"a":1,"b":1}"#, false);
    check("[1,2]", "[2,1]", false);
    check(r#""\u0061""#, r#""a""#, true);
    check("1", r#""1""#, false);
    check("null", "false", false);
    check("[]", "{}", false);
}

#[test]
fn numbers_compare_by_value() {
    let ascending: [&[&str]; 15] = [
        &["-1e99999999999999999999999999999999999999999999"],
        &["-1e999999999", "-10e999999998"],
        &["-2", "-2.0", "-20e-1"],
        &["-1e-99999999999999999999999999999999999999999"],
        &["0", "-0", "0.000", "0e5", "-0e-99999999999999999999999999999", "0E+99999999999999999999999"],
        &["1e-99999999999999999999999999999999999999999"],
        &["1e-999999999", "0.1e-999999998", "1000E-1000000002"],
        &["0.1", "1e-1", "0.10"],
        &["0.1000000000000000055511151231257827", "1000000000000000055511151231257827e-34"],
        &[
            "1",
            "1.0",
            "10e-1",
            "0.1e1",
            "1E0",
            "1e-0",
            "1e+0",
            "1e00000000000000000000000000000000000000000000",
        ],
        &["9007199254740992", "9007199254740.992e3"],
        &["9007199254740993"],
        &["1e20", "100000000000000000000"],
        &["1e999999999", "0.01e1000000001", "100e999999997"],
        &[
            "1e99999999999999999999999999999999999999999999",
            "10e99999999999999999999999999999999999999999998",
        ],
    ];
    let parse = |text: &'static str| Json::Number(Number::parse(text).unwrap());
    for (low_rank, low_texts) in ascending.iter().enumerate() {
        for (high_rank, high_texts) in ascending.iter().enumerate() {
            for low in *low_texts {
                for high in *high_texts {
                    let (a, b) = (Number::parse(low).unwrap(), Number::parse(high).unwrap());
                    assert_eq!(a.cmp(&b), low_rank.cmp(&high_rank), "{low} {high}");
                    let same_print = parse(low).fingerprint() == parse(high).fingerprint();
                    assert_eq!(same_print, low_rank == high_rank, "{low} {high}");
                }
            }
        }
    }
}

#[test]
fn a_number_stands_alone() {
    for text in ["", " 1", "1 ", "1,", "a", "--1", "1e1e1", "٣"] {
        assert!(Number::parse(text).is_err(), "{text}");
    }
    assert_eq!(Number::parse("-1.50E+3").unwrap().as_str(), "-1.50E+3");
}

/// A number written out without an exponent: its sign, and digits before and behind the point, padded so that
/// comparing texts compares values. Slow, obvious, and limited to small exponents.
fn written_out(text: &str) -> (bool, String) {
    const HALF: usize = 200;
    let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: isize = exponent.parse().expect("a small exponent");
    let point = (HALF - integer.len()).checked_add_signed(-exponent).expect("a small exponent");
    let mut digits = "0".repeat(point) + integer + fraction;
    digits += &"0".repeat(2 * HALF - digits.len());
    (negative && digits.contains(|c| c != '0'), digits)
}

fn compare_written_out(a: &str, b: &str) -> std::cmp::Ordering {
    let ((a_negative, a), (b_negative, b)) = (written_out(a), written_out(b));
    match (a_negative, b_negative) {
        (false, false) => a.cmp(&b),
        (true, true) => b.cmp(&a),
        (a_negative, b_negative) => b_negative.cmp(&a_negative),
    }
}

/// Numbers that are often close to each other or equal.
fn number() -> impl Strategy<Value = String> {
    let integer = prop_oneof![Just("0".to_owned()), "[12][019]{0,3}", "[1-9][0-9]{0,40}"];
    let fraction = prop_oneof![Just(String::new()), "\\.[019]{1,3}", "\\.[0-9]{1,40}"];
    let exponent = prop_oneof![Just(String::new()), "[eE][+-]?[0-4]", "[eE][+-]?0{0,3}[1-9][0-9]"];
    ("-?", integer, fraction, exponent).prop_map(|(sign, i, f, e)| format!("{sign}{i}{f}{e}"))
}

/// A JSON text, with whitespace and escapes.
fn text() -> impl Strategy<Value = String> {
    let string = prop_oneof![
        "\"[a-c]{0,12}\"",
        r#""([ -!#-\[\]-~üß😀]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude0[0-9]){0,12}""#
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        number(),
        string.clone()
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let members = prop::collection::vec((string.clone(), "[ \n]{0,2}", inner.clone()), 0..5);
        let list = prop::collection::vec(inner, 0..5).prop_map(|items| format!("[ {}]", items.join(" ,\t")));
        let object = members.prop_map(|members| {
            let members: Vec<_> =
                members.into_iter().map(|(key, space, value)| format!("{key}{space}:{value}")).collect();
            format!("{{{} }}", members.join(", "))
        });
        prop_oneof![list, object]
    })
}

/// Replaces, inserts and deletes characters.
fn mutated(text: &str, edits: &[(usize, u8, char)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (position, what, character) in edits {
        let at = position % (characters.len() + 1);
        match what % 3 {
            0 => characters.insert(at, *character),
            1 if at < characters.len() => characters[at] = *character,
            2 if at < characters.len() => drop(characters.remove(at)),
            _ => {}
        }
    }
    characters.into_iter().collect()
}

fn interesting_character() -> impl Strategy<Value = char> {
    prop_oneof![
        prop::sample::select(
            "{}[]\",:\\/ud8c0123456789eE+-.ntfrl \n\t\u{1}\u{a0}ü😀".chars().collect::<Vec<_>>()
        ),
        any::<char>()
    ]
}

/// What `serde_json` says: of the grammar when it skips values (as it does for
/// `RawValue`), of surrogates when it builds them. Its refusal of
/// numbers beyond `f64` is no matter of grammar, and says nothing of
/// the surrogates behind them: `None`.
fn serde_json_accepts(text: &str) -> Option<bool> {
    if serde_json::from_str::<&serde_json::value::RawValue>(text).is_err() {
        return Some(false);
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

/// Whether it says the same, if it says anything.
fn serde_json_agrees(is_accepted: bool, text: &str) -> bool {
    serde_json_accepts(text).is_none_or(|theirs| theirs == is_accepted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_texts_read_as_serde_json_reads_them(text in text()) {
        prop_assert!(read(&text, DEPTH_LIMIT).is_ok(), "{}", text);
        let ours = json::parse(&text, DEPTH_LIMIT).unwrap();
        if let Ok(theirs) = serde_json::from_str::<serde_json::Value>(&text) {
            // Ours printed and read by them is what they read; numbers keep their text, so they agree as well.
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&ours.to_string()).unwrap(), theirs);
        }
        let printed = ours.to_string();
        prop_assert_eq!(json::parse(&printed, DEPTH_LIMIT).unwrap(), ours);
    }

    #[test]
    fn damaged_texts_are_refused_where_serde_json_refuses(
        text in text(),
        edits in prop::collection::vec((any::<usize>(), any::<u8>(), interesting_character()), 1..4),
    ) {
        let text = mutated(&text, &edits);
        prop_assert!(serde_json_agrees(read(&text, DEPTH_LIMIT).is_ok(), &text), "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_alike(text in any::<String>()) {
        prop_assert!(serde_json_agrees(read(&text, DEPTH_LIMIT).is_ok(), &text), "{}", text);
    }

    #[test]
    fn a_string_ends_where_it_should_at_any_offset(before in "[a-zü]{0,20}", special in "[\"\\\\\u{0}-\u{1f}\u{7f}\u{80}é]", after in "[a-z]{0,20}") {
        let text = format!("\"{before}{special}{after}\"");
        prop_assert!(serde_json_agrees(read(&text, 0).is_ok(), &text), "{}", text);
    }

    #[test]
    fn numbers_order_as_written_out_ones(a in number(), b in number()) {
        let (x, y) = (Number::parse(&a).unwrap(), Number::parse(&b).unwrap());
        let expected = compare_written_out(&a, &b);
        prop_assert_eq!(x.cmp(&y), expected, "{} {}", a, b);
        prop_assert_eq!(x == y, expected.is_eq());
        if expected.is_eq() {
            prop_assert_eq!(Json::Number(x).fingerprint(), Json::Number(y).fingerprint());
        }
    }

    #[test]
    fn shifting_the_point_and_the_exponent_changes_nothing(
        digits in "[1-9][0-9]{0,9}",
        zeros in 0_usize..40,
        exponent in -10_i128.pow(34)..10_i128.pow(34),
    ) {
        let plain = format!("{digits}e{exponent}");
        let shift = i128::try_from(zeros).unwrap();
        let padded = format!("{digits}{}e{}", "0".repeat(zeros), exponent - shift);
        let small = format!("0.{}{digits}e{}", "0".repeat(zeros), exponent + shift + i128::try_from(digits.len()).unwrap());
        let above = format!("{digits}{}1e{}", "0".repeat(zeros), exponent - shift - 1);
        let parse = |text| Json::Number(Number::parse(text).unwrap());
        prop_assert_eq!(parse(&plain), parse(&padded));
        prop_assert_eq!(parse(&plain), parse(&small));
        prop_assert_eq!(parse(&plain).fingerprint(), parse(&padded).fingerprint());
        prop_assert_eq!(parse(&plain).fingerprint(), parse(&small).fingerprint());
        prop_assert!(Number::parse(&plain).unwrap() < Number::parse(&above).unwrap());
    }
}
