//! Outpost, with a hundred events in hand at once instead of one.

use std::{path::Path, process::Command};

use http::Method;
use serde_json::json;

use super::{Api, EVENT_TYPE, System};
use crate::ground::{Ground, Program, free_address, run, sibling};

const KEY: &str = "a key of this bench only";

pub(crate) async fn start(program: &Path, ground: &mut Ground, urls: &[String]) -> System {
    let (redis, rabbitmq) = (ground.redis().await, ground.rabbitmq().await);
    let (address, folder) = (free_address(), ground.folder.path().to_owned());
    let settings = [
        ("REDIS_HOST", redis.ip().to_string()),
        ("REDIS_PORT", redis.port().to_string()),
        ("RABBITMQ_SERVER_URL", format!("amqp://guest:guest@{rabbitmq}")),
        ("POSTGRES_URL", format!("{}?sslmode=disable", ground.cluster.url())),
        ("API_PORT", address.port().to_string()),
        ("API_KEY", KEY.to_owned()),
        ("API_JWT_SECRET", "a secret of this bench only".to_owned()),
        ("AES_ENCRYPTION_SECRET", "another secret of this bench".to_owned()),
        ("DISABLE_TELEMETRY", "true".to_owned()),
        ("LOG_LEVEL", "error".to_owned()),
        ("GIN_MODE", "release".to_owned()),
        // One at a time otherwise.
        ("PUBLISH_MAX_CONCURRENCY", "100".to_owned()),
        ("DELIVERY_MAX_CONCURRENCY", "100".to_owned()),
        ("LOG_MAX_CONCURRENCY", "100".to_owned()),
    ];
    run(Command::new(program)
        .args(["migrate", "apply", "--yes"])
        .envs(settings.clone())
        .current_dir(&folder));
    let server = sibling(program, "outpost-server");
    let program = Program::new(folder.join("outpost.log"), {
        move || {
            let mut command = Command::new(&server);
            command.envs(settings.clone()).current_dir(&folder);
            command
        }
    });
    let system = System::started(address, vec![program], vec![format!("http://{address}/healthz")]).await;
    let api = Api { address, authorization: format!("Bearer {KEY}") };
    api.call(Method::PUT, "/api/v1/tenants/bench", json!({})).await;
    for url in urls {
        let destination = json!({"type": "webhook", "topics": ["*"], "config": {"url": url}});
        api.post("/api/v1/tenants/bench/destinations", destination).await;
    }
    system.publishing("/api/v1/publish".into(), api.authorization, |data| {
        format!(r#"{{"tenant_id":"bench","topic":"{EVENT_TYPE}","eligible_for_retry":true,"data":{data}}}"#)
    })
}
