//! `neo-events publish`: one event from arguments, or many from a file or a pipe.
//!
//! Many are read line by line and sent in batches, so memory does not grow with the file. Lines that are no JSON
//! object are rejected here, everything else is judged by the server. Each rejected line is named with its reason, and
//! the others are published all the same. If the server goes away in between, or a signal ends it, it is said from which
//! line to go on.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    thread,
};

use clap::{ArgGroup, Args};
use neo_events::{
    EventDraft, Sources, Timestamp,
    domain::{event::EVENT_DATA_BYTES_MAX, violation::Rule},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    cli::{
        arguments,
        failure::{Failure, describe_problem_briefly},
        output::printable,
        session::{Session, to_json},
        signals::Signals,
    },
    client::Call,
    wire::{BatchResult, EventIn, Published},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  neo-events publish order.placed '{\"amount\": 120}'
  neo-events publish order.paid --data '{\"amount\": 120}' \\
      --aggregate-type order --aggregate-id UUID --expected-version 1
  jq -c '.orders[] | {event_type: \"order.placed\", event_data: .}' orders.json |
      neo-events publish --file -
  neo-events publish --file events.ndjson

A file holds one event as JSON, or one event a line (NDJSON). Only event_type
and event_data must be given. An event with an id of its own (a UUIDv7) may be
published again without harm.";

/// Most events of one batch, and most bytes: both well within what the server takes.
const BATCH_EVENTS_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest line: data and metadata at their limits, and the rest.
const LINE_BYTES_MAX: usize = 512 * 1024;
/// Lines that are read before they are wanted.
const LINES_AHEAD_MAX: usize = 64;
const NOT_UTF8: &str = "is not valid UTF-8";

#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("source").required(true).args(["event_type", "file"])))]
pub(crate) struct PublishArgs {
    /// `category.action`, such as order.placed
    #[arg(value_name = "EVENT_TYPE", conflicts_with = "file")]
    event_type: Option<String>,
    /// The event's data: a JSON object, or `-` for standard input
    #[arg(value_name = "DATA", conflicts_with = "data")]
    event_data: Option<String>,
    /// The event's data, as DATA
    #[arg(long, value_name = "JSON", requires = "event_type")]
    data: Option<String>,
    /// One event as JSON, or one a line; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    envelope: EnvelopeArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "More of the event")]
struct EnvelopeArgs {
    /// The event's id, a `UUIDv7`; makes publishing again harmless [default: generated]
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    id: Option<Uuid>,
    /// A name for people
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    event_name: Option<String>,
    /// Type of the aggregate it is about [default: the category]
    #[arg(long, value_name = "TYPE", conflicts_with = "file")]
    aggregate_type: Option<String>,
    /// The aggregate it is about [default: the event's id]
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    aggregate_id: Option<Uuid>,
    /// The aggregate's version after it, 1 to 999999 [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["expected_version", "file"])]
    aggregate_version: Option<i64>,
    /// The aggregate's newest version, 0 if none: refused if somebody was faster
    #[arg(long, value_name = "N", requires = "aggregate_id", conflicts_with = "file")]
    expected_version: Option<i64>,
    /// Groups what belongs to one flow
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    correlation_id: Option<Uuid>,
    /// What caused it
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    causation_id: Option<Uuid>,
    /// Who did it
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    triggered_by_user_id: Option<Uuid>,
    /// Organization, team … inside the tenant
    #[arg(long, value_name = "UUID", value_parser = arguments::uuid, conflicts_with = "file")]
    context_id: Option<Uuid>,
    /// Source, address … of the publish; never sent to endpoints
    #[arg(long, value_name = "JSON", value_parser = arguments::json_object, conflicts_with = "file")]
    metadata: Option<Box<RawValue>>,
    /// When it happened: RFC 3339, or how long ago (2h) [default: now]
    #[arg(long, value_name = "TIME", value_parser = arguments::time, conflicts_with = "file")]
    occurred_at: Option<Timestamp>,
}

/// Runs the command.
pub(crate) async fn run(session: &Session, args: PublishArgs) -> Result<(), Failure> {
    match args.file {
        Some(path) => publish_file(session, &path).await,
        None => publish_one(session, event_of(args)?).await,
    }
}

fn event_of(args: PublishArgs) -> Result<EventIn, Failure> {
    let data = args.event_data.or(args.data).ok_or_else(|| {
        Failure::Usage("the event's data are missing: `neo-events publish EVENT_TYPE '{…}'`".to_owned())
    })?;
    let data = if data == "-" { read_data()? } else { data };
    let event_data = arguments::json_object(&data)
        .map_err(|reason| Failure::Usage(format!("the event's data: {reason}")))?;
    let envelope = args.envelope;
    let event = EventIn {
        id: envelope.id,
        event_type: args.event_type.unwrap_or_default(),
        event_name: envelope.event_name,
        aggregate_id: envelope.aggregate_id,
        aggregate_type: envelope.aggregate_type,
        aggregate_version: envelope.aggregate_version,
        event_data,
        event_metadata: envelope.metadata,
        correlation_id: envelope.correlation_id,
        causation_id: envelope.causation_id,
        triggered_by_user_id: envelope.triggered_by_user_id,
        context_id: envelope.context_id,
        occurred_at: envelope.occurred_at,
        expected_version: envelope.expected_version,
    };
    // Whether a given id is timely is the server's to judge: its clock counts.
    let draft = EventDraft { id: None, ..event.clone().into() };
    let sources = Sources::system();
    match draft.validate(sources.now(), sources.bytes()) {
        Ok(_) => Ok(event),
        Err(violations) => Err(Failure::Usage(violations.to_string())),
    }
}

fn read_data() -> Result<String, Failure> {
    let unreadable = |source| Failure::Input { name: "standard input".to_owned(), source };
    let mut input = io::stdin().lock();
    let mut bytes = Vec::new();
    let bytes_max = u64::try_from(EVENT_DATA_BYTES_MAX).unwrap_or(u64::MAX);
    input.by_ref().take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > EVENT_DATA_BYTES_MAX {
        // What is over the limit is counted and not kept.
        let more = io::copy(&mut input, &mut io::sink()).map_err(unreadable)?;
        let actual = bytes.len() + usize::try_from(more).unwrap_or(usize::MAX);
        let rule = Rule::TooLong { actual, max: EVENT_DATA_BYTES_MAX, unit: "bytes" };
        return Err(Failure::Usage(format!("the event's data: it {rule}")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("the event's data: it {NOT_UTF8}")))
}

async fn publish_one(session: &Session, event: EventIn) -> Result<(), Failure> {
    let call = Call::post(["events"]).json(to_json(&event)?);
    let Some(published) = session.answer::<Published>(call).await? else { return Ok(()) };
    let style = session.output.style;
    let done = if published.duplicate { style.yellow("was there already") } else { style.green("published") };
    Ok(session.output.line(format_args!(
        "{done}  {}  {}  {}",
        style.bold(published.id),
        printable(&published.event_type),
        style.dim(session.output.time(published.created_at)),
    ))?)
}

async fn publish_file(session: &Session, path: &Path) -> Result<(), Failure> {
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

/// Reads in a thread of its own, a few lines ahead: whoever writes into a pipe may take long, and a signal is to end the
/// command meanwhile.
fn read_beside(reader: Box<dyn BufRead + Send>) -> mpsc::Receiver<io::Result<Line>> {
    let (sender, lines) = mpsc::channel(LINES_AHEAD_MAX);
    let mut reading = Lines { reader, number: 0 };
    // Nobody waits for its end: it may be in the middle of a read that never ends.
    thread::spawn(move || {
        while let Some(line) = reading.next().transpose() {
            let is_broken = line.is_err();
            if sender.blocking_send(line).is_err() || is_broken {
                return;
            }
        }
    });
    lines
}

/// Nobody reading the results (`| head`) is no reason to stop publishing half-way.
fn shown_or_unread(shown: io::Result<()>) -> io::Result<()> {
    match shown {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

/// An event of a file, or why it is none.
struct Line {
    number: u64,
    event: Result<String, String>,
}

/// Reads events line by line, or the one event that spans the whole file.
struct Lines<'a> {
    reader: Box<dyn BufRead + Send + 'a>,
    number: u64,
}

impl Lines<'_> {
    fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(mut bytes) = self.read_line()? else { return Ok(None) };
            self.number += 1;
            let number = self.number;
            let is_whole = bytes.ends_with(b"\n");
            while bytes.ends_with(b"\n") || bytes.ends_with(b"\r") {
                bytes.pop();
            }
            if bytes.len() > LINE_BYTES_MAX {
                if !is_whole {
                    self.skip_line()?;
                }
                return Ok(Some(Line {
                    number,
                    event: Err(format!("is longer than {LINE_BYTES_MAX} bytes")),
                }));
            }
            let Ok(text) = String::from_utf8(bytes) else {
                return Ok(Some(Line { number, event: Err(NOT_UTF8.to_owned()) }));
            };
            if text.trim().is_empty() {
                continue;
            }
            let event = match parse_event(&text) {
                Parsed::Event => Ok(text),
                Parsed::Unfinished(reason) if number == 1 => self.document(&text, reason)?,
                Parsed::Refused(reason) | Parsed::Unfinished(reason) => Err(reason),
            };
            return Ok(Some(Line { number, event: event.map(|text| text.trim().to_owned()) }));
        }
    }

    /// The first line begins an event that later lines may end: then the whole file is one. If the second line is
    /// an event of its own, only the first is faulty.
    fn document(&mut self, first: &str, reason: String) -> io::Result<Result<String, String>> {
        let rest_max = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut rest = Vec::new();
        self.reader.by_ref().take(rest_max + 1).read_to_end(&mut rest)?;
        let is_whole = rest.len() <= LINE_BYTES_MAX;
        // The limit may have cut a character in two, and the second line may be well where a later one is not.
        let valid = rest.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let is_text = valid.len() == rest.len();
        let text = format!("{first}\n{valid}");
        if is_whole && is_text && matches!(parse_event(&text), Parsed::Event) {
            // White space between tokens means nothing; on one line it can go into a batch.
            return Ok(Ok(text.replace(['\n', '\r'], " ")));
        }
        let mut later = text.lines().skip(1).filter(|line| !line.trim().is_empty());
        if later.next().is_some_and(|line| matches!(parse_event(line), Parsed::Event)) {
            let after = std::mem::replace(&mut self.reader, Box::new(io::empty()));
            self.reader = Box::new(io::Cursor::new(rest).chain(after));
            return Ok(Err(reason));
        }
        Ok(Err(match parse_event(&text) {
            _ if !is_whole => format!("begins an event longer than {LINE_BYTES_MAX} bytes"),
            _ if !is_text => NOT_UTF8.to_owned(),
            Parsed::Refused(reason) | Parsed::Unfinished(reason) => reason,
            Parsed::Event => reason,
        }))
    }

    /// A line with its end, or of a longer one enough to tell that it is too long.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        Ok((read > 0).then_some(bytes))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        while let Some(part) = self.read_line()? {
            if part.ends_with(b"\n") {
                break;
            }
        }
        Ok(())
    }
}

enum Parsed {
    Event,
    Unfinished(String),
    Refused(String),
}

fn parse_event(text: &str) -> Parsed {
    /// Enough to see that it is an object.
    #[derive(Deserialize)]
    struct AnyObject {}
    match serde_json::from_str::<AnyObject>(text) {
        Ok(_) if text.trim_start().starts_with('{') => Parsed::Event,
        Ok(_) => not_an_object(text),
        Err(error) if error.is_eof() => Parsed::Unfinished(format!("is not complete JSON: {error}")),
        Err(error) if error.is_data() => not_an_object(text),
        Err(error) => Parsed::Refused(format!("is not valid JSON: {error}")),
    }
}

fn not_an_object(text: &str) -> Parsed {
    let advice = if text.trim_start().starts_with('[') {
        " (an array: one event a line, as by `jq -c '.[]'`)"
    } else {
        ""
    };
    Parsed::Refused(format!("is not a JSON object{advice}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines { reader: Box::new(text.as_ref()), number: 0 };
        let mut read = Vec::new();
        while let Some(Line { number, event }) = lines.next().unwrap() {
            read.push((number, event));
        }
        read
    }

    #[test]
    fn lines_are_events_and_faulty_ones_are_named() {
        let found = read("{\"a\": 1}\n\n[1]\n{\"b\": \n{\"c\": 1.00} \n\"x\"\nnope");
        let events: Vec<_> = found
            .iter()
            .filter_map(|(number, event)| Some((*number, event.as_ref().ok()?.as_str())))
            .collect();
        assert_eq!(events, [(1, "{\"a\": 1}"), (5, "{\"c\": 1.00}")]);
        let refused: Vec<_> =
            found.iter().filter(|(_, event)| event.is_err()).map(|(number, _)| *number).collect();
        assert_eq!(refused, [3, 4, 6, 7]);
    }

    #[test]
    fn one_event_may_span_lines() {
        assert_eq!(read("{\n  \"a\": 1\n}\n"), [(1, Ok("{   \"a\": 1 }".to_owned()))]);
        assert!(matches!(read("{\n \"a\": 1\n}\n{}").as_slice(), [(1, Err(_))]));
        assert!(matches!(read("{\"a\": \n{\"b\": 1}\n").as_slice(), [(1, Err(_)), (2, Ok(_))]));
    }

    #[test]
    fn an_event_that_is_not_text_is_refused() {
        let not_utf8 = || Err(NOT_UTF8.to_owned());
        assert_eq!(read(b"{\n \"a\": \"\xff\"\n}\n"), [(1, not_utf8())]);
        assert_eq!(read(b"{\n \"a\": 1\n}\n\xe2\x82"), [(1, not_utf8())]);
        // The second line is an event: only the first and the third are faulty.
        let found = read(b"{\"a\": \n{\"b\": 1}\n{\"c\": \"\xff\"}\n{\"d\": 1}\n");
        let [(1, Err(_)), (2, Ok(_)), (3, third), (4, Ok(_))] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(*third, not_utf8());
        // The limit cuts a character of a later line in two.
        for space in ["", " "] {
            let third = format!("{{\"c\":{space}\"{}\"}}", "é".repeat(LINE_BYTES_MAX / 2));
            let found = read(format!("{{\"a\": \n{{\"b\":1}}\n{third}\n{{}}"));
            assert!(matches!(found.as_slice(), [(1, Err(_)), (2, Ok(_)), (3, Err(_)), (4, Ok(_))]));
        }
        let long = read(format!("{{\n \"a\":\"{}\"\n}}", "é".repeat(LINE_BYTES_MAX)));
        assert!(matches!(long.as_slice(), [(1, Err(reason)), ..] if reason.contains("longer than")));
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_as_a_whole() {
        let long = format!("{{\"a\":\"{}\"}}\n{{}}", "x".repeat(2 * LINE_BYTES_MAX));
        let found = read(&long);
        assert!(matches!(found.as_slice(), [(1, Err(_)), (2, Ok(_))]), "{}", found.len());
        for end in ["\n", "\r\n"] {
            for (bytes, fits) in
                [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false), (LINE_BYTES_MAX + 2, false)]
            {
                let line = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
                let found = read(format!("{line}{end}{{}}{end}"));
                let [(1, first), (2, Ok(_))] = found.as_slice() else { panic!("{bytes}: {}", found.len()) };
                assert_eq!(first.is_ok(), fits, "{bytes}");
            }
        }
    }
}
