//! `neo-events doctor`: looks at a set-up from the operator's chair, and says what is well, what may hurt and what will,
//! each with advice.
//!
//! It sees what `serve` would see with the same flags and the same environment, and changes nothing.

mod finding;
mod postgres;
mod sqlite;

use std::{fs, io, path::Path, slice};

use clap::Args;
use neo_events::{
    MasterKey, Profile,
    maintenance::{self, MasterKeyFingerprint},
};

use self::finding::{Finding, Findings, Status};
use crate::{
    cli::{
        failure::{Failure, with_causes},
        migrate::DATABASE_HELP,
        output::Output,
        session::{ServerArgs, Session, to_json},
    },
    client::{Call, CallError, trusted_roots},
    credentials,
    serve::OPEN_FILES_WANTED,
    settings::{self, Database, ServeFlags, ServeSettings, SettingsError},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events doctor
  neo-events doctor --database postgres://neo:secret@db.internal/neo
  neo-events doctor --deep --json

It sees what `serve` would see with the same flags and environment, and changes
nothing. Exit code 1: there is a problem.";

const PROFILE_HELP: &str =
    "development, staging or production [default: development] [env: NEO_EVENTS_PROFILE]";

/// Check a set-up: settings, database, limits, server.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[arg(long, value_name = "sqlite:PATH|postgres://URL", help = DATABASE_HELP)]
    database: Option<String>,
    #[arg(long, value_name = "PROFILE", help = PROFILE_HELP)]
    profile: Option<String>,
    /// Read every page of a sqlite: database
    #[arg(long)]
    deep: bool,
}

/// Runs the command.
pub(crate) async fn run(
    args: DoctorArgs,
    server: ServerArgs,
    output: &Output,
    is_json: bool,
) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let settings = check_settings(&mut findings, &args, server.ca_file());
    let keys = check_master_key(&mut findings, args.profile);
    // What makes the settings useless may leave the database to be looked at.
    let migrates = settings.as_ref().is_none_or(|settings| settings.migrates);
    if let Ok(database) = settings::resolve_database(args.database) {
        let needed = match &database {
            Database::Sqlite(path) => {
                tokio::task::block_in_place(|| sqlite::check(&mut findings, path, args.deep))
            }
            Database::Postgres(url) => postgres::check(&mut findings, url, migrates).await,
        };
        match keys {
            Some(Keys::Given(keys)) => check_given_keys(&mut findings, &keys, needed),
            Some(Keys::OfFile) => check_key_file(&mut findings, &database.key_file(), needed),
            None => {}
        }
    }
    check_open_files(&mut findings);
    match check_server(&mut findings, server, output).await {
        Err(Failure::Settings(error)) => check_client_settings(&mut findings, &error),
        checked => checked?,
    }
    show(&findings, output, is_json)?;
    if findings.count(Status::Problem) > 0 { Err(Failure::Reported) } else { Ok(()) }
}

/// Answers the settings that `serve` would start with, if it would.
fn check_settings(
    findings: &mut Findings,
    args: &DoctorArgs,
    ca_file: Option<String>,
) -> Option<ServeSettings> {
    let flags = ServeFlags {
        database: args.database.clone(),
        profile: args.profile.clone(),
        ca_file,
        ..ServeFlags::default()
    };
    let resolved = settings::resolve(flags);
    match &resolved {
        Ok(settings) => {
            let detail =
                format!("profile {}, database {}", settings.profile.as_str(), settings.database.shown());
            findings.ok("settings", detail);
            check_ca_file(findings, settings.ca_file.as_deref());
            check_unheeded(findings);
        }
        Err(error) => findings.problem("settings", error.to_string(), "serve would not start with them"),
    }
    resolved.ok()
}

/// What keeps other commands from finding a server.
fn check_client_settings(findings: &mut Findings, error: &SettingsError) {
    let detail = error.to_string();
    // The server may take the same setting.
    if findings.all().iter().all(|finding| finding.detail != detail) {
        findings.problem("settings", detail, "commands that call a server would not run with them");
    }
}

fn check_unheeded(findings: &mut Findings) {
    for unheeded in settings::unheeded() {
        findings.warning(
            "environment",
            unheeded.to_string(),
            "see neo-events serve --help for what there is",
        );
    }
}

fn check_ca_file(findings: &mut Findings, path: Option<&Path>) {
    let Some(path) = path else { return };
    match trusted_roots(Some(path)) {
        Ok(_) => findings.ok("CA file", path.display().to_string()),
        Err(error) => findings.problem("CA file", with_causes(&error), "serve would not start with it"),
    }
}

/// Which master key the data needs.
#[derive(Debug, Clone, Copy, Default)]
struct NeededKey {
    /// Whether any other than the one that it was written with is of no use.
    is_needed: bool,
    /// Which it is, where that was noted.
    noted: Option<MasterKeyFingerprint>,
}

/// Where the master key comes from.
enum Keys {
    Given(Vec<MasterKey>),
    /// As profile `development` makes it where none is given.
    OfFile,
}

fn check_master_key(findings: &mut Findings, profile: Option<String>) -> Option<Keys> {
    const CHECK: &str = "master key";
    match settings::resolve_keys(profile) {
        Ok((_, keys)) if !keys.is_empty() => {
            findings.ok(CHECK, format!("given, {} in all", keys.len()));
            Some(Keys::Given(keys))
        }
        Ok((Profile::Development, _)) => {
            findings.ok(CHECK, "not given; in profile development one is made and kept in a file");
            Some(Keys::OfFile)
        }
        Ok(_) => {
            findings.problem(
                CHECK,
                "not given",
                "set NEO_EVENTS_MASTER_KEY to 32 random bytes in base64 (openssl rand -base64 32), the same on every \
                 node, and keep a copy: without it no secret can be read again",
            );
            None
        }
        // The check of the settings has told.
        Err(_) => None,
    }
}

/// What seals changes by another key in front of the one before.
fn check_given_keys(findings: &mut Findings, keys: &[MasterKey], needed: NeededKey) {
    const CHECK: &str = "noted key";
    if needed.noted.is_none() {
        return;
    }
    if maintenance::lacks_noted_key(keys, needed.noted) {
        findings.problem(
            CHECK,
            "the data was written with another master key than any that is given",
            "add that one to NEO_EVENTS_MASTER_KEY, behind the one that seals from now on: without it no secret can be \
             read again, and serve does not start",
        );
    } else {
        findings.ok(CHECK, "given: the data was written with it");
    }
}

/// The file in which the master key is kept that was made up: `serve` makes another only while nothing needs this one.
fn check_key_file(findings: &mut Findings, path: &Path, needed: NeededKey) {
    const CHECK: &str = "key file";
    const ADVICE: &str = "put back the file that this data was written with, and let this user read it: without it no \
                          secret can be read again";
    let shown = path.display();
    match fs::read_to_string(path) {
        Ok(text) => match MasterKey::parse(&text) {
            Ok(key) if maintenance::lacks_noted_key(slice::from_ref(&key), needed.noted) => {
                findings.problem(
                    CHECK,
                    format!("{shown} has another key than the data was written with"),
                    ADVICE,
                );
            }
            Ok(_) => findings.ok(CHECK, shown.to_string()),
            Err(error) => findings.problem(CHECK, format!("{shown}: {}", with_causes(&error)), ADVICE),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && needed.is_needed => {
            findings.problem(
                CHECK,
                format!("{shown} is not there, and the data was written with it"),
                ADVICE,
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.ok(CHECK, format!("{shown} is not there; serve makes it"));
        }
        Err(error) => findings.problem(CHECK, format!("{shown} cannot be read: {error}"), ADVICE),
    }
}

fn check_open_files(findings: &mut Findings) {
    const CHECK: &str = "open files";
    match rlimit::Resource::NOFILE.get() {
        Ok((_, most)) if most >= OPEN_FILES_WANTED => findings.ok(CHECK, format!("up to {most}")),
        Ok((_, most)) => findings.warning(
            CHECK,
            format!("up to {most}; a busy server wants {OPEN_FILES_WANTED}"),
            "raise the hard limit: ulimit -Hn, or LimitNOFILE= of the service",
        ),
        Err(error) => findings.warning(CHECK, format!("the limit cannot be read: {error}"), "see ulimit -Hn"),
    }
}

async fn check_server(findings: &mut Findings, server: ServerArgs, output: &Output) -> Result<(), Failure> {
    const CHECK: &str = "server";
    match Session::is_server_known(&server) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(Failure::Credentials(error)) => {
            findings.problem("credentials", with_causes(&error), credentials::ADVICE);
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let session = Session::open(server, output.clone(), true)?;
    let origin = session.client.origin();
    match session.client.call(Call::readiness()).await {
        Ok(_) => {
            findings.ok(CHECK, format!("{origin} is ready"));
            check_key(findings, &session).await;
        }
        Err(error @ CallError::Unreachable { .. }) => findings.warning(
            CHECK,
            with_causes(&error),
            "if it should be running, see its log; if it runs elsewhere, give its --url",
        ),
        Err(error) => {
            findings.problem(CHECK, format!("{origin} is not ready: {}", with_causes(&error)), "see its log");
        }
    }
    Ok(())
}

/// Whether the server takes the key that commands would send, wherever that comes from.
async fn check_key(findings: &mut Findings, session: &Session) {
    const CHECK: &str = "key";
    const ADVICE: &str =
        "give a key of this server with --key or NEO_EVENTS_KEY, and of this tenant if one is named";
    match session.client.call(Call::get(["endpoints"]).query("limit", Some(1))).await {
        Ok(_) => findings.ok(CHECK, "the server takes it"),
        // It is one of this server's, which may do other things.
        Err(CallError::Refused { problem, .. }) if problem.status == 403 => {
            findings.ok(CHECK, format!("the server takes it: {}", problem.detail));
        }
        // A node without the role api has nobody to show a key to.
        Err(CallError::Refused { problem, .. }) if problem.code == "unknown_path" => {}
        Err(CallError::Refused { key_source: Some(source), .. }) => {
            findings.problem(CHECK, format!("the server does not take it. {source}"), ADVICE);
        }
        Err(error) => findings.problem(CHECK, with_causes(&error), ADVICE),
    }
}

fn show(findings: &Findings, output: &Output, is_json: bool) -> Result<(), Failure> {
    if is_json {
        return Ok(output.line(to_json(findings)?)?);
    }
    let style = output.style;
    for Finding { check, status, detail, advice } in findings.all() {
        let label = match status {
            Status::Ok => style.green(format_args!("{:8}", "ok")),
            Status::Warning => style.yellow(format_args!("{:8}", "warning")),
            Status::Problem => style.red(format_args!("{:8}", "problem")),
        };
        output.line(format_args!("{label}{check:16}{detail}"))?;
        if let Some(advice) = advice {
            output.line(format_args!("{:24}{}", "", style.dim(advice)))?;
        }
    }
    let (problems, warnings) = (findings.count(Status::Problem), findings.count(Status::Warning));
    Ok(output.line(format_args!("problems: {problems}, warnings: {warnings}"))?)
}
