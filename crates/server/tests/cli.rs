//! The program as people and scripts use it: arguments in, output and exit code out, against a real server.

mod flags;
mod maintenance;
mod peers;
mod secrets;
mod terminal;

use std::{
    fs,
    io::{BufRead, Read, Write},
    os::unix::fs::PermissionsExt,
    process::Command,
    time::{Duration, Instant},
};

use peers::{proxy_losing_the_registration, receiver_answering, server_breaking_off_after};
use serde_json::Value;
use terminal::{Finished, Folder, Server, lasting_address, until};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

fn numbered_events(count: u32) -> String {
    let event = |n| format!(r#"{{"event_type":"a.b","event_data":{{"n":{n}}}}}"#);
    (0..count).map(event).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_demo_shows_everything_and_ends_well() {
    let begun = Instant::now();
    let demo = Folder::new().run(&["demo", "--exit"]);
    assert_eq!(demo.code, DONE, "{demo:?}");
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    for shown in [
        "will be tried again",
        "the retry succeeded",
        "amount $gte 100, but it is 40",
        "each exactly as it should be",
    ] {
        assert!(demo.stdout.contains(shown), "{shown}: {demo:?}");
    }
    assert!(!demo.stdout.contains('\u{1b}'), "no colours where there is no terminal");
}

#[test]
fn the_demo_stays_and_its_curl_line_works() {
    let folder = Folder::new();
    let mut demo = folder.start(&["demo"]);
    demo.until_shown("Ctrl-C ends");
    let shown = demo.shown();
    let after = |marker: &str| {
        shown.split(marker).nth(1).and_then(|rest| rest.split(['\'', ' ', '\n']).next()).unwrap()
    };
    let (url, key) = (after("curl -sS ").trim_end_matches("/v1/events"), after("Bearer "));
    let event = shown.split("-d '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    fs::write(folder.path("event.json"), event).unwrap();
    let published = folder.run(&["--url", url, "--key", key, "publish", "--file", "event.json"]);
    assert_eq!(published.code, DONE, "{published:?}");
    demo.until_shown("\"amount\":500");
    assert_eq!(demo.terminate(), Some(DONE));
}

#[test]
fn the_readmes_curl_lines_are_answered() {
    let readme = include_str!("../../../README.md");
    let block = readme.split("The same by `curl`").nth(1).and_then(|rest| rest.split("```").nth(1)).unwrap();
    let folder = Folder::new();
    let server = Server::start(&folder);
    // What curl is told, whether there is one or not.
    let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{}", block.trim_start_matches("sh"));
    let mut sh = Command::new("sh");
    let told = sh.args(["-ec", &script]).current_dir(folder.path("")).env_remove("NEO_EVENTS_KEY").output();
    let told = String::from_utf8(told.unwrap().stdout).unwrap();
    let key = told.lines().find_map(|line| line.strip_prefix("Authorization: Bearer ")).unwrap();
    assert!(told.contains("http://127.0.0.1:8080/v1/events\n"), "{told}");
    fs::write(folder.path("event.json"), told.lines().last().unwrap()).unwrap();
    let published = folder.run(&["--url", &server.url(), "--key", key, "publish", "--file", "event.json"]);
    assert_eq!(published.code, DONE, "{told}: {published:?}");
}

#[test]
fn credentials_are_left_private_and_found_and_kept() {
    let folder = Folder::new();
    let file = folder.path("neo-events-data/credentials.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap();
    let server = Server::start(&folder);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = read();
    assert!(server.shown().contains(first["key"].as_str().unwrap()), "the key is printed at first");
    assert_eq!(folder.run(&["events", "list"]).code, DONE);
    assert_eq!(server.terminate(), Some(DONE));

    let server = Server::start(&folder);
    assert_eq!(read()["key"], first["key"], "the key is kept");
    assert!(!server.shown().contains(first["key"].as_str().unwrap()), "and printed once");
    assert_eq!(folder.run(&["events", "list"]).code, DONE);
    assert_eq!(server.terminate(), Some(DONE));
}

#[test]
fn a_given_key_is_left_nowhere() {
    let folder = Folder::new();
    let mut server = folder.start(&["serve", "--listen", "127.0.0.1:0", "--admin-key", "0123456789abcdef"]);
    server.until_shown("admin key");
    let url = server.url();
    assert!(!folder.path("neo-events-data/credentials.json").exists());
    assert_eq!(folder.run(&["events", "list", "--url", &url, "--key", "0123456789abcdef"]).code, DONE);
    let environment = [("NEO_EVENTS_URL", url.as_str()), ("NEO_EVENTS_KEY", "0123456789abcdef")];
    assert_eq!(folder.run_with_environment(&["events", "list"], &environment).code, DONE);
    let refused = folder.run(&["events", "list", "--url", &url]);
    assert_eq!(refused.code, FAILED);
    assert!(refused.stderr.contains("401") && refused.stderr.contains("NEO_EVENTS_KEY"), "{refused:?}");
    assert_eq!(server.terminate(), Some(DONE));
}

#[test]
fn a_given_key_takes_the_place_of_what_an_earlier_start_left() {
    let folder = Folder::new();
    let file = folder.path("neo-events-data/credentials.json");
    assert_eq!(Server::start(&folder).terminate(), Some(DONE));
    let old = fs::read(&file).unwrap();
    let mut server = folder.start(&["serve", "--listen", "127.0.0.1:0", "--admin-key", "0123456789abcdef"]);
    server.until_shown("admin key");
    assert!(!file.exists(), "its key opens nothing");
    let url = server.url();

    let check = |arguments: &[&str], said: &str| {
        let refused = folder.run(&[&["events", "list"], arguments].concat());
        assert_eq!(refused.code, FAILED, "{refused:?}");
        assert!(refused.stderr.contains("401") && refused.stderr.contains(said), "{refused:?}");
    };
    check(&["--url", &url], "there is no neo-events-data/credentials.json");
    check(&["--url", &url, "--key", "another"], "came from --key");
    fs::write(folder.path("old.json"), &old).unwrap();
    check(&["--url", &url, "--credentials", "old.json"], "the one in old.json is for http://");
    let mut left: Value = serde_json::from_slice(&old).unwrap();
    left["url"] = url.clone().into();
    fs::write(folder.path("left.json"), left.to_string()).unwrap();
    check(&["--credentials", "left.json"], "came from left.json");
    let environment = [("NEO_EVENTS_KEY", "another"), ("NEO_EVENTS_URL", url.as_str())];
    let refused = folder.run_with_environment(&["events", "list"], &environment);
    assert!(refused.stderr.contains("came from NEO_EVENTS_KEY"), "{refused:?}");
    assert_eq!(server.terminate(), Some(DONE));
}

#[test]
fn a_given_key_leaves_the_key_of_another_database_in_the_same_folder() {
    let folder = Folder::new();
    let file = folder.path("two/credentials.json");
    let serve = |database: &str, key: &[&str]| {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--database", database];
        let mut server = folder.start(&[&serve, key].concat());
        server.until_shown("admin key");
        server
    };
    let kept = || serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap()["key"].clone();
    let given: &[&str] = &["--admin-key", "0123456789abcdef"];
    assert_eq!(serve("sqlite:two/a.db", &[]).terminate(), Some(DONE));
    let key = kept();
    assert_eq!(serve("sqlite:two/b.db", given).terminate(), Some(DONE));
    assert_eq!(kept(), key);
    // With one key for both, the second database's start with another still leaves it.
    assert_eq!(serve("sqlite:two/b.db", &[]).terminate(), Some(DONE));
    assert_eq!(serve("sqlite:two/b.db", given).terminate(), Some(DONE));
    assert_eq!(kept(), key);
    assert_eq!(serve("sqlite:two/a.db", &[]).terminate(), Some(DONE));
    assert_eq!(kept(), key, "the first database's key is still what it was");
    assert_eq!(serve("sqlite:two/a.db", given).terminate(), Some(DONE));
    assert!(!file.exists(), "nobody has it any more");
}

#[test]
fn a_second_signal_ends_at_once_and_the_log_can_be_json() {
    let folder = Folder::new();
    let mut server = folder.start(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    server.until_shown("admin key");
    let never_answers = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", never_answers.local_addr().unwrap());
    let endpoint = folder.json(&["endpoints", "create", "silent", &url]);
    folder.json(&["subscriptions", "create", endpoint["id"].as_str().unwrap(), "*"]);
    folder.json(&["publish", "order.placed", "{}"]);
    let _in_flight = never_answers.accept().unwrap();

    server.signal();
    until("the drain", || server.logged().contains("a second signal ends at once").then_some(()));
    let asked_again = Instant::now();
    server.signal();
    assert_eq!(server.wait(), Some(FAILED));
    assert!(asked_again.elapsed() < Duration::from_secs(5), "{:?}", asked_again.elapsed());
    let logged = server.logged();
    let first: Value = serde_json::from_str(logged.lines().next().unwrap()).unwrap();
    assert_eq!([&first["level"], &first["message"]], ["INFO", "serving"]);
}

#[test]
fn what_keeps_a_server_from_starting_is_told_with_advice() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    let again = folder.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(again.code, FAILED);
    assert!(again.stderr.contains("in use by another process"), "{again:?}");

    let elsewhere = Folder::new();
    let address = server.url().replace("http://", "");
    let taken = elsewhere.run(&["serve", "--listen", &address]);
    assert_eq!(taken.code, FAILED);
    assert!(taken.stderr.contains("--listen"), "{taken:?}");

    for arguments in
        [["--listen", "8080"], ["--profile", "prod"], ["--database", "mysql:x"], ["--admin-key", "short"]]
    {
        let refused = elsewhere.run(&["serve", arguments[0], arguments[1]]);
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(arguments[0]), "{refused:?}");
    }
    let misspelt = elsewhere.run_with_environment(&["serve"], &[("RUST_LOG", "debg")]);
    assert_eq!(misspelt.code, USAGE, "{misspelt:?}");
    assert!(misspelt.stderr.contains("`debg` is no level"), "{misspelt:?}");
    fs::write(elsewhere.path("text.db"), "this is no database, whatever its name says").unwrap();
    let unwritable =
        elsewhere.run(&["serve", "--listen", "127.0.0.1:0", "--database", "sqlite:/proc/none/admin.db"]);
    assert_eq!(unwritable.code, FAILED);
    assert!(unwritable.stderr.contains("/proc/none/admin.db"), "{unwritable:?}");
    let no_database = elsewhere.run(&["serve", "--listen", "127.0.0.1:0", "--database", "sqlite:text.db"]);
    assert_eq!(no_database.code, FAILED);
    assert!(no_database.stderr.contains("text.db"), "{no_database:?}");
}

#[test]
fn what_is_set_and_has_no_effect_is_refused_or_told() {
    let folder = Folder::new();
    let unusable = ["serve", "--listen", "127.0.0.1:0", "--database", "sqlite:/proc/none/admin.db"];
    for (environment, said) in [
        (("NEO_EVENTS_PROFLE", "production"), "did you mean NEO_EVENTS_PROFILE?"),
        (("WEBHOOK_BLOCK_LOOPBACK", "true"), "choose a stricter profile"),
        (("WEBHOOK_VALIDATION_PROFILE", "production"), "outside profile development an admin key"),
    ] {
        let refused = folder.run_with_environment(&unusable, &[environment]);
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let tenant = ("NEO_EVENTS_TENAT", "acme");
    let misspelt = folder.run_with_environment(&["events", "list"], &[tenant]);
    assert_eq!(misspelt.code, USAGE, "{misspelt:?}");
    assert!(misspelt.stderr.contains("did you mean NEO_EVENTS_TENANT?"), "{misspelt:?}");
    let nowhere = ["--url", "http://127.0.0.1:1", "--tenant", "acme", "events", "list"];
    let others = [tenant, ("NEO_EVENT_URL", "x"), ("NEO_EVENTS_KEY_PROD", "x"), ("WEBHOOK", "https://x")];
    let flagged = folder.run_with_environment(&nowhere, &others);
    assert_eq!(flagged.code, UNREACHABLE, "{flagged:?}");
    let doctor = folder.run_with_environment(&["doctor"], &[tenant]);
    assert_eq!(doctor.code, FAILED, "{doctor:?}");
    for said in ["problem settings", "did you mean NEO_EVENTS_TENANT?", "open files", "problems: 1"] {
        assert!(doctor.stdout.contains(said), "{said}: {doctor:?}");
    }
    let doctor = folder.run_with_environment(&["doctor"], &[("NEO_EVENTS_CA_FIEL", "x")]);
    assert!(doctor.stdout.contains("problems: 1,"), "told once: {doctor:?}");

    fs::write(folder.path("neo-events.toml"), "").unwrap();
    let environment = [("WEBHOOK_MAX_BATCH_SIZE", "7"), ("NEO_EVENTS_CONFIG", "x")];
    let started = folder.run_with_environment(&unusable, &environment);
    assert_eq!(started.code, FAILED, "{started:?}");
    let doctor = folder.run_with_environment(&["doctor", "--json"], &environment);
    for said in ["neo-events.toml", "WEBHOOK_MAX_BATCH_SIZE has no effect", "NEO_EVENTS_CONFIG is no setting"]
    {
        assert!(started.stderr.contains(said), "{said}: {started:?}");
        assert!(doctor.stdout.contains(said), "{said}: {doctor:?}");
    }
}

#[test]
fn exit_codes_tell_what_kind_of_failure_it_was() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let check = |arguments: &[&str], code: i32, said: &str| {
        let finished = folder.run(arguments);
        assert_eq!(finished.code, code, "{arguments:?}: {finished:?}");
        assert!(finished.stderr.contains(said), "{arguments:?}: {finished:?}");
    };
    check(&["--key", "another", "events", "list"], FAILED, "401");
    check(&["--url", "http://127.0.0.1:1", "events", "list"], UNREACHABLE, "neo-events serve");
    check(&["--url", "https://127.0.0.1:1", "events", "list"], UNREACHABLE, "cannot reach");
    check(&["--url", "ftp://x", "events", "list"], USAGE, "http");
    check(&["endpoints", "get", "0198"], USAGE, "UUID");
    check(&["endpoints", "get", "0198c0de-0000-7000-8000-000000000000"], FAILED, "404");
    check(&["publish", "Bad", "{}"], USAGE, "event_type");
    check(&["publish", "order.placed", "[1]"], USAGE, "object");
    check(&["publish", "order.placed"], USAGE, "data");
    check(&["publish", "--file", "missing.json"], FAILED, "missing.json");
    check(&["endpoints", "create", "x", "ftp://x", "--timeout-seconds", "1"], FAILED, "/timeout_seconds");
    for multiplier in ["NaN", "inf", "0.5", "5.5"] {
        let named = ["--retry-backoff-multiplier", multiplier];
        let create = [&["endpoints", "create", "x", "http://127.0.0.1:9/"][..], &named].concat();
        check(&create, USAGE, "must be a number between 1 and 5");
        let update = [&["endpoints", "update", "0198c0de-0000-7000-8000-000000000000"][..], &named].concat();
        check(&update, USAGE, "must be a number between 1 and 5");
    }
    check(&["events", "list", "--limit", "0"], USAGE, "--limit");
    for list in ["events", "deliveries"] {
        check(&[list, "list", "--from", "1h", "--to", "2h"], USAGE, "must lie before --to");
    }
    let large = folder.run_with_input(&["publish", "a.b", "-"], &"é".repeat(100_000));
    assert_eq!(large.code, USAGE);
    assert!(large.stderr.contains("is 200000 bytes long, the limit is 102400"), "{large:?}");
    check(&["nonsense"], USAGE, "nonsense");
}

#[test]
fn flags_that_a_command_would_pass_over_are_refused() {
    let folder = Folder::new();
    let (url, key, tenant) = (["--url", "http://127.0.0.1:1"], ["--key", "k"], ["--tenant", "acme"]);
    let (credentials, times) = (["--credentials", "nosuch"], ["--times", "rfc3339"]);
    for command in [&["serve"][..], &["demo", "--exit"], &["bench"], &["migrate", "status"]] {
        for flag in [&url[..], &key, &tenant, &credentials, &times] {
            for arguments in [[command, flag].concat(), [flag, command].concat()] {
                let refused = folder.run(&arguments);
                assert_eq!(refused.code, USAGE, "{arguments:?}: {refused:?}");
                let named = format!("{}` does not take {}", command[0], flag[0]);
                assert!(refused.stderr.contains(&named), "{arguments:?}: {refused:?}");
            }
        }
    }
    for flag in [&url[..], &key, &tenant, &credentials, &["--ca-file", "nosuch"]] {
        let refused = folder.run(&[&["listen", "--max", "1"], flag].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains("needs --subscribe"), "{refused:?}");
    }
    for command in [&["tenants", "list"][..], &["api-keys", "list"]] {
        let refused = folder.run(&[command, &tenant].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(&format!("{}` does not take --tenant", command[0])), "{refused:?}");
    }
    for (command, flag) in [
        (&["listen", "--path", "?"][..], &times[..]),
        (&["connections", "stats"], &times),
        (&["connections", "test", "http://127.0.0.1:1"], &times),
        (&["connections", "stats"], &tenant),
    ] {
        let refused = folder.run(&[command, flag].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(&format!("` does not take {}", flag[0])), "{refused:?}");
    }
    let of_tenant = [&["connections", "test", "http://127.0.0.1:1"][..], &url, &key, &tenant].concat();
    assert_eq!(folder.run(&of_tenant).code, UNREACHABLE, "it is asked for in a tenant");
    for (command, hidden) in [
        (&["serve"][..], &["--url", "--key ", "--tenant", "--credentials", "--json", "--times"][..]),
        (&["demo"], &["--url", "--ca-file", "--json"]),
        (&["bench"], &["--url", "--ca-file", "--times"]),
        (&["migrate", "up"], &["--url", "--ca-file", "--times"]),
        (&["tenants", "list"], &["--tenant <"]),
        (&["listen"], &["--times"]),
        (&["connections", "stats"], &["--times", "--tenant <"]),
    ] {
        let help = folder.done(&[command, &["--help"]].concat());
        for flag in hidden {
            assert!(!help.contains(&format!(" {flag}")), "{command:?} {flag}: {help}");
        }
    }
    for command in [&["demo", "--exit"][..], &["bench"], &["migrate", "status"]] {
        let refused = folder.run(&[command, &["--ca-file", "nosuch"]].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains("does not take --ca-file"), "{refused:?}");
    }
    for command in [&["serve"][..], &["demo", "--exit"]] {
        let refused = folder.run(&[command, &["--json"]].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains("--json"), "{refused:?}");
    }
    let environment =
        [("NEO_EVENTS_URL", url[1]), ("NEO_EVENTS_KEY", key[1]), ("NEO_EVENTS_TENANT", tenant[1])];
    let demo = folder.run_with_environment(&["demo", "--exit"], &environment);
    assert_eq!(demo.code, DONE, "{demo:?}");
    let serve = folder.run_with_environment(&["serve", "--profile", "prod"], &environment);
    assert!(serve.stderr.contains("--profile must be"), "{serve:?}");
}

#[test]
fn what_is_the_nodes_is_asked_for_in_no_tenant() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let environment = [("NEO_EVENTS_TENANT", "nobody")];
    let stats = folder.run_with_environment(&["connections", "stats"], &environment);
    assert_eq!(stats.code, DONE, "{stats:?}");
    let test = folder.run_with_environment(&["connections", "test", "http://127.0.0.1:9/"], &environment);
    assert!(test.stderr.contains("there is no tenant `nobody`"), "{test:?}");
}

#[test]
fn a_file_that_is_named_is_used_or_refused() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    fs::write(folder.path("no.pem"), "no certificate").unwrap();
    let check = |arguments: &[&str], said: &str| {
        let refused = folder.run(arguments);
        assert_eq!(refused.code, USAGE, "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains(said), "{arguments:?}: {refused:?}");
    };
    let url = server.url();
    let elsewhere = ["--url", &url, "--key", "0123456789abcdef"];
    for (file, said) in [("nosuch.json", "nosuch.json is not there"), ("no.pem", "no.pem cannot be used")] {
        check(&["events", "list", "--credentials", file], said);
        check(&[&["events", "list", "--credentials", file][..], &elsewhere].concat(), said);
        check(&["doctor", "--credentials", file], said);
    }
    for (file, said) in [("nosuch.pem", "nosuch.pem"), ("no.pem", "no.pem: it has none in PEM")] {
        check(&["events", "list", "--ca-file", file], said);
        check(&["serve", "--listen", "127.0.0.1:0", "--ca-file", file], said);
    }
    let in_environment = [("NEO_EVENTS_CA_FILE", "nosuch.pem")];
    let listed = folder.run_with_environment(&["events", "list"], &in_environment);
    assert_eq!(listed.code, DONE, "it is for those who need it: {listed:?}");
    let found = folder.run(&["events", "list", "--credentials", "neo-events-data/credentials.json"]);
    assert_eq!(found.code, DONE, "{found:?}");
}

#[test]
fn programs_get_the_answer_and_refusals_as_they_are() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let published =
        folder.json(&["publish", "order.placed", r#"{"n": 1.00}"#, "--metadata", r#"{"source":"test"}"#]);
    let id = published["id"].as_str().unwrap();
    let event = folder.run(&["events", "get", id, "--json"]);
    assert!(event.stdout.contains(r#""event_data":{"n": 1.00}"#), "bytes survive: {event:?}");
    let again = folder.run(&["publish", "order.placed", r#"{"n": 2}"#, "--id", id, "--json"]);
    assert_eq!(again.code, FAILED);
    assert_eq!(again.json()["status"], 409);
    let duplicate = folder.json(&["publish", "order.placed", r#"{"n": 1.00}"#, "--id", id]);
    assert_eq!(duplicate["duplicate"], true);
}

#[test]
fn lists_can_be_followed_to_their_end() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let lines = numbered_events(25);
    fs::write(folder.path("events.ndjson"), lines).unwrap();
    let summary = folder.run(&["publish", "--file", "events.ndjson"]);
    assert_eq!((summary.code, summary.stdout.as_str()), (DONE, "25 published, 0 rejected\n"), "{summary:?}");

    let all = folder.json(&["events", "list", "--all", "--limit", "10"]);
    let numbers: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_data"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, (0..25).rev().collect::<Vec<_>>());
    assert_eq!(all["next_cursor"], Value::Null);

    let page = folder.json(&["events", "list", "--limit", "10"]);
    let next =
        folder.json(&["events", "list", "--limit", "10", "--cursor", page["next_cursor"].as_str().unwrap()]);
    assert_eq!(next["data"][0]["event_data"]["n"], 14);
    let table = folder.run(&["events", "list", "--all", "--limit", "10"]);
    assert_eq!(table.stdout.lines().count(), 26, "one header: {table:?}");
    let more = folder.run(&["events", "list", "--limit", "10"]);
    assert!(more.stdout.contains("--cursor"), "{more:?}");
    let none = folder.run(&["events", "list", "--event-type", "no.such"]);
    assert_eq!(none.stdout, "No events.\n");
}

#[test]
fn a_list_that_is_cut_off_is_json_all_the_same() {
    let folder = Folder::new();
    let url = server_breaking_off_after(r#"{"data":[{"n":1},{"n":2}],"next_cursor":"further"}"#);
    let cut = folder.run(&["events", "list", "--all", "--json", "--url", &url, "--key", "k"]);
    assert_eq!(cut.code, UNREACHABLE, "{cut:?}");
    assert_eq!(cut.json(), serde_json::json!({"data": [{"n": 1}, {"n": 2}], "next_cursor": "further"}));
}

#[test]
fn rejected_lines_are_named_and_the_others_published() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let lines = [
        r#"{"event_type":"a.b","event_data":{}}"#,
        r#"{"event_type":"Wrong","event_data":{}}"#,
        "",
        "no json",
        r#"{"event_type":"a.b","event_data":{},"colour":1}"#,
        r#"{"event_type":"a.b","event_data":{"last":true}}"#,
    ];
    fs::write(folder.path("events.ndjson"), lines.join("\n")).unwrap();
    let published = folder.run(&["publish", "--file", "events.ndjson"]);
    assert_eq!(
        (published.code, published.stdout.as_str()),
        (FAILED, "2 published, 3 rejected\n"),
        "{published:?}"
    );
    let named: Vec<_> = published.stderr.lines().filter_map(|line| line.split_once(": ")).collect();
    let named: Vec<_> = named.iter().map(|(line, _)| *line).collect();
    assert_eq!(named, ["line 2", "line 4", "line 5"], "in their order, once: {published:?}");
    assert!(published.stderr.contains("/event_type") && published.stderr.contains("colour"), "{published:?}");

    let counted = folder.run_with_input(&["publish", "--file", "-", "--json"], &lines.join("\n"));
    let counted = counted.json();
    assert_eq!([&counted["accepted"], &counted["rejected"]], [2, 3]);
    let results = counted["results"].as_array().unwrap();
    let lines_of = |results: Vec<&Value>| -> Vec<_> {
        results.iter().map(|result| result["line"].as_u64().unwrap()).collect()
    };
    assert_eq!(lines_of(results.iter().collect()), [1, 2, 4, 5, 6]);
    let rejected = results.iter().filter(|result| result.get("error").is_some()).collect();
    assert_eq!(lines_of(rejected), [2, 4, 5]);

    let none = folder.run_with_input(&["publish", "--file", "-"], lines[1]);
    assert_eq!((none.code, none.stdout.as_str()), (FAILED, "0 published, 1 rejected\n"), "{none:?}");
    let whole = folder.run_with_input(
        &["publish", "--file", "-"],
        "{\n  \"event_type\": \"a.b\",\n  \"event_data\": {}\n}\n",
    );
    assert_eq!(whole.code, DONE, "{whole:?}");
    fs::write(
        folder.path("latin1.json"),
        b"{\n \"event_type\": \"a.b\",\n \"event_data\": {\"x\": \"\xe9\"}\n}\n",
    )
    .unwrap();
    let refused = folder.run(&["publish", "--file", "latin1.json"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (FAILED, "0 published, 1 rejected\n"), "{refused:?}");
    assert!(refused.stderr.contains("is not valid UTF-8"), "{refused:?}");
}

#[test]
fn many_lines_go_in_several_batches() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let lines = numbered_events(2500);
    let published = folder.run_with_input(&["publish", "--file", "-"], &lines);
    assert_eq!(published.stdout, "2500 published, 0 rejected\n", "{published:?}");
}

#[test]
fn an_interrupted_publish_says_what_was_published() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    let mut publishing = std::process::Command::new(env!("CARGO_BIN_EXE_neo-events"))
        .args(["publish", "--file", "-", "--json"])
        .current_dir(folder.path(""))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // One more than go in a batch, and nobody knows whether there is more to come.
    let mut input = publishing.stdin.take().unwrap();
    input.write_all(format!("no json\n{}\n", numbered_events(1001)).as_bytes()).unwrap();
    let mut shown = std::io::BufReader::new(publishing.stdout.take().unwrap());
    let mut results = String::new();
    for _ in 0..1002 {
        assert!(shown.read_line(&mut results).unwrap() > 0, "{results}");
    }
    let signalled = std::process::Command::new("kill").args(["-INT", &publishing.id().to_string()]).status();
    assert!(signalled.unwrap().success());
    let ended = publishing.wait_with_output().unwrap();
    drop(input);
    shown.read_to_string(&mut results).unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(FAILED), "{said}");
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!([&results["accepted"], &results["rejected"]], [1000, 1]);
    assert_eq!(results["results"].as_array().unwrap().len(), 1001);
    assert!(said.starts_with("line 1: "), "{said}");
    assert!(said.contains("stopped: line 1002 and those after it were not published"), "{said}");
    assert_eq!(server.terminate(), Some(DONE));
}

#[test]
fn publishing_goes_on_when_nobody_reads_its_results() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    let file = folder.path("events.ndjson");
    std::fs::write(&file, numbered_events(2500)).unwrap();
    let mut publishing = std::process::Command::new(env!("CARGO_BIN_EXE_neo-events"))
        .args(["--json", "--url", &server.url(), "publish", "--file"])
        .arg(&file)
        .current_dir(file.parent().unwrap())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    drop(publishing.stdout.take());
    assert!(publishing.wait().unwrap().success());
    assert_eq!(folder.json(&["events", "list", "--all"])["data"].as_array().unwrap().len(), 2500);
}

#[test]
fn catalogue_and_endpoints_make_the_round() {
    let folder = Folder::new();
    let _server = Server::start(&folder);

    folder.json(&["event-types", "create", "order.placed", "Order placed", "--description", "x"]);
    let create =
        |category| folder.run(&["event-types", "create", "order.shipped", "Shipped", "--category", category]);
    assert!(create("orders").stderr.contains("/category"));
    assert_eq!(create("order").code, DONE);
    assert_eq!(folder.json(&["event-types", "disable", "order.placed"])["is_enabled"], false);
    assert_eq!(folder.run(&["publish", "order.placed", "{}"]).code, FAILED);
    assert_eq!(folder.json(&["event-types", "enable", "order.placed"])["is_enabled"], true);
    let changed = folder.json(&[
        "event-types",
        "update",
        "order.placed",
        "--display-name",
        "Placed",
        "--clear",
        "description",
    ]);
    assert_eq!([&changed["display_name"], &changed["description"]], [&Value::from("Placed"), &Value::Null]);
    assert!(folder.done(&["event-types", "list", "--category", "order"]).contains("Placed"));
    assert!(folder.done(&["event-types", "get", "order.placed"]).contains("display_name"));

    let created = folder.json(&[
        "endpoints",
        "create",
        "shop",
        "http://127.0.0.1:9/in",
        "--custom-header",
        "X-Team: a",
    ]);
    assert!(created["secret_token"].as_str().unwrap().starts_with("whsec_"));
    let endpoint = created["id"].as_str().unwrap();
    assert!(folder.done(&["endpoints", "list"]).contains(endpoint), "ids stay whole");
    assert!(!folder.done(&["endpoints", "get", endpoint]).contains("whsec_"));
    let update = [
        "endpoints",
        "update",
        endpoint,
        "--name",
        "store",
        "--remove-header",
        "X-Team",
        "--custom-header",
        "X-B: 2",
    ];
    let updated = folder.json(&update);
    assert_eq!(updated["name"], "store");
    assert_eq!(updated["custom_headers"], serde_json::json!({"X-B": "2"}));
    assert_eq!(folder.run(&["endpoints", "update", endpoint]).code, USAGE);
    for (headers, said) in [
        (&["--remove-header", "X-Team"][..], "has no such header"),
        (&["--remove-header", "x-b", "--custom-header", "X-B: 3"], "cannot be given together"),
    ] {
        let refused = folder.run(&[&["endpoints", "update", endpoint], headers].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let rotated = folder.json(&["endpoints", "rotate-secret", endpoint, "--overlap-seconds", "0"]);
    assert_ne!(rotated["secret_token"], created["secret_token"]);

    assert_eq!(folder.json(&["endpoints", "delete", endpoint]), serde_json::json!({}));
    let gone = folder.run(&["endpoints", "get", endpoint]);
    assert_eq!(gone.code, FAILED);
    let said = gone.stderr.to_ascii_lowercase();
    assert_eq!(said.matches("there is no such endpoint").count(), 1, "{gone:?}");
    folder.done(&["event-types", "delete", "order.placed"]);
}

#[test]
fn a_change_names_a_field_and_an_explanation_what_it_is_of() {
    const NOBODY: &str = "01930000-0000-7000-8000-000000000000";
    let folder = Folder::new();
    let refused = |arguments: &[&str], said: &[&str]| {
        let refused = folder.run(arguments);
        assert_eq!(refused.code, USAGE, "{arguments:?}: {refused:?}");
        for said in said {
            assert!(refused.stderr.contains(said), "{arguments:?} {said}: {refused:?}");
        }
    };
    for (kind, named) in [("endpoints", NOBODY), ("subscriptions", NOBODY), ("event-types", "order.placed")] {
        refused(&[kind, "update", named], &["nothing to change: name at least one field"]);
        let help = folder.done(&[kind, "update", "--help"]);
        for of_creation in ["[default: 3", "[default: POST]", "[default: true]", "[default: 2"] {
            assert!(!help.contains(of_creation), "{of_creation}: {help}");
        }
        let usage = help.lines().find(|line| line.starts_with("Usage:")).unwrap();
        assert!(usage.ends_with(" [OPTIONS] <UUID>") || usage.ends_with(" [OPTIONS] <TYPE>"), "{usage}");
    }
    let explain = ["subscriptions", "explain"];
    let of_event = [&explain[..], &["--event-data", "{}"]].concat();
    refused(&of_event, &["--subscription-id", "--event-filters", "required"]);
    refused(
        &[&explain[..], &["--event-filters", "{}"]].concat(),
        &["--event-id", "--event-data", "required"],
    );
    refused(
        &[&of_event[..], &["--event-filters", "{}", "--subscription-id", NOBODY]].concat(),
        &["cannot be used with"],
    );
    let of_filter = [&of_event[..], &["--event-filters", "{}", "--url", "http://127.0.0.1:1"]].concat();
    for flag in [["--event-type", "a.b"], ["--context-id", NOBODY]] {
        let named = format!("{} has no effect with --event-filters", flag[0]);
        refused(&[&of_filter[..], &flag].concat(), &[&named, "--subscription-id"]);
    }
    refused(&["publish", "--id", NOBODY], &["EVENT_TYPE", "--file"]);
}

#[test]
fn a_field_is_set_or_cleared_not_both() {
    const NOBODY: &str = "01930000-0000-7000-8000-000000000000";
    let folder = Folder::new();
    for (kind, named, field, value) in [
        ("endpoints", NOBODY, "description", "new"),
        ("event-types", "order.placed", "description", "new"),
        ("event-types", "order.placed", "example-payload", "{}"),
        ("subscriptions", NOBODY, "description", "new"),
        ("subscriptions", NOBODY, "subscription-name", "new"),
    ] {
        let flag = format!("--{field}");
        let refused = folder.run(&[kind, "update", named, &flag, value, "--clear", field]);
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(&format!("--clear {field}")), "{refused:?}");
    }
}

#[test]
fn subscriptions_make_the_round_and_explain_themselves() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let endpoint = folder.json(&["endpoints", "create", "shop", "http://127.0.0.1:9/in"]);
    let endpoint = endpoint["id"].as_str().unwrap();

    let filter = r#"{"amount":{"$gte":100}}"#;
    let subscription = folder.json(&["subscriptions", "create", endpoint, "order.*", "--filter", filter]);
    let subscription = subscription["id"].as_str().unwrap();
    assert!(folder.done(&["subscriptions", "list", "--endpoint-id", endpoint]).contains("$gte"));
    let event = folder.json(&["publish", "order.placed", r#"{"amount":40}"#]);
    let why = [
        "subscriptions",
        "explain",
        "--subscription-id",
        subscription,
        "--event-id",
        event["id"].as_str().unwrap(),
    ];
    let why = folder.done(&why);
    assert!(why.contains("It does not match.") && why.contains("40"), "{why}");
    let hypothetical = ["subscriptions", "explain", "--filter", filter, "--data", r#"{"amount":400}"#];
    assert_eq!(folder.json(&hypothetical)["matches"], true);
    let renamed = folder.json(&[
        "subscriptions",
        "update",
        subscription,
        "--subscription-name",
        "large",
        "--is-active",
        "false",
    ]);
    assert_eq!(
        [&renamed["subscription_name"], &renamed["is_active"]],
        [&Value::from("large"), &Value::from(false)]
    );
    assert!(folder.done(&["subscriptions", "get", subscription]).contains("large"));
    folder.done(&["subscriptions", "delete", subscription]);
    assert_eq!(folder.run(&["subscriptions", "get", subscription]).code, FAILED);
}

#[test]
fn aggregates_are_guarded_and_shown() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let order = "0198c0de-0000-7000-8000-000000000001";
    let publish = |version: &str| {
        folder.run(&[
            "publish",
            "order.placed",
            "{}",
            "--aggregate-type",
            "order",
            "--aggregate-id",
            order,
            "--expected-version",
            version,
        ])
    };
    assert_eq!(publish("0").code, DONE);
    let stale = publish("0");
    assert_eq!(stale.code, FAILED);
    assert!(stale.stderr.contains("409"), "{stale:?}");
    let shown = folder.done(&["events", "aggregate", "order", order]);
    assert!(shown.contains("next version  2"), "{shown}");
}

#[test]
fn deliveries_are_watched_and_repaired() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let endpoint =
        folder.json(&["endpoints", "create", "dead", "http://127.0.0.1:9/", "--max-retry-attempts", "1"]);
    let endpoint = endpoint["id"].as_str().unwrap();
    folder.json(&["subscriptions", "create", endpoint, "*"]);

    let test = folder.run(&["endpoints", "test", endpoint]);
    assert_eq!(test.code, FAILED);
    assert!(test.stdout.contains("connection_refused"), "{test:?}");
    assert_eq!(folder.run(&["endpoints", "verify", endpoint]).code, FAILED);
    assert_eq!(folder.run(&["connections", "test", "http://127.0.0.1:9/"]).code, FAILED);
    assert!(folder.json(&["connections", "stats"])["total_requests"].as_u64().unwrap() > 0);

    let event = folder.json(&["publish", "order.placed", "{}"]);
    let of_event = ["deliveries", "list", "--event-id", event["id"].as_str().unwrap()];
    let delivery = until("the first attempt", || {
        let deliveries = folder.json(&of_event);
        deliveries["data"].get(0).filter(|delivery| delivery["overall_status"] == "retrying").cloned()
    });
    let delivery = delivery["id"].as_str().unwrap();
    assert!(folder.done(&["deliveries", "list", "--status", "retrying"]).contains(delivery));
    assert_eq!(
        folder.json(&["deliveries", "cancel", delivery, "--reason", "enough"])["cancel_reason"],
        "enough"
    );
    assert_eq!(folder.run(&["deliveries", "cancel", delivery]).code, FAILED, "it is over");
    folder.json(&["deliveries", "retry", delivery]);
    until("the retry", || {
        let delivery = folder.json(&["deliveries", "get", delivery]);
        (delivery["attempts"].as_array().unwrap().len() == 2).then_some(())
    });
    let listed = folder.json(&["deliveries", "attempts", delivery, "--limit", "1"]);
    assert_eq!(listed["data"][0]["attempt_number"], 2, "newest first");
    let rest = ["deliveries", "attempts", delivery, "--cursor", listed["next_cursor"].as_str().unwrap()];
    let rest = folder.done(&rest);
    assert!(rest.contains("connection_refused") && rest.contains("ERROR"), "{rest}");
    assert_eq!(
        folder.json(&["deliveries", "attempts", delivery, "--all"])["data"].as_array().unwrap().len(),
        2
    );
    let shown = folder.done(&["deliveries", "get", delivery, "--full"]);
    assert!(!shown.contains("earlier attempts"), "{shown}");
    assert!(shown.contains("attempt 2") && shown.contains("> webhook-id: "), "{shown}");
    let stats = folder.done(&["endpoints", "stats", endpoint, "--days", "1"]);
    assert!(stats.contains("connection_refused"), "{stats}");
    let times = stats.lines().find(|line| line.starts_with("response time")).unwrap();
    assert!(times.ends_with('–'), "nobody answered: {times}");
    let stats = folder.json(&["endpoints", "stats", endpoint]);
    assert_eq!(stats["response_times"]["p50_ms"], Value::Null);
    let attempts = folder.json(&["deliveries", "get", delivery])["attempts"].clone();
    assert_eq!(attempts[0]["response_time_ms"], Value::Null);
    assert_eq!(folder.json(&["endpoints", "deactivate", endpoint])["is_active"], false);
    assert_eq!(folder.json(&["endpoints", "activate", endpoint])["is_active"], true);
}

#[test]
fn what_a_receiver_answered_is_shown_as_it_is() {
    const TEXT: &str = "  <p class=\"a, b\">No: {x: [1, 2]}\u{1b}[31m</p>\n\n  see http://localhost/?a=1,2";
    const LONG: &str = "{\"why\": \"no\", \"more\": [\"0123456789\", \"0123456789\", \"0123456789\", \"0123456789\", \"0123456789\"]}";
    let folder = Folder::new();
    let _server = Server::start(&folder);
    for (body, shown) in [
        (TEXT, "    <p class=\"a, b\">No: {x: [1, 2]}\\u{1b}[31m</p>\n  \n    see http://localhost/?a=1,2\n"),
        (LONG, "  {\n    \"why\": \"no\",\n    \"more\": [\n      \"0123456789\",\n"),
    ] {
        let endpoint = folder.json(&["endpoints", "create", "broken", &receiver_answering(body)]);
        let test = folder.run(&["endpoints", "test", endpoint["id"].as_str().unwrap(), "--json"]).json();
        let full = folder.done(&["deliveries", "get", test["id"].as_str().unwrap(), "--full"]);
        assert!(full.contains(shown), "{full}");
    }
}

#[test]
fn no_text_that_is_stored_turns_a_line_around() {
    const TURNED: &str = "\u{202e}kcatta";
    const SHOWN: &str = "\\u{202e}kcatta";
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let json = format!("{{\"{TURNED}\": \"{TURNED}\"}}");
    let id = |created: &Value| created["id"].as_str().unwrap().to_owned();
    let refusing = receiver_answering(TURNED);
    let endpoint = id(&folder.json(&["endpoints", "create", TURNED, &refusing, "--description", TURNED]));
    let subscription = id(&folder.json(&[
        "subscriptions",
        "create",
        &endpoint,
        "a.b",
        "--event-filters",
        &json,
        "--subscription-name",
        TURNED,
    ]));
    folder.done(&["event-types", "create", "a.b", TURNED, "--example-payload", &json]);
    folder.done(&["tenants", "create", "acme", "--name", TURNED]);
    folder.done(&["api-keys", "create", "acme", TURNED]);
    let event = id(&folder.json(&["publish", "a.c", &json, "--metadata", &json]));
    let test = folder.run(&["endpoints", "test", &endpoint, "--json"]).json();
    for command in [
        &["endpoints", "list"][..],
        &["endpoints", "get", &endpoint],
        &["endpoints", "test", &endpoint],
        &["endpoints", "verify", &endpoint],
        &["subscriptions", "list"],
        &["subscriptions", "get", &subscription],
        &["subscriptions", "explain", "--subscription-id", &subscription, "--event-id", &event],
        &["event-types", "list"],
        &["event-types", "get", "a.b"],
        &["tenants", "list"],
        &["tenants", "get", "acme"],
        &["api-keys", "list"],
        &["events", "get", &event],
        &["deliveries", "get", &id(&test)],
        &["deliveries", "get", &id(&test), "--full"],
        &["deliveries", "cancel", &id(&test), "--reason", TURNED],
        &["endpoints", "update", &endpoint, "--custom-header", &format!("{TURNED}: x")],
    ] {
        let Finished { stdout, stderr, .. } = folder.run(command);
        let said = stdout + &stderr;
        assert!(!said.contains('\u{202e}'), "{command:?}: {said:?}");
        // A delivery that is over is not cancelled, and its refusal says nothing of the reason.
        assert!(said.contains(SHOWN) || command.contains(&"cancel"), "{command:?}: {said:?}");
    }
}

#[test]
fn listening_subscribes_verifies_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let mut listener =
        folder.start(&["listen", "--subscribe", "order.*", "--fail-first", "1", "--max", "2", "--json"]);
    listener.until_shown("listening");
    folder.json(&["publish", "user.created", "{}"]);
    folder.json(&["publish", "order.placed", r#"{"amount": 1.50}"#]);
    assert_eq!(listener.wait(), Some(DONE));
    let shown = listener.shown();
    let webhooks: Vec<Value> =
        shown.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let facts: Vec<_> =
        webhooks.iter().map(|webhook| (webhook["attempt"].as_u64(), webhook["answered"].as_u64())).collect();
    assert_eq!(facts, [(Some(1), Some(503)), (Some(2), Some(200))]);
    for webhook in &webhooks {
        assert_eq!(webhook["event_type"], "order.placed");
        for check in ["body_signature", "standard_signature", "timestamp"] {
            assert_eq!(webhook[check], "valid", "{check}");
        }
    }
    assert!(shown.contains(r#"{"amount": 1.50}"#), "bodies are as they came");
    assert_eq!(folder.done(&["endpoints", "list"]), "No endpoints.\n");
}

#[test]
fn a_listener_takes_its_own_webhooks_at_any_path() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let mut listener =
        folder.start(&["listen", "--subscribe", "*", "--path", "/ä b", "--max", "1", "--json"]);
    listener.until_shown("listening");
    folder.json(&["publish", "order.placed", "{}"]);
    assert_eq!(listener.wait(), Some(DONE));
    assert!(listener.shown().contains("\"answered\":200"), "{}", listener.shown());
    let refused = folder.run(&["listen", "--path", "/ä?x=1"]);
    assert_eq!(refused.code, USAGE, "{refused:?}");
    assert!(refused.stderr.contains("without ? and #"), "{refused:?}");
}

#[test]
fn a_listener_is_only_where_it_listens_and_a_final_answer_is_called_final() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let mut listener = folder.start(&["listen", "--path", "/in", "--max", "1", "--json"]);
    listener.until_shown("listening");
    let url: Value = serde_json::from_str(listener.shown().lines().next().unwrap()).unwrap();
    let at = |path: &str| {
        let url = url["listening"].as_str().unwrap().replace("/in", path);
        folder.json(&["endpoints", "create", path, &url])["id"].as_str().unwrap().to_owned()
    };
    let (elsewhere, here) = (at("/elsewhere"), at("/in"));
    for (endpoint, status) in [(&elsewhere, "404"), (&here, "200")] {
        let verified = folder.done(&["endpoints", "verify", endpoint]);
        assert!(verified.contains(status), "{verified}");
    }
    let test = folder.run(&["endpoints", "test", &elsewhere, "--json"]);
    let delivery = test.json()["id"].as_str().unwrap().to_owned();
    let shown = folder.done(&["deliveries", "get", &delivery]);
    assert!(shown.contains("attempt 1 of 1: final, for such an outcome is not tried again"), "{shown}");
    folder.json(&["endpoints", "test", &here]);
    assert_eq!(listener.wait(), Some(DONE), "what came elsewhere did not count");
    for command in
        [&["endpoints", "create", "a", "http://a.example"][..], &["endpoints", "rotate-secret", &here]]
    {
        let refused = folder.run(&[command, &["--secret-token", ""]].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
    }
}

#[test]
fn a_listener_that_cannot_show_anything_leaves_nothing_behind() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let listen = ["listen", "--subscribe", "*"];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let nobody_reads = folder.run_into(&listen, writer);
    assert_eq!(nobody_reads, Some(DONE), "as for every command whose reader had enough");
    assert_eq!(folder.done(&["endpoints", "list"]), "No endpoints.\n");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(folder.run_into(&listen, full), Some(FAILED));
    assert_eq!(folder.done(&["endpoints", "list"]), "No endpoints.\n");
}

#[test]
fn a_listener_whose_terminal_goes_leaves_nothing_behind() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let mut listener = folder.start(&["listen", "--subscribe", "*"]);
    listener.until_shown("Ctrl-C");
    assert!(folder.done(&["endpoints", "list"]).contains("neo-events listen"));
    listener.signal_with("-HUP");
    assert_eq!(listener.wait(), Some(DONE));
    assert_eq!(folder.done(&["endpoints", "list"]), "No endpoints.\n");
}

#[test]
fn a_listener_waits_for_a_server_that_is_briefly_away_and_tells_what_stays() {
    let (folder, address) = (Folder::new(), lasting_address());
    let serve = || {
        let mut server = folder.start(&["serve", "--listen", &address]);
        server.until_shown("admin key");
        server
    };
    let listen = || {
        let mut listener = folder.start(&["listen", "--subscribe", "*"]);
        listener.until_shown("Ctrl-C");
        listener
    };
    let server = serve();
    let mut listener = listen();
    assert_eq!(server.terminate(), Some(DONE));
    listener.signal();
    let server = serve();
    assert_eq!(listener.wait(), Some(DONE));

    let stay: Vec<_> = (0..3).map(|_| listen()).collect();
    let left = folder.json(&["endpoints", "list"]);
    let ids: Vec<_> =
        left["data"].as_array().unwrap().iter().map(|left| left["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), stay.len());
    assert_eq!(server.terminate(), Some(DONE));
    let mut quickest = Duration::MAX;
    for mut stays in stay {
        stays.signal();
        let begun = Instant::now();
        until("the end", || {
            stays.signal();
            stays.ended()
        });
        quickest = quickest.min(begun.elapsed());
        assert_eq!(stays.wait(), Some(UNREACHABLE));
        let logged = stays.logged();
        let told = |id| format!("endpoint {id} stays; remove it with `neo-events endpoints delete {id}`");
        assert!(ids.iter().any(|id| logged.contains(&told(id))), "{logged}");
    }
    // A busy machine may hold up one of them, but not each.
    assert!(quickest < Duration::from_secs(8), "a second signal ends the waiting");
}

#[test]
fn an_endpoint_whose_registration_was_never_answered_is_found_and_removed() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    let credentials = fs::read(folder.path("neo-events-data/credentials.json")).unwrap();
    let credentials: Value = serde_json::from_slice(&credentials).unwrap();
    let url = proxy_losing_the_registration(&server.url());
    let listened = folder.run(&[
        "listen",
        "--subscribe",
        "*",
        "--url",
        &url,
        "--key",
        credentials["key"].as_str().unwrap(),
    ]);
    assert_eq!(listened.code, UNREACHABLE, "{listened:?}");
    assert!(!listened.stderr.contains("stay"), "{listened:?}");
    assert_eq!(folder.done(&["endpoints", "list"]), "No endpoints.\n");
}

#[test]
fn a_listener_does_not_wait_long_for_a_server_that_never_answers() {
    let folder = Folder::new();
    let check = |signals: &[&str], why: &str| {
        let never_answers = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", never_answers.local_addr().unwrap());
        let mut listener = folder.start(&["listen", "--subscribe", "*", "--url", &url, "--key", "any"]);
        let (mut registration, _) = never_answers.accept().unwrap();
        assert_ne!(registration.read(&mut [0; 1024]).unwrap(), 0);
        for signal in signals {
            listener.signal_with(signal);
        }
        assert_eq!(listener.wait(), Some(UNREACHABLE));
        let logged = listener.logged();
        assert!(logged.contains("may stay; look for it with `neo-events endpoints list`"), "{logged}");
        assert!(logged.contains(why), "{logged}");
    };
    // A busy machine may hold up one of them, but not each.
    let is_quick = (0..3).any(|_| {
        let begun = Instant::now();
        check(&["-INT"], "no answer in the seconds that a signal left it");
        begun.elapsed() < Duration::from_secs(10)
    });
    assert!(is_quick, "the first leaves it a few seconds");
    // Two of a kind could come as one.
    check(&["-TERM", "-INT"], "a signal ended the wait for its answer");
}

#[test]
fn a_listener_tells_a_wrong_secret_and_ends_on_a_signal() {
    let folder = Folder::new();
    let _server = Server::start(&folder);
    let mut listener = folder.start(&["listen", "--secret", "not the one", "--path", "/in"]);
    listener.until_shown("Ctrl-C");
    let url = listener.url();
    let endpoint = folder.json(&["endpoints", "create", "here", &url]);
    assert_eq!(folder.run(&["endpoints", "test", endpoint["id"].as_str().unwrap()]).code, DONE);
    listener.until_shown("✗ webhook-signature");
    listener.until_shown("✓ timestamp");
    assert_eq!(listener.terminate(), Some(DONE));
}

#[test]
fn help_teaches_every_command() {
    let folder = Folder::new();
    let overview: Finished = folder.run(&["--help"]);
    assert_eq!(overview.code, DONE);
    for command in [
        "serve",
        "demo",
        "publish",
        "listen",
        "events",
        "endpoints",
        "subscriptions",
        "deliveries",
        "event-types",
    ] {
        assert!(overview.stdout.contains(command), "{command}");
        assert_eq!(folder.run(&[command, "--help"]).code, DONE);
    }
    for command in ["serve", "demo", "publish", "listen"] {
        assert!(folder.run(&[command, "--help"]).stdout.contains("Examples:"), "{command}");
    }
    assert!(folder.run(&["serve", "--help"]).stdout.contains("NEO_EVENTS_ADMIN_KEY"));
    assert!(folder.run(&["endpoints", "rotate-secret", "--help"]).stdout.contains("NAME-Previous"));
}

#[test]
fn tenants_and_keys_are_made_used_and_revoked() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    let made = folder.done(&["tenants", "create", "acme", "--name", "Acme Ltd"]);
    assert!(made.contains("tenant_acme") && made.contains("Acme Ltd"), "{made}");
    folder.done(&["tenants", "create", "region:eu"]);
    let again = folder.run(&["tenants", "create", "acme"]);
    assert_eq!(again.code, FAILED);
    assert!(again.stderr.contains("409"), "{again:?}");
    let upper = folder.run(&["tenants", "create", "Acme"]);
    assert!(upper.stderr.contains("lower-case"), "{upper:?}");
    let listed = folder.done(&["tenants", "list"]);
    let names: Vec<_> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["region:eu", "acme", "admin"], "{listed}");
    assert_eq!(folder.json(&["tenants", "get", "region:eu"])["schema"], "shared_eu");

    let arguments = ["api-keys", "create", "acme", "ci", "--scope", "events:write", "--scope", "events:read"];
    let created = folder.json(&[&arguments[..], &["--expires-at", "24h"]].concat());
    let key = created["key"].as_str().unwrap();
    let id = created["id"].as_str().unwrap();
    let shown = folder.done(&["api-keys", "create", "admin", "operator", "--scope", "admin"]);
    let operator = shown.lines().find_map(|line| line.strip_prefix("key ")).unwrap().trim();
    assert!(operator.starts_with("neo_key_"), "{shown}");
    let listed = folder.done(&["api-keys", "list"]);
    assert!(listed.contains(id) && listed.contains("events:write") && !listed.contains(key), "{listed}");
    assert!(listed.contains("operator"));
    assert!(!folder.done(&["api-keys", "list", "--in", "acme"]).contains("operator"));

    let url = server.url();
    let run = |key: &str, arguments: &[&str]| {
        folder.run(&[&["--url", url.as_str(), "--key", key][..], arguments].concat())
    };
    assert_eq!(run(key, &["publish", "order.placed", "{}"]).code, DONE);
    let refused = run(key, &["endpoints", "list"]);
    assert_eq!(refused.code, FAILED);
    assert!(refused.stderr.contains("403") && refused.stderr.contains("endpoints:read"), "{refused:?}");
    let events = |arguments: &[&str]| {
        run(operator, &[arguments, &["events", "list", "--json"]].concat()).json()["data"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((events(&["--tenant", "acme"]), events(&["--tenant", "region:eu"]), events(&[])), (1, 0, 0));
    let environment = [("NEO_EVENTS_TENANT", "acme")];
    let listed = folder.run_with_environment(&["events", "list", "--json"], &environment);
    assert_eq!(listed.json()["data"].as_array().unwrap().len(), 1);
    assert!(run(operator, &["--tenant", "nobody", "events", "list"]).stderr.contains("404"));

    assert!(folder.done(&["api-keys", "delete", id]).contains("Revoked"));
    until("the end of the key", || (run(key, &["events", "list"]).code == FAILED).then_some(()));
    assert!(run(key, &["events", "list"]).stderr.contains("401"));

    let logged = server.logged();
    assert_eq!(server.terminate(), Some(DONE));
    let data = fs::read_dir(folder.path("neo-events-data")).unwrap();
    let written: Vec<_> = data.filter_map(|entry| fs::read(entry.unwrap().path()).ok()).collect();
    assert!(!written.is_empty());
    for secret in [key, operator] {
        assert!(!logged.contains(secret));
        let holds = |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!written.iter().any(holds), "a key is stored");
    }
}

#[test]
fn help_teaches_tenants_and_keys() {
    let folder = Folder::new();
    for (arguments, taught) in [
        (&["tenants", "--help"][..], &["--tenant acme", "api-keys create"][..]),
        (&["tenants", "create", "--help"], &["region:", "lower-case"]),
        (&["api-keys", "--help"], &["events:write", "deliveries:read", "one context"]),
        (&["api-keys", "create", "--help"], &["never shown again", "--expires-at", "NEO_EVENTS_KEY"]),
        (&["--help"], &["tenants", "api-keys", "NEO_EVENTS_TENANT"]),
    ] {
        let help = folder.done(arguments);
        for text in taught {
            assert!(help.contains(text), "{arguments:?} {text}: {help}");
        }
    }
    let wrong = folder.run(&["api-keys", "create", "acme", "x", "--scope", "events"]);
    assert_eq!(wrong.code, USAGE);
    assert!(wrong.stderr.contains("events:write"), "{wrong:?}");
}
