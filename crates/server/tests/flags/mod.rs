//! Every flag that goes to a server, or says how something is shown: each has the effect that its help promises.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use serde_json::{Value, json};

use crate::{
    DONE, FAILED, USAGE,
    terminal::{Folder, Running, Server, lasting_address, until},
};

/// Where nobody answers.
const TARGET: &str = "http://127.0.0.1:9/in";
const ONE: &str = "0198c0de-0000-7000-8000-000000000001";
const TWO: &str = "0198c0de-0000-7000-8000-000000000002";

/// A flag, what it is given, and what the server then answers in the field of its name.
type Set = (&'static str, &'static str, Value);

fn arguments(flags: &[Set]) -> Vec<&'static str> {
    flags.iter().flat_map(|(flag, given, _)| [*flag, *given]).collect()
}

fn field(flag: &str) -> String {
    flag.trim_start_matches("--").replace('-', "_")
}

/// Runs a command with the flags; what it wrote must have all of them, and so must what is read afterwards.
fn sets(folder: &Folder, command: &[&str], flags: &[Set]) -> String {
    let written = folder.json(&[command, &arguments(flags)].concat());
    let name = if command[0] == "event-types" { "event_type" } else { "id" };
    let name = written[name].as_str().unwrap().to_owned();
    let read = folder.json(&[command[0], "get", &name]);
    for (flag, given, expected) in flags {
        for answer in [&written, &read] {
            assert_eq!(&answer[field(flag)], expected, "{command:?} {flag} {given}");
        }
    }
    name
}

/// The ids of a list's rows.
fn ids(folder: &Folder, list: &[&str]) -> Vec<String> {
    let list = folder.json(list);
    list["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Each filter must find the first of two rows and not the second.
fn find_one_alone(folder: &Folder, list: &[&str], [first, second]: [&str; 2], filters: &[[&str; 2]]) {
    let mut all = ids(folder, list);
    all.sort();
    let mut both = [first, second];
    both.sort_unstable();
    assert_eq!(all, both, "{list:?} has both");
    for filter in filters {
        assert_eq!(ids(folder, &[list, filter].concat()), [first], "{list:?} {filter:?}");
    }
}

#[test]
fn every_flag_of_an_endpoint_is_kept_and_changed() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let of_creation: &[Set] = &[("--created-by-user-id", ONE, json!(ONE)), ("--context-id", TWO, json!(TWO))];
    let settings: &[Set] = &[
        ("--description", "for people", json!("for people")),
        ("--http-method", "PUT", json!("PUT")),
        ("--signature-header", "X-Shop-Signature", json!("X-Shop-Signature")),
        ("--timeout-seconds", "7", json!(7)),
        ("--follow-redirects", "true", json!(true)),
        ("--verify-ssl", "false", json!(false)),
        ("--max-retry-attempts", "2", json!(2)),
        ("--retry-backoff-seconds", "9", json!(9)),
        ("--retry-backoff-multiplier", "1.5", json!(1.5)),
        ("--is-active", "false", json!(false)),
    ];
    let created = [of_creation, settings].concat();
    let shop = sets(&folder, &["endpoints", "create", "shop", TARGET], &created);
    let changes: &[Set] = &[
        ("--name", "store", json!("store")),
        ("--endpoint-url", "http://127.0.0.1:9/out", json!("http://127.0.0.1:9/out")),
        ("--description", "for others", json!("for others")),
        ("--http-method", "PATCH", json!("PATCH")),
        ("--signature-header", "X-Store-Signature", json!("X-Store-Signature")),
        ("--timeout-seconds", "8", json!(8)),
        ("--follow-redirects", "false", json!(false)),
        ("--verify-ssl", "true", json!(true)),
        ("--max-retry-attempts", "1", json!(1)),
        ("--retry-backoff-seconds", "10", json!(10)),
        ("--retry-backoff-multiplier", "2.5", json!(2.5)),
        ("--is-active", "true", json!(true)),
    ];
    sets(&folder, &["endpoints", "update", &shop], changes);
    for header in ["x-store-signature: 1", "X-Store-Signature-Previous: 1"] {
        let refused = folder.run(&["endpoints", "update", &shop, "--custom-header", header]);
        assert!(refused.stderr.contains("must not set the signature header"), "{refused:?}");
    }

    let other = sets(&folder, &["endpoints", "create", "other", TARGET], &[]);
    folder.json(&["endpoints", "deactivate", &other]);
    folder.json(&["subscriptions", "create", &shop, "order.*"]);
    let filters = [["--context-id", TWO], ["--is-active", "true"], ["--event-type", "order.placed"]];
    find_one_alone(&folder, &["endpoints", "list"], [&shop, &other], &filters);
}

#[test]
fn every_flag_of_a_subscription_is_kept_and_found_by() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let endpoint = |name: &str| sets(&folder, &["endpoints", "create", name, TARGET], &[]);
    let (shop, other) = (endpoint("shop"), endpoint("other"));
    let flags: &[Set] = &[
        ("--event-filters", r#"{"n":1}"#, json!({"n": 1})),
        ("--context-id", ONE, json!(ONE)),
        ("--subscription-name", "ones", json!("ones")),
        ("--description", "for people", json!("for people")),
        ("--is-active", "false", json!(false)),
    ];
    let of_shop = sets(&folder, &["subscriptions", "create", &shop, "order.*"], flags);
    let of_other = sets(&folder, &["subscriptions", "create", &other, "*"], &[]);
    let filters = [["--context-id", ONE], ["--is-active", "false"], ["--endpoint-id", &shop]];
    find_one_alone(&folder, &["subscriptions", "list"], [&of_shop, &of_other], &filters);
    let changes: &[Set] = &[
        ("--event-type", "user.*", json!("user.*")),
        ("--event-filters", "{}", json!({})),
        ("--subscription-name", "users", json!("users")),
        ("--description", "for others", json!("for others")),
        ("--is-active", "true", json!(true)),
    ];
    sets(&folder, &["subscriptions", "update", &of_shop], changes);

    for (event_type, context_id, matches) in
        [("user.created", ONE, true), ("order.placed", ONE, false), ("user.created", TWO, false)]
    {
        let event = ["--event-data", "{}", "--event-type", event_type, "--context-id", context_id];
        let explain = ["subscriptions", "explain", "--subscription-id", &of_shop];
        assert_eq!(folder.json(&[&explain[..], &event].concat())["matches"], matches, "{event:?}");
    }
}

#[test]
fn every_flag_of_an_event_is_kept_and_found_by() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let flags: &[Set] = &[
        ("--event-name", "Order placed", json!("Order placed")),
        ("--aggregate-type", "basket", json!("basket")),
        ("--aggregate-id", ONE, json!(ONE)),
        ("--aggregate-version", "7", json!(7)),
        ("--correlation-id", ONE, json!(ONE)),
        ("--causation-id", TWO, json!(TWO)),
        ("--triggered-by-user-id", TWO, json!(TWO)),
        ("--context-id", ONE, json!(ONE)),
        ("--occurred-at", "2026-01-02T03:04:05+01:00", json!("2026-01-02T02:04:05Z")),
    ];
    let publish =
        [&["publish", "order.placed", "{}", "--metadata", r#"{"source":"shop"}"#][..], &arguments(flags)];
    let first = folder.json(&publish.concat())["id"].as_str().unwrap().to_owned();
    let event = folder.json(&["events", "get", &first]);
    for (flag, given, expected) in flags {
        assert_eq!(&event[field(flag)], expected, "{flag} {given}");
    }
    assert_eq!(event["event_metadata"], json!({"source": "shop"}));

    let second = folder.json(&["publish", "user.created", "{}"])["id"].as_str().unwrap().to_owned();
    let filters = [
        ["--event-type", "order.placed"],
        ["--aggregate-type", "basket"],
        ["--aggregate-id", ONE],
        ["--correlation-id", ONE],
        ["--context-id", ONE],
    ];
    find_one_alone(&folder, &["events", "list"], [&first, &second], &filters);
    let processed = |is_processed| ids(&folder, &["events", "list", "--processed", is_processed]);
    until("both are dispatched", || (processed("true").len() == 2).then_some(()));
    assert!(processed("false").is_empty());

    let later = ["publish", "order.paid", "{}", "--aggregate-type", "basket", "--aggregate-id", ONE];
    folder.json(&[&later[..], &["--expected-version", "7"]].concat());
    let of_basket = ["events", "aggregate", "basket", ONE];
    for (after, versions) in [("6", &[7, 8][..]), ("7", &[8]), ("8", &[])] {
        let basket = folder.json(&[&of_basket[..], &["--after-version", after]].concat());
        let found =
            basket["events"].as_array().unwrap().iter().map(|event| event["aggregate_version"].as_i64());
        assert_eq!(found.flatten().collect::<Vec<_>>(), versions, "after {after}");
    }
}

#[test]
fn every_flag_of_an_event_type_is_kept_and_found_by() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let flags: &[Set] = &[
        ("--category", "parcel", json!("parcel")),
        ("--description", "for people", json!("for people")),
        ("--is-enabled", "false", json!(false)),
        ("--example-payload", r#"{"n":1}"#, json!({"n": 1})),
    ];
    let create = |name, flags| sets(&folder, &["event-types", "create", name, "For people"], flags);
    create("parcel.sent", flags);
    create("basket.filled", &[]);
    // Beside those that are there from the start.
    for (filter, found) in [
        (["--is-enabled", "false"], [true, false]),
        (["--is-enabled", "true"], [false, true]),
        (["--category", "parcel"], [true, false]),
    ] {
        let listed = folder.json(&[&["event-types", "list", "--all"][..], &filter].concat());
        let listed: Vec<_> =
            listed["data"].as_array().unwrap().iter().map(|row| &row["event_type"]).collect();
        assert_eq!(
            ["parcel.sent", "basket.filled"].map(|name| listed.contains(&&json!(name))),
            found,
            "{filter:?}"
        );
    }
    let changes: &[Set] = &[
        ("--display-name", "For others", json!("For others")),
        ("--description", "for others", json!("for others")),
        ("--is-enabled", "true", json!(true)),
        ("--example-payload", r#"{"n":2}"#, json!({"n": 2})),
    ];
    sets(&folder, &["event-types", "update", "parcel.sent"], changes);
}

#[test]
fn a_key_is_bound_to_the_context_that_it_is_given() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    let bound = folder.json(&["api-keys", "create", "admin", "bound", "--context-id", ONE]);
    assert_eq!(bound["context_id"], ONE);
    let key = bound["key"].as_str().unwrap();
    for (context_id, code) in [(ONE, DONE), (TWO, FAILED)] {
        let publish = ["publish", "order.placed", "{}", "--context-id", context_id];
        let published = folder.run(&[&["--url", &server.url(), "--key", key][..], &publish].concat());
        assert_eq!(published.code, code, "{published:?}");
    }
}

#[test]
fn times_are_shown_as_they_are_asked_for() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let published = folder.json(&["publish", "order.placed", "{}"]);
    let at = published["created_at"].as_str().unwrap();
    for (times, is_absolute) in
        [(&["--times", "rfc3339"][..], true), (&["--times", "relative"], false), (&[], false)]
    {
        let listed = folder.done(&[&["events", "list"], times].concat());
        assert_eq!(listed.contains(at), is_absolute, "{times:?}: {listed}");
        assert_eq!(listed.contains(" ago") || listed.contains("now"), !is_absolute, "{times:?}: {listed}");
    }
}

fn listen(folder: &Folder, flags: &[&str]) -> Running {
    let mut listener = folder.start(&[&["listen"], flags].concat());
    listener.until_shown("listening");
    listener.until_shown("http://");
    listener
}

#[test]
fn a_listener_is_where_it_is_told_and_says_where_it_is_reached() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let address = lasting_address();
    let (_, port) = address.rsplit_once(':').unwrap();
    let at_port = listen(&folder, &["--port", port]);
    assert_eq!(at_port.url(), format!("http://{address}/"));
    assert_eq!(at_port.terminate(), Some(DONE));
    let bound = listen(&folder, &["--bind", "127.0.0.2", "--port", port]);
    assert_eq!(bound.url(), format!("http://127.0.0.2:{port}/"));
    assert_eq!(bound.terminate(), Some(DONE));

    let refused = folder.run(&["listen", "--subscribe", "*", "--bind", "0.0.0.0"]);
    assert_eq!(refused.code, USAGE, "{refused:?}");
    assert!(refused.stderr.contains("--bind 0.0.0.0 is no address that a server can call"), "{refused:?}");
    let unused = folder.run(&["listen", "--public-url", "http://127.0.0.1/"]);
    assert_eq!(unused.code, USAGE, "{unused:?}");
    assert!(unused.stderr.contains("--subscribe"), "{unused:?}");

    let public = format!("http://127.0.0.3:{port}/from/outside");
    let everywhere = ["--subscribe", "*", "--bind", "0.0.0.0", "--port", port, "--public-url", &public];
    let mut everywhere = listen(&folder, &[&everywhere[..], &["--max", "1", "--json"]].concat());
    let endpoint = until("its registration", || folder.json(&["endpoints", "list"])["data"].get(0).cloned());
    assert_eq!(endpoint["endpoint_url"], public);
    folder.json(&["endpoints", "test", endpoint["id"].as_str().unwrap()]);
    assert_eq!(everywhere.wait(), Some(DONE));
    let shown = everywhere.shown();
    let webhook: Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    assert_eq!(webhook["path"], "/from/outside");
}

#[test]
fn a_test_sends_its_payload_which_is_shown_laid_out_or_raw() {
    const PAYLOAD: &str = r#"{"amount": 1.50, "of": ["0123456789", "0123456789"]}"#;
    let folder = Folder::new();
    let _server = Server::start(&folder);
    for (flags, is_raw) in [(&["--max", "1"][..], false), (&["--max", "1", "--raw"], true)] {
        let mut listener = listen(&folder, flags);
        let endpoint = sets(&folder, &["endpoints", "create", "here", &listener.url()], &[]);
        folder.json(&["endpoints", "test", &endpoint, "--payload", PAYLOAD]);
        assert_eq!(listener.wait(), Some(DONE));
        let shown = listener.shown();
        assert_eq!(shown.contains(PAYLOAD), is_raw, "{shown}");
        assert_eq!(shown.contains("\"amount\": 1.50,\n"), !is_raw, "{shown}");
    }
}
