//! What a copy of the databases gives away: no key and no secret, neither as people write them nor as the bytes they stand for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    DONE,
    terminal::{Folder, Server},
};

const BYTES: usize = 32;

/// Every file in a folder and those in it, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap()
}

#[test]
fn keys_and_secrets_are_not_in_the_databases() {
    let folder = Folder::new();
    let server = Server::start(&folder);
    folder.done(&["tenants", "create", "acme"]);
    let of_admin = folder.json(&["api-keys", "create", "admin", "ours"]);
    let of_acme = folder.json(&["api-keys", "create", "acme", "theirs"]);
    let url = server.url();
    let endpoint = |key: &str| {
        folder.json(&["--url", &url, "--key", key, "endpoints", "create", "dead", "http://127.0.0.1:9/"])
    };
    let keys = [text(&of_admin, "key"), text(&of_acme, "key")];
    let endpoints = keys.map(endpoint);
    assert_eq!(server.terminate(), Some(DONE));

    let mut secrets = vec![];
    for key in keys {
        let encoded = key.strip_prefix("neo_key_").unwrap();
        secrets.push((encoded.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(encoded).unwrap()));
    }
    for endpoint in &endpoints {
        assert_eq!(endpoint["secret_token"], endpoint["signing_secret"]);
        let encoded = text(endpoint, "secret_token").strip_prefix("whsec_").unwrap();
        secrets.push((encoded.as_bytes().to_vec(), STANDARD.decode(encoded).unwrap()));
    }
    let data = files(&folder.path("neo-events-data"));
    for (encoded, decoded) in &secrets {
        assert_eq!(decoded.len(), BYTES);
        for (path, bytes) in &data {
            assert!(!contains(bytes, encoded) && !contains(bytes, decoded), "{}", path.display());
        }
    }
    // What is kept of keys is where it was looked for.
    let admin = fs::read(folder.path("neo-events-data/admin.db")).unwrap();
    for key in keys {
        assert!(contains(&admin, &Sha256::digest(key)), "the digest is there");
    }
    for endpoint in &endpoints {
        let id = text(endpoint, "id").replace('-', "");
        let id: Vec<u8> =
            (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect();
        assert!(data.iter().any(|(_, bytes)| contains(bytes, &id)), "the endpoint is there");
    }
}
