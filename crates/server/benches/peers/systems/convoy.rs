//! Convoy, with a limit of rates that nobody comes to.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use super::{Api, EVENT_TYPE, System, UNLIMITED, text};
use crate::ground::{Ground, Program, command_in, free_address, run};

pub(crate) async fn start(
    program: &Path,
    is_on_postgres: bool,
    ground: &mut Ground,
    urls: &[String],
) -> System {
    let redis = ground.redis().await;
    let (address, worker) = (free_address(), free_address());
    let folder = ground.folder.path().to_owned();
    std::fs::write(folder.join("convoy.json"), "{}").unwrap();
    let settings = settings(&ground.postgres(), [address, worker, redis], is_on_postgres);
    let command = command_in(&folder, program, settings);
    run(&mut command(&["migrate", "up"]));
    let who = ["--email", "bench@example.com", "--first-name", "Bench", "--last-name", "Mark"];
    let said = run(&mut command(&[&["bootstrap", "--with-api-key", "--format", "json"][..], &who].concat()));
    // Its log stands before what it answers.
    let owner: Value = serde_json::from_str(&said[said.find("{\n").unwrap()..]).unwrap();
    let programs = ["server", "agent"].map(|part| {
        let command = command.clone();
        Program::new(folder.join(format!("convoy-{part}.log")), move || command(&[part]))
    });
    let ready = [address, worker].map(|address| format!("http://{address}/healthz"));
    let system = System::started(address, programs.into(), ready.into()).await;
    let api = Api { address, authorization: format!("Bearer {}", text(&owner["api_key"])) };
    let (api, base, ids) = project(&api, &owner, urls).await;
    let (path, to) = match &ids[..] {
        [one] => (format!("{base}/events"), format!(r#""endpoint_id":"{one}""#)),
        _ => (format!("{base}/events/fanout"), r#""owner_id":"bench""#.to_owned()),
    };
    system.publishing(path, api.authorization, move |data| {
        format!(r#"{{{to},"event_type":"{EVENT_TYPE}","data":{data}}}"#)
    })
}

/// Of its owner, with endpoints and subscriptions: its own API, where that is, and the endpoints' ids.
async fn project(api: &Api, owner: &Value, urls: &[String]) -> (Api, String, Vec<String>) {
    let wanted = json!({"name": "bench", "type": "outgoing", "config": {
        "ratelimit": {"count": UNLIMITED, "duration": 60},
        "strategy": {"type": "linear", "duration": 100, "retry_count": 10},
        "signature": {"header": "X-Convoy-Signature", "versions": [{"hash": "SHA256", "encoding": "hex"}]},
    }});
    let project =
        api.post(&format!("/api/v1/projects?orgID={}", text(&owner["organisation_id"])), wanted).await;
    let key = text(&project["data"]["api_key"]["key"]);
    let api = Api { address: api.address, authorization: format!("Bearer {key}") };
    let base = format!("/api/v1/projects/{}", text(&project["data"]["project"]["uid"]));
    let mut ids = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        let endpoint =
            json!({"name": format!("endpoint {number}"), "url": url, "owner_id": "bench", "rate_limit": 0});
        let endpoint = api.post(&format!("{base}/endpoints"), endpoint).await;
        let id = text(&endpoint["data"]["uid"]);
        let subscription = json!({"name": format!("subscription {number}"), "endpoint_id": id});
        api.post(&format!("{base}/subscriptions"), subscription).await;
        ids.push(id);
    }
    (api, base, ids)
}

/// What its programs find in their environment.
fn settings(
    database: &url::Url,
    [address, worker, redis]: [SocketAddr; 3],
    is_on_postgres: bool,
) -> Vec<(&'static str, String)> {
    vec![
        ("CONVOY_DB_DSN", format!("{database}?sslmode=disable")),
        ("CONVOY_DB_SCHEME", "postgres".to_owned()),
        ("CONVOY_DB_HOST", database.host_str().unwrap().to_owned()),
        ("CONVOY_DB_PORT", database.port().unwrap().to_string()),
        ("CONVOY_DB_USERNAME", database.username().to_owned()),
        ("CONVOY_DB_PASSWORD", "none".to_owned()),
        ("CONVOY_DB_DATABASE", database.path().trim_start_matches('/').to_owned()),
        ("CONVOY_DB_OPTIONS", "sslmode=disable".to_owned()),
        ("CONVOY_REDIS_SCHEME", "redis".to_owned()),
        ("CONVOY_REDIS_HOST", redis.ip().to_string()),
        ("CONVOY_REDIS_PORT", redis.port().to_string()),
        ("CONVOY_QUEUE_PROVIDER", if is_on_postgres { "postgres" } else { "redis" }.to_owned()),
        ("CONVOY_INSTANCE_INGEST_RATE", UNLIMITED.to_string()),
        ("CONVOY_API_RATE_LIMIT", UNLIMITED.to_string()),
        ("CONVOY_ANALYTICS_ENABLED", "false".to_owned()),
        ("CONVOY_JWT_SECRET", "a secret of this bench only".to_owned()),
        ("CONVOY_JWT_REFRESH_SECRET", "another secret of this bench only".to_owned()),
        ("CONVOY_DISPATCHER_ALLOW_LIST", "127.0.0.0/8".to_owned()),
        ("CONVOY_LOGGER_LEVEL", "error".to_owned()),
        ("PORT", address.port().to_string()),
        ("AGENT_PORT", worker.port().to_string()),
    ]
}
