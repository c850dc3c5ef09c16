//! Style that matters, as a test: layering, documentation, statement files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// Which of our crates each may use: ARCHITECTURE.md, as a table.
const LAYERS: [(&str, &[&str]); 11] = [
    ("domain", &[]),
    ("store", &["neo-events-domain"]),
    ("store-sqlite", &["neo-events-domain", "neo-events-store"]),
    ("store-postgres", &["neo-events-domain", "neo-events-store"]),
    ("egress", &[]),
    ("engine", &["neo-events-domain", "neo-events-store"]),
    (
        "neo-events",
        &[
            "neo-events-domain",
            "neo-events-store",
            "neo-events-store-sqlite",
            "neo-events-store-postgres",
            "neo-events-egress",
            "neo-events-engine",
        ],
    ),
    ("server", &["neo-events"]),
    // For tests alone: a disk that loses power, under SQLite.
    ("test-disk", &[]),
    // For tests alone: a server to test against, which knows nothing of what is tested.
    ("test-postgres", &[]),
    // For tests alone: the real engine in a simulated world.
    ("simulation", &["neo-events-domain", "neo-events-store", "neo-events-engine"]),
];

/// What would make the pure crate impure.
const NOT_IN_DOMAIN: [&str; 7] =
    ["async fn", "Timestamp::now", "SystemTime", "Instant::now", "std::fs", "std::net", "getrandom"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn crates_use_only_what_lies_below_them() {
    let listed: BTreeSet<_> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there: BTreeSet<_> =
        fs::read_dir(crates()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed, there, "every crate stands in the table");
    for (name, allowed) in LAYERS {
        let manifest = read(&crates().join(name).join("Cargo.toml"));
        let (_, rest) = manifest.split_once("[dependencies]").unwrap();
        let dependencies = rest.split("\n[").next().unwrap();
        let ours = dependencies
            .lines()
            .filter_map(|line| line.split([' ', '=']).next())
            .filter(|n| n.starts_with("neo-events"));
        for dependency in ours {
            assert!(allowed.contains(&dependency), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn the_domain_is_pure() {
    for path in files(&crates().join("domain/src"), ".rs") {
        let code = read(&path);
        for word in NOT_IN_DOMAIN {
            assert!(!code.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for (name, _) in LAYERS {
        for path in files(&crates().join(name).join("src"), ".rs") {
            let code = read(&path);
            assert!(
                code.starts_with("//!") || code.starts_with("#![doc"),
                "{} begins without //!",
                path.display()
            );
            assert!(!code.contains("#[allow("), "{}: use #[expect(…, reason)]", path.display());
        }
    }
}

/// Whoever reads a figure or a promise can run what shows it.
#[test]
fn benches_and_tests_that_documents_name_are_there() {
    let root = crates().parent().unwrap().to_owned();
    let documents = files(&root.join("docs"), ".md").into_iter().chain([root.join("README.md")]);
    let mut found = 0;
    for path in documents {
        for command in read(&path).split("cargo ").skip(1) {
            let words: Vec<_> = command.lines().next().unwrap().split(['`', ' ']).collect();
            let after = |flag| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
            let folder = match (words[0], after("--bench"), after("--test")) {
                ("bench", Some(name), _) => Some(("benches", name)),
                ("test", _, Some(name)) => Some(("tests", name)),
                _ => None,
            };
            let (Some(package), Some((folder, name))) = (after("-p"), folder) else { continue };
            let package = package.strip_prefix("neo-events-").unwrap_or(package);
            let place = crates().join(package).join(folder).join(name);
            let is_there = place.with_extension("rs").exists() || place.join("main.rs").exists();
            assert!(is_there, "{}: cargo {}", path.display(), words.join(" "));
            found += 1;
        }
    }
    assert!(found > 20, "{found}");
}

/// A long name between backquotes is that of a test, or of something else in the code.
#[test]
fn what_documents_name_at_length_is_in_the_code() {
    const WORDS_MIN: usize = 4;
    let root = crates().parent().unwrap().to_owned();
    let code: String = [".rs", ".sql", ".py", ".mjs"]
        .iter()
        .flat_map(|ending| files(&crates(), ending))
        .map(|path| read(&path))
        .collect();
    let is_name_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names: HashSet<&str> = code.split(|c| !is_name_part(c)).collect();
    let mut found = 0;
    for path in files(&root.join("docs"), ".md").into_iter().chain(files(&crates(), ".md")) {
        let text = read(&path);
        let is_long = |name: &&str| name.chars().all(is_name_part) && name.split('_').count() >= WORDS_MIN;
        for name in text.split('`').skip(1).step_by(2).filter(is_long) {
            assert!(names.contains(name), "{}: there is no {name}", path.display());
            found += 1;
        }
    }
    assert!(found > 100, "{found}");
}

#[test]
fn statements_stand_in_files_and_every_file_is_used() {
    let store = crates().join("store-sqlite");
    let code: String = files(&store.join("src"), ".rs").iter().map(|path| read(path)).collect();
    let mut by_text = BTreeMap::new();
    for path in files(&store.join("queries"), ".sql") {
        let name = path.strip_prefix(store.join("queries")).unwrap().to_str().unwrap().to_owned();
        let statement = read(&path);
        assert!(code.contains(&name) || code.contains(name.trim_end_matches(".sql")), "{name} is not used");
        let upper = ["SELECT ", "INSERT ", "UPDATE ", "DELETE "];
        assert!(!upper.iter().any(|word| statement.contains(word)), "{name} is not in lower case");
        if let Some(twin) = by_text.insert(statement, name.clone()) {
            panic!("{name} and {twin} are the same statement");
        }
    }
    assert!(!by_text.is_empty());
}
