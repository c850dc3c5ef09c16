//! The command line: what there is to say, and saying it to a server over HTTP.
//!
//! Every command but `serve`, `demo`, `bench`, `migrate` and `doctor` is a client of the public API and shows its
//! answers in two forms: tables and records for people, and with `--json` the answer as it came, for programs. Module
//! `failure` has the exit codes.

mod api_keys;
mod arguments;
mod bench;
mod connections;
pub(crate) mod deliveries;
mod doctor;
mod endpoints;
mod event_types;
mod events;
pub(crate) mod failure;
mod json_text;
mod listen;
mod migrate;
pub(crate) mod output;
mod publish;
mod serve;
pub(crate) mod session;
pub(crate) mod signals;
pub(crate) mod subscriptions;
mod temporary;
mod tenants;

use std::{
    io::{self, Write},
    iter,
    process::ExitCode,
    time::Duration,
};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};

use self::{
    failure::{ExitStatus, Failure},
    output::{Output, Style, Times},
    session::{ServerArgs, Session},
};
use crate::{client::CallError, demo, settings};

const OVERVIEW: &str = "\
Start here:
  neo-events demo                               see everything work
  neo-events serve                              run a server that others find
  neo-events listen --subscribe '*'             receive, in a second terminal
  neo-events publish order.placed '{\"n\": 1}'   publish, in a third

Every command explains itself with --help. NO_COLOR=1 writes without colours.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no server there.";

/// Durable webhooks: publish events, deliver them to endpoints, see and repair every delivery.
#[derive(Parser)]
#[command(name = "neo-events", version = env!("NEO_EVENTS_VERSION"), after_help = OVERVIEW, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArgs,
    /// Write the API's answers as they come, for programs
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    /// How to show times in tables
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    times: Times,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::ServeArgs),
    /// Show everything at work: a server, two endpoints, a filter, a retry
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::DemoArgs),
    /// Measure what this machine can do: rates, latencies, CPU time, memory
    #[command(after_help = bench::EXAMPLES)]
    Bench(Box<bench::BenchArgs>),
    /// Publish an event, or many from a file
    #[command(after_help = publish::EXAMPLES)]
    Publish(Box<publish::PublishArgs>),
    /// Receive webhooks on this machine and show each one
    #[command(after_help = listen::EXAMPLES)]
    Listen(Box<listen::ListenArgs>),
    /// Look at events
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Keep the endpoints that webhooks go to
    #[command(subcommand)]
    Endpoints(endpoints::EndpointsCommand),
    /// Choose which events an endpoint gets
    #[command(subcommand)]
    Subscriptions(subscriptions::SubscriptionsCommand),
    /// Look at deliveries and repair them
    #[command(subcommand)]
    Deliveries(deliveries::DeliveriesCommand),
    /// Keep the catalogue of event types
    #[command(subcommand)]
    EventTypes(event_types::EventTypesCommand),
    /// Make and list tenants, with an admin key
    #[command(subcommand, after_help = tenants::OVERVIEW)]
    Tenants(tenants::TenantsCommand),
    /// Make, list and revoke API keys, with an admin key
    #[command(subcommand, after_help = api_keys::OVERVIEW)]
    ApiKeys(api_keys::ApiKeysCommand),
    /// Look at the server's outgoing connections
    #[command(subcommand)]
    Connections(connections::ConnectionsCommand),
    /// Bring a database up to date, or see how far it is
    #[command(subcommand, after_help = migrate::EXAMPLES)]
    Migrate(migrate::MigrateCommand),
    /// Check a set-up: settings, database, limits, server
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorArgs),
}

/// Commands that do nothing with some of the flags that all commands share, nor do those below them.
const PASSED_OVER: [(&str, &[&str]); 10] = [
    ("serve", &["url", "key", "tenant", "credentials", "json", "times"]),
    ("demo", &["url", "key", "tenant", "credentials", "ca_file", "json", "times"]),
    ("bench", &["url", "key", "tenant", "credentials", "ca_file", "times"]),
    ("migrate", &["url", "key", "tenant", "credentials", "ca_file", "times"]),
    ("doctor", &["times"]),
    // Both are the platform's, whatever tenant is named.
    ("tenants", &["tenant"]),
    ("api-keys", &["tenant"]),
    // Neither shows a table.
    ("listen", &["times"]),
    ("connections", &["times"]),
    // They are the node's, for all tenants together.
    ("connections stats", &["tenant"]),
];

/// The flags that are passed over by a command, named with those before it: each with the command whose they are.
fn passed_over(command: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let is_in = |name: &str| {
        command.strip_prefix(name).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b' ', ..]))
    };
    let of_command = PASSED_OVER.into_iter().filter(move |(name, _)| is_in(name));
    of_command.flat_map(|(name, flags)| flags.iter().map(move |flag| (name, *flag)))
}

/// The command line, where no command's help shows a flag that it passes over.
fn command_line() -> clap::Command {
    let all = CommandLine::command();
    let shared: Vec<_> = all.get_arguments().filter(|flag| flag.is_global_set()).cloned().collect();
    all.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        without_passed_over(command, &name, &shared)
    })
}

fn without_passed_over(command: clap::Command, name: &str, shared: &[clap::Arg]) -> clap::Command {
    let is_passed_over =
        |flag: &&clap::Arg| passed_over(name).any(|(_, passed_over)| flag.get_id() == passed_over);
    let hidden = shared.iter().filter(is_passed_over);
    hidden.fold(command, |command, flag| command.arg(flag.clone().hide(true))).mut_subcommands(|command| {
        let name = format!("{name} {}", command.get_name());
        without_passed_over(command, &name, shared)
    })
}

/// The command that was given, with those before it.
fn command_name(given: &ArgMatches) -> String {
    let commands = iter::successors(given.subcommand(), |(_, given)| given.subcommand());
    commands.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

/// Refuses a flag that its command would pass over: whoever gives it expects it to do something. The environment does
/// not count: it is there for all commands.
fn judge_flags(given: &ArgMatches) -> Result<(), Failure> {
    let is_given = |flag: &str| given.value_source(flag) == Some(ValueSource::CommandLine);
    match passed_over(&command_name(given)).find(|(_, flag)| is_given(flag)) {
        None => Ok(()),
        Some((command, flag)) => {
            let flag = flag.replace('_', "-");
            Err(Failure::Usage(format!("`neo-events {command}` does not take --{flag}")))
        }
    }
}

/// How long threads are waited for that block after everything was said and done.
const LEFT_BEHIND_MAX: Duration = Duration::from_millis(500);

/// Reads the command line, does what it says and answers with the process's exit code.
pub fn main() -> ExitCode {
    let given = command_line().get_matches();
    let command_line = CommandLine::from_arg_matches(&given)
        .unwrap_or_else(|error| error.format(&mut command_line()).exit());
    let is_json = command_line.json;
    let is_colour_wanted = matches!(settings::variable("NO_COLOR"), Ok(None));
    let output = Output::new(Style::of(&io::stdout(), is_colour_wanted), command_line.times);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: the runtime does not start: {error}");
            return ExitCode::from(ExitStatus::Failed as u8);
        }
    };
    let done = judge_flags(&given).and_then(|()| runtime.block_on(run(command_line, output)));
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, is_json, Style::of(&io::stderr(), is_colour_wanted));
            ExitCode::from(failure.exit_status() as u8)
        }
    };
    // What the system still looks up, a name whose servers do not answer, nobody waits for any more.
    runtime.shutdown_timeout(LEFT_BEHIND_MAX);
    code
}

async fn run(command_line: CommandLine, output: Output) -> Result<(), Failure> {
    let CommandLine { command, server, json, .. } = command_line;
    let open = |server, output| Session::open(server, output, json);
    match command {
        Command::Serve(args) => serve::run(args, server.ca_file(), &output).await,
        Command::Demo(args) => Box::pin(demo::run(args, &output)).await,
        Command::Bench(args) => bench::run(*args, &output, json).await,
        Command::Listen(args) => Box::pin(listen::run(*args, server, output, json)).await,
        Command::Publish(args) => publish::run(&open(server, output)?, *args).await,
        Command::Events(command) => events::run(&open(server, output)?, command).await,
        Command::Endpoints(command) => endpoints::run(&open(server, output)?, command).await,
        Command::Subscriptions(command) => subscriptions::run(&open(server, output)?, command).await,
        Command::Deliveries(command) => deliveries::run(&open(server, output)?, command).await,
        Command::EventTypes(command) => event_types::run(&open(server, output)?, command).await,
        Command::Tenants(command) => tenants::run(&open(server.of_platform(), output)?, command).await,
        Command::ApiKeys(command) => api_keys::run(&open(server.of_platform(), output)?, command).await,
        Command::Connections(command) => {
            let server = if command.is_of_platform() { server.of_platform() } else { server };
            connections::run(&open(server, output)?, command).await
        }
        Command::Migrate(command) => migrate::run(command, &output, json).await,
        Command::Doctor(args) => doctor::run(args, server, &output, json).await,
    }
}

/// For people on standard error; for programs a refusal is also written as it came.
fn report(failure: &Failure, is_json: bool, style: Style) {
    if let (true, Failure::Call(CallError::Refused { raw, .. })) = (is_json, failure) {
        let _ = Output::new(Style::plain(), Times::Rfc3339).raw_line(raw);
    }
    if let Some(text) = failure.describe(style) {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn a_filter_that_the_api_takes_is_taken() {
        // More levels of JSON than an event's data may have, and six of the language.
        let filter = format!("{}{{\"a\": 1}}{}", "{\"$or\": [".repeat(5), "]}".repeat(5));
        let id = "0190d6c0-0000-7000-8000-000000000000";
        for command in [
            vec!["subscriptions", "create", id, "a.b"],
            vec!["subscriptions", "update", id],
            vec!["subscriptions", "explain", "--event-id", id],
            vec!["listen", "--subscribe", "a.b"],
        ] {
            let given = |filter: &str| {
                let line = ["neo-events"].into_iter().chain(command.iter().copied());
                command_line().try_get_matches_from(line.chain(["--event-filters", filter]))
            };
            assert!(given(&filter).is_ok(), "{command:?}");
            assert!(given(r#"{"a": {"$gtr": 1}}"#).is_err(), "{command:?}");
        }
    }

    /// Every command and what it says behind its flags, with the commands before it.
    fn closing_words(command: &clap::Command, before: &str) -> Vec<(String, String)> {
        let name = format!("{before} {}", command.get_name());
        let own = command.get_after_help().map(|text| (name.clone(), text.to_string()));
        own.into_iter().chain(command.get_subcommands().flat_map(|sub| closing_words(sub, &name))).collect()
    }

    #[test]
    fn what_is_laid_out_by_hand_fits_into_80_columns() {
        let all = closing_words(&command_line(), "");
        assert!(all.len() > 15, "{}", all.len());
        for (name, text) in all {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }

    #[test]
    fn what_is_passed_over_is_there() {
        let all = CommandLine::command();
        for (name, flags) in PASSED_OVER {
            let found = name.split(' ').try_fold(&all, |command, name| command.find_subcommand(name));
            assert!(found.is_some(), "{name}");
            for flag in flags {
                let found = all.get_arguments().find(|argument| argument.get_id() == *flag);
                assert!(found.is_some_and(clap::Arg::is_global_set), "{name} {flag}");
            }
        }
    }
}
