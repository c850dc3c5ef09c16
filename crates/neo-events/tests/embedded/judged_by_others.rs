//! Real deliveries, verified by software that is not ours: the Rust, Python and JavaScript libraries of Standard
//! Webhooks, and GitHub's own verifier for the signature of the body.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use neo_events::SignedDuration;
use serde_json::json;

use crate::{
    receiver::{Received, Receiver},
    world::World,
};

struct Delivery {
    request: Received,
    /// As each of them shows it to its user.
    signing_secrets: Vec<String>,
    tokens: Vec<String>,
}

/// One delivery signed by a generated secret, and one in the middle of rotating to a secret of another form.
async fn deliveries() -> Vec<Delivery> {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let first = world.endpoint(&receiver.url).await;
    world.publish(r#"{"email":"test@example.com","name":"Jörg \u00fc"}"#).await;
    let one = receiver.wait_for(1).await.remove(0);
    let overlap = SignedDuration::from_hours(1);
    let token = Some("It's a Secret to Everybody");
    let second = world.tenant().rotate_secret(first.endpoint.id, token, overlap).await.unwrap();
    world.publish(r#"{"n":2}"#).await;
    let two = receiver.wait_for(2).await.remove(1);
    let secrets = |secrets: &[&neo_events::SigningSecret]| {
        (
            secrets.iter().map(|secret| secret.reveal_signing_secret()).collect(),
            secrets.iter().map(|secret| secret.reveal_token().to_owned()).collect(),
        )
    };
    let (signing_secrets, tokens) = secrets(&[&first.secret]);
    let delivery_one = Delivery { request: one, signing_secrets, tokens };
    let (signing_secrets, tokens) = secrets(&[&second.secret, &first.secret]);
    vec![delivery_one, Delivery { request: two, signing_secrets, tokens }]
}

#[tokio::test]
async fn the_rust_library_of_standard_webhooks_verifies() {
    for Delivery { request, signing_secrets, .. } in deliveries().await {
        for secret in signing_secrets {
            let webhook = standardwebhooks::Webhook::new(&secret).unwrap();
            webhook.verify(&request.body, &request.headers).unwrap();
            let mut forged = request.body.to_vec();
            forged[0] ^= 1;
            assert!(webhook.verify(&forged, &request.headers).is_err());
        }
    }
}

#[tokio::test]
async fn the_libraries_of_other_languages_verify() {
    let cases: Vec<_> = deliveries()
        .await
        .iter()
        .map(|Delivery { request, signing_secrets, tokens }| {
            let headers: serde_json::Map<_, _> = request
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
                .collect();
            json!({
                "headers": headers,
                "body": std::str::from_utf8(&request.body).unwrap(),
                "signing_secrets": signing_secrets,
                "tokens": tokens,
            })
        })
        .collect();
    let input = serde_json::to_vec(&cases).unwrap();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let tools = root.join("../../.test-tools");
    let scripts = root.join("tests/embedded/judges");
    judged(Command::new("node").arg(scripts.join("verify.mjs")).arg(&tools), &input);
    judged(Command::new(tools.join("python/bin/python")).arg(scripts.join("verify.py")), &input);
}

fn judged(judge: &mut Command, input: &[u8]) {
    let spawned = judge.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| {
        panic!("{} cannot be started ({error}): run scripts/test --setup", judge.get_program().display())
    });
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}\n(are the tools there? run scripts/test --setup)");
    assert_eq!(said.trim(), "verified 2 deliveries", "{complained}");
}
