//! What the environment says that is no setting of this version: names of later versions, and misspelt ones.
//!
//! Whoever sets a variable expects it to do something. One that asks for a protection which would not be there is
//! refused, as is one that reads like a misspelt setting: a server that is open by mistake is worse than none. Of
//! anything else that has no effect it is told that it has none.
//!
//! A name is a misspelt setting if both have as many words between underscores and differ in one of them, by one letter
//! that is missing, too many, another or in its neighbour's place, or by two where the setting's word has at least six;
//! or if they differ in underscores alone. `NEO_EVENTS_DATABASE` is one if its value is a database.
//! Nobody is refused whose setting is there under its own name, too, and nothing that begins otherwise: `NEON_…` and
//! `GEO_…` are others', so that the first word is `NEO`, or `WEBHOOK` at most misspelt.

use std::fmt;

use neo_events::Profile;

use super::SettingsError;

/// What names the process.
const PROCESS: &str = "NEO_EVENTS_";
/// What says how it behaves.
const BEHAVIOUR: &str = "WEBHOOK_";
/// From how many letters on a word may have two wrong.
const LONG_WORD: usize = 6;

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
/// What one might take for the variable of `--database`. It may also be something else: a database's name.
const DATABASE: &str = "NEO_EVENTS_DATABASE";
/// How the value of the right one begins.
const DATABASE_URLS: [&str; 3] = ["postgres:", "postgresql:", "sqlite:"];
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
        let mut ours: Vec<_> =
            variables.into_iter().filter(|(name, value)| could_be_ours(name) && !value.is_empty()).collect();
        ours.sort();
        Self(ours)
    }

    /// How they are called.
    pub(super) fn into_names(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|(name, _)| name)
    }

    /// Refuses what reads like one of these settings, misspelt, where neither a flag nor another variable says what was
    /// meant. `flags` are the variables whose place a flag takes.
    pub(super) fn judge_spelling(
        &self,
        settings: &[&'static str],
        flags: &[&'static str],
    ) -> Result<(), SettingsError> {
        let is_set = |name: &str| flags.contains(&name) || self.0.iter().any(|(set, _)| set == name);
        // The profile has two names, of which the first wins.
        let is_said =
            |name: &str| is_set(name) || name == super::PROFILE_ALIAS && is_set(super::PROFILE.variable);
        for (given, value) in self.0.iter().filter(|(name, value)| !is_known(name, value)) {
            let is_database = given == DATABASE && DATABASE_URLS.iter().any(|url| value.starts_with(url));
            // With what is missing, it is the one that was meant.
            let read_as = if is_database { format!("{DATABASE}URL") } else { given.clone() };
            match nearest(&read_as, settings.iter().copied()) {
                Some(meant) if !is_said(meant) => {
                    return Err(SettingsError::Misspelt { given: given.clone(), meant });
                }
                _ => {}
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
        let unheeded = |(name, value): &(String, String)| {
            Some(Unheeded { name: name.clone(), why: why_unheeded(name, value)? })
        };
        self.0.iter().filter_map(unheeded)
    }
}

/// Whether a profile leaves open what the variable, of a later version, would close.
fn asks_for_more(name: &str, value: &str, profile: Profile) -> bool {
    let is_off = ["false", "0", "no", "off"].iter().any(|off| value.trim().eq_ignore_ascii_case(off));
    // However a list is written: `http,https` or `["http", "https"]`.
    let mut protocols =
        value.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).peekable();
    let closes_http = protocols.peek().is_some() && !protocols.any(|word| word.eq_ignore_ascii_case("http"));
    match name.strip_prefix(BEHAVIOUR) {
        Some("BLOCK_LOOPBACK" | "BLOCK_PRIVATE_NETWORKS") => !is_off && profile == Profile::Development,
        Some("STRICT_VALIDATION_MODE") => !is_off && profile != Profile::Production,
        Some("ALLOWED_PROTOCOLS") => closes_http && profile != Profile::Production,
        _ => false,
    }
}

fn why_unheeded(name: &str, value: &str) -> Option<Why> {
    if is_heeded(name, value) {
        return None;
    }
    if let Some(behaviour) = name.strip_prefix(BEHAVIOUR) {
        if MEANINGLESS.contains(&behaviour) {
            return Some(Why::Meaningless);
        }
        if LATER.contains(&behaviour) || OF_SERVERS.contains(&name) {
            return Some(Why::NotHereYet);
        }
    }
    let read = OF_SERVERS.into_iter().chain(OF_CLIENTS).map(str::to_owned);
    let behaviours = LATER.into_iter().chain(MEANINGLESS).map(|behaviour| format!("{BEHAVIOUR}{behaviour}"));
    let meant = nearest(name, read.chain(behaviours));
    // Many programs have such names as ours: one that is like none of them is another's.
    (meant.is_some() || name.starts_with(PROCESS)).then_some(Why::Unknown { meant })
}

/// Whether a name has an effect, on a server or on another program of ours, or is nobody's choice.
fn is_heeded(name: &str, value: &str) -> bool {
    let is_read = name == super::PROFILE_ALIAS || name.starts_with(PROCESS) && OF_SERVERS.contains(&name);
    is_read || OF_CLIENTS.contains(&name) || OF_TESTS.contains(&name) || is_of_kubernetes(name, value)
}

fn is_known(name: &str, value: &str) -> bool {
    let is_later = |name| LATER.contains(&name) || MEANINGLESS.contains(&name);
    is_heeded(name, value) || OF_SERVERS.contains(&name) || name.strip_prefix(BEHAVIOUR).is_some_and(is_later)
}

/// Kubernetes tells everybody in a namespace of each of its services: of `neo-events`, `neo-events-database`, ….
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix("NEO_EVENTS") else { return false };
    let words: Vec<&str> = rest.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    words.ends_with(&["SERVICE", "HOST"])
        || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"])
        || words.ends_with(&["PORT"])
            && ["tcp://", "udp://", "sctp://"].iter().any(|beginning| value.starts_with(beginning))
        || words.windows(3).any(|three| {
            three[0] == "PORT" && is_number(three[1]) && ["TCP", "UDP", "SCTP"].contains(&three[2])
        })
}

/// Whether the first word is one that ours begin with.
fn could_be_ours(name: &str) -> bool {
    let first = name.split('_').next().unwrap_or_default();
    first == "NEO" || first == "NEOEVENTS" || edits("WEBHOOK", first).is_some()
}

/// The name that was meant, if the one that was given is a misspelling.
fn nearest<N: AsRef<str> + Ord>(given: &str, known: impl Iterator<Item = N>) -> Option<N> {
    known.filter_map(|name| Some((misspelling(given, name.as_ref())?, name))).min().map(|(_, name)| name)
}

/// How many letters are wrong, if it is a misspelling: as many words, of which one is like the one that was meant, or
/// the same letters in other words.
fn misspelling(given: &str, meant: &str) -> Option<usize> {
    let letters = |name: &str| name.replace('_', "");
    if given != meant && letters(given) == letters(meant) {
        return Some(1);
    }
    if given.split('_').count() != meant.split('_').count() {
        return None;
    }
    let mut different = given.split('_').zip(meant.split('_')).filter(|(given, meant)| given != meant);
    let (given, meant) = different.next()?;
    if different.next().is_some() { None } else { edits(meant, given) }
}

/// How many letters of a word are wrong, if they are few enough.
fn edits(meant: &str, given: &str) -> Option<usize> {
    let edits_max = if meant.len() < LONG_WORD { 1 } else { 2 };
    Some(distance(given.as_bytes(), meant.as_bytes())).filter(|edits| *edits <= edits_max)
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

    fn told(name: &str, value: &str) -> Option<String> {
        environment(&[(name, value)]).unheeded().next().map(|unheeded| unheeded.to_string())
    }

    /// Which setting is named to whoever is refused.
    fn refused(
        variables: &[(&str, &str)],
        settings: &[&'static str],
        flags: &[&'static str],
    ) -> Option<&'static str> {
        match environment(variables).judge_spelling(settings, flags) {
            Ok(()) => None,
            Err(SettingsError::Misspelt { meant, .. }) => Some(meant),
            Err(other) => panic!("{other}"),
        }
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
            ("NEO_EVENT_URL", "did you mean NEO_EVENTS_URL?"),
        ] {
            assert!(
                told(name, "x").is_some_and(|told| told.contains(words)),
                "{name}: {:?}",
                told(name, "x")
            );
        }
        for name in OF_CLIENTS.into_iter().chain([
            "NEO_EVENTS_PROFILE",
            "WEBHOOK_VALIDATION_PROFILE",
            "WEBHOOK_URL",
            "WEBHOOK_SECRET",
            "NEON_DATABASE_URL",
        ]) {
            assert_eq!(told(name, "x"), None, "{name}");
        }
        assert_eq!(environment(&[("WEBHOOK_MAX_BATCH_SIZE", "")]).unheeded().count(), 0, "empty is absent");
    }

    #[test]
    fn a_misspelt_setting_is_refused_with_the_one_that_was_meant() {
        for (name, of) in [
            ("NEO_EVENTS_PROFLE", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENTS_PROFIEL", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENTS_PORFLE", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENT_PROFILE", "NEO_EVENTS_PROFILE"),
            ("NEO_EVENTS_DATABASE_URI", "NEO_EVENTS_DATABASE_URL"),
            ("NEO_EVENTS_ROLE", "NEO_EVENTS_ROLES"),
            ("NEO_EVENTS_MASTERKEY", "NEO_EVENTS_MASTER_KEY"),
            ("NEO_EVENTS_DATABASE__URL", "NEO_EVENTS_DATABASE_URL"),
            ("NEOEVENTS_ADMIN_KEY", "NEO_EVENTS_ADMIN_KEY"),
            ("WEBHOOK_VALIDATON_PROFILE", "WEBHOOK_VALIDATION_PROFILE"),
            ("WEBHOOKS_VALIDATION_PROFILE", "WEBHOOK_VALIDATION_PROFILE"),
            ("WEBOOK_BLOCK_LOOPBACK", "WEBHOOK_BLOCK_LOOPBACK"),
            ("WEBHOOK_BLOCK_LOOPBACKS", "WEBHOOK_BLOCK_LOOPBACK"),
        ] {
            assert_eq!(refused(&[(name, "x")], &OF_SERVERS, &[]), Some(of), "{name}");
            assert_eq!(refused(&[(name, "x"), (of, "y")], &OF_SERVERS, &[]), None, "{name} beside it");
            assert_eq!(refused(&[(name, "x"), (of, "")], &OF_SERVERS, &[]), Some(of), "{name} beside none");
            assert_eq!(refused(&[(name, "x")], &OF_SERVERS, &[of]), None, "{name} with a flag");
            assert!(
                told(name, "x").is_some_and(|told| told.ends_with(&format!("did you mean {of}?"))),
                "{name}"
            );
        }
        for (name, of) in [
            ("NEO_EVENT_URL", "NEO_EVENTS_URL"),
            ("NEO_EVENT_KEY", "NEO_EVENTS_KEY"),
            ("NEO_EVENTS_URI", "NEO_EVENTS_URL"),
            ("NEO_EVENTS_TENAT", "NEO_EVENTS_TENANT"),
        ] {
            assert_eq!(refused(&[(name, "x")], &OF_CLIENTS, &[]), Some(of), "{name}");
            assert_eq!(refused(&[(name, "x")], &OF_SERVERS, &[]), None, "{name} is nothing to a server");
        }
        for value in ["postgres://host/db", "postgresql://host/db", "sqlite:admin.db"] {
            let of = "NEO_EVENTS_DATABASE_URL";
            assert_eq!(refused(&[(DATABASE, value)], &OF_DATABASES, &[]), Some(of), "{value}");
            assert_eq!(refused(&[(DATABASE, value)], &OF_SERVERS, &[of]), None, "{value} with a flag");
        }
        let alias = "WEBHOOK_VALIDATON_PROFILE";
        assert_eq!(refused(&[(alias, "x")], &OF_SERVERS, &["NEO_EVENTS_PROFILE"]), None, "which would win");
    }

    #[test]
    fn other_names_are_refused_by_nobody() {
        let is_refused = |name: &str, value: &str| {
            [&OF_SERVERS[..], &OF_CLIENTS, &OF_DATABASES]
                .iter()
                .any(|settings| refused(&[(name, value)], settings, &[]).is_some())
        };
        // Of those that are under our name it is told.
        for name in [
            "NEO_EVENTS_DATABASE",
            "NEO_EVENTS_DATABASE_CA",
            "NEO_EVENTS_DATABASE_DB",
            "NEO_EVENTS_DATABASE_PORT",
            "NEO_EVENTS_DATABASE_SSL",
            "NEO_EVENTS_DATABASE_USER",
            "NEO_EVENTS_ADMIN_KEY_FILE",
            "NEO_EVENTS_KEY_ID",
            "NEO_EVENTS_KEY_PROD",
            "NEO_EVENTS_NODES",
            "NEO_EVENTS_PORT",
            "NEO_EVENTS_URL_STAGING",
        ] {
            assert!(!is_refused(name, "x"), "{name}");
            assert_eq!(told(name, "x"), Some(format!("{name} is no setting and has no effect")));
        }
        let known = OF_SERVERS.into_iter().chain(OF_CLIENTS).chain(OF_TESTS);
        for name in known {
            assert!(!is_refused(name, "x"), "{name}");
        }
        for (name, value) in [
            ("WEBHOOK", "https://hooks.example.com/x"),
            ("WEBHOOK_URL", "https://hooks.example.com/x"),
            ("WEBHOOK_KEY", "x"),
            ("WEBHOOK_PROFILE", "x"),
            ("NEO", "1"),
            ("NEO_EVENTS", "1"),
            ("NEO_EVENTS2_URL_X", "x"),
            ("NEON_EVENTS_DATABASE_URL", "postgres://x"),
            ("GEO_EVENTS_URL", "x"),
            ("NEO_EVENTS_SERVICE_HOST", "10.0.0.1"),
            ("NEO_EVENTS_SERVICE_PORT", "80"),
            ("NEO_EVENTS_SERVICE_PORT_HTTP", "80"),
            ("NEO_EVENTS_PORT", "tcp://10.0.0.1:80"),
            ("NEO_EVENTS_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("NEO_EVENTS_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("NEO_EVENTS_DATABASE_PORT", "tcp://10.0.0.1:5432"),
            ("NEO_EVENTS_DATABASE_PORT", "udp://10.0.0.1:5432"),
            ("NEO_EVENTS_DATABASE_PORT_5432_UDP_PROTO", "udp"),
            ("NEO_EVENTS_DATABASE_SERVICE_HOST", "10.0.0.1"),
            ("NEO_EVENTS_DATABASE_SERVICE_PORT_PSQL", "5432"),
        ] {
            assert!(!is_refused(name, value), "{name}={value}");
            assert_eq!(told(name, value), None, "{name}={value}");
        }
        for (name, value) in
            [("NEO_EVENTS_PORT_TCP", "x"), ("NEO_EVENTS_SERVICE", "x"), ("NEO_EVENTS_PORT", "80")]
        {
            assert!(told(name, value).is_some(), "{name} is not one of Kubernetes's");
        }
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
            ("WEBHOOK_ALLOWED_PROTOCOLS", r#"["http","https"]"#, Profile::Staging, true),
            ("WEBHOOK_ALLOWED_PROTOCOLS", r#"["https"]"#, Profile::Staging, false),
            ("WEBHOOK_ALLOWED_PROTOCOLS", "HTTPS;HTTP", Profile::Staging, true),
            ("WEBHOOK_ALLOWED_PROTOCOLS", "*", Profile::Staging, true),
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
        let unknown: Vec<_> = names.iter().filter(|name| !is_known(name, "")).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
