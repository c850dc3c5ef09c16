//! Whose code we run: every dependency is crates.io's, fixed by checksum, and under a licence that `deny.toml` allows.
//!
//! `cargo deny check` says the same and more, where it is installed; this needs nothing but cargo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: &str) -> String {
    fs::read_to_string(workspace().join(file)).unwrap()
}

/// What a program says, if it ends well.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(workspace()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a line `key = "value"`.
fn field<'t>(package: &'t str, key: &str) -> Option<&'t str> {
    let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
    Some(line.trim_matches('"'))
}

#[test]
fn every_dependency_is_from_crates_io_and_fixed_by_its_checksum() {
    let lock = read("Cargo.lock");
    let packages: Vec<_> = lock.split("[[package]]").skip(1).collect();
    assert!(packages.len() > 100);
    for package in packages {
        let name = field(package, "name").unwrap();
        match field(package, "source") {
            None => assert!(name == "neo-events" || name.starts_with("neo-events-"), "{name} has no source"),
            Some(source) => {
                assert_eq!(source, CRATES_IO, "{name}");
                assert_eq!(field(package, "checksum").map(str::len), Some(64), "{name}");
            }
        }
    }
}

/// The licences between `allow = [` and `]`.
fn allowed() -> Vec<String> {
    let deny = read("deny.toml");
    let (_, list) = deny.split_once("\n[licenses]\n").unwrap();
    let list = list.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let version = output("rustc", &["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Of other platforms' packages nothing need be here.
    let arguments = ["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", host];
    let metadata: Value = serde_json::from_str(&output(env!("CARGO"), &arguments)).unwrap();
    let allowed = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{} has none", package["name"]));
        assert!(is_allowed(licence, &allowed), "{} is under {licence}", package["name"]);
    }
}

/// Whether an SPDX expression can be met by licences of a list. AND binds closer than OR; an old `/` is an OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let is_allowed = any_of(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    is_allowed
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut found = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        found |= all_of(words, allowed);
    }
    found
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut found = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        found &= one(words, allowed);
    }
    found
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let name = words.next().unwrap();
    if name == "(" {
        let found = any_of(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return found;
    }
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(&format!("{name} WITH {exception}")),
        None => allowed.iter().any(|licence| licence == name),
    }
}

/// Also those that a benchmark may have.
#[test]
fn no_program_has_a_crate_that_is_denied() {
    let deny = read("deny.toml");
    let (_, bans) = deny.split_once("\n[bans]\n").unwrap();
    let denied: Vec<_> = bans.split("crate = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(denied.contains(&"openssl") && denied.contains(&"reqwest"), "{denied:?}");
    let arguments = ["tree", "--workspace", "--all-features", "--edges=normal,build", "--prefix=none"];
    let tree = output(env!("CARGO"), &[&arguments[..], &["--format={p}", "--locked", "--offline"]].concat());
    let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"hyper"));
    let found: Vec<_> = denied.iter().filter(|name| names.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "ISC", "A WITH E"].map(str::to_owned);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("MIT OR ISC AND GPL-3.0", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("A WITH E", true),
        ("A", false),
        ("MIT WITH E", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
