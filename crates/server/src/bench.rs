//! `neo-events bench`: what this machine can do, measured from outside and set against a client that does nothing else.
//!
//! For each mode a server is started in a process of its own (the library runs in this one), K endpoints are
//! subscribed, and after a warm-up each round publishes N events and waits until the receiver has seen every one of
//! them at every endpoint. Before and after each round a bare client posts the same webhooks to the same receiver:
//! figures of a shared machine drift, a ratio taken in the same minutes hardly does. What is not delivered makes the
//! bench fail: a fast system that loses events has no figures.
//!
//! Load generator, receiver and bare client share this process, and its cores with the server. So the figures are
//! those of one machine doing everything, and a limit of what the server alone could do from below.

mod baseline;
pub(crate) mod compare;
mod connection;
pub(crate) mod database;
mod environment;
mod floor;
mod library;
mod load;
mod measure;
pub(crate) mod payload;
pub(crate) mod plan;
mod publishers;
mod receiver;
mod report;
mod round;
mod server_process;
pub(crate) mod subject;
mod usage;

use std::sync::Arc;

use neo_events::{SigningSecret, Sources};

use self::{
    database::DatabaseFacts,
    environment::Environment,
    floor::FloorFigures,
    plan::{Mode, Plan},
    receiver::{Epoch, Ledger, Receiver},
    report::{Figures, Memory, ModeReport, RatioOf, Report},
    round::{Phase, Stage},
    subject::Subject,
    usage::MemoryWatch,
};
use crate::cli::{failure::Failure, signals::Signals};

/// Open files wanted: connections on both sides.
const OPEN_FILES_WANTED: u64 = 65_536;

/// Does what the plan says, mode by mode; stops after one with something missing.
pub(crate) async fn run(plan: &Plan) -> Result<Report, Failure> {
    let mut signals = Signals::new();
    // What cannot be raised is refused later, by a connection that cannot be made.
    let _ = rlimit::increase_nofile_limit(OPEN_FILES_WANTED);
    let started_at = Sources::system().now();
    let facts = plan.database.look().await;
    let mut modes = Vec::new();
    for mode in &plan.modes {
        let report = run_mode(plan, *mode, &facts, &mut signals).await?;
        let is_complete = report.missing.is_none();
        modes.push(report);
        if !is_complete {
            break;
        }
    }
    let environment = Environment::look(started_at, facts.description, facts.processes);
    Ok(Report { bench_format: report::FORMAT, environment, settings: plan.settings.clone(), modes })
}

async fn run_mode(
    plan: &Plan,
    mode: Mode,
    facts: &DatabaseFacts,
    signals: &mut Signals,
) -> Result<ModeReport, Failure> {
    let folder = tempfile::Builder::new().prefix("neo-events-bench-").tempdir();
    let folder = folder.map_err(|error| Failure::Serve {
        message: format!("cannot make a temporary folder: {error}"),
        advice: Some("Name another place for it with TMPDIR.".to_owned()),
    })?;
    let epoch = Epoch::start();
    let receiver = Receiver::start(Arc::new(Ledger::new(epoch, 0..0, 0))).await?;
    let starting = Subject::start(plan, mode, folder.path());
    let mut subject = tokio::select! {
        started = starting => started?,
        () = signals.next() => return Err(interrupted()),
    };
    let sources = Sources::system();
    let secret = SigningSecret::generate(sources.bytes());
    let stage = Stage {
        plan,
        mode,
        epoch,
        receiver,
        secret,
        sources,
        database_root: facts.root,
        folder: folder.path(),
    };
    let measured = tokio::select! {
        measured = measure(&stage, &mut subject) => measured,
        () = signals.next() => Err(interrupted()),
    };
    // Tidied up in any case; why there is nothing to report comes first.
    let stopped = subject.stop().await;
    let report = measured?;
    stopped.map(|()| report)
}

fn interrupted() -> Failure {
    Failure::Serve { message: "interrupted before everything was measured".to_owned(), advice: None }
}

async fn measure(stage: &Stage<'_>, subject: &mut Subject) -> Result<ModeReport, Failure> {
    let settings = &stage.plan.settings;
    let watch = stage.database_root.map(MemoryWatch::start);
    subject.subscribe(&stage.urls(), &stage.secret).await?;
    let mut report = ModeReport {
        mode: stage.mode,
        is_in_process: subject.is_in_process(),
        ratio_of: if settings.rate.is_some() { RatioOf::FirstByteP50 } else { RatioOf::DeliveriesPerSecond },
        rounds: Vec::new(),
        bare_client: Vec::new(),
        median: Figures::default(),
        floor: None,
        memory: Memory::default(),
        missing: None,
    };
    let model = match stage.phase(subject, "warm-up", 0..settings.warm_up).await? {
        Phase::Complete(complete) => complete.model,
        Phase::Missing(missing) => {
            report.missing = Some(missing);
            return Ok(report);
        }
    };
    let mut floors = Vec::new();
    let mut before = stage.bare(&model).await?;
    report.bare_client.push(before);
    for round in 1..=settings.rounds {
        let first = settings.warm_up + u64::from(round - 1) * settings.events;
        let phase = stage.phase(subject, &format!("round {round}"), first..first + settings.events).await?;
        let mut figures = match phase {
            Phase::Complete(complete) => complete.figures,
            Phase::Missing(missing) => {
                report.missing = Some(missing);
                break;
            }
        };
        let after = stage.bare(&model).await?;
        round::set_beside(&mut figures, report.ratio_of, before, after);
        report.bare_client.push(after);
        report.rounds.push(figures);
        floors.extend(stage.floor(subject).await);
        before = after;
    }
    report.median = Figures::median(&report.rounds);
    report.floor = (!floors.is_empty()).then(|| FloorFigures::median(&floors));
    report.memory = memory(subject, watch.as_ref());
    Ok(report)
}

fn memory(subject: &Subject, watch: Option<&MemoryWatch>) -> Memory {
    Memory {
        server_peak_bytes: usage::resident_peak(subject.pid()),
        database_peak_bytes: watch.and_then(MemoryWatch::peak),
    }
}
