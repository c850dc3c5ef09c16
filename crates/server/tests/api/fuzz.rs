//! Damaged cursors, keys, tenants and requests, by the hundred: each is refused with a problem or does what it says, in
//! the caller's own tenant. How cases are drawn, repeated and multiplied is told in `campaign`.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::support::{Call, KEY, NOBODY, PATIENCE, POLL_INTERVAL, Reply, Server, rows};

#[path = "../../../domain/tests/fuzz/campaign.rs"]
mod campaign;

use campaign::{Corpus, campaign};

/// Each is a connection and a call.
const CASES: u64 = 500;
/// Lists of a tenant's own rows.
const LISTS: [&str; 4] = ["events", "endpoints", "subscriptions", "deliveries"];

/// A server with rows in two tenants, and a runtime in which cases can wait for it.
struct World {
    runtime: Runtime,
    server: Server,
    /// Tenant `acme`'s.
    key: String,
    /// Ids of an endpoint, a subscription and an event of tenant `acme`.
    ids: [String; 3],
}

impl World {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (server, key, ids) = runtime.block_on(async {
            let server = Server::start().await;
            fill(&server, "rival").await;
            let (key, ids) = fill(&server, "acme").await;
            (server, key, ids)
        });
        Self { runtime, server, key, ids }
    }

    fn send(&self, call: Call) -> Reply {
        self.runtime.block_on(self.server.send(call))
    }

    /// The ids of all rows of a list.
    fn all(&self, tenant: &str, list: &str) -> BTreeSet<String> {
        let call = Call::new("GET", &format!("/v1/{list}?limit=1000")).tenant(tenant);
        ids_of(&self.send(call).expect(200))
    }

    fn all_of(&self, tenant: &str) -> Vec<BTreeSet<String>> {
        LISTS.iter().map(|list| self.all(tenant, list)).collect()
    }
}

/// Makes a tenant with a few rows of each kind; answers its key, and ids of an endpoint, a subscription and an event.
async fn fill(server: &Server, slug: &str) -> (String, [String; 3]) {
    server.make_tenant(slug).await;
    let key = server.make_key(slug, json!({})).await;
    let post = async |path: &str, body: Value| {
        let reply = server.send(Call::new("POST", path).key(&key).json(&body)).await;
        assert!(reply.status < 300, "{}", reply.text);
        let answer: Value = serde_json::from_str(&reply.text).expect("JSON");
        answer["id"].as_str().expect("an id").to_owned()
    };
    let mut ids = [String::new(), String::new(), String::new()];
    for _ in 0..3 {
        let endpoint =
            post("/v1/endpoints", json!({"name": slug, "endpoint_url": "http://127.0.0.1:1/"})).await;
        let subscribed = json!({"endpoint_id": endpoint, "event_type": "a.b"});
        let subscription = post("/v1/subscriptions", subscribed).await;
        let event = post("/v1/events", json!({"event_type": "a.b", "event_data": {"of": slug}})).await;
        ids = [endpoint, subscription, event];
    }
    // One for each endpoint that was there: enough for a second page.
    let list = || Call::new("GET", "/v1/deliveries").key(&key);
    let all_there = async {
        while rows(&server.send(list()).await.expect(200)).len() < 1 + 2 + 3 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_there).await.expect("the deliveries come in time");
    (key, ids)
}

fn ids_of(list: &Value) -> BTreeSet<String> {
    rows(list).iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

/// A part of a URL in which nothing means anything to HTTP.
fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// What a list would hand out with this key in it: a tag is no secret.
fn handed_out(list: &str, key: &str) -> String {
    let mut hash = Sha256::new();
    for part in [&format!("/v1/{list}"), "tenant_acme", ""] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let tag = URL_SAFE_NO_PAD.encode(&hash.chain_update(key).finalize()[..9]);
    format!("{tag}{key}")
}

#[test]
fn a_damaged_cursor_is_refused_and_a_forged_one_goes_on_among_the_callers_own_rows() {
    let world = World::start();
    for list in LISTS {
        let path = format!("/v1/{list}?limit=1");
        let own = |path: &str| Call::new("GET", path).key(&world.key);
        let page = world.send(own(&path)).expect(200);
        let cursor = page["next_cursor"].as_str().unwrap_or_else(|| panic!("{list} has another page"));
        let key = &cursor[12..];
        assert_eq!(cursor, handed_out(list, key));
        let keys = format!("{key}\n0\n1\n9223372036854775807\n18446744073709551616\n-1\n{NOBODY}");
        let (cursors, keys) = (Corpus::of(cursor.to_owned().leak()), Corpus::of(keys.leak()));
        campaign("cursors", CASES, |random| {
            let is_forged = random.below(2) == 0;
            let drawn = if is_forged { handed_out(list, &keys.draw(random)) } else { cursors.draw(random) };
            let reply = world.send(own(&format!("{path}&cursor={}", encoded(&drawn))));
            // What is too long for a line of HTTP never comes so far.
            if reply.status == 414 {
                return false;
            }
            if reply.status != 200 {
                reply.refused(400, "invalid_cursor");
                return false;
            }
            let found = ids_of(&reply.expect(200));
            assert!(is_forged || drawn == cursor, "{list} {drawn:?} was not handed out");
            assert!(found.is_subset(&world.all("acme", list)), "{list} {drawn:?}: {found:?}");
            true
        });
    }
}

#[test]
fn a_damaged_key_opens_nothing() {
    let world = World::start();
    let corpus = format!("Bearer {}\nbearer {KEY}\nBearer {KEY}{}\nBasic {KEY}", world.key, world.key);
    let values = Corpus::of(corpus.leak());
    let is_key = |value: &str| {
        let (scheme, key) = value.split_at_checked(7).unwrap_or_default();
        let key = key.trim_matches([' ', '\t']);
        scheme.eq_ignore_ascii_case("bearer ") && (key == KEY || key == world.key)
    };
    campaign("keys", CASES, |random| {
        let value = values.draw(random);
        // What HTTP itself does not let into a header never comes so far.
        if value.contains(['\r', '\n']) {
            return false;
        }
        let reply = world.send(Call::new("GET", "/v1/events").header("authorization", &value));
        let is_refused = matches!(reply.status, 400 | 401 | 431);
        assert_eq!(reply.status == 200, is_key(value.trim_matches([' ', '\t'])), "{value:?}: {}", reply.text);
        assert!(reply.status == 200 || is_refused, "{value:?}: {}", reply.text);
        reply.status == 200
    });
}

#[test]
fn a_tenant_is_reached_by_its_own_name_alone() {
    let world = World::start();
    let names = Corpus::of("acme\nrival\nadmin\nregion:acme\ntenant_acme\nnobody");
    campaign("tenant headers", CASES, |random| {
        let drawn = names.draw(random);
        if drawn.contains(['\r', '\n']) {
            return false;
        }
        let name = drawn.trim_matches([' ', '\t']);
        let as_admin = world.send(Call::new("GET", "/v1/events").tenant(&drawn));
        let as_acme = world.send(Call::new("GET", "/v1/events").key(&world.key).tenant(&drawn));
        assert_eq!(as_admin.status == 200, ["acme", "rival", "admin"].contains(&name), "{drawn:?}");
        assert_eq!(as_acme.status == 200, name == "acme", "{drawn:?}");
        for reply in [&as_admin, &as_acme] {
            assert!(matches!(reply.status, 200 | 400 | 404 | 431), "{drawn:?}: {}", reply.text);
        }
        as_admin.status == 200
    });
}

#[test]
fn a_damaged_request_is_answered_and_changes_nothing_of_anybody_elses() {
    let world = World::start();
    let before = world.all_of("rival");
    let mut corpus = include_str!("../corpus/requests.txt").to_owned();
    for (name, id) in ["ENDPOINT", "SUBSCRIPTION", "EVENT"].iter().zip(&world.ids) {
        corpus = corpus.replace(name, id);
    }
    let requests = Corpus::of(corpus.leak());
    for line in requests.lines() {
        let reply = world.send(request(line, &world.key));
        assert!(reply.status < 300 || reply.status == 404, "{line}: {} {}", reply.status, reply.text);
    }
    campaign("requests", 2 * CASES, |random| {
        let line = requests.draw(random);
        let reply = world.send(request(&line, &world.key));
        assert!(reply.status < 500, "{line:?}: {} {}", reply.status, reply.text);
        let is_accepted = reply.status < 300;
        // A head that is no HTTP is answered by what reads it, without words.
        if reply.headers.contains_key("x-request-id") {
            let status = reply.status;
            let body = reply.expect(status);
            assert!(!body.to_string().contains("rival"), "{line:?}: {body}");
        }
        is_accepted
    });
    assert_eq!(world.all_of("rival"), before);
}

/// A line of the corpus as a call; what HTTP does not take in a path is percent-encoded.
fn request(line: &str, key: &str) -> Call {
    let (method, rest) = line.split_once(' ').unwrap_or(("", line));
    let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
    let method =
        ["POST", "PATCH", "DELETE", "PUT"].into_iter().find(|known| *known == method).unwrap_or("GET");
    let encode = |c: char| if c.is_ascii_graphic() { c.to_string() } else { encoded(&c.to_string()) };
    let path: String = path.chars().map(encode).collect();
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let call = Call::new(method, &path).key(key);
    if body.is_empty() { call } else { call.json(body) }
}
