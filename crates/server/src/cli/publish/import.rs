//! Many events, from a file or a pipe: sent in batches, each line's fate told by its number.
//!
//! Each rejected line is named with its reason, and the others are published all the same. If the server goes away in
//! between, or a signal ends it, it is said from which line to go on.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::Path,
};

use tokio::sync::mpsc;

use super::lines::{Line, read_beside};
use crate::{
    cli::{
        failure::{Failure, describe_problem_briefly},
        output::printable,
        session::{Session, to_json},
        signals::Signals,
    },
    client::Call,
    wire::BatchResult,
};

/// Most events of one batch, and most bytes: both well within what the server takes.
const BATCH_EVENTS_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Publishes every event of a file; `-` is standard input.
pub(super) async fn publish_file(session: &Session, path: &Path) -> Result<(), Failure> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let reader: Box<dyn BufRead + Send> = if is_stdin {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let opened = File::open(path).map_err(|source| Failure::Input { name: name.clone(), source });
        Box::new(BufReader::new(opened?))
    };
    let mut lines = read_beside(reader);
    let mut signals = Signals::of_terminal();
    let mut import = Import::new(session)?;
    let outcome = tokio::select! {
        outcome = import.take_all(&mut lines, &name) => outcome,
        () = signals.next() => {
            Err(Failure::Serve { message: "interrupted before everything was published".to_owned(), advice: None })
        }
    };
    import.finish(outcome)
}

/// A publish of many events: the batch that is being filled, and what became of those before.
struct Import<'a> {
    session: &'a Session,
    batch: String,
    numbers: Vec<u64>,
    /// Lines that are no events, with the reason: told among those of the batch, in their order.
    malformed: Vec<(u64, String)>,
    /// Whether the batch is on its way.
    is_in_flight: bool,
    accepted: usize,
    duplicates: usize,
    rejected: usize,
    /// The last line that was taken.
    read_to: u64,
    results_shown: usize,
    shows_progress: bool,
}

impl<'a> Import<'a> {
    fn new(session: &'a Session) -> Result<Self, Failure> {
        if session.is_json {
            shown_or_unread(session.output.line("{\"results\":["))?;
        }
        Ok(Self {
            session,
            batch: String::new(),
            numbers: Vec::new(),
            malformed: Vec::new(),
            is_in_flight: false,
            accepted: 0,
            duplicates: 0,
            rejected: 0,
            read_to: 0,
            results_shown: 0,
            shows_progress: !session.is_json && io::stderr().is_terminal(),
        })
    }

    async fn take_all(
        &mut self,
        lines: &mut mpsc::Receiver<io::Result<Line>>,
        name: &str,
    ) -> Result<(), Failure> {
        while let Some(line) = lines.recv().await {
            let line = line.map_err(|source| Failure::Input { name: name.to_owned(), source })?;
            match line.event {
                Ok(event) => {
                    if self.is_full(&event) {
                        self.send().await?;
                    }
                    self.add(line.number, &event);
                }
                Err(reason) => self.malformed.push((line.number, reason)),
            }
            self.read_to = line.number;
            // What stands behind no event waits for nothing.
            if self.numbers.is_empty() || self.malformed.len() == BATCH_EVENTS_MAX {
                self.send().await?;
            }
        }
        self.send().await
    }

    fn is_full(&self, next: &str) -> bool {
        self.numbers.len() == BATCH_EVENTS_MAX || self.batch.len() + next.len() > BATCH_BYTES_MAX
    }

    fn add(&mut self, number: u64, event: &str) {
        self.numbers.push(number);
        self.batch.push_str(event);
        self.batch.push('\n');
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let mut results = Vec::new();
        if !self.numbers.is_empty() {
            let call = Call::post(["events", "batch"]).ndjson(std::mem::take(&mut self.batch));
            self.is_in_flight = true;
            let answer = self.session.publish_batch(call).await?;
            self.is_in_flight = false;
            self.accepted += answer.accepted;
            self.duplicates += answer.duplicates;
            results = answer.results;
        }
        let numbers = std::mem::take(&mut self.numbers);
        for result in results {
            let (BatchResult::Published { index, .. } | BatchResult::Refused { index, .. }) = &result;
            let number = numbers.get(*index).copied().unwrap_or_default();
            self.tell_malformed_before(number)?;
            self.note(number, result)?;
        }
        self.tell_malformed_before(u64::MAX)?;
        self.show_progress()
    }

    fn note(&mut self, number: u64, result: BatchResult) -> Result<(), Failure> {
        match result {
            BatchResult::Published { id, duplicate, .. } => {
                self.show_result(number, &format!("\"id\":\"{id}\",\"duplicate\":{duplicate}"))
            }
            BatchResult::Refused { error, .. } => {
                self.rejected += 1;
                self.show_result(number, &format!("\"error\":{}", to_json(&error)?))?;
                self.show_rejected(number, &describe_problem_briefly(&error))
            }
        }
    }

    fn tell_malformed_before(&mut self, number: u64) -> Result<(), Failure> {
        let before = self.malformed.partition_point(|(line, _)| *line < number);
        for (line, reason) in self.malformed.drain(..before).collect::<Vec<_>>() {
            self.rejected += 1;
            let detail = to_json(&reason)?;
            self.show_result(line, &format!("\"error\":{{\"code\":\"malformed\",\"detail\":{detail}}}"))?;
            self.show_rejected(line, &reason)?;
        }
        Ok(())
    }

    fn show_result(&mut self, line: u64, members: &str) -> Result<(), Failure> {
        if self.session.is_json {
            let comma = if self.results_shown == 0 { "" } else { "," };
            shown_or_unread(self.session.output.line(format_args!("{comma}{{\"line\":{line},{members}}}")))?;
        }
        self.results_shown += 1;
        Ok(())
    }

    fn show_rejected(&self, line: u64, reason: &str) -> Result<(), Failure> {
        let mut stderr = io::stderr().lock();
        if self.shows_progress {
            write!(stderr, "\r\x1b[K")?;
        }
        Ok(writeln!(stderr, "line {line}: {}", printable(reason))?)
    }

    fn show_progress(&self) -> Result<(), Failure> {
        if self.shows_progress {
            let mut stderr = io::stderr().lock();
            write!(
                stderr,
                "\r\x1b[K{} published, {} rejected",
                self.accepted + self.duplicates,
                self.rejected
            )?;
            stderr.flush()?;
        }
        Ok(())
    }

    fn finish(mut self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        // From here on it is to be begun again; what is wrong with later lines will be told then.
        let next = self.numbers.first().copied().unwrap_or(self.read_to + 1);
        self.tell_malformed_before(next)?;
        let Self { accepted, duplicates, rejected, .. } = self;
        if self.shows_progress {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        if self.session.is_json {
            shown_or_unread(self.session.output.line(format_args!(
                "],\"accepted\":{accepted},\"duplicates\":{duplicates},\"rejected\":{rejected}}}"
            )))?;
        } else {
            let already =
                if duplicates > 0 { format!(", {duplicates} were there already") } else { String::new() };
            shown_or_unread(
                self.session.output.line(format_args!("{accepted} published{already}, {rejected} rejected")),
            )?;
        }
        if let Err(failure) = outcome {
            let may_be_done = match &failure {
                Failure::Call(error) => error.may_be_done(),
                _ => self.is_in_flight,
            };
            let fate = if may_be_done { "may have been published or not" } else { "were not published" };
            writeln!(io::stderr(), "stopped: line {next} and those after it {fate}")?;
            return Err(failure);
        }
        if rejected > 0 { Err(Failure::Reported) } else { Ok(()) }
    }
}

/// Nobody reading the results (`| head`) is no reason to stop publishing half-way.
fn shown_or_unread(shown: io::Result<()>) -> io::Result<()> {
    match shown {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}
