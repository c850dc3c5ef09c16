//! The filter language: what holds, what is refused, what is explained, what an index may rely on.

use std::time::{Duration, Instant};

use neo_events_domain::filter::{
    CLAUSE_ACTUAL_BYTES_MAX, FILTER_BYTES_MAX, FILTER_CLAUSES_MAX, FILTER_LEVELS_MAX, FILTER_LIST_ITEMS_MAX,
    FILTER_NUMBER_BYTES_MAX, FILTER_PATH_SEGMENTS_MAX, FILTER_REGEX_WEIGHT_MAX, FILTER_REGEXES_MAX, Filter,
    FilterErrorReason,
};
use neo_events_domain::json::{self, Json};
use proptest::prelude::*;

mod filter_random;

use filter_random::Generator;

fn parse(filter: &str) -> Filter {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"))
}

fn data(text: &str) -> Json<'_> {
    json::parse(text, 10).expect("documents are valid")
}

fn check(filter: &str, document: &str, expected: bool) {
    assert_eq!(parse(filter).matches(&data(document)), expected, "{filter} on {document}");
}

/// Checks one condition against values of the field `a`; an empty text leaves the field out.
fn check_field(condition: &str, holding: &[&str], failing: &[&str]) {
    for (values, expected) in [(holding, true), (failing, false)] {
        for value in values {
            let document = if value.is_empty() { "{}".to_owned() } else { format!("{{\"a\":{value}}}") };
            check(&format!("{{\"a\":{condition}}}"), &document, expected);
        }
    }
}

#[test]
fn an_empty_filter_matches_everything() {
    for filter in [parse("{}"), parse(" { } "), Filter::empty(), Filter::default()] {
        assert!(filter.is_empty() && filter.matches(&data("{}")) && filter.matches(&data("[1]")));
        assert!(filter.explain(&data("{}")).is_empty());
    }
    assert!(!parse(r#"{"a":1}"#).is_empty());
    assert_eq!(parse(" {\"a\" : 1.0} ").as_json(), " {\"a\" : 1.0} ");
}

#[test]
fn all_keys_must_hold() {
    let filter =
        r#"{"plan": ["enterprise","pro"], "region": {"$in": ["us-east"]}, "usage.seats": {"$gte": 10}}"#;
    check(filter, r#"{"plan":"pro","region":"us-east","usage":{"seats":10}}"#, true);
    check(filter, r#"{"plan":"pro","region":"us-east","usage":{"seats":9.99}}"#, false);
    check(filter, r#"{"plan":"free","region":"us-east","usage":{"seats":10}}"#, false);
    check(filter, r#"{"plan":"pro","region":"eu","usage":{"seats":10}}"#, false);
    check(filter, r#"{"plan":"pro","region":"us-east","usage":{}}"#, false);
    check(filter, r#"{"plan":"pro","region":"us-east","usage.seats":10}"#, false);
}

#[test]
fn dots_descend_into_objects_and_through_arrays() {
    check(r#"{"a.b":1}"#, r#"{"a":{"b":1}}"#, true);
    check(r#"{"a.b":1}"#, r#"{"a":[{"b":2},3,{"b":1}]}"#, true);
    check(r#"{"a.b":1}"#, r#"{"a":[{"b":[2,1]}]}"#, true);
    check(r#"{"a.b":1}"#, r#"{"a":[[{"b":1}]]}"#, true);
    check(r#"{"a.b.c":1}"#, r#"{"a":[{"b":2},{"b":[{},{"c":1}]}]}"#, true);
    check(r#"{"a.b":1}"#, r#"{"a.b":1}"#, false);
    check(r#"{"a.b":1}"#, r#"{"a":{"b":{"b":1}}}"#, false);
    check(r#"{"a.0":1}"#, r#"{"a":[1]}"#, false);
    check(r#"{"a.0":1}"#, r#"{"a":{"0":1}}"#, true);
    check(r#"{"a.0":1}"#, r#"{"a":[{"0":1}]}"#, true);
}

#[test]
fn keys_are_trimmed() {
    check(r#"{" a.b\t":{" $gt ":1}}"#, r#"{"a":{"b":2}}"#, true);
    check(r#"{"\n$or ":[{"a":1},{"a":2}]}"#, r#"{"a":2}"#, true);
    check(r#"{"a b":1}"#, r#"{"a b":1}"#, true);
}

#[test]
fn of_duplicate_keys_in_the_data_the_last_counts() {
    check(r#"{"a":2}"#, r#"{"a":1,"a":2}"#, true);
    check(r#"{"a":1}"#, r#"{"a":1,"a":2}"#, false);
}

#[test]
fn a_scalar_means_equal() {
    for condition in ["1", r#"{"$eq":1}"#, r#"{"$eq":10e-1}"#] {
        check_field(
            condition,
            &["1", "1.0", "[2,1]", "[[1]]"],
            &["", "2", "\"1\"", "true", "null", "[]", "{}", "[2]"],
        );
    }
    check_field("null", &["null", "[1,null]"], &["", "0", "false", "[]", "\"null\""]);
    check_field("true", &["true", "[false,true]"], &["", "false", "1", "\"true\""]);
    check_field("\"x\"", &["\"x\"", "\"\\u0078\"", "[1,\"x\"]"], &["", "\"X\"", "\"xx\"", "[\"xx\"]"]);
    check_field("0.1", &["0.1", "0.10", "1e-1"], &["0.1000000000000000055511151231257827"]);
    check_field("9007199254740993", &["9007199254740993"], &["9007199254740992"]);
}

#[test]
fn a_list_means_member_of() {
    for condition in ["[1,\"x\",null]", r#"{"$in":[1,"x",null]}"#, r#"{"$in":[1,1.0,"x",null,5,6,7,8,9]}"#] {
        check_field(
            condition,
            &["1.0", "\"x\"", "null", "[3,1]", "[[\"x\"]]"],
            &["", "2", "\"1\"", "[]", "[2]", "{}"],
        );
    }
    check_field("[]", &[], &["", "1", "null", "[]"]);
    check_field(r#"{"$nin":[]}"#, &["", "1", "null", "[]"], &[]);
}

#[test]
fn arrays_and_objects_equal_deeply() {
    check_field(r#"{"$eq":[1,2]}"#, &["[1,2.0]", "[[1,2],3]"], &["", "1", "[1]", "[2,1]", "[1,2,3]"]);
    check_field(r#"{"$eq":[]}"#, &["[]", "[[]]"], &["", "null", "[1]"]);
    check_field(
        r#"{"$eq":{"x":1,"y":2}}"#,
        &[r#"{"y":2,"x":1}"#, r#"[{"x":1,"y":2}]"#],
        &[r#"{"x":1}"#, "{}"],
    );
    check_field(r#"{"$in":[[1],{"x":1}]}"#, &["[1]", r#"[{"x":1}]"#], &["1", "[1,2]"]);
    check_field(r#"[[1],{"x":1}]"#, &["[1]", r#"{"x":1}"#], &["1", "{}"]);
    check_field(r#"{"$ne":[1,2]}"#, &["", "[2,1]", "1"], &["[1,2]", "[[1,2]]"]);
}

#[test]
fn negations_hold_where_the_positive_form_does_not() {
    check_field(r#"{"$ne":1}"#, &["", "2", "null", "[]", "[2]", "\"1\""], &["1", "1.0", "[2,1]"]);
    check_field(r#"{"$ne":null}"#, &["", "1", "[]"], &["null", "[null]"]);
    check_field(r#"{"$nin":[1,2]}"#, &["", "3", "null", "[3,4]"], &["1", "[3,2]"]);
    check_field(r#"{"$not":{"$gt":5}}"#, &["", "5", "\"9\"", "null", "[1]", "[]"], &["6", "[1,6]"]);
    check_field(r#"{"$not":{"$gt":5,"$lt":9}}"#, &["", "5", "9", "[1,3]"], &["6", "[1,10]"]);
    check_field(r#"{"$not":{"$not":{"$gt":5}}}"#, &["6"], &["", "5"]);
    check_field(r#"{"$not":{"$ne":1}}"#, &["1", "[2,1]"], &["", "2"]);
    check_field(r#"{"$not":{"$exists":true}}"#, &[""], &["null", "[]"]);
    check_field(r#"{"$not":1}"#, &["", "2"], &["1"]);
    check_field(r#"{"$not":[1,2]}"#, &["", "3"], &["1", "[2]"]);
    check(r#"{"a.b":{"$ne":1}}"#, r#"{"a":[{"b":2},{"b":1}]}"#, false);
    check(r#"{"a.b":{"$ne":1}}"#, r#"{"a":[{"b":2},{}]}"#, true);
}

#[test]
fn null_exists_and_a_missing_field_does_not() {
    check_field(r#"{"$exists":true}"#, &["null", "0", "[]", "{}", "false"], &[""]);
    check_field(r#"{"$exists":false}"#, &[""], &["null", "0", "[]", "{}"]);
    check(r#"{"a.b":{"$exists":false}}"#, r#"{"a":[]}"#, true);
    check(r#"{"a.b":{"$exists":false}}"#, r#"{"a":null}"#, true);
    check(r#"{"a.b":{"$exists":true}}"#, r#"{"a":[{},{"b":null}]}"#, true);
    check(r#"{"a.b":{"$exists":false}}"#, r#"{"a":[{},{"b":null}]}"#, false);
    check(r#"{"a.b":{"$exists":true}}"#, r#"{"a":"b"}"#, false);
}

#[test]
fn order_holds_between_two_numbers_or_two_strings() {
    let other = ["", "null", "true", "\"9\"", "{}", "[]", "[\"9\"]"];
    check_field(
        r#"{"$gt":5}"#,
        &["6", "5.0000000000000000000000001", "1e999999999", "[1,6]"],
        &["5", "5.0", "-6"],
    );
    check_field(r#"{"$gte":5}"#, &["5", "50e-1", "6"], &["4.9999999999999999999999999"]);
    check_field(r#"{"$lt":5}"#, &["4", "-1e999999999", "1e-999999999"], &["5", "6"]);
    check_field(r#"{"$lte":5}"#, &["5", "4"], &["5.00000000000000000000000001"]);
    for operator in ["$gt", "$gte", "$lt", "$lte"] {
        check_field(&format!("{{\"{operator}\":5}}"), &[], &other);
        check_field(&format!("{{\"{operator}\":\"5\"}}"), &[], &["", "5", "null", "false", "[]", "[5]"]);
    }
    check_field(r#"{"$gt":"b"}"#, &["\"ba\"", "\"c\"", "\"ü\""], &["\"b\"", "\"a\"", "\"B\""]);
    // U+FFFD is below U+1F600 as a code point, above it in UTF-16.
    check_field("{\"$gt\":\"\u{fffd}\"}", &["\"\\ud83d\\ude00\""], &["\"a\""]);
}

#[test]
fn each_operator_finds_an_element_for_itself() {
    check_field(r#"{"$gt":5,"$lt":3}"#, &["[1,10]"], &["4", "[4]", "[6]"]);
    check_field(r#"{"$elemMatch":{"$gt":5,"$lt":9}}"#, &["[1,7]"], &["[1,10]", "7", "[]", "", "null"]);
    check(r#"{"a.b":{"$gt":5,"$lt":3}}"#, r#"{"a":[{"b":1},{"b":10}]}"#, true);
}

#[test]
fn elem_match_wants_one_element_to_satisfy_all() {
    let filter = r#"{"a":{"$elemMatch":{"x":1,"y":{"$gte":2}}}}"#;
    check(filter, r#"{"a":[{"x":1,"y":1},{"x":1,"y":2}]}"#, true);
    check(filter, r#"{"a":[{"x":1,"y":1},{"x":2,"y":2}]}"#, false);
    check(filter, r#"{"a":{"x":1,"y":2}}"#, false);
    check(r#"{"a":{"$elemMatch":{"x":{"$ne":1}}}}"#, r#"{"a":[1,"x",null]}"#, false);
    check(r#"{"a":{"$elemMatch":{"x":{"$ne":1}}}}"#, r#"{"a":[1,{}]}"#, true);
    check(r#"{"a":{"$elemMatch":{"$or":[{"x":1},{"y":1}]}}}"#, r#"{"a":[{"y":1}]}"#, true);
    check(r#"{"a":{"$elemMatch":{"$or":[{"x":1}],"y":2}}}"#, r#"{"a":[{"x":1},{"y":2}]}"#, false);
    check(r#"{"a":{"$elemMatch":{"$eq":{"x":1}}}}"#, r#"{"a":[{"x":1}]}"#, true);
    check(r#"{"a":{"$elemMatch":{"$ne":1}}}"#, r#"{"a":[1,2]}"#, true);
    check(r#"{"a":{"$elemMatch":{"$ne":1}}}"#, r#"{"a":[1]}"#, false);
    check(r#"{"a":{"$not":{"$elemMatch":{"$gt":1}}}}"#, r#"{"a":[1]}"#, true);
    check(r#"{"a.b":{"$elemMatch":{"$gt":1,"$lt":3}}}"#, r#"{"a":[{"b":[0,4]},{"b":[2]}]}"#, true);
    check(r#"{"a.b":{"$elemMatch":{"$gt":1,"$lt":3}}}"#, r#"{"a":[{"b":2}]}"#, false);
}

#[test]
fn contains_is_substring_or_membership() {
    check_field(
        r#"{"$contains":"x"}"#,
        &["\"axb\"", "\"x\"", "[\"x\",\"y\"]"],
        &["", "\"X\"", "[\"axb\"]", "[[\"x\"]]", "1"],
    );
    check_field(r#"{"$contains":""}"#, &["\"\"", "\"a\"", "[\"\"]"], &["", "[\"a\"]", "null"]);
    check_field(r#"{"$contains":1}"#, &["[2,1.0]"], &["", "1", "\"1\"", "[2]", "[]"]);
    check_field(r#"{"$contains":null}"#, &["[null]"], &["", "null", "[]"]);
    check_field(r#"{"$contains":{"x":1}}"#, &[r#"[{"x":1}]"#], &[r#"{"x":1}"#]);
    check(r#"{"a.b":{"$contains":"x"}}"#, r#"{"a":[{"b":"axb"}]}"#, true);
    check(r#"{"a.b":{"$contains":"x"}}"#, r#"{"a":[{"b":["axb"]},{"b":["x"]}]}"#, true);
}

#[test]
fn text_operators_look_at_strings() {
    check_field(
        r#"{"$prefix":"ab"}"#,
        &["\"abc\"", "\"ab\"", "[1,\"abc\"]"],
        &["", "\"a\"", "\"xab\"", "1", "null"],
    );
    check_field(r#"{"$suffix":"bc"}"#, &["\"abc\"", "[\"bc\"]"], &["", "\"bcd\"", "[]"]);
    check_field(r#"{"$prefix":""}"#, &["\"\"", "\"a\""], &["", "1", "[]"]);
    check_field(
        r#"{"$regex":"^a.c$"}"#,
        &["\"abc\"", "\"aüc\"", "[1,\"abc\"]"],
        &["", "\"xabc\"", "1", "null", "\"a\\nc\""],
    );
    check_field(r#"{"$regex":"b"}"#, &["\"abc\""], &["\"ABC\""]);
    check_field(r#"{"$regex":"(?i)b"}"#, &["\"ABC\""], &["\"x\""]);
    check_field(r#"{"$regex":"^\\w+@\\w+\\.\\p{L}{2,}$"}"#, &["\"ü@example.com\""], &["\"@\""]);
}

#[test]
fn combinators_combine_whole_filters() {
    check(r#"{"$and":[{"a":1},{"b":2}]}"#, r#"{"a":1,"b":2}"#, true);
    check(r#"{"$and":[{"a":1},{"b":2}]}"#, r#"{"a":1}"#, false);
    check(r#"{"$or":[{"a":1},{"b":2,"c":3}]}"#, r#"{"b":2,"c":3}"#, true);
    check(r#"{"$or":[{"a":1},{"b":2,"c":3}]}"#, r#"{"b":2}"#, false);
    check(r#"{"$nor":[{"a":1},{"b":2}]}"#, r#"{"a":2}"#, true);
    check(r#"{"$nor":[{"a":1},{"b":2}]}"#, r#"{"b":2}"#, false);
    check(r#"{"$or":[{"a":1}],"$nor":[{"b":1}],"c":1}"#, r#"{"a":1,"c":1}"#, true);
    check(r#"{"$or":[{"a":1}],"$nor":[{"b":1}],"c":1}"#, r#"{"a":1,"b":1,"c":1}"#, false);
}

fn check_refused(filter: &str, complaint: &str) {
    let refusal = Filter::parse(filter).err().map(|error| error.to_string());
    assert_eq!(refusal.as_deref(), Some(complaint), "{filter}");
}

#[test]
fn wrong_keys_are_refused_with_place_and_reason() {
    check_refused("", "filter is not valid JSON: unexpected end of the text at byte 0");
    check_refused("{\"a\":\"\\ud800\"}", "filter is not valid JSON: lone surrogate in a string at byte 6");
    check_refused("[]", "a filter must be an object, found an array");
    check_refused("null", "a filter must be an object, found null");
    check_refused(r#"{"$or":[{"a":1},2]}"#, "a filter must be an object, found a number at /$or/1");
    check_refused(r#"{"":1}"#, "a field's name must not be empty at /");
    check_refused(r#"{"a":1," \t ":1}"#, "a field's name must not be empty at / \t ");
    check_refused(r#"{"a..b":1}"#, "a field's name must not have an empty part between its dots at /a..b");
    check_refused(r#"{".a":1}"#, "a field's name must not have an empty part between its dots at /.a");
    check_refused(r#"{"a.":1}"#, "a field's name must not have an empty part between its dots at /a.");
    check_refused(r#"{"a":1,"a":2}"#, "duplicate key `a` at /a");
    check_refused(r#"{"a":1," a":2}"#, "duplicate key `a` at / a");
    check_refused(r#"{"a":{"$gt":1,"$gt":2}}"#, "duplicate key `$gt` at /a/$gt");
    check_refused(r#"{"a":{"$foo":1}}"#, "unknown operator `$foo` at /a/$foo");
    check_refused(r#"{"a":{"$GT":1}}"#, "unknown operator `$GT` at /a/$GT");
    check_refused(r#"{"a":{"$not":{"$x~/y":1}}}"#, "unknown operator `$x~/y` at /a/$not/$x~0~1y");
    check_refused(r#"{"$where":"1"}"#, "unknown operator `$where` at /$where");
    check_refused(r#"{"$gt":1}"#, "operator `$gt` must stand inside a field's condition at /$gt");
    check_refused(
        r#"{"$elemMatch":{"a":1}}"#,
        "operator `$elemMatch` must stand inside a field's condition at /$elemMatch",
    );
    check_refused(
        r#"{"a":{"$or":[{"b":1}]}}"#,
        "`$or` combines whole filters and must not stand inside a field's condition at /a/$or",
    );
    check_refused(
        r#"{"a":{"$gt":1,"b":2}}"#,
        "`b` stands among operators but is none; operators and fields cannot be mixed at /a/b",
    );
    check_refused(
        r#"{"a":{"b":2,"$gt":1}}"#,
        "`b` stands among operators but is none; operators and fields cannot be mixed at /a/b",
    );
    check_refused(
        r#"{"a":{"$elemMatch":{"$gt":1,"b":2}}}"#,
        "`b` stands among operators but is none; operators and fields cannot be mixed at /a/$elemMatch/b",
    );
    check_refused(
        r#"{"a":{"b":2}}"#,
        "`b` is not an operator; write a nested field with a dot, a whole object with $eq at /a/b",
    );
}

#[test]
fn wrong_operands_are_refused_with_place_and_reason() {
    for filter in [r#"{"a":{}}"#, r#"{"a":{"$not":{}}}"#, r#"{"a":{"$elemMatch":{}}}"#, r#"{"$and":[{}]}"#] {
        let error = Filter::parse(filter).unwrap_err();
        assert_eq!(error.reason(), &FilterErrorReason::EmptyObject, "{filter}");
    }
    check_refused(r#"{"$and":[]}"#, "`$and` needs at least one filter at /$and");
    check_refused(r#"{"$nor":{"a":1}}"#, "`$nor` takes a list of filters, found an object at /$nor");
    check_refused(r#"{"a":{"$in":"x"}}"#, "`$in` takes a list, found a string at /a/$in");
    check_refused(r#"{"a":{"$nin":{"$gt":1}}}"#, "`$nin` takes a list, found an object at /a/$nin");
    check_refused(r#"{"a":{"$gt":null}}"#, "`$gt` takes a number or a string, found null at /a/$gt");
    check_refused(r#"{"a":{"$lte":[1]}}"#, "`$lte` takes a number or a string, found an array at /a/$lte");
    check_refused(r#"{"a":{"$exists":1}}"#, "`$exists` takes true or false, found a number at /a/$exists");
    check_refused(r#"{"a":{"$prefix":1}}"#, "`$prefix` takes a string, found a number at /a/$prefix");
    check_refused(r#"{"a":{"$regex":null}}"#, "`$regex` takes a string, found null at /a/$regex");
    check_refused(
        r#"{"a":{"$elemMatch":1}}"#,
        "`$elemMatch` takes a filter or an object of operators, found a number at /a/$elemMatch",
    );
    check_refused(r#"{"a":{"$regex":"("}}"#, "malformed regular expression: unclosed group at /a/$regex");
    check_refused(
        r#"{"a":{"$regex":"a(?=b)"}}"#,
        "malformed regular expression: look-around, including look-ahead and look-behind, is not supported at /a/$regex",
    );
    check_refused(
        r#"{"a":{"$regex":"(a)\\1"}}"#,
        "malformed regular expression: backreferences are not supported at /a/$regex",
    );
    check_refused(
        r#"{"a":{"$regex":"^.{1,300}$"}}"#,
        "regular expression compiles to more than 262144 bytes at /a/$regex",
    );
    check_refused(
        r#"{"a":{"$regex":"1[01]{2000}"},"b":{"$regex":"x"}}"#,
        "regular expressions of the filter weigh 22010 together, at most 4000 is allowed: a character or an \
         anchor weighs 10, a class 10 and its ranges, each times its repetitions at /a/$regex",
    );
}

/// What a filter costs is bounded by its clauses times the event, whatever stands in a clause. Counted anew for each
/// element, the operand's keys took half a minute here.
#[test]
fn a_large_operand_is_not_gone_through_for_each_element() {
    let keys: Vec<_> = (0..2000).map(|n| format!("\"{n:x}\":0")).collect();
    let event = format!("{{\"a\":[{}]}}", vec!["{}"; 34_000].join(","));
    let event = json::parse(&event, 10).unwrap();
    for operator in ["$eq", "$ne", "$in", "$nin", "$contains"] {
        let object = format!("{{{}}}", keys.join(","));
        let operand = if operator.ends_with("in") { format!("[{object}]") } else { object };
        let filter = Filter::parse(&format!("{{\"a\":{{\"{operator}\":{operand}}}}}")).unwrap();
        let began = Instant::now();
        assert_eq!(filter.matches(&event), operator.starts_with("$n"), "{operator}");
        assert!(began.elapsed() < Duration::from_secs(10), "{operator}: {:?}", began.elapsed());
    }
}

#[test]
fn every_limit_is_kept_and_named() {
    let check = |filter: &str, complaint: Option<&str>| {
        let refusal = Filter::parse(filter).err().map(|error| error.reason().to_string());
        assert_eq!(refusal.as_deref(), complaint, "{filter}");
    };
    let padded = |bytes: usize| format!("{{\"a\":1{}}}", " ".repeat(bytes - 7));
    check(&padded(FILTER_BYTES_MAX), None);
    check(&padded(FILTER_BYTES_MAX + 1), Some("filter has 16385 bytes, at most 16384 are allowed"));

    let list = |items: usize| format!("{{\"a\":[{}]}}", vec!["1"; items].join(","));
    check(&list(FILTER_LIST_ITEMS_MAX), None);
    check(&list(FILTER_LIST_ITEMS_MAX + 1), Some("list has 1001 items, at most 1000 are allowed"));

    let number = |digits: usize| format!("{{\"a\":{{\"$gt\":{}}}}}", "1".repeat(digits));
    check(&number(FILTER_NUMBER_BYTES_MAX), None);
    check(&number(FILTER_NUMBER_BYTES_MAX + 1), Some("number has 65 characters, at most 64 are allowed"));
    assert!(Filter::parse_stored(&number(FILTER_NUMBER_BYTES_MAX + 1)).is_ok(), "it was accepted once");
    assert!(Filter::parse_stored(r#"{"a":{"$regex":"1[01]{2000}"}}"#).is_ok());
    let within = format!("{{\"a\":{{\"$contains\":{{\"b\":[[0.{}]]}}}}}}", "1".repeat(63));
    check(&within, Some("number has 65 characters, at most 64 are allowed"));

    let clauses = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!("\"f{n}\":{n}")).collect();
        format!("{{{}}}", members.join(","))
    };
    check(&clauses(FILTER_CLAUSES_MAX), None);
    check(&clauses(FILTER_CLAUSES_MAX + 1), Some("filter has more than 100 clauses"));

    let path = |segments: usize| format!("{{\"{}\":1}}", vec!["a"; segments].join("."));
    check(&path(FILTER_PATH_SEGMENTS_MAX), None);
    check(&path(FILTER_PATH_SEGMENTS_MAX + 1), Some("a field's name has 33 parts, at most 32 are allowed"));

    let regexes = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!("\"f{n}\":{{\"$regex\":\"a\"}}")).collect();
        format!("{{{}}}", members.join(","))
    };
    check(&regexes(FILTER_REGEXES_MAX), None);
    check(&regexes(FILTER_REGEXES_MAX + 1), Some("filter has more than 10 regular expressions"));

    let weighing = |characters: usize| {
        let half = "a".repeat(characters / 2);
        format!("{{\"a\":{{\"$regex\":\"{half}\"}},\"b\":{{\"$regex\":\"{half}\"}}}}")
    };
    assert_eq!(FILTER_REGEX_WEIGHT_MAX, 4000);
    check(&weighing(400), None);
    check(
        &weighing(402),
        Some(
            "regular expressions of the filter weigh 4020 together, at most 4000 is allowed: a character or an \
             anchor weighs 10, a class 10 and its ranges, each times its repetitions",
        ),
    );
}

#[test]
fn nesting_is_limited_whatever_nests() {
    let check = |nest: &dyn Fn(String) -> String, start: &str, levels: usize| {
        let mut filter = start.to_owned();
        for _ in 0..levels {
            filter = nest(filter);
        }
        let whole = if filter.starts_with("{\"$not") || start.starts_with('1') {
            format!("{{\"a\":{filter}}}")
        } else {
            filter
        };
        Filter::parse(&whole).map(drop).map_err(|error| error.reason().clone())
    };
    let too_deep = Err(FilterErrorReason::TooDeep);
    let and = |inner: String| format!("{{\"$and\":[{inner}]}}");
    assert_eq!(check(&and, r#"{"a":1}"#, FILTER_LEVELS_MAX - 1), Ok(()));
    assert_eq!(check(&and, r#"{"a":1}"#, FILTER_LEVELS_MAX), too_deep);
    assert_eq!(check(&and, r#"{"a":1}"#, 500), too_deep);
    let not = |inner: String| format!("{{\"$not\":{inner}}}");
    assert_eq!(check(&not, "1", FILTER_LEVELS_MAX - 1), Ok(()));
    assert_eq!(check(&not, "1", FILTER_LEVELS_MAX), too_deep);
    let elem_match = |inner: String| format!("{{\"a\":{{\"$elemMatch\":{inner}}}}}");
    assert_eq!(check(&elem_match, r#"{"a":1}"#, 4), Ok(()));
    assert_eq!(check(&elem_match, r#"{"a":1}"#, 5), too_deep);
    let literal =
        |levels: usize| format!("{{\"a\":{{\"$eq\":{}1{}}}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(Filter::parse(&literal(FILTER_LEVELS_MAX)).is_ok());
    assert_eq!(
        Filter::parse(&literal(FILTER_LEVELS_MAX + 1)).unwrap_err().reason(),
        &FilterErrorReason::TooDeep
    );
}

fn explained(filter: &str, document: &str) -> Vec<String> {
    let clauses = parse(filter).explain(&data(document));
    let line = |clause: neo_events_domain::filter::Clause| {
        let actual = clause.actual.as_deref().unwrap_or("missing");
        format!("{} {} {}: {} {actual}", clause.path, clause.operator, clause.expected, clause.holds)
    };
    clauses.into_iter().map(line).collect()
}

#[test]
fn explanations_show_every_clause_and_what_it_saw() {
    let check =
        |filter: &str, document: &str, expected: &[&str]| assert_eq!(explained(filter, document), expected);
    check(
        r#"{"plan":["pro", "x"],"seats":{"$gte":10,"$lt":1.50},"gone":{"$exists":false},"gone.too":null}"#,
        r#"{"plan":"free","seats":7}"#,
        &[
            r#"plan $in ["pro","x"]: false "free""#,
            "seats $gte 10: false 7",
            "seats $lt 1.50: false 7",
            "gone $exists false: true missing",
            "gone.too $eq null: false missing",
        ],
    );
    check(
        r#"{" a.b ":{"$not":{"$gt":1}},"c":1}"#,
        r#"{"a":[{"b":1},{},{"b":[2]}],"c":[1,{"x":"\n"}]}"#,
        &[r#"a.b $not {"$gt":1}: false [1,[2]]"#, r#"c $eq 1: true [1,{"x":"\n"}]"#],
    );
    check(r#"{"a.b":1}"#, r#"{"a":[{"b":1}]}"#, &["a.b $eq 1: true [1]"]);
    check(r#"{"a.b":1}"#, r#"{"a":[{}]}"#, &["a.b $eq 1: false missing"]);
    check(
        r#"{"$and":[{"a":1},{"$and":[{"b":2}]}],"$or":[{"a":2},{"$and":[{"b":2},{"c.d":3}]}]}"#,
        r#"{"a":1,"b":3}"#,
        &[
            "a $eq 1: true 1",
            "b $eq 2: false 3",
            r#" $or [{"a":2},{"$and":[{"b":2},{"c.d":3}]}]: false {"a":1,"b":3}"#,
        ],
    );
}

#[test]
fn a_long_value_is_shortened_in_an_explanation() {
    let short = format!("\"{}\"", "ü".repeat(CLAUSE_ACTUAL_BYTES_MAX / 2 - 1));
    let long = format!("\"{}\"", "ü".repeat(CLAUSE_ACTUAL_BYTES_MAX));
    for (value, is_whole) in [(&short, true), (&long, false)] {
        let document = format!("{{\"a\":{value}}}");
        let clauses = parse(r#"{"a":1}"#).explain(&data(&document));
        let actual = clauses[0].actual.as_deref().unwrap();
        assert_eq!(actual == value, is_whole);
        assert!(actual.len() < CLAUSE_ACTUAL_BYTES_MAX + 16);
        assert_eq!(json::parse(actual, 0).unwrap().as_str().unwrap().ends_with('…'), !is_whole);
    }
}

#[test]
fn equalities_are_top_level_and_scalar() {
    let check = |filter: &str, expected: &[&str]| {
        let filter = parse(filter);
        let mut found: Vec<_> = filter
            .equalities()
            .map(|equality| {
                let mut values: Vec<_> = equality.values().map(ToString::to_string).collect();
                values.sort();
                assert_eq!(values.len(), equality.fingerprints().count());
                format!("{} {}", equality.segments().join("."), values.join(" "))
            })
            .collect();
        found.sort();
        assert_eq!(found, expected, "{filter:?}");
    };
    check("{}", &[]);
    check(r#"{"a":1,"b.c":["x",null,"x"]}"#, &["a 1", r#"b.c "x" null"#]);
    check(r#"{"a":{"$eq":1,"$gt":0},"b":{"$in":[true]}}"#, &["a 1", "b true"]);
    check(r#"{"$and":[{"a":1},{"$and":[{"b":2}]}],"c":[]}"#, &["a 1", "b 2", "c "]);
    check(r#"{"a":{"$ne":1},"b":{"$nin":[1]},"c":{"$not":{"$eq":1}},"d":{"$elemMatch":{"$eq":1}}}"#, &[]);
    check(r#"{"$or":[{"a":1}],"$nor":[{"b":1}],"c":{"$in":[1,[2]]},"d":{"$eq":{}},"e":{"$gt":1}}"#, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explanations_agree_with_matching(seed in any::<u64>()) {
        let mut generator = Generator::new(seed, false);
        let (filter, document) = (generator.filter(), generator.document());
        let (filter, document) = (parse(&filter), data(&document));
        let clauses = filter.explain(&document);
        prop_assert_eq!(clauses.iter().all(|clause| clause.holds), filter.matches(&document));
        for clause in clauses {
            prop_assert!(json::check(&clause.expected, 20).is_ok());
            prop_assert!(clause.actual.is_none_or(|actual| json::check(&actual, 20).is_ok()));
        }
    }

    #[test]
    fn equalities_are_necessary(seed in any::<u64>()) {
        let mut generator = Generator::new(seed, false);
        let (filter, document) = (generator.filter(), generator.document());
        let (filter, document) = (parse(&filter), data(&document));
        if filter.matches(&document) {
            prop_assert!(filter.equalities().all(|equality| equality.admits(&document)));
        }
    }

    #[test]
    fn nor_is_the_opposite_of_or(seed in any::<u64>()) {
        let mut generator = Generator::new(seed, false);
        let (a, b, document) = (generator.filter(), generator.filter(), generator.document());
        prop_assume!(a != "{}" && b != "{}");
        let either_of = format!("{{\"$or\":[{a},{b}]}}");
        // Two filters within the limits may be beyond them together.
        prop_assume!(Filter::parse(&either_of).is_ok());
        let document = data(&document);
        let matches = |filter: &str| parse(filter).matches(&document);
        let either = matches(&a) || matches(&b);
        prop_assert_eq!(matches(&either_of), either);
        prop_assert_eq!(matches(&format!("{{\"$nor\":[{a},{b}]}}")), !either);
        prop_assert_eq!(matches(&format!("{{\"$and\":[{a},{b}]}}")), matches(&a) && matches(&b));
    }

    #[test]
    fn no_text_makes_the_parser_panic(
        seed in any::<u64>(),
        edits in prop::collection::vec((any::<usize>(), any::<char>()), 0..6),
    ) {
        let mut generator = Generator::new(seed, false);
        let (filter, document) = (generator.filter(), generator.document());
        let mut characters: Vec<char> = filter.chars().collect();
        for (position, character) in edits {
            let at = position % characters.len();
            characters[at] = if character.is_ascii() { character } else { characters[position / 7 % characters.len()] };
        }
        let text: String = characters.into_iter().collect();
        match Filter::parse(&text) {
            Ok(filter) => drop((filter.matches(&data(&document)), filter.explain(&data(&document)))),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn a_refusal_points_into_the_filter() {
    for (filter, pointer) in [
        (r#"{"a":{"$nope":1}}"#, "/a/$nope"),
        (r#"{"$and":[{"a":1},{"b":{"$in":7}}]}"#, "/$and/1/b/$in"),
        ("[]", ""),
    ] {
        assert_eq!(Filter::parse(filter).unwrap_err().pointer(), pointer, "{filter}");
    }
}

#[test]
fn filters_are_equal_if_their_texts_are() {
    let filter = |text| Filter::parse(text).unwrap();
    assert_eq!(filter(r#"{"a":{"$gt":1}}"#), filter(r#"{"a":{"$gt":1}}"#));
    assert_ne!(filter(r#"{"a":{"$gt":1}}"#), filter(r#"{"a":{"$gt":2}}"#));
}
