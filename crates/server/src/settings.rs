//! Where the process's settings come from: flags win over the environment, the environment over defaults. The only
//! place that reads the environment.
//!
//! A setting that cannot be used is refused with its name and what it may be; nothing is guessed. An empty variable
//! counts as absent. What is set and has no effect, module `environment` tells or refuses.

mod environment;

use std::{
    env,
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use neo_events::{MasterKey, Profile, Sources, maintenance};

pub use self::environment::Unheeded;
use self::environment::{Environment, OF_CLIENTS, OF_DATABASES, OF_SERVERS};

/// Where the server listens unless somebody says otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
/// Where the data are unless somebody says otherwise.
pub const DATABASE_DEFAULT: &str = "sqlite:./neo-events-data/admin.db";
/// What a server does unless somebody says otherwise.
pub const ROLES_DEFAULT: &str = "api,dispatch,deliver";
/// Where generated keys are left when the data are not in a folder of ours.
pub const FOLDER_DEFAULT: &str = "neo-events-data";
/// Shortest admin key, in characters.
pub const ADMIN_KEY_CHARS_MIN: usize = 16;

const LISTEN: Setting = Setting { flag: "--listen", variable: "NEO_EVENTS_LISTEN" };
const DATABASE: Setting = Setting { flag: "--database", variable: "NEO_EVENTS_DATABASE_URL" };
const PROFILE: Setting = Setting { flag: "--profile", variable: "NEO_EVENTS_PROFILE" };
const ADMIN_KEY: Setting = Setting { flag: "--admin-key", variable: "NEO_EVENTS_ADMIN_KEY" };
const ROLES: Setting = Setting { flag: "--roles", variable: "NEO_EVENTS_ROLES" };
const MIGRATE: Setting = Setting { flag: "--no-migrate", variable: "NEO_EVENTS_MIGRATE" };
const CA_FILE: Setting = Setting { flag: "--ca-file", variable: "NEO_EVENTS_CA_FILE" };
const URL: Setting = Setting { flag: "--url", variable: "NEO_EVENTS_URL" };
const KEY: Setting = Setting { flag: "--key", variable: "NEO_EVENTS_KEY" };
const TENANT: &str = "NEO_EVENTS_TENANT";
const MASTER_KEY: &str = "NEO_EVENTS_MASTER_KEY";
/// The profile's other name, which gives way to the first.
const PROFILE_ALIAS: &str = "WEBHOOK_VALIDATION_PROFILE";
/// A later version's file of settings.
const FILE: &str = "neo-events.toml";

/// One setting: how it is called on the command line and in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    flag: &'static str,
    variable: &'static str,
}

/// Why the process does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A variable that is like a setting and is none.
    #[error("{given} is no setting; did you mean {meant}?")]
    Misspelt {
        /// What is set.
        given: String,
        /// What there is.
        meant: &'static str,
    },
    /// A variable of a later version that asks for more protection than there would be.
    #[error(
        "{variable} is not here yet, and profile {profile} does not do what it asks for: choose a stricter profile with \
         --profile or NEO_EVENTS_PROFILE, or take {variable} away"
    )]
    Unprotected {
        /// What is set.
        variable: String,
        /// `development` or `staging`.
        profile: &'static str,
    },
    /// A variable whose value is not text.
    #[error("the value of {0} is not valid UTF-8")]
    NotText(String),
    /// A value that the setting does not take.
    #[error("{setting} must be {expected}")]
    Malformed {
        /// Where the value came from.
        setting: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// Only one process uses a SQLite database, so that it has to do everything.
    #[error(
        "a sqlite: database is used by one server, which needs every role; --roles divides the work of a postgres: database"
    )]
    RolesOnSqlite,
    /// Only one process uses a SQLite database: nobody else would migrate it.
    #[error("a sqlite: database is brought up to date by its server; {0} is for a postgres: database")]
    MigrateOnSqlite(&'static str),
    /// Outside `development` no key is made up.
    #[error("outside profile development an admin key must be given: --admin-key or NEO_EVENTS_ADMIN_KEY")]
    AdminKeyMissing,
}

/// What the command line says; `None` where it says nothing.
#[derive(Clone, Default)]
pub struct ServeFlags {
    /// `--listen ADDRESS:PORT`
    pub listen: Option<String>,
    /// `--database sqlite:PATH`
    pub database: Option<String>,
    /// `--profile development|staging|production`
    pub profile: Option<String>,
    /// `--admin-key KEY`
    pub admin_key: Option<String>,
    /// `--roles api,dispatch,deliver`
    pub roles: Option<String>,
    /// `--ca-file PATH`
    pub ca_file: Option<String>,
    /// `--no-migrate`
    pub no_migrate: bool,
}

impl ServeFlags {
    /// The variables whose place a flag takes.
    fn variables(&self) -> Vec<&'static str> {
        let texts = [
            (LISTEN, &self.listen),
            (DATABASE, &self.database),
            (PROFILE, &self.profile),
            (ADMIN_KEY, &self.admin_key),
            (ROLES, &self.roles),
            (CA_FILE, &self.ca_file),
        ];
        let given =
            texts.into_iter().filter(|(_, value)| value.is_some()).map(|(setting, _)| setting.variable);
        given.chain(self.no_migrate.then_some(MIGRATE.variable)).collect()
    }
}

/// Everything that `serve` needs.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the data are.
    pub database: Database,
    /// Limits and address policy.
    pub profile: Profile,
    /// What this server does.
    pub roles: Roles,
    /// What callers must show.
    pub admin_key: AdminKey,
    /// The first seals, all open; empty in `development`: one is kept beside the data.
    pub master_keys: Vec<MasterKey>,
    /// Further TLS roots, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether the start brings the database up to date.
    pub migrates: bool,
}

/// Which database. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A file; it is made if it is not there.
    Sqlite(PathBuf),
    /// `postgres://user:password@host:port/database`
    Postgres(String),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Database {
    /// As people may see it: without a password.
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(url) => without_password(url),
        }
    }

    /// Where profile `development` keeps a master key that it makes up.
    pub fn key_file(&self) -> PathBuf {
        match self {
            Self::Sqlite(path) => maintenance::sqlite_key_file(path),
            Self::Postgres(_) => self.folder().join("master.key"),
        }
    }

    /// The folder where keys that are made up are kept.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Sqlite(path) => path.parent().unwrap_or(Path::new("")),
            Self::Postgres(_) => Path::new(FOLDER_DEFAULT),
        }
    }
}

/// A URL whose password, in the authority or among the parameters, nobody can read.
fn without_password(url: &str) -> String {
    let Ok(mut url) = url::Url::parse(url) else { return "postgres://…".to_owned() };
    if url.password().is_some() {
        let _ = url.set_password(Some("***"));
    }
    if url.query().is_some_and(|query| query.contains("password")) {
        url.set_query(None);
    }
    url.to_string()
}

/// What a server does. Nodes that share a database may divide the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Answers the API. Without it only `/livez` and `/readyz` are answered.
    pub api: bool,
    /// Events become deliveries.
    pub dispatch: bool,
    /// Deliveries are attempted.
    pub deliver: bool,
}

impl Roles {
    /// Everything.
    pub const ALL: Self = Self { api: true, dispatch: true, deliver: true };
}

/// The key that may do everything. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum AdminKey {
    /// Somebody chose it.
    Given(String),
    /// Made up for this run: the caller has to be told.
    Generated(String),
}

impl AdminKey {
    /// A key that nobody can guess.
    pub fn generate(sources: &Sources) -> Self {
        let random: [u8; 32] = sources.bytes();
        Self::Generated(format!("neo_admin_{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// The key itself.
    pub fn reveal(&self) -> &str {
        match self {
            Self::Given(key) | Self::Generated(key) => key,
        }
    }

    fn given(key: String, setting: &'static str) -> Result<Self, SettingsError> {
        let fits = key.chars().count() >= ADMIN_KEY_CHARS_MIN && key.bytes().all(|b| b.is_ascii_graphic());
        let expected = "at least 16 printable ASCII characters without spaces";
        if fits { Ok(Self::Given(key)) } else { Err(SettingsError::Malformed { setting, expected }) }
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey([redacted])")
    }
}

/// What the command line says of a server that is called; `None` where it says nothing.
#[derive(Clone, Default)]
pub struct ClientFlags {
    /// `--url URL`
    pub url: Option<String>,
    /// `--key KEY`
    pub key: Option<String>,
    /// Whether there is `--tenant SLUG`.
    pub has_tenant: bool,
    /// Whether there is `--ca-file FILE`.
    pub has_ca_file: bool,
}

impl ClientFlags {
    /// The variables whose place a flag takes.
    fn variables(&self) -> Vec<&'static str> {
        let given = [
            (URL.variable, self.url.is_some()),
            (KEY.variable, self.key.is_some()),
            (TENANT, self.has_tenant),
            (CA_FILE.variable, self.has_ca_file),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(variable, _)| variable).collect()
    }
}

/// How the command line finds a server; `None` where neither flags nor environment say it.
#[derive(Clone, Default)]
pub struct ClientSettings {
    /// `--url` or `NEO_EVENTS_URL`
    pub url: Option<String>,
    /// `--key` or `NEO_EVENTS_KEY`
    pub key: Option<String>,
    /// Which of the two.
    pub key_setting: Option<&'static str>,
}

/// Flags, then environment, then defaults.
pub fn resolve(flags: ServeFlags) -> Result<ServeSettings, SettingsError> {
    let environment = given();
    environment.judge_spelling(&OF_SERVERS, &flags.variables())?;
    let settings = resolve_in(flags, &variable)?;
    environment.judge_protection(settings.profile)?;
    Ok(settings)
}

/// What somebody set for a server and has no effect on it.
pub fn unheeded() -> Vec<Unheeded> {
    let file = Path::new(FILE).exists().then(|| Unheeded::file(FILE));
    given().unheeded().chain(file).collect()
}

/// What the environment has that could be meant for us. A value that is not text is judged where it is read.
fn given() -> Environment {
    let named = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    Environment::new(env::vars_os().filter_map(named))
}

/// What a server must not inherit that is started for a purpose of its own: everything that could be a setting, but
/// what opens data that are there already, and whom it trusts.
pub fn not_inherited() -> impl Iterator<Item = String> {
    given().into_names().filter(|name| ![MASTER_KEY, CA_FILE.variable].contains(&name.as_str()))
}

/// Flags, then environment.
pub fn resolve_client(flags: ClientFlags) -> Result<ClientSettings, SettingsError> {
    given().judge_spelling(&OF_CLIENTS, &flags.variables())?;
    let url = URL.find(flags.url, &variable)?.map(|found| found.value);
    let (key, key_setting) =
        KEY.find(flags.key, &variable)?.map(|found| (found.value, found.setting)).unzip();
    Ok(ClientSettings { url, key, key_setting })
}

/// A variable of the environment; `None` if it is absent or empty.
pub fn variable(name: &str) -> Result<Option<String>, SettingsError> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(SettingsError::NotText(name.to_owned())),
    }
}

/// A value and the name of what said it.
struct Found {
    value: String,
    setting: &'static str,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Result<Option<String>, SettingsError>;

impl Setting {
    fn find(self, flag: Option<String>, environment: Lookup<'_>) -> Result<Option<Found>, SettingsError> {
        if let Some(value) = flag {
            return Ok(Some(Found { value, setting: self.flag }));
        }
        let value = environment(self.variable)?;
        Ok(value.map(|value| Found { value, setting: self.variable }))
    }

    fn find_or(
        self,
        flag: Option<String>,
        environment: Lookup<'_>,
        default: &str,
    ) -> Result<Found, SettingsError> {
        let found = self.find(flag, environment)?;
        Ok(found.unwrap_or_else(|| Found { value: default.to_owned(), setting: self.flag }))
    }
}

fn resolve_in(flags: ServeFlags, environment: Lookup<'_>) -> Result<ServeSettings, SettingsError> {
    let listen = LISTEN.find_or(flags.listen, environment, LISTEN_DEFAULT)?;
    let database = DATABASE.find_or(flags.database, environment, DATABASE_DEFAULT)?;
    let profile = resolve_profile(flags.profile, environment)?;
    let database = parse_database(&database)?;
    let roles = parse_roles(&ROLES.find_or(flags.roles, environment, ROLES_DEFAULT)?)?;
    if matches!(database, Database::Sqlite(_)) && roles != Roles::ALL {
        return Err(SettingsError::RolesOnSqlite);
    }
    let migrate = parse_migrates(flags.no_migrate, environment)?;
    let migrates = migrate.value == "on";
    if matches!(database, Database::Sqlite(_)) && !migrates {
        return Err(SettingsError::MigrateOnSqlite(migrate.setting));
    }
    let admin_key = match ADMIN_KEY.find(flags.admin_key, environment)? {
        Some(found) => AdminKey::given(found.value, found.setting)?,
        // Where nobody can show one, none is missing.
        None if profile == Profile::Development || !roles.api => AdminKey::generate(&Sources::system()),
        None => return Err(SettingsError::AdminKeyMissing),
    };
    Ok(ServeSettings {
        listen: parse_listen(&listen)?,
        database,
        profile,
        roles,
        admin_key,
        master_keys: parse_master_keys(environment(MASTER_KEY)?.as_deref())?,
        ca_file: CA_FILE.find(flags.ca_file, environment)?.map(|found| found.value.into()),
        migrates,
    })
}

fn parse_migrates(no_migrate: bool, environment: Lookup<'_>) -> Result<Found, SettingsError> {
    let found = MIGRATE.find_or(no_migrate.then(|| "off".to_owned()), environment, "on")?;
    let expected = "on or off";
    match found.value.as_str() {
        "on" | "off" => Ok(found),
        _ => Err(SettingsError::Malformed { setting: found.setting, expected }),
    }
}

fn parse_listen(found: &Found) -> Result<SocketAddr, SettingsError> {
    let expected = "an address and a port, such as 127.0.0.1:8080 or [::]:8080";
    found.value.parse().map_err(|_| SettingsError::Malformed { setting: found.setting, expected })
}

fn resolve_profile(flag: Option<String>, environment: Lookup<'_>) -> Result<Profile, SettingsError> {
    let named = match PROFILE.find(flag, environment)? {
        None => Setting { variable: PROFILE_ALIAS, ..PROFILE }.find(None, environment)?,
        named => named,
    };
    let Some(found) = named else { return Ok(Profile::Development) };
    let expected = "development, staging or production";
    found.value.parse().map_err(|_| SettingsError::Malformed { setting: found.setting, expected })
}

fn parse_roles(found: &Found) -> Result<Roles, SettingsError> {
    let expected = "one or more of api, dispatch and deliver, separated by commas";
    let malformed = || SettingsError::Malformed { setting: found.setting, expected };
    let mut roles = Roles { api: false, dispatch: false, deliver: false };
    for name in found.value.split(',') {
        match name.trim() {
            "api" => roles.api = true,
            "dispatch" => roles.dispatch = true,
            "deliver" => roles.deliver = true,
            _ => return Err(malformed()),
        }
    }
    Ok(roles)
}

/// The database that a command line or the environment names; the default one if neither does.
pub fn resolve_database(flag: Option<String>) -> Result<Database, SettingsError> {
    given().judge_spelling(&OF_DATABASES, flag.as_ref().map(|_| DATABASE.variable).as_slice())?;
    parse_database(&DATABASE.find_or(flag, &variable, DATABASE_DEFAULT)?)
}

/// The profile that a command line or the environment names, and the master keys of the environment.
pub fn resolve_keys(profile: Option<String>) -> Result<(Profile, Vec<MasterKey>), SettingsError> {
    let profile = resolve_profile(profile, &variable)?;
    Ok((profile, parse_master_keys(variable(MASTER_KEY)?.as_deref())?))
}

/// `postgres://…`, `sqlite:PATH`, or as a URL: `sqlite:///absolute/path`.
fn parse_database(found: &Found) -> Result<Database, SettingsError> {
    let malformed = SettingsError::Malformed {
        setting: found.setting,
        expected: "sqlite:PATH, such as sqlite:./neo-events-data/admin.db, or \
                   postgres://USER:PASSWORD@HOST:PORT/DATABASE",
    };
    if found.value.starts_with("postgres://") || found.value.starts_with("postgresql://") {
        return Ok(Database::Postgres(found.value.clone()));
    }
    let path = found.value.strip_prefix("sqlite:").ok_or_else(|| malformed.clone())?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let is_file =
        !path.is_empty() && !path.starts_with(':') && !path.ends_with('/') && !path.contains(['?', '\0']);
    if is_file { Ok(Database::Sqlite(path.into())) } else { Err(malformed) }
}

fn parse_master_keys(keys: Option<&str>) -> Result<Vec<MasterKey>, SettingsError> {
    let expected = "one or more keys of 32 random bytes in base64, separated by commas";
    let malformed = |_| SettingsError::Malformed { setting: MASTER_KEY, expected };
    keys.map_or(Ok(Vec::new()), |keys| {
        keys.split(',').map(|key| MasterKey::parse(key.trim()).map_err(malformed)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn resolved(flags: ServeFlags, environment: &[(&str, &str)]) -> Result<ServeSettings, SettingsError> {
        let lookup = |name: &str| {
            let found = environment.iter().find(|(variable, _)| *variable == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        };
        resolve_in(flags, &lookup)
    }

    #[test]
    fn defaults_are_for_a_developers_machine() {
        let settings = resolved(ServeFlags::default(), &[]).unwrap();
        assert_eq!(settings.listen.to_string(), LISTEN_DEFAULT);
        assert_eq!(settings.database, Database::Sqlite("./neo-events-data/admin.db".into()));
        assert_eq!(settings.profile, Profile::Development);
        assert!(matches!(&settings.admin_key, AdminKey::Generated(key) if key.len() == 10 + 43));
        assert_ne!(settings.admin_key, resolved(ServeFlags::default(), &[]).unwrap().admin_key);
        assert!(!format!("{settings:?}").contains(settings.admin_key.reveal()));
    }

    #[test]
    fn flags_win_over_the_environment() {
        let environment = [
            ("NEO_EVENTS_LISTEN", "0.0.0.0:1"),
            ("NEO_EVENTS_PROFILE", "staging"),
            ("NEO_EVENTS_ADMIN_KEY", KEY),
        ];
        let flags = ServeFlags { listen: Some("[::1]:2".into()), ..ServeFlags::default() };
        let settings = resolved(flags, &environment).unwrap();
        assert_eq!(settings.listen.to_string(), "[::1]:2");
        assert_eq!(settings.profile, Profile::Staging);
        assert_eq!(settings.admin_key, AdminKey::Given(KEY.into()));
    }

    #[test]
    fn the_profile_has_a_name_among_what_says_how_it_behaves() {
        let profile = |flag: Option<&str>, environment: &[(&str, &str)]| {
            let flags = ServeFlags { profile: flag.map(str::to_owned), ..ServeFlags::default() };
            let key = [("NEO_EVENTS_ADMIN_KEY", KEY)];
            resolved(flags, &[environment, &key].concat()).map(|settings| settings.profile)
        };
        let alias = ("WEBHOOK_VALIDATION_PROFILE", "production");
        assert_eq!(profile(None, &[alias]), Ok(Profile::Production));
        assert_eq!(profile(None, &[alias, ("NEO_EVENTS_PROFILE", "staging")]), Ok(Profile::Staging));
        assert_eq!(profile(Some("staging"), &[alias]), Ok(Profile::Staging));
        assert_eq!(
            profile(None, &[("WEBHOOK_VALIDATION_PROFILE", "prod")]).unwrap_err().to_string(),
            "WEBHOOK_VALIDATION_PROFILE must be development, staging or production"
        );
    }

    #[test]
    fn databases_are_files_or_urls() {
        let parse = |value: &str| parse_database(&Found { value: value.into(), setting: "--database" });
        for (value, path) in
            [("sqlite:a.db", "a.db"), ("sqlite:/a/b", "/a/b"), ("sqlite:///a/b", "/a/b"), ("sqlite://a", "a")]
        {
            assert_eq!(parse(value), Ok(Database::Sqlite(path.into())), "{value}");
        }
        for value in ["postgres://localhost/x", "postgresql://localhost/x?sslmode=require"] {
            assert_eq!(parse(value), Ok(Database::Postgres(value.into())));
        }
        let secret = Database::Postgres("postgres://user:s3cret@host:5432/db?sslmode=require".into());
        assert_eq!(secret.shown(), "postgres://user:***@host:5432/db?sslmode=require");
        assert!(!format!("{secret:?}").contains("s3cret"));
        assert!(
            !Database::Postgres("postgres:///db?user=u&password=s3cret".into()).shown().contains("s3cret")
        );
        for value in [
            "",
            "a.db",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:a.db?mode=ro",
            "sqlite:a/",
            "mysql:x",
            "postgres:x",
        ] {
            assert!(matches!(parse(value), Err(SettingsError::Malformed { .. })), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let key = ("NEO_EVENTS_ADMIN_KEY", KEY);
        for (environment, message) in [
            (
                vec![("NEO_EVENTS_LISTEN", "8080")],
                "NEO_EVENTS_LISTEN must be an address and a port, such as 127.0.0.1:8080 or [::]:8080",
            ),
            (
                vec![("NEO_EVENTS_PROFILE", "prod")],
                "NEO_EVENTS_PROFILE must be development, staging or production",
            ),
            (
                vec![("NEO_EVENTS_ADMIN_KEY", "short")],
                "NEO_EVENTS_ADMIN_KEY must be at least 16 printable ASCII characters without spaces",
            ),
            (
                vec![("NEO_EVENTS_ADMIN_KEY", "0123456789 abcdef")],
                "NEO_EVENTS_ADMIN_KEY must be at least 16 printable ASCII characters without spaces",
            ),
            (
                vec![("NEO_EVENTS_PROFILE", "production")],
                "outside profile development an admin key must be given: --admin-key or NEO_EVENTS_ADMIN_KEY",
            ),
            (
                vec![key, ("NEO_EVENTS_DATABASE_URL", "./x.db")],
                "NEO_EVENTS_DATABASE_URL must be sqlite:PATH, such as sqlite:./neo-events-data/admin.db, or \
                 postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            ),
            (
                vec![key, ("NEO_EVENTS_MASTER_KEY", "abc")],
                "NEO_EVENTS_MASTER_KEY must be one or more keys of 32 random bytes in base64, separated by commas",
            ),
        ] {
            assert_eq!(resolved(ServeFlags::default(), &environment).unwrap_err().to_string(), message);
        }
        let flags = ServeFlags { profile: Some("x".into()), ..ServeFlags::default() };
        assert_eq!(
            resolved(flags, &[]).unwrap_err().to_string(),
            "--profile must be development, staging or production"
        );
    }

    #[test]
    fn roles_divide_the_work_of_a_shared_database() {
        let roles = |names: &str, database: &str| {
            let environment = [("NEO_EVENTS_ROLES", names), ("NEO_EVENTS_DATABASE_URL", database)];
            resolved(ServeFlags::default(), &environment).map(|settings| settings.roles)
        };
        let shared = "postgres://localhost/x";
        assert_eq!(roles(ROLES_DEFAULT, shared), Ok(Roles::ALL));
        assert_eq!(roles("deliver, dispatch", shared), Ok(Roles { api: false, ..Roles::ALL }));
        assert!(matches!(roles("archive", shared), Err(SettingsError::Malformed { .. })));
        assert!(matches!(roles("api,", shared), Err(SettingsError::Malformed { .. })));
        assert_eq!(roles("deliver,dispatch,api", "sqlite:a.db"), Ok(Roles::ALL));
        assert_eq!(roles("api", "sqlite:a.db"), Err(SettingsError::RolesOnSqlite));
        let keyless = [
            ("NEO_EVENTS_PROFILE", "production"),
            ("NEO_EVENTS_ROLES", "deliver"),
            ("NEO_EVENTS_DATABASE_URL", shared),
        ];
        assert!(resolved(ServeFlags::default(), &keyless).is_ok(), "nobody shows it an admin key");
    }

    #[test]
    fn a_shared_database_may_be_migrated_by_somebody_else() {
        let migrates = |no_migrate: bool, value: &str, database: &str| {
            let environment = [("NEO_EVENTS_MIGRATE", value), ("NEO_EVENTS_DATABASE_URL", database)];
            let flags = ServeFlags { no_migrate, ..ServeFlags::default() };
            resolved(flags, &environment).map(|settings| settings.migrates)
        };
        let shared = "postgres://localhost/x";
        assert_eq!(migrates(false, "on", shared), Ok(true));
        assert_eq!(migrates(false, "off", shared), Ok(false));
        assert_eq!(migrates(true, "on", shared), Ok(false));
        assert!(matches!(migrates(false, "never", shared), Err(SettingsError::Malformed { .. })));
        let alone = migrates(false, "off", "sqlite:a.db");
        assert_eq!(alone, Err(SettingsError::MigrateOnSqlite("NEO_EVENTS_MIGRATE")));
    }

    #[test]
    fn the_first_of_several_master_keys_seals() {
        let keys = [
            MasterKey::generate(&Sources::system()).reveal(),
            MasterKey::generate(&Sources::system()).reveal(),
        ];
        let list = keys.join(", ");
        let settings = resolved(ServeFlags::default(), &[("NEO_EVENTS_MASTER_KEY", &list)]).unwrap();
        assert_eq!(settings.master_keys.iter().map(MasterKey::reveal).collect::<Vec<_>>(), keys);
    }
}
