//! Tells the program which commit it is built from, for `neo-events bench` and `--version`.
//!
//! A build without optimisation is not told: its figures are worthless, and it would be compiled anew after every
//! commit. Neither is one of an archive of the sources, nor one where git is missing.

use std::{path::Path, process::Command};

/// Where this package lies in its repository. An archive that was unpacked in another repository is not that one's.
const PREFIX: &str = "crates/server/";
/// What git tells changes with these files of its own.
const REFERENCES: [&str; 3] = ["HEAD", "refs/heads", "packed-refs"];
/// What is built, from here: it may be as it was committed or not.
const SOURCES: [&str; 3] = ["..", "../../Cargo.toml", "../../Cargo.lock"];
const UNKNOWN: &str = "unknown";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[expect(clippy::disallowed_methods, reason = "cargo tells build scripts by the environment")]
    let is_optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = if is_optimised { commit() } else { None };
    let package = env!("CARGO_PKG_VERSION");
    let version =
        commit.as_ref().map_or_else(|| package.to_owned(), |commit| format!("{package} ({commit})"));
    println!("cargo::rustc-env=NEO_EVENTS_COMMIT={}", commit.as_deref().unwrap_or(UNKNOWN));
    println!("cargo::rustc-env=NEO_EVENTS_VERSION={version}");
}

fn commit() -> Option<String> {
    if git(&["rev-parse", "--show-prefix"])? != PREFIX {
        return None;
    }
    let references = REFERENCES.iter().filter_map(|name| git(&["rev-parse", "--git-path", name]));
    // One that is not there would have it run each time.
    for path in references.chain(SOURCES.map(str::to_owned)).filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    git(&["describe", "--always", "--dirty"])
}

/// What git answers, in a line.
fn git(arguments: &[&str]) -> Option<String> {
    // Others may be at work in the same repository.
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(said.trim_end().to_owned()).filter(|said| !said.is_empty())
}
