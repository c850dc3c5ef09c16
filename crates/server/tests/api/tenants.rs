//! Tenants: made once, named well, each with its own rows.

use serde_json::{Value, json};

use crate::support::{ANSWER_OK, Call, Receiver, Server, keys, rows};

#[tokio::test]
async fn a_tenant_is_made_once() {
    let server = Server::start().await;
    let acme = server.post("/v1/tenants", json!({"slug": "acme", "name": " Acme Ltd "})).await;
    assert_eq!(acme.headers["location"], "/v1/tenants/acme");
    let acme = acme.expect(201);
    assert_eq!(keys(&acme), ["created_at", "name", "schema", "tenant_id"]);
    assert_eq!(
        (&acme["schema"], &acme["tenant_id"], &acme["name"]),
        (&json!("tenant_acme"), &json!("acme"), &json!("Acme Ltd"))
    );
    let region = server.post("/v1/tenants", json!({"region": "eu_west_1"})).await.expect(201);
    assert_eq!(
        (&region["schema"], &region["tenant_id"]),
        (&json!("shared_eu_west_1"), &json!("region:eu_west_1"))
    );
    for again in [json!({"slug": "acme"}), json!({"region": "eu_west_1", "name": "another"})] {
        server.post("/v1/tenants", again).await.refused(409, "already_exists");
    }
    let listed = server.get("/v1/tenants").await.expect(200);
    let names: Vec<_> = rows(&listed).iter().map(|tenant| tenant["tenant_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["region:eu_west_1", "acme", "admin"]);
    assert_eq!(server.get("/v1/tenants/acme").await.expect(200), acme);
    assert_eq!(server.get("/v1/tenants/region:eu_west_1").await.expect(200), region);
    for nobody in ["nobody", "region:acme", "Acme", "tenant_acme", "%00"] {
        server.get(&format!("/v1/tenants/{nobody}")).await.refused(404, "tenant_not_found");
    }
}

#[tokio::test]
async fn tenants_are_named_well() {
    let server = Server::start().await;
    let long = "a".repeat(49);
    for slug in ["Acme", "ACME", "a-b", "a b", "1a", "_a", "", "ä", &long, "region:eu"] {
        let detail = server.post("/v1/tenants", json!({"slug": slug})).await.invalid_at(&["/slug"]);
        assert!(detail.contains("lower-case"), "{slug}: {detail}");
        let detail = server.post("/v1/tenants", json!({"region": slug})).await.invalid_at(&["/region"]);
        assert!(detail.contains("lower-case"), "{slug}: {detail}");
    }
    for (body, pointers) in [
        (json!({}), &["/slug"][..]),
        (json!({"slug": "admin"}), &["/slug"]),
        (json!({"slug": "a", "region": "b"}), &["/region"]),
        (json!({"slug": "a", "name": ""}), &["/name"]),
        (json!({"slug": "A", "name": "x".repeat(256)}), &["/slug", "/name"]),
        (json!({"slug": 1}), &["/slug"]),
        (json!({"slug": "a", "schema": "tenant_a"}), &["/schema"]),
    ] {
        server.post("/v1/tenants", body).await.invalid_at(pointers);
    }
    let longest = "a".repeat(48);
    server.post("/v1/tenants", json!({"slug": longest, "name": "x".repeat(255)})).await.expect(201);
    server.send(Call::new("GET", "/v1/events").tenant(&longest)).await.expect(200);
    assert_eq!(rows(&server.get("/v1/tenants").await.expect(200)).len(), 2, "nothing else was made");
}

#[tokio::test]
async fn receivers_are_told_the_tenant() {
    let server = Server::start().await;
    let mut receiver = Receiver::answering(ANSWER_OK).await;
    server.make_tenant("acme").await;
    server.post("/v1/tenants", json!({"region": "eu"})).await.expect(201);
    for tenant in ["acme", "region:eu", "admin"] {
        let post = async |path: &str, body: Value| {
            server.send(Call::new("POST", path).tenant(tenant).json(&body)).await
        };
        let endpoint = json!({"name": "n", "endpoint_url": receiver.url});
        let endpoint = post("/v1/endpoints", endpoint).await.expect(201)["id"].clone();
        post("/v1/subscriptions", json!({"endpoint_id": endpoint, "event_type": "*"})).await.expect(201);
        post("/v1/events", json!({"event_type": "a.b", "event_data": {}})).await.expect(202);
        let request = receiver.next().await.to_ascii_lowercase();
        assert!(request.contains(&format!("x-neo-tenant-id: {tenant}\r\n")), "{request}");
    }
}
