//! Svix's server, with its own defaults.

use std::path::Path;

use serde_json::json;

use super::{Api, EVENT_TYPE, System, text};
use crate::ground::{Ground, Program, command_in, free_address, run};

pub(crate) async fn start(program: &Path, is_volatile: bool, ground: &mut Ground, urls: &[String]) -> System {
    let redis = ground.redis().await;
    let (address, folder) = (free_address(), ground.folder.path().to_owned());
    let settings = [
        ("SVIX_LISTEN_ADDRESS", address.to_string()),
        ("SVIX_DB_DSN", ground.cluster.url()),
        ("SVIX_REDIS_DSN", format!("redis://{redis}")),
        ("SVIX_QUEUE_TYPE", if is_volatile { "memory" } else { "redis" }.to_owned()),
        ("SVIX_JWT_SECRET", "a secret of this bench only".to_owned()),
        ("SVIX_WHITELIST_SUBNETS", "[127.0.0.1/32]".to_owned()),
    ];
    let command = command_in(&folder, program, settings.into());
    let said = run(&mut command(&["jwt", "generate"]));
    let token = said.split_ascii_whitespace().last().unwrap().to_owned();
    run(&mut command(&["migrate"]));
    let server = Program::new(folder.join("svix.log"), move || command(&[]));
    let system =
        System::started(address, vec![server], vec![format!("http://{address}/api/v1/health/")]).await;
    let api = Api { address, authorization: format!("Bearer {token}") };
    let application = text(&api.post("/api/v1/app/", json!({"name": "bench"})).await["id"]);
    for url in urls {
        let endpoint = json!({"url": url, "version": 1, "description": "bench"});
        api.post(&format!("/api/v1/app/{application}/endpoint/"), endpoint).await;
    }
    system.publishing(format!("/api/v1/app/{application}/msg/"), api.authorization, |data| {
        format!(r#"{{"eventType":"{EVENT_TYPE}","payload":{data}}}"#)
    })
}
