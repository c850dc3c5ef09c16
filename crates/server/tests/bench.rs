//! `neo-events bench` as people and scripts run it: small, on SQLite, its report judged by its own arithmetic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this test program uses a part of it")]
mod terminal;

use std::fs;

use serde_json::Value;
use terminal::{Folder, until};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn check_percentiles(times: &Value) {
    let ordered: Vec<f64> =
        ["p50", "p90", "p95", "p99", "max"].iter().map(|name| number(&times[*name])).collect();
    assert!(ordered[0] > 0.0 && ordered.is_sorted(), "{times}");
}

fn check_mode(mode: &Value, events: u64, endpoints: u64, rounds: usize) {
    assert_eq!(mode["missing"], Value::Null);
    assert_eq!(mode["rounds"].as_array().unwrap().len(), rounds);
    assert_eq!(mode["bare_client"].as_array().unwrap().len(), rounds + 1);
    for bare in mode["bare_client"].as_array().unwrap() {
        assert!(number(&bare["requests_per_second"]) > 0.0);
        check_percentiles(&bare["call_ms"]);
    }
    for figures in mode["rounds"].as_array().unwrap().iter().chain([&mode["median"]]) {
        assert_eq!(figures["events"], events);
        assert_eq!(figures["deliveries"], events * endpoints);
        assert_eq!(figures["duplicates"], 0);
        assert!(figures["signatures_checked"].as_u64().unwrap() > 0);
        for name in ["ingest_per_second", "deliveries_per_second", "bare_per_second", "ratio"] {
            assert!(number(&figures[name]) > 0.0, "{name}: {figures}");
        }
        assert!(number(&figures["server_cpu_seconds"]) >= 0.0);
        assert!(number(&figures["bench_cpu_seconds"]) >= 0.0);
        assert_eq!(figures["database_cpu_seconds"], Value::Null, "SQLite has no process");
        check_percentiles(&figures["publish_ms"]);
        check_percentiles(&figures["first_byte_ms"]);
    }
    assert!(mode["memory"]["server_peak_bytes"].as_u64().unwrap() > 1024 * 1024);
    assert_eq!(mode["memory"]["database_peak_bytes"], Value::Null);
}

#[test]
fn every_mode_on_sqlite_delivers_everything_and_says_how_fast() {
    let folder = Folder::new();
    let report = folder.json(&[
        "bench",
        "--mode",
        "single,batch,library",
        "--events",
        "60",
        "--endpoints",
        "2",
        "--rounds",
        "2",
        "--concurrency",
        "4",
        "--batch-size",
        "7",
        "--warm-up",
        "3",
        "--payload-bytes",
        "200",
    ]);
    assert_eq!(report["bench_format"], 1);
    assert_eq!(report["settings"]["events"], 60);
    assert_eq!(report["settings"]["rate"], Value::Null);
    let environment = &report["environment"];
    assert!(environment["cores"].as_u64().unwrap() > 0);
    assert!(environment["database"].as_str().unwrap().starts_with("SQLite 3."));
    assert_eq!(environment["build"], if cfg!(debug_assertions) { "debug" } else { "release" });
    let modes = report["modes"].as_array().unwrap();
    let names: Vec<_> = modes.iter().map(|mode| mode["mode"].as_str().unwrap()).collect();
    assert_eq!(names, ["single", "batch", "library"]);
    for mode in modes {
        check_mode(mode, 60, 2, 2);
        assert_eq!(mode["is_in_process"], mode["mode"] == "library");
        assert_eq!(mode["ratio_of"], "deliveries_per_second");
    }
    assert_eq!(fs::read_dir(folder.path(".")).unwrap().count(), 0, "nothing is left where it was run");
}

#[test]
fn a_rate_is_kept_and_people_read_tables() {
    let folder = Folder::new();
    let arguments = ["bench", "--events", "50", "--rate", "100", "--rounds", "1", "--concurrency", "2"];
    let report = folder.json(&arguments);
    let mode = &report["modes"][0];
    check_mode(mode, 50, 1, 1);
    assert_eq!(mode["ratio_of"], "first_byte_p50");
    // 50 events are due within 0.49 s, so no machine is faster than this.
    let rate = number(&mode["rounds"][0]["ingest_per_second"]);
    assert!(rate <= 50.0 / 0.49, "{rate}");

    let shown = folder.run(&["bench", "--events", "20", "--rounds", "1"]);
    assert_eq!(shown.code, DONE, "{shown:?}");
    for text in
        ["cores", "SQLite 3.", "DELIVERIES/S", "median", "P99", "server at most", "20 deliveries arrived"]
    {
        assert!(shown.stdout.contains(text), "{text}: {shown:?}");
    }
    assert_eq!(shown.stderr.contains("DEBUG build"), cfg!(debug_assertions), "{shown:?}");
    assert!(!shown.stdout.contains('\u{1b}'), "no colours where there is no terminal");
}

#[test]
fn a_database_that_is_given_is_kept_and_its_endpoints_are_removed() {
    let folder = Folder::new();
    let database = format!("sqlite:{}", folder.path("kept.db").display());
    for mode in ["single", "library"] {
        let arguments = ["bench", "--database", &database, "--events", "10", "--rounds", "1", "--mode", mode];
        check_mode(&folder.json(&arguments)["modes"][0], 10, 1, 1);
    }
    let [endpoints, events] = kept(&folder, &database);
    assert_eq!(endpoints, 0);
    assert_eq!(events, 2 * (10 + 1), "a warm-up of one event each");
}

/// How many endpoints and events there are in a database that no server holds any more, up to 100 each.
fn kept(folder: &Folder, database: &str) -> [usize; 2] {
    let key = "0123456789abcdef";
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-key", key, "--database", database];
    let mut server = folder.start(&serve);
    server.until_shown("admin key");
    let url = server.url();
    let count = |what: &str| {
        let list = folder.json(&[what, "list", "--url", &url, "--key", key]);
        list["data"].as_array().unwrap().len()
    };
    let counts = [count("endpoints"), count("events")];
    assert_eq!(server.terminate(), Some(DONE));
    counts
}

#[test]
fn an_interrupted_bench_ends_its_server_and_removes_its_endpoints() {
    let folder = Folder::new();
    let file = folder.path("kept.db");
    let database = format!("sqlite:{}", file.display());
    let mut bench = folder.start(&["bench", "--database", &database, "--events", "1000000"]);
    let log = folder.path("kept.db-wal");
    until("events are written", || fs::metadata(&log).ok().filter(|log| log.len() > 1024 * 1024).map(drop));
    bench.signal();
    assert_eq!(bench.wait(), Some(FAILED));
    assert!(bench.logged().contains("interrupted"), "{}", bench.logged());
    let [endpoints, events] = kept(&folder, &database);
    assert_eq!(endpoints, 0);
    assert!(events > 0);
}

#[test]
fn two_reports_are_set_beside_each_other() {
    let folder = Folder::new();
    for (name, bytes) in [("a.json", "100"), ("b.json", "200")] {
        let arguments = ["bench", "--events", "10", "--rounds", "1", "--payload-bytes", bytes, "--json"];
        fs::write(folder.path(name), folder.done(&arguments)).unwrap();
    }
    let compared = folder.json(&["bench", "--compare", "a.json", "b.json"]);
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(folder.path(name)).unwrap()).unwrap();
    let rate = |name: &str| number(&read(name)["modes"][0]["median"]["ingest_per_second"]);
    let ingest = &compared["modes"][0]["figures"][0];
    assert_eq!(ingest["name"], "ingest/s");
    let expected = rate("b.json") / rate("a.json");
    assert!((number(&ingest["ratio"]) / expected - 1.0).abs() < 1e-6, "{ingest} {expected}");
    assert!(compared["differences"].to_string().contains("200 bytes"), "{compared}");

    // Whichever this was built from: a debug build is not told.
    let version = folder.done(&["--version"]);
    match read("a.json")["environment"]["commit"].as_str().unwrap() {
        "unknown" => assert_eq!(version, concat!("neo-events ", env!("CARGO_PKG_VERSION"), "\n")),
        commit => assert!(version.contains(commit), "{version} {commit}"),
    }
    let with_commit = |commit: Option<&str>| {
        let mut report = read("a.json");
        let environment = report["environment"].as_object_mut().unwrap();
        environment.remove("commit");
        environment.extend(commit.map(|commit| ("commit".to_owned(), commit.into())));
        report.to_string()
    };
    fs::write(folder.path("earlier.json"), with_commit(None)).unwrap();
    fs::write(folder.path("later.json"), with_commit(Some("4fd7922-dirty"))).unwrap();
    let shown = folder.done(&["bench", "--compare", "earlier.json", "later.json"]);
    assert!(shown.contains("commit unknown") && shown.contains("commit 4fd7922-dirty"), "{shown}");

    let shown = folder.done(&["bench", "--compare", "a.json", "a.json"]);
    assert!(shown.contains("deliveries/s") && shown.contains("1.000"), "{shown}");
    assert!(!shown.contains("different"), "{shown}");
    fs::write(folder.path("c.json"), "{}").unwrap();
    for other in ["c.json", "none.json"] {
        let refused = folder.run(&["bench", "--compare", "a.json", other]);
        assert_eq!(refused.code, FAILED, "{refused:?}");
        assert!(refused.stderr.contains(other), "{refused:?}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    let folder = Folder::new();
    for (arguments, reason) in [
        (&["--mode", "sql"][..], "postgres://"),
        (&["--mode", "sql", "--database", "sqlite:x.db"], "postgres://"),
        (&["--payload-bytes", "5"], "34 to 102400"),
        (&["--database", "mysql:x"], "--database"),
    ] {
        let refused = folder.run(&[&["bench"], arguments].concat());
        assert_eq!(refused.code, USAGE, "{refused:?}");
        assert!(refused.stderr.contains(reason), "{refused:?}");
        assert!(refused.stdout.is_empty());
    }
    let broken = folder.run(&["bench", "--database", "sqlite:/proc/none/bench.db"]);
    assert_eq!(broken.code, FAILED, "{broken:?}");
    assert!(broken.stderr.contains("/proc/none/bench.db"), "what the server said: {broken:?}");
}

#[test]
fn what_is_set_for_servers_is_not_for_the_one_that_is_measured() {
    let folder = Folder::new();
    let environment = [
        ("WEBHOOK_BLOCK_LOOPBACK", "true"),
        ("NEO_EVENTS_ROLES", "api"),
        ("NEO_EVENTS_MIGRATE", "off"),
        ("NEO_EVENT_LISTEN", "127.0.0.1:1"),
    ];
    let arguments = ["bench", "--events", "10", "--rounds", "1"];
    let measured = folder.run_with_environment(&arguments, &environment);
    assert_eq!(measured.code, DONE, "{measured:?}");
}
