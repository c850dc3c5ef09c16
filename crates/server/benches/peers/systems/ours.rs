//! neo-events, the program of this build.

use std::process::Command;

use serde_json::json;

use super::{Api, EVENT_TYPE, System};
use crate::ground::{Ground, Program, free_address};

const KEY: &str = "neo_admin_for_this_bench_only";

pub(crate) async fn start(ground: &Ground, urls: &[String]) -> System {
    let (address, database) = (free_address(), ground.cluster.url());
    let folder = ground.folder.path().to_owned();
    let program = Program::new(folder.join("neo-events.log"), move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neo-events"));
        command
            .args(["serve", "--listen", &address.to_string(), "--database", &database, "--admin-key", KEY])
            .env("NEO_EVENTS_MASTER_KEY", "bWFzdGVyIGtleSBvZiB0ZXN0cyBvbmx5LCAzMiBieXQ=")
            .current_dir(&folder);
        command
    });
    let system = System::started(address, vec![program], vec![format!("http://{address}/readyz")]).await;
    let api = Api { address, authorization: format!("Bearer {KEY}") };
    for (number, url) in urls.iter().enumerate() {
        let endpoint = json!({"name": format!("endpoint {number}"), "endpoint_url": url});
        let endpoint = api.post("/v1/endpoints", endpoint).await;
        let subscription = json!({"endpoint_id": endpoint["id"], "event_type": "*"});
        api.post("/v1/subscriptions", subscription).await;
    }
    system.publishing("/v1/events".into(), api.authorization, |data| {
        format!(r#"{{"event_type":"{EVENT_TYPE}","event_data":{data}}}"#)
    })
}
