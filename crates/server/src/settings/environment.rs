//! What the environment says that is no setting of this version: names of later versions, and misspelt ones.
//!
//! Whoever sets a variable expects it to do something. One that asks for a protection which would not be there is
//! refused, as is one that reads like a misspelt setting: a server that is open by mistake is worse than none. Of
//! anything else that has no effect it is told that it has none.

use std::fmt;

use neo_events::Profile;

use super::SettingsError;

/// What names the process.
const PROCESS: &str = "NEO_EVENTS_";
/// What says how it behaves.
const BEHAVIOUR: &str = "WEBHOOK_";
/// What such names begin with when they are misspelt.
const BEGINNINGS: [&str; 2] = ["NEO", "WEBHOOK"];

/// What `serve` reads, and what would keep it from being open.
pub(super) const OF_SERVERS: [&str; 13] = [
    "NEO_EVENTS_LISTEN",
    "NEO_EVENTS_DATABASE_URL",
    "NEO_EVENTS_PROFILE",
    "NEO_EVENTS_ADMIN_KEY",
    "NEO_EVENTS_ROLES",
    "NEO_EVENTS_MIGRATE",
    "NEO_EVENTS_CA_FILE",
    "NEO_EVENTS_MASTER_KEY",
    "WEBHOOK_VALIDATION_PROFILE",
    "WEBHOOK_ALLOWED_PROTOCOLS",
    "WEBHOOK_BLOCK_LOOPBACK",
    "WEBHOOK_BLOCK_PRIVATE_NETWORKS",
    "WEBHOOK_STRICT_VALIDATION_MODE",
];
/// What commands read that call a server.
pub(super) const OF_CLIENTS: [&str; 4] =
    ["NEO_EVENTS_URL", "NEO_EVENTS_KEY", "NEO_EVENTS_TENANT", "NEO_EVENTS_CA_FILE"];
/// What commands read that work on a database.
pub(super) const OF_DATABASES: [&str; 1] = ["NEO_EVENTS_DATABASE_URL"];
/// What tests, benches and builds of this workspace read: they start servers too.
const OF_TESTS: [&str; 7] = [
    "NEO_EVENTS_CASES",
    "NEO_EVENTS_COMMIT",
    "NEO_EVENTS_CRASH_SECONDS",
    "NEO_EVENTS_POWER_LOSSES",
    "NEO_EVENTS_SEED",
    "NEO_EVENTS_SIMULATION_SEED",
    "NEO_EVENTS_VERSION",
];
/// Kubernetes sets these for everybody beside a service that is called `neo-events`.
const OF_KUBERNETES: [&str; 3] = ["NEO_EVENTS_SERVICE_", "NEO_EVENTS_PORT_", "NEO_EVENTS_PORT"];

/// What the design made meaningless.
const MEANINGLESS: [&str; 10] = [
    "BULK_OPERATION_BATCH_SIZE",
    "CONCURRENT_WORKERS",
    "DEFAULT_BATCH_SIZE",
    "MAX_BATCH_SIZE",
    "MAX_CONCURRENT_BATCHES",
    "MAX_CONCURRENT_EVENTS",
    "OPTIMAL_BATCH_SIZE",
    "USE_BULK_OPERATIONS",
    "USE_FOR_UPDATE_SKIP_LOCKED",
    "USE_SELECTIVE_COLUMNS",
];
/// What later versions take besides.
const LATER: [&str; 37] = [
    "AUTO_DELETE_AFTER_DAYS",
    "CONNECTION_POOL_SIZE",
    "CONNECTION_POOL_SIZE_PER_HOST",
    "CONSECUTIVE_FAILURES_CRITICAL_THRESHOLD",
    "CONSECUTIVE_FAILURES_WARNING_THRESHOLD",
    "DB_MAX_CONNECTIONS",
    "DEFAULT_ARCHIVAL_DAYS",
    "DEFAULT_EVENT_LIMIT",
    "DEFAULT_TIMEOUT",
    "DELIVERY_TIMEOUT",
    "DNS_CACHE_TTL",
    "EVENT_PROCESSING_TIMEOUT",
    "HEALTH_CHECK_INTERVAL",
    "HEALTH_CHECK_TIMEOUT",
    "INITIAL_BACKOFF",
    "KEEP_ALIVE_TIMEOUT",
    "LATENCY_PERCENTILES",
    "MAX_CUSTOM_HEADERS",
    "MAX_EVENT_DATA_SIZE_KB",
    "MAX_EVENT_LIMIT",
    "MAX_PAYLOAD_SIZE_MB",
    "MAX_RETRIES",
    "MAX_RETRY_ATTEMPTS",
    "MAX_RETRY_BACKOFF",
    "MAX_TABLE_SIZE_GB",
    "MAX_URL_LENGTH",
    "METRICS_COLLECTION_INTERVAL",
    "METRICS_ENABLED",
    "METRICS_RETENTION_DAYS",
    "QUERY_TIMEOUT",
    "RESPONSE_TIME_CRITICAL_THRESHOLD_MS",
    "RESPONSE_TIME_WARNING_THRESHOLD_MS",
    "RETRY_BACKOFF_MULTIPLIER",
    "RETRY_BACKOFF_SECONDS",
    "SLOW_DELIVERY_THRESHOLD_MS",
    "SUCCESS_RATE_CRITICAL_THRESHOLD",
    "SUCCESS_RATE_WARNING_THRESHOLD",
];

/// The variables of a process that could be meant for us, without empty ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment(Vec<(String, String)>);

/// Something that was set and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unheeded {
    name: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    NotHereYet,
    Meaningless,
    Unknown { meant: Option<String> },
    File,
}

impl fmt::Display for Unheeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.why {
            Why::NotHereYet => write!(f, "{name} is not here yet and has no effect"),
            Why::Meaningless => {
                write!(f, "{name} has no effect: the engine finds by itself what it would say")
            }
            Why::Unknown { meant: None } => write!(f, "{name} is no setting and has no effect"),
            Why::Unknown { meant: Some(meant) } => {
                write!(f, "{name} is no setting and has no effect; did you mean {meant}?")
            }
            Why::File => {
                write!(f, "{name} in the working folder is not read: settings are flags and variables so far")
            }
        }
    }
}

impl Unheeded {
    /// A file of settings.
    pub(super) fn file(name: &str) -> Self {
        Self { name: name.to_owned(), why: Why::File }
    }
}

impl Environment {
    /// Takes those that could be meant for us.
    pub(super) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let is_ours = |name: &str| BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
        let mut ours: Vec<_> =
            variables.into_iter().filter(|(name, value)| is_ours(name) && !value.is_empty()).collect();
        ours.sort();
        Self(ours)
    }

    /// Refuses what reads like one of these settings, misspelt.
    pub(super) fn judge_spelling(&self, settings: &[&'static str]) -> Result<(), SettingsError> {
        for (given, _) in self.0.iter().filter(|(name, _)| !is_known(name)) {
            if let Some(meant) = nearest(given, settings.iter().copied()) {
                return Err(SettingsError::Misspelt { given: given.clone(), meant });
            }
        }
        Ok(())
    }

    /// Refuses what asks for more protection than the profile gives.
    pub(super) fn judge_protection(&self, profile: Profile) -> Result<(), SettingsError> {
        match self.0.iter().find(|(name, value)| asks_for_more(name, value, profile)) {
            None => Ok(()),
            Some((variable, _)) => {
                Err(SettingsError::Unprotected { variable: variable.clone(), profile: profile.as_str() })
            }
        }
    }

    /// What of it has no effect on a server.
    pub(super) fn unheeded(&self) -> impl Iterator<Item = Unheeded> {
        self.0.iter().filter_map(|(name, _)| Some(Unheeded { name: name.clone(), why: why_unheeded(name)? }))
    }
}

/// Whether a profile leaves open what the variable, of a later version, would close.
fn asks_for_more(name: &str, value: &str, profile: Profile) -> bool {
    let is_off = ["false", "0", "no", "off"].iter().any(|off| value.trim().eq_ignore_ascii_case(off));
    let has_http = value.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case("http"));
    match name.strip_prefix(BEHAVIOUR) {
        Some("BLOCK_LOOPBACK" | "BLOCK_PRIVATE_NETWORKS") => !is_off && profile == Profile::Development,
        Some("STRICT_VALIDATION_MODE") => !is_off && profile != Profile::Production,
        Some("ALLOWED_PROTOCOLS") => !has_http && profile != Profile::Production,
        _ => false,
    }
}

fn why_unheeded(name: &str) -> Option<Why> {
    if is_heeded(name) {
        return None;
    }
    let Some(behaviour) = name.strip_prefix(BEHAVIOUR) else {
        let known = OF_SERVERS.into_iter().chain(OF_CLIENTS);
        // Others' names may begin almost like ours.
        return name
            .starts_with(PROCESS)
            .then(|| Why::Unknown { meant: nearest(name, known).map(str::to_owned) });
    };
    if MEANINGLESS.contains(&behaviour) {
        return Some(Why::Meaningless);
    }
    if LATER.contains(&behaviour) || OF_SERVERS.contains(&name) {
        return Some(Why::NotHereYet);
    }
    // Many programs have such names: one that is like none of ours is another's.
    let meant = nearest(behaviour, LATER.into_iter().chain(MEANINGLESS))?;
    Some(Why::Unknown { meant: Some(format!("{BEHAVIOUR}{meant}")) })
}

/// Whether a name has an effect, on a server or on another program of ours, or is nobody's choice.
fn is_heeded(name: &str) -> bool {
    let is_read = name == super::PROFILE_ALIAS || name.starts_with(PROCESS) && OF_SERVERS.contains(&name);
    is_read
        || OF_CLIENTS.contains(&name)
        || OF_TESTS.contains(&name)
        || OF_KUBERNETES.iter().any(|beginning| name.starts_with(beginning))
}

fn is_known(name: &str) -> bool {
    let is_later = |name| LATER.contains(&name) || MEANINGLESS.contains(&name);
    is_heeded(name) || OF_SERVERS.contains(&name) || name.strip_prefix(BEHAVIOUR).is_some_and(is_later)
}

/// The name that was meant, if one is near: a few letters away, fewer for short names, or without its last words.
fn nearest(given: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    const DISTANCE_MAX: usize = 3;
    let own = |name: &str| name.strip_prefix(PROCESS).or(name.strip_prefix(BEHAVIOUR)).unwrap_or(name).len();
    let distance_max = |name: &str| (own(name) / 4).min(DISTANCE_MAX);
    let near = known.filter_map(|name| {
        let goes_on =
            |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('_'));
        if goes_on(name, given) || goes_on(given, name) {
            return Some((0, name));
        }
        let distance = distance(given.as_bytes(), name.as_bytes());
        (distance <= distance_max(name)).then_some((distance, name))
    });
    near.min().map(|(_, name)| name)
}

/// How many letters are missing, too many, others, or in each other's place.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let changed = last[j] + usize::from(a != b);
            let mut cost = changed.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn told(name: &str) -> Option<String> {
        environment(&[(name, "x")]).unheeded().next().map(|unheeded| unheeded.to_string())
    }

    #[test]
    fn what_has_no_effect_is_told() {
        for (name, words) in [
            ("WEBHOOK_DB_MAX_CONNECTIONS", "WEBHOOK_DB_MAX_CONNECTIONS is not here yet and has no effect"),
            ("WEBHOOK_BLOCK_LOOPBACK", "is not here yet and has no effect"),
            ("WEBHOOK_MAX_BATCH_SIZE", "the engine finds by itself what it would say"),
            ("WEBHOOK_MAX_RETRY_ATEMPTS", "did you mean WEBHOOK_MAX_RETRY_ATTEMPTS?"),
            ("NEO_EVENTS_CONFIG", "NEO_EVENTS_CONFIG is no setting and has no effect"),
            ("NEO_EVENTS_TENNANT", "did you mean NEO_EVENTS_TENANT?"),
        ] {
            assert!(told(name).is_some_and(|told| told.contains(words)), "{name}: {:?}", told(name));
        }
        for name in OF_CLIENTS.into_iter().chain([
            "NEO_EVENTS_PROFILE",
            "WEBHOOK_VALIDATION_PROFILE",
            "WEBHOOK_URL",
            "WEBHOOK_SECRET",
            "NEON_DATABASE_URL",
            "NEO_EVENTS_SERVICE_HOST",
            "NEO_EVENTS_PORT_8080_TCP_ADDR",
            "NEO_EVENTS_PORT",
        ]) {
            assert_eq!(told(name), None);
        }
        assert_eq!(environment(&[("WEBHOOK_MAX_BATCH_SIZE", "")]).unheeded().count(), 0, "empty is absent");
    }

    #[test]
    fn a_misspelt_setting_is_refused_with_the_one_that_was_meant() {
        let meant = |name: &str, settings: &[&'static str]| match environment(&[(name, "x")])
            .judge_spelling(settings)
        {
            Ok(()) => None,
            Err(SettingsError::Misspelt { given, meant }) if given == name => Some(meant),
            Err(other) => panic!("{other}"),
        };
        for (name, of) in [
            ("NEO_EVENTS_PROFLE", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENTS_PROFIEL", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENT_PROFILE", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENTS_DATABASE", "NEO_EVENTS_DATABASE_URL"),
            ("NEO_EVENTS_ADMIN_KEY_FILE", "NEO_EVENTS_ADMIN_KEY"),
            ("NEO_EVENTS_MASTERKEY", "NEO_EVENTS_MASTER_KEY"),
            ("WEBHOOK_VALIDATON_PROFILE", "WEBHOOK_VALIDATION_PROFILE"),
            ("WEBHOOK_BLOCK_LOOPBACKS", "WEBHOOK_BLOCK_LOOPBACK"),
        ] {
            assert_eq!(meant(name, &OF_SERVERS), Some(of), "{name}");
        }
        let known = OF_SERVERS.into_iter().chain(OF_CLIENTS).chain(OF_TESTS);
        for name in known.chain(["NEO_EVENTS_NODES", "NEO_EVENTS_KEY2", "NEO_EVENTS_PORT", "WEBHOOK_URL"]) {
            assert_eq!(meant(name, &OF_SERVERS), None, "{name}");
        }
        assert_eq!(meant("NEO_EVENTS_TENAT", &OF_CLIENTS), Some("NEO_EVENTS_TENANT"));
        assert_eq!(meant("NEO_EVENTS_TENAT", &OF_SERVERS), None);
    }

    #[test]
    fn a_protection_that_would_not_be_there_is_refused() {
        const DEVELOPMENT: Profile = Profile::Development;
        let starts = |name: &str, value: &str, profile| {
            environment(&[(name, value)]).judge_protection(profile).is_ok()
        };
        for (name, value, profile, expected) in [
            ("WEBHOOK_BLOCK_LOOPBACK", "true", DEVELOPMENT, false),
            ("WEBHOOK_BLOCK_LOOPBACK", "yes, please", DEVELOPMENT, false),
            ("WEBHOOK_BLOCK_LOOPBACK", "False", DEVELOPMENT, true),
            ("WEBHOOK_BLOCK_LOOPBACK", "true", Profile::Staging, true),
            ("WEBHOOK_BLOCK_PRIVATE_NETWORKS", "1", DEVELOPMENT, false),
            ("WEBHOOK_STRICT_VALIDATION_MODE", "true", Profile::Staging, false),
            ("WEBHOOK_STRICT_VALIDATION_MODE", "true", Profile::Production, true),
            ("WEBHOOK_ALLOWED_PROTOCOLS", "https", Profile::Staging, false),
            ("WEBHOOK_ALLOWED_PROTOCOLS", "http, https", DEVELOPMENT, true),
            ("WEBHOOK_ALLOWED_PROTOCOLS", "https", Profile::Production, true),
            ("WEBHOOK_MAX_BATCH_SIZE", "1", DEVELOPMENT, true),
        ] {
            assert_eq!(starts(name, value, profile), expected, "{name}={value} {profile:?}");
        }
    }

    /// Every name in the workspace's files that could be a variable of ours, but those that are wrong on purpose.
    fn names_in(path: &Path, names: &mut BTreeSet<String>) {
        let is_wrong = ["settings/environment.rs", "tests/cli.rs"].iter().any(|file| path.ends_with(file));
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                names_in(&entry.unwrap().path(), names);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_wrong {
            let text = fs::read_to_string(path).unwrap();
            let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let words = text.split(|c| !is_part(c)).filter(|word| word.len() > PROCESS.len());
            names.extend(words.filter(|word| word.starts_with(PROCESS)).map(str::to_owned));
        }
    }

    #[test]
    fn what_programs_of_this_workspace_read_is_known() {
        let mut names = BTreeSet::new();
        names_in(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")), &mut names);
        assert!(names.len() > 15, "{names:?}");
        let unknown: Vec<_> = names.iter().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
