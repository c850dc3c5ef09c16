//! How a command ends if it does not succeed: what is printed, and with which code the process exits.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | refused or failed |
//! | 2 | the command line itself is wrong |
//! | 3 | the server cannot be reached |

use std::{error::Error, fmt::Write as _, io};

use neo_events::StartError;

use crate::{
    cli::output::{Style, printable},
    client::{CallError, OptionsError},
    credentials::{self, CredentialsError},
    settings::SettingsError,
    webhook_receiver::ReceiverError,
    wire,
};

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A call to the server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Where the server is.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The credentials file.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Flags and environment.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The local receiver.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// A file to read.
    #[error("cannot read {name}")]
    Input {
        /// A path, or `standard input`.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// The database.
    #[error(transparent)]
    Database(#[from] StartError),
    /// The server did not start or did not end well.
    #[error("{message}")]
    Serve {
        /// In a sentence.
        message: String,
        /// What to do about it.
        advice: Option<String>,
    },
    /// A list that programs read ended before its end, and was closed.
    #[error(transparent)]
    CutOff(Box<Failure>),
    /// Done, but the outcome is not what the command promises. Everything was printed already.
    #[error("not everything succeeded")]
    Reported,
}

/// The process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
}

impl Failure {
    /// What the process exits with.
    pub(crate) fn exit_status(&self) -> ExitStatus {
        match self {
            // The reader had enough (`| head`).
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Done,
            Self::Usage(_) | Self::Options(_) | Self::Settings(_) => ExitStatus::Usage,
            Self::Call(CallError::Unreachable { .. }) => ExitStatus::Unreachable,
            Self::CutOff(failure) => failure.exit_status(),
            _ => ExitStatus::Failed,
        }
    }

    /// For people, in a few lines; nothing if everything was said already.
    pub(crate) fn describe(&self, style: Style) -> Option<String> {
        let label = style.red("error:");
        match self {
            Self::Reported => None,
            Self::CutOff(failure) => failure.describe(style),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Self::Call(CallError::Refused { problem, key_source, .. }) => {
                let advice =
                    key_source.as_ref().map(|source| format!("\n  {}", printable(&source.to_string())));
                Some(format!("{label} {}{}", describe_problem(problem), advice.unwrap_or_default()))
            }
            Self::Call(CallError::Unreachable { origin, source, .. }) => {
                let reason = printable(&with_causes(source));
                Some(format!(
                    "{label} cannot reach {origin}: {reason}\n  Is the server running? Start one with `neo-events serve`, \
                     or name another with --url or NEO_EVENTS_URL."
                ))
            }
            Self::Serve { message, advice } => {
                let advice = advice.as_ref().map(|advice| format!("\n  {advice}")).unwrap_or_default();
                Some(format!("{label} {}{advice}", printable(message)))
            }
            Self::Credentials(error) => {
                let (reason, advice) = (printable(&with_causes(error)), capitalised(credentials::ADVICE));
                Some(format!("{label} {reason}\n  {advice}."))
            }
            other => Some(format!("{label} {}", printable(&with_causes(other)))),
        }
    }
}

/// A problem's title, detail, and each fault with its place.
fn describe_problem(problem: &wire::Problem) -> String {
    // Many details say what the title says, and more.
    let says_more = starts_alike(&problem.detail, &problem.title) && problem.errors.is_empty();
    let title = if says_more { capitalised(&problem.detail) } else { problem.title.to_string() };
    let mut text = format!("{} ({}, {})", printable(&title), problem.status, printable(&problem.code));
    // Where each fault has its own line, the detail would say them again.
    let repeats = problem.errors.first().is_some_and(|fault| problem.detail.contains(&fault.detail));
    let is_about_http = problem.status == 401;
    if !problem.detail.is_empty() && !says_more && !repeats && !is_about_http {
        // Writing into a String cannot fail.
        let _ = write!(text, "\n  {}", printable(&problem.detail));
    }
    let width = problem.errors.iter().map(|fault| place(fault).chars().count()).max().unwrap_or(0);
    for fault in &problem.errors {
        let _ = write!(text, "\n  {:width$}  {}", place(fault), printable(&fault.detail));
    }
    if let Some(id) = problem.request_id {
        let _ = write!(text, "\n  request {id}");
    }
    text
}

fn starts_alike(text: &str, beginning: &str) -> bool {
    text.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A problem in one line.
pub(crate) fn describe_problem_briefly(problem: &wire::Problem) -> String {
    if problem.errors.is_empty() {
        return printable(&problem.detail);
    }
    let faults: Vec<_> =
        problem.errors.iter().map(|fault| format!("{} {}", place(fault), printable(&fault.detail))).collect();
    faults.join("; ")
}

fn place(fault: &wire::Fault) -> String {
    if fault.pointer.is_empty() { "(input)".to_owned() } else { printable(&fault.pointer) }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn no_sentence_is_said_twice() {
        let describe = |title: &'static str, detail: &str, faults: &[(&str, &str)]| {
            let fault = |(pointer, detail): &(&str, &str)| wire::Fault {
                pointer: (*pointer).to_owned(),
                detail: (*detail).to_owned(),
            };
            describe_problem(&wire::Problem {
                kind: Cow::Borrowed("x"),
                title: Cow::Borrowed(title),
                status: 409,
                detail: detail.to_owned(),
                code: Cow::Borrowed("c"),
                errors: faults.iter().map(fault).collect(),
                request_id: None,
                newest_version: None,
                batch: None,
            })
        };
        let same = describe("There is no such endpoint", "there is no such endpoint", &[]);
        assert_eq!(same, "There is no such endpoint (409, c)");
        let more = describe("The endpoint is inactive", "the endpoint is inactive; activate it first", &[]);
        assert_eq!(more, "The endpoint is inactive; activate it first (409, c)");
        let other = describe("The state does not allow it", "it is over", &[]);
        assert_eq!(other, "The state does not allow it (409, c)\n  it is over");
        let faults = describe("The input breaks rules", "/a: is required", &[("/a", "is required")]);
        assert_eq!(faults, "The input breaks rules (409, c)\n  /a  is required");
    }
}
