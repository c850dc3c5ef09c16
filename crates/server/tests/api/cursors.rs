//! A cursor goes on where its list ended, and is refused everywhere else.

use serde_json::{Value, json};

use crate::support::{Call, Server, rows};

const X: &str = "01930000-0000-7000-8000-0000000000aa";

async fn next_cursor(server: &Server, call: Call) -> String {
    let page = server.send(call).await.expect(200);
    page["next_cursor"].as_str().unwrap_or_else(|| panic!("a cursor: {page}")).to_owned()
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_list_alone() {
    let server = Server::start().await;
    for slug in ["acme", "rival"] {
        server.make_tenant(slug).await;
        for path in ["/v1/endpoints", "/v1/events"] {
            for _ in 0..3 {
                let body = match path {
                    "/v1/events" => json!({"event_type": "a.b", "event_data": {}, "context_id": X}),
                    _ => json!({"name": "n", "endpoint_url": "http://127.0.0.1:1/", "context_id": X}),
                };
                let call = Call::new("POST", path).tenant(slug).json(&body);
                assert!(server.send(call).await.status < 300);
            }
        }
    }
    let bound = server.make_key("acme", json!({"context_id": X})).await;
    let whole = server.make_key("acme", json!({})).await;
    let get = |path: &str| Call::new("GET", path).tenant("acme");
    let list = "/v1/events?event_type=a.b&from=2020-01-01T00:00:00Z";
    let cursor = next_cursor(&server, get(&format!("{list}&limit=1"))).await;
    let with = |path: &str| format!("{path}{}cursor={cursor}", if path.contains('?') { '&' } else { '?' });

    for same in [
        get(&with(list)),
        get(&with("/v1/events?from=2020-01-01T00:00:00Z&limit=2&event_type=a.b")),
        Call::new("GET", &with(list)).key(&whole),
    ] {
        assert_eq!(rows(&server.send(same).await.expect(200)).len(), 2);
    }
    for other in [
        get(&with("/v1/events")),
        get(&with("/v1/events?event_type=a.b")),
        get(&with("/v1/events?event_type=a.c&from=2020-01-01T00:00:00Z")),
        get(&with(&format!("{list}&context_id={X}"))),
        get(&with("/v1/endpoints?event_type=a.b")),
        get(&with("/v1/endpoints")),
        Call::new("GET", &with(list)).tenant("rival"),
        Call::new("GET", &with(list)),
        Call::new("GET", &with(list)).key(&bound),
        get(&format!("{list}&cursor={}", &cursor[1..])),
        get(&format!("{list}&cursor={}", &cursor[..cursor.len() - 1])),
        get(&format!("{list}&cursor={}x", &cursor)),
    ] {
        server.send(other).await.refused(400, "invalid_cursor");
    }
}

#[tokio::test]
async fn following_a_list_finds_each_row_once() {
    let server = Server::start().await;
    for slug in ["a", "b", "c", "d"] {
        server.make_tenant(slug).await;
        server.make_key(slug, json!({})).await;
    }
    for (list, field, expected) in [
        ("tenants", "tenant_id", vec!["d", "c", "b", "a", "admin"]),
        ("api-keys", "tenant", vec!["d", "c", "b", "a"]),
    ] {
        let mut found: Vec<Value> = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = server.get(&format!("/v1/{list}?limit=2{cursor}")).await.expect(200);
            found.extend(rows(&page).iter().map(|row| row[field].clone()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, expected, "{list}");
    }
}
