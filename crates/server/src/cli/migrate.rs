//! `neo-events migrate`: brings a database up to date, or tells how far it is.
//!
//! It works on the database itself and needs no server. A server migrates when it starts; this is for those who do it in
//! a step of its own, with a role that may, before servers whose role may not.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use neo_events::{
    StartError,
    maintenance::{self, FileMigrations, MigrationStatus, MigrationStep, SqliteOpenError, UnreadableFile},
};
use serde::Serialize;

use crate::{
    cli::{
        failure::{Failure, with_causes},
        output::{Column, Output, Row, Shape, printable},
        session::to_json,
    },
    settings::{self, Database},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events migrate status
  neo-events migrate up --database postgres://owner:secret@db.internal/neo
  neo-events serve --no-migrate --database postgres://neo:secret@db.internal/neo

A scope is what a database has once (database), or the tables of one tenant
(admin is the platform's own). `status` ends with 1 while a scope is behind.

On a postgres: database migrating is safe beside running servers, also those of
the version before, and where several do it at once. A sqlite: file is migrated
by the server that has it; without one, by this.";

/// What `--database` is.
pub(super) const DATABASE_HELP: &str =
    "Where the data are [default: sqlite:./neo-events-data/admin.db] [env: NEO_EVENTS_DATABASE_URL]";
/// With more scopes than this a bar is shown in place of a line for each.
const LINES_MAX: usize = 20;
const BAR_TEMPLATE: &str = "{msg} {wide_bar} {pos} of {len}, {eta} left";

/// Bring a database up to date, or see how far it is.
#[derive(Subcommand)]
pub(crate) enum MigrateCommand {
    /// Apply every migration that is missing
    Up(DatabaseArgs),
    /// Show what is applied and what is not; changes nothing, and ends with 1 while something is behind
    Status(DatabaseArgs),
}

/// Which database.
#[derive(Args)]
pub(crate) struct DatabaseArgs {
    #[arg(long, value_name = "sqlite:PATH|postgres://URL", help = DATABASE_HELP)]
    database: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(command: MigrateCommand, output: &Output, is_json: bool) -> Result<(), Failure> {
    match command {
        MigrateCommand::Up(args) => up(&settings::resolve_database(args.database)?, output, is_json).await,
        MigrateCommand::Status(args) => {
            status(&settings::resolve_database(args.database)?, output, is_json).await
        }
    }
}

/// What programs are told of what was done.
#[derive(Default, Serialize)]
struct Migrated {
    migrated: Vec<String>,
}

async fn up(database: &Database, output: &Output, is_json: bool) -> Result<(), Failure> {
    let mut done = Migrated::default();
    let mut unwritten = Ok(());
    let bar = ProgressBar::hidden();
    let progress = |step: MigrationStep<'_>| {
        done.migrated.push(step.scope.to_owned());
        match (is_json, step.total > LINES_MAX) {
            (true, _) => {}
            (false, true) => advance(&bar, &step),
            // What is being done goes on although nobody reads about it.
            (false, false) => {
                let line = output.line(format_args!("migrated {}", step.scope));
                unwritten = std::mem::replace(&mut unwritten, Ok(())).and(line);
            }
        }
    };
    match database {
        Database::Sqlite(path) => {
            let migrated = tokio::task::block_in_place(|| maintenance::migrate_sqlite(path, progress));
            migrated.map_err(explain)?;
        }
        Database::Postgres(url) => maintenance::migrate_postgres(url, progress).await?,
    }
    bar.finish_and_clear();
    unwritten?;
    if is_json {
        return Ok(output.line(to_json(&done)?)?);
    }
    let shown = database.shown();
    match done.migrated.len() {
        0 => output.line(format_args!("Up to date: {shown}"))?,
        count => output.line(format_args!("{} migrated, now up to date: {shown}", scopes(count)))?,
    }
    Ok(())
}

/// On standard error, if that is a terminal.
fn advance(bar: &ProgressBar, step: &MigrationStep<'_>) {
    if bar.length() != Some(step.total as u64) {
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        bar.set_length(step.total as u64);
        bar.set_style(
            ProgressStyle::with_template(BAR_TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
    }
    bar.set_message(step.scope.to_owned());
    bar.set_position(step.done as u64);
}

fn explain(error: StartError) -> Failure {
    match &error {
        StartError::Sqlite(SqliteOpenError::Locked { .. }) => Failure::Serve {
            message: error.to_string(),
            advice: Some(
                "If that is its server, that has migrated it when it started; a newer one will when it starts in its place."
                    .to_owned(),
            ),
        },
        _ => error.into(),
    }
}

/// One line of the table, one object of the list.
#[derive(Serialize)]
struct Level {
    scope: String,
    applied: i32,
    known: i32,
    behind: i32,
}

#[derive(Serialize)]
struct Levels {
    data: Vec<Level>,
    /// Tenants of whose files nothing can be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Unreadable {
    scope: String,
    problem: String,
}

impl From<UnreadableFile> for Unreadable {
    fn from(file: UnreadableFile) -> Self {
        Self { scope: file.scope, problem: with_causes(&file.error) }
    }
}

impl From<MigrationStatus> for Level {
    fn from(status: MigrationStatus) -> Self {
        let MigrationStatus { scope, applied, known } = status;
        Self { scope, applied, known, behind: (known - applied).max(0) }
    }
}

impl Row for Level {
    const NAME: &'static str = "scopes";
    const COLUMNS: &'static [Column] = &[
        Column::whole("SCOPE"),
        Column::number("APPLIED"),
        Column::number("KNOWN"),
        Column::number("BEHIND"),
    ];

    fn cells(&self, _: &Output) -> Vec<String> {
        vec![self.scope.clone(), self.applied.to_string(), self.known.to_string(), self.behind.to_string()]
    }
}

async fn status(database: &Database, output: &Output, is_json: bool) -> Result<(), Failure> {
    let FileMigrations { scopes: found, unreadable } = match database {
        Database::Sqlite(path) => tokio::task::block_in_place(|| maintenance::sqlite_migrations(path))?,
        Database::Postgres(url) => {
            FileMigrations { scopes: maintenance::postgres_migrations(url).await?, unreadable: Vec::new() }
        }
    };
    let data: Vec<_> = found.into_iter().map(Level::from).collect();
    let unreadable: Vec<_> = unreadable.into_iter().map(Unreadable::from).collect();
    let behind = data.iter().filter(|scope| scope.behind > 0).count();
    let is_well = behind == 0 && unreadable.is_empty();
    if is_json {
        output.line(to_json(&Levels { data, unreadable })?)?;
    } else {
        output.table(&data, &mut Shape::default())?;
        for Unreadable { scope, problem } in &unreadable {
            output.line(format_args!("{} cannot be read: {}", printable(scope), printable(problem)))?;
        }
        output.line(match behind {
            0 if unreadable.is_empty() => format!("Up to date, {}.", scopes(data.len())),
            0 => format!("{} up to date, {} not to be read.", scopes(data.len()), unreadable.len()),
            _ => format!("{behind} of {} behind: neo-events migrate up", scopes(data.len())),
        })?;
    }
    if is_well { Ok(()) } else { Err(Failure::Reported) }
}

/// So many, with their unit.
pub(super) fn scopes(count: usize) -> String {
    if count == 1 { "1 scope".to_owned() } else { format!("{count} scopes") }
}
