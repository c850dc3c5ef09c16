//! `neo-events serve`: runs the server until a signal, tells where it is, and why it does not start.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use neo_events::Shutdown;
use tokio::sync::Notify;
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

use crate::{
    cli::{
        failure::{Failure, with_causes},
        output::Output,
        signals::Signals,
    },
    client::trusted_roots,
    credentials::{self, Credentials},
    serve::{ServeError, serve},
    settings::{self, AdminKey, Database, ServeFlags, ServeSettings},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events serve
  neo-events serve --listen 0.0.0.0:8080 --database sqlite:/var/lib/neo/admin.db
  neo-events serve \\
      --database 'postgres://neo:secret@db.internal/neo?sslmode=verify-full'
  neo-events serve --database postgres://… --roles dispatch,deliver
  NEO_EVENTS_PROFILE=production NEO_EVENTS_ADMIN_KEY=… NEO_EVENTS_MASTER_KEY=… \\
      neo-events serve

With nothing given it serves on loopback, keeps its data in ./neo-events-data,
makes an admin key, prints it once and leaves it with its URL in
./neo-events-data/credentials.json, where the other commands find it. SIGTERM or
Ctrl-C ends it within 15 seconds (17 if the database does not answer), a second
one at once; nothing that was acknowledged is lost either way.

Any number of servers may share a postgres: database: they find each other's
work, and what one that dies has begun goes on elsewhere within five seconds.
Give all of them the same NEO_EVENTS_MASTER_KEY and NEO_EVENTS_ADMIN_KEY (in
profile development each folder would have keys of its own).

Environment: NEO_EVENTS_LISTEN, NEO_EVENTS_DATABASE_URL, NEO_EVENTS_PROFILE (or,
where it is not set, WEBHOOK_VALIDATION_PROFILE), NEO_EVENTS_ROLES,
NEO_EVENTS_ADMIN_KEY, NEO_EVENTS_MASTER_KEY (32 random bytes in base64, encrypts
secrets at rest), NEO_EVENTS_CA_FILE, NEO_EVENTS_MIGRATE (off: as --no-migrate),
RUST_LOG (info), NO_COLOR. One with a letter or two wrong is refused, unless the
right one is set, too; of one without effect it is told.";

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where the data are [default: sqlite:./neo-events-data/admin.db]
    #[arg(long, value_name = "sqlite:PATH|postgres://URL")]
    database: Option<String>,
    /// development, staging or production: limits and which targets are allowed [default: development]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// What this server does, of api, dispatch and deliver: servers that share a database may divide the work
    /// [default: all]
    #[arg(long, value_name = "ROLES")]
    roles: Option<String>,
    /// Admin key, at least 16 characters [default in development: generated]
    #[arg(long, value_name = "KEY")]
    admin_key: Option<String>,
    /// Refuse to start where the database is not up to date, instead of migrating it; for a postgres: database that
    /// `neo-events migrate up` is run on
    #[arg(long)]
    no_migrate: bool,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the command.
pub(crate) async fn run(args: ServeArgs, ca_file: Option<String>, output: &Output) -> Result<(), Failure> {
    let log_format = args.log_format;
    let flags = ServeFlags {
        listen: args.listen,
        database: args.database,
        profile: args.profile,
        roles: args.roles,
        admin_key: args.admin_key,
        ca_file,
        no_migrate: args.no_migrate,
    };
    let settings = settings::resolve(flags)?;
    // Before anything is opened or made.
    trusted_roots(settings.ca_file.as_deref())?;
    start_log(log_format)?;
    for unheeded in settings::unheeded() {
        tracing::warn!("{unheeded}");
    }
    let (settings, notice) = Notice::prepare(settings)?;

    let mut signals = Signals::new();
    let stop = Arc::new(Notify::new());
    let stopping = Arc::clone(&stop);
    let listen = settings.listen;
    let ready = |address| {
        // A reader that is not there, or a file that cannot be written, is no reason to stop serving.
        if let Err(failure) = notice.show(address, output) {
            tracing::error!(error = with_causes(&failure), "the notice of the start is incomplete");
        }
        tracing::info!(%address, "serving");
    };
    let serving = serve(settings, ready, async move { stopping.notified().await });
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = signals.next() => {
            tracing::info!("stopping; a second signal ends at once");
            stop.notify_one();
            tokio::select! {
                ended = serving => ended,
                () = signals.next() => return Err(stopped_short()),
            }
        }
    };
    let shutdown = ended.map_err(|error| explain(&error, listen))?;
    match shutdown {
        Shutdown::Drained => tracing::info!("stopped; everything in flight has ended"),
        Shutdown::CutOff => tracing::warn!("stopped; what was cut off will be attempted again"),
    }
    Ok(())
}

fn stopped_short() -> Failure {
    Failure::Serve {
        message: "stopped at once by a second signal".to_owned(),
        advice: Some(
            "Nothing acknowledged is lost; attempts that were cut off will be made again.".to_owned(),
        ),
    }
}

fn start_log(format: LogFormat) -> Result<(), Failure> {
    let filter = settings::variable("RUST_LOG")?.unwrap_or_else(|| "info".to_owned());
    judge_levels(&filter)?;
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| Failure::Usage(format!("RUST_LOG={filter} is no filter of logs: {error}")))?;
    // Of a line that cannot be written it would tell standard error, and panic where that is what cannot be written.
    let log = fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let is_colour_wanted = settings::variable("NO_COLOR")?.is_none();
    // If somebody has set one already, theirs stays.
    let _ = match format {
        LogFormat::Text => log.with_ansi(is_terminal && is_colour_wanted).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// A word that is no level names a part of the program, and everything else is silent: a misspelt level would switch off
/// the log.
fn judge_levels(filter: &str) -> Result<(), Failure> {
    if filter.contains('{') {
        return Ok(()); // the fields of spans have commas of their own
    }
    let words = filter.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut bare = words.filter(|word| !word.contains(['=', '[']));
    match bare.find(|word| word.parse::<LevelFilter>().is_err()) {
        None => Ok(()),
        Some(word) => Err(Failure::Usage(format!(
            "RUST_LOG: `{word}` is no level; off, error, warn, info, debug and trace are. A part of the program gets \
             its own by `{word}=debug`"
        ))),
    }
}

/// What is told once the server is ready.
struct Notice {
    profile: &'static str,
    database: Database,
    key: KeyNotice,
}

enum KeyNotice {
    /// This node has no API to show one to, and is not the one that other commands should find.
    Unneeded,
    /// Somebody gave it and knows it. What an earlier start on the same data left in the file opens nothing now.
    Given { file: PathBuf },
    /// Made up, in this start or an earlier one.
    Generated { key: String, file: PathBuf, is_new: bool },
}

impl Notice {
    /// A key that was made up in an earlier start on the same data is used again.
    fn prepare(settings: ServeSettings) -> Result<(ServeSettings, Self), Failure> {
        let database = settings.database.clone();
        let profile = settings.profile.as_str();
        if !settings.roles.api {
            return Ok((settings, Self { profile, database, key: KeyNotice::Unneeded }));
        }
        let file = credentials::in_folder(database.folder());
        let AdminKey::Generated(made) = &settings.admin_key else {
            return Ok((settings, Self { profile, database, key: KeyNotice::Given { file } }));
        };
        let kept = Credentials::read(&file)?;
        let is_new = kept.is_none();
        let key = kept.map_or_else(|| made.clone(), |kept| kept.key);
        let settings = ServeSettings { admin_key: AdminKey::Generated(key.clone()), ..settings };
        Ok((settings, Self { profile, database, key: KeyNotice::Generated { key, file, is_new } }))
    }

    fn show(self, address: SocketAddr, output: &Output) -> Result<(), Failure> {
        let style = output.style;
        let url = format!("http://{}", reachable(address));
        let line = |name: &str, value: &str| {
            output.line(format_args!("{}  {value}", style.dim(format_args!("{name:9}"))))
        };
        match &self.key {
            KeyNotice::Generated { key, file, .. } => {
                let credentials = Credentials { url: url.clone(), key: key.clone(), databases: Vec::new() };
                credentials.leave(file, &self.database)?;
            }
            KeyNotice::Given { file } => Credentials::forget(file, &self.database)?,
            KeyNotice::Unneeded => {}
        }
        let everywhere =
            if address.ip().is_unspecified() { ", and on every address of this machine" } else { "" };
        line("serving", &format!("{}{everywhere}", style.bold(&url)))?;
        line("profile", self.profile)?;
        line("database", &self.database.shown())?;
        match &self.key {
            KeyNotice::Unneeded => line("API", "not here: only /livez and /readyz are answered")?,
            KeyNotice::Given { .. } => line("admin key", "as given")?,
            KeyNotice::Generated { key, file, is_new: true } => {
                line("admin key", &style.bold(key))?;
                let note = format!("shown once; kept in {}", kept_for_commands(file));
                line("", &style.dim(note))?;
            }
            KeyNotice::Generated { file, .. } => {
                line("admin key", &format!("as kept in {}", kept_for_commands(file)))?;
            }
        }
        Ok(())
    }
}

/// Where a key is kept, and how other commands find it there.
fn kept_for_commands(file: &Path) -> String {
    let file_shown = file.display();
    let flag = if Path::new(".").join(file) == Path::new(".").join(credentials::PATH_DEFAULT) {
        String::new()
    } else {
        format!(": they need --credentials {file_shown}")
    };
    format!("{file_shown} for the other commands{flag}")
}

/// An address that can be connected to from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn explain(error: &ServeError, listen: SocketAddr) -> Failure {
    let message = with_causes(error);
    let advice = match error {
        ServeError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
            "Another program listens on port {}: stop it, or choose another with --listen (port 0 takes a free one).",
            listen.port()
        )),
        ServeError::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("Ports below 1024 need a privilege; choose another with --listen.".to_owned())
        }
        ServeError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
            Some("That is no address of this machine; 0.0.0.0 listens on all of them.".to_owned())
        }
        _ => None,
    };
    Failure::Serve { message, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_misspelt_does_not_switch_off_the_log() {
        for filter in
            ["", "info", "WARN", "off", "info,neo_events=debug", " debug , hyper=off", "[span{a=1}]=trace"]
        {
            assert!(judge_levels(filter).is_ok(), "{filter}");
        }
        for (filter, named) in
            [("debg", "`debg`"), ("info,verbose", "`verbose`"), ("neo_events", "`neo_events`")]
        {
            let refused = judge_levels(filter).unwrap_err();
            assert!(refused.to_string().contains(named), "{refused}");
        }
    }
}
