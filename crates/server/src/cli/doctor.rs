//! `neo-events doctor`: looks at a set-up from the operator's chair, and says what is well, what may hurt and what will,
//! each with advice.
//!
//! It sees what `serve` would see with the same flags and the same environment, and changes nothing.

mod finding;
mod postgres;
mod sqlite;

use clap::Args;
use neo_events::Profile;

use self::finding::{Finding, Findings, Status};
use crate::{
    cli::{
        failure::{Failure, with_causes},
        migrate::DATABASE_HELP,
        output::Output,
        session::{ServerArgs, Session, to_json},
    },
    client::{Call, CallError},
    serve::OPEN_FILES_WANTED,
    settings::{self, Database, ServeFlags},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events doctor
  neo-events doctor --database postgres://neo:secret@db.internal/neo --profile production
  neo-events doctor --deep --json

It sees what `serve` would see with the same flags and environment, and changes nothing. Exit code 1: there is a problem.";

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
    check_settings(&mut findings, &args, server.ca_file());
    check_master_key(&mut findings, args.profile);
    match settings::resolve_database(args.database) {
        Ok(Database::Sqlite(path)) => {
            tokio::task::block_in_place(|| sqlite::check(&mut findings, &path, args.deep));
        }
        Ok(Database::Postgres(url)) => postgres::check(&mut findings, &url).await,
        // The check of the settings has told.
        Err(_) => {}
    }
    check_open_files(&mut findings);
    if Session::is_server_known(&server)? {
        check_server(&mut findings, server, output).await?;
    }
    show(&findings, output, is_json)?;
    if findings.count(Status::Problem) > 0 { Err(Failure::Reported) } else { Ok(()) }
}

fn check_settings(findings: &mut Findings, args: &DoctorArgs, ca_file: Option<String>) {
    let flags = ServeFlags {
        database: args.database.clone(),
        profile: args.profile.clone(),
        ca_file,
        ..ServeFlags::default()
    };
    match settings::resolve(flags) {
        Ok(settings) => {
            let detail =
                format!("profile {}, database {}", settings.profile.as_str(), settings.database.shown());
            findings.ok("settings", detail);
        }
        Err(error) => findings.problem("settings", error.to_string(), "serve would not start with them"),
    }
}

fn check_master_key(findings: &mut Findings, profile: Option<String>) {
    const CHECK: &str = "master key";
    match settings::resolve_keys(profile) {
        Ok((_, keys)) if !keys.is_empty() => findings.ok(CHECK, format!("given, {} in all", keys.len())),
        Ok((Profile::Development, _)) => {
            findings.ok(CHECK, "not given; in profile development one is made and kept in a file");
        }
        Ok(_) => findings.problem(
            CHECK,
            "not given",
            "set NEO_EVENTS_MASTER_KEY to 32 random bytes in base64 (openssl rand -base64 32), the same on every node, \
             and keep a copy: without it no secret can be read again",
        ),
        // The check of the settings has told.
        Err(_) => {}
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
    let session = Session::open(server, output.clone(), true)?;
    let origin = session.client.origin();
    match session.client.call(Call::readiness()).await {
        Ok(_) => findings.ok(CHECK, format!("{origin} is ready")),
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
