//! What the figures were taken on: without it they mean nothing.

use std::{fs, thread};

use neo_events::Timestamp;
use serde::{Deserialize, Serialize};

/// Machine, system, program and database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// Of neo-events.
    pub(crate) version: String,
    /// What it was built from, as `git describe` names it; of reports of earlier versions it is not known.
    #[serde(default = "unknown")]
    pub(crate) commit: String,
    /// `release`, or `debug`: built without optimisation, its figures are worthless.
    pub(crate) build: String,
    /// When the bench was started.
    pub(crate) started_at: Timestamp,
    /// That this process may use. Load generator, receiver, bare client and server share them.
    pub(crate) cores: usize,
    /// The processor's name, if it tells.
    pub(crate) processor: Option<String>,
    /// Of the machine.
    pub(crate) memory_bytes: Option<u64>,
    /// System and kernel.
    pub(crate) system: String,
    /// Product, version and place.
    pub(crate) database: String,
    /// Which processes count for the database.
    pub(crate) database_processes: String,
}

impl Environment {
    /// Looks around.
    pub(crate) fn look(started_at: Timestamp, database: String, database_processes: String) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = value(&read("/proc/meminfo"), "MemTotal").and_then(|text| kib(&text));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("NEO_EVENTS_COMMIT").to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            started_at,
            cores: thread::available_parallelism().map_or(1, std::num::NonZero::get),
            processor: value(&read("/proc/cpuinfo"), "model name"),
            memory_bytes: memory,
            system: system(&read("/etc/os-release"), read("/proc/sys/kernel/osrelease").trim()),
            database,
            database_processes,
        }
    }

    /// Version, commit and kind of build.
    pub(crate) fn program(&self) -> String {
        format!("neo-events {}, commit {}, {} build", self.version, self.commit, self.build)
    }

    /// Whether the program was built without optimisation.
    pub(crate) fn is_debug_build(&self) -> bool {
        self.build == "debug"
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn system(release: &str, kernel: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    format!("{name}, kernel {kernel}, {}", std::env::consts::ARCH)
}

/// Of the first line `name : value`.
fn value(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_system_are_read_as_they_are_written() {
        let cpu = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(value(cpu, "model name").as_deref(), Some("Some CPU @ 3 GHz"));
        assert_eq!(value("MemTotal:       16 kB\n", "MemTotal").and_then(|text| kib(&text)), Some(16 * 1024));
        assert_eq!(value("", "MemTotal"), None);
        let named = system("NAME=x\nPRETTY_NAME=\"Some System 1\"\n", "6.1");
        assert!(named.starts_with("Some System 1, kernel 6.1, "), "{named}");
    }
}
