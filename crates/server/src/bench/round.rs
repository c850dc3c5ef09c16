//! One phase of a bench: publish, wait for everything, count; and the bare client's turn.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use neo_events::{SigningSecret, Sources};

use super::{
    baseline::{BareClient, Mould, Prepared, WEBHOOKS_MAX},
    floor::{COMMITTERS_MAX, FloorFigures, Ground, Probe},
    load::{Driven, Load, drive},
    measure::{Percentiles, per_second},
    plan::{Mode, Plan},
    receiver::{Epoch, Ledger, Receiver},
    report::{BareFigures, Figures, MISSING_NAMED_MAX, Missing, MissingDelivery, RatioOf},
    subject::Subject,
    usage::{cpu_time, own_cpu_time},
};
use crate::{cli::failure::Failure, webhook_receiver::Received};

/// A shorter run of the bare client says little.
const BARE_TIME_MIN: Duration = Duration::from_millis(300);
/// Of a run that was made longer.
const BARE_REQUESTS_MAX: u64 = 1_000_000;
/// How often progress is shown while events are published.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
const PROGRESS_TEMPLATE: &str = "{msg:24} {bar:30} {pos}/{len}  {per_sec}  {eta}";

/// What all phases of a mode have in common.
pub(crate) struct Stage<'a> {
    /// What is to be done.
    pub(crate) plan: &'a Plan,
    /// The mode.
    pub(crate) mode: Mode,
    /// Of all times.
    pub(crate) epoch: Epoch,
    /// Where webhooks go.
    pub(crate) receiver: Receiver,
    /// Of every endpoint.
    pub(crate) secret: SigningSecret,
    /// The time of day.
    pub(crate) sources: Sources,
    /// The database's first process.
    pub(crate) database_root: Option<u32>,
    /// For what is temporary.
    pub(crate) folder: &'a Path,
}

/// How a phase went.
pub(crate) enum Phase {
    /// Everything arrived.
    Complete(Box<Complete>),
    /// Something did not.
    Missing(Missing),
}

/// A phase in which everything arrived.
pub(crate) struct Complete {
    /// Without the bare client's.
    pub(crate) figures: Figures,
    /// One of the webhooks.
    pub(crate) model: Received,
}

/// CPU time so far.
struct Cpu {
    server: Option<Duration>,
    database: Option<Duration>,
    bench: Option<Duration>,
}

impl Stage<'_> {
    /// One for each endpoint.
    pub(crate) fn urls(&self) -> Vec<String> {
        (0..self.plan.settings.endpoints).map(|endpoint| self.receiver.url(endpoint)).collect()
    }

    /// Publishes these events and waits for them at every endpoint.
    pub(crate) async fn phase(
        &self,
        subject: &Subject,
        name: &str,
        numbers: Range<u64>,
    ) -> Result<Phase, Failure> {
        let settings = &self.plan.settings;
        let ledger = Arc::new(Ledger::new(self.epoch, numbers.clone(), settings.endpoints));
        self.receiver.turn_to(&ledger);
        let progress = self.progress(name, ledger.expected() as u64);
        let per_call = if self.mode == Mode::Batch { settings.batch_size } else { 1 };
        let load = Load { numbers, per_call, pace: settings.pace() };
        let before = self.cpu(subject);
        let publishing = subject.publish(self.plan, self.mode, &load, self.epoch);
        let driven = tokio::select! {
            driven = publishing => driven?,
            () = show(&progress, || ledger.arrived() as u64) => unreachable!("it shows for ever"),
        };
        let is_complete =
            ledger.wait(self.plan.patience, |arrived| progress.set_position(arrived as u64)).await;
        let after = self.cpu(subject);
        progress.finish_and_clear();
        if !is_complete {
            return Ok(Phase::Missing(self.missing(name, &ledger)));
        }
        let signatures_checked = self.check_signatures(&ledger)?;
        let Some(model) = ledger.sample() else {
            return Err(failed("no webhook was kept".to_owned()));
        };
        let figures = Figures { signatures_checked, ..Self::figures(&driven, &ledger, &before, &after) };
        Ok(Phase::Complete(Box::new(Complete { figures, model })))
    }

    fn figures(driven: &Driven, ledger: &Ledger, before: &Cpu, after: &Cpu) -> Figures {
        let events = driven.starts.len() as u64;
        let deliveries = ledger.arrived() as u64;
        let delivered_within = ledger.last_arrival().saturating_sub(driven.began);
        let spent = |before: Option<Duration>, after: Option<Duration>| {
            Some(after?.saturating_sub(before?).as_secs_f64())
        };
        Figures {
            events,
            deliveries,
            duplicates: ledger.duplicates(),
            ingest_per_second: per_second(events, driven.elapsed),
            deliveries_per_second: per_second(deliveries, delivered_within),
            publish_ms: Percentiles::of(driven.latencies.clone()),
            first_byte_ms: Percentiles::of(ledger.latencies(&driven.starts)),
            server_cpu_seconds: spent(before.server, after.server),
            database_cpu_seconds: spent(before.database, after.database),
            bench_cpu_seconds: spent(before.bench, after.bench),
            ..Figures::default()
        }
    }

    /// How many were checked; fails where signatures are missing or wrong.
    fn check_signatures(&self, ledger: &Ledger) -> Result<u64, Failure> {
        let unsigned = ledger.unsigned();
        if unsigned > 0 {
            return Err(failed(format!("{unsigned} webhooks came without both signatures")));
        }
        let (checked, valid) = ledger.check_samples(&self.secret);
        if valid < checked {
            return Err(failed(format!("of {checked} signatures checked {} are wrong", checked - valid)));
        }
        Ok(checked as u64)
    }

    fn missing(&self, phase: &str, ledger: &Ledger) -> Missing {
        let name =
            |owed: super::receiver::Owed| MissingDelivery { event: owed.number, endpoint: owed.endpoint };
        Missing {
            phase: phase.to_owned(),
            expected: ledger.expected(),
            count: ledger.owed().count(),
            patience_seconds: self.plan.patience.as_secs(),
            first: ledger.owed().take(MISSING_NAMED_MAX).map(name).collect(),
        }
    }

    /// The bare client's turn: as many webhooks as a round has, after a model, over as many connections. Where that is
    /// over too soon to be measured well, it goes on.
    pub(crate) async fn bare(&self, model: &Received) -> Result<BareFigures, Failure> {
        let settings = &self.plan.settings;
        let (secret, receiver) = (&self.secret, self.receiver.address());
        let mould = Mould { model, secret, receiver, sent_at: self.sources.now() };
        let webhooks = mould.prepare(settings.deliveries().min(WEBHOOKS_MAX))?;
        let mut requests = settings.deliveries();
        let mut driven = self.post(&webhooks, requests).await?;
        if settings.rate.is_none() && driven.elapsed < BARE_TIME_MIN {
            let times = BARE_TIME_MIN.as_micros() / driven.elapsed.as_micros().max(1);
            let more = requests.saturating_mul(u64::try_from(times).unwrap_or(u64::MAX).saturating_add(1));
            requests = more.min(BARE_REQUESTS_MAX);
            driven = self.post(&webhooks, requests).await?;
        }
        Ok(BareFigures {
            requests_per_second: per_second(requests, driven.elapsed),
            call_ms: Percentiles::of(driven.latencies),
        })
    }

    async fn post(&self, webhooks: &Arc<Vec<Prepared>>, requests: u64) -> Result<Driven, Failure> {
        let ledger = Arc::new(Ledger::new(self.epoch, 0..webhooks.len() as u64, 1));
        self.receiver.turn_to(&ledger);
        let mut callers = Vec::new();
        for _ in 0..self.plan.settings.concurrency {
            callers.push(BareClient::connect(self.receiver.address(), Arc::clone(webhooks)).await?);
        }
        let progress = self.progress("bare client", requests);
        let load = Load { numbers: 0..requests, per_call: 1, pace: self.plan.settings.bare_pace() };
        let count = || ledger.arrived() as u64 + ledger.duplicates();
        let driven = tokio::select! {
            driven = drive(&load, callers, self.epoch) => driven?,
            () = show(&progress, count) => unreachable!("it shows for ever"),
        };
        progress.finish_and_clear();
        self.check_signatures(&ledger)?;
        Ok(driven)
    }

    /// What a publish call cannot do without, at the rate of the round; `None` where that has no meaning or cannot be
    /// measured: the other figures stand without it.
    pub(crate) async fn floor(&self, subject: &Subject) -> Option<FloorFigures> {
        let settings = &self.plan.settings;
        let server =
            subject.server_address().filter(|_| self.mode == Mode::Single && settings.rate.is_some())?;
        let measured = async {
            let ground = Ground::prepare(&self.plan.database, self.folder).await?;
            let measured = self.floor_on(&ground, server).await;
            ground.clear().await?;
            measured
        };
        measured.await.unwrap_or_else(|failure| {
            let _ = writeln!(io::stderr(), "note: {failure}");
            None
        })
    }

    async fn floor_on(&self, ground: &Ground, server: SocketAddr) -> Result<Option<FloorFigures>, Failure> {
        let settings = &self.plan.settings;
        let load = Load { numbers: 0..settings.events, per_call: 1, pace: settings.pace() };
        let (mut probes, mut committers) = (Vec::new(), Vec::new());
        for _ in 0..settings.concurrency {
            probes.push(Probe::connect(server).await?);
        }
        for _ in 0..settings.concurrency.min(COMMITTERS_MAX) {
            committers.push(ground.committer(settings.payload_bytes).await?);
        }
        let livez = drive(&load, probes, self.epoch).await?;
        let commit = drive(&load, committers, self.epoch).await?;
        // At such a rate the floor itself would queue, and anything look good beside it.
        let is_met = commit.elapsed.as_secs_f64() < 1.1 * livez.elapsed.as_secs_f64() + 0.1;
        let (commit_ms, livez_ms) = (Percentiles::of(commit.latencies), Percentiles::of(livez.latencies));
        Ok(is_met.then_some(FloorFigures { commit_ms, livez_ms }))
    }

    fn cpu(&self, subject: &Subject) -> Cpu {
        Cpu {
            server: cpu_time(subject.pid()),
            database: self.database_root.and_then(cpu_time),
            bench: own_cpu_time(),
        }
    }

    /// On standard error, if that is a terminal.
    fn progress(&self, phase: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(PROGRESS_TEMPLATE);
        ProgressBar::new(length)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(format!("{} {phase}", self.mode.name()))
    }
}

/// Until it is dropped.
async fn show(progress: &ProgressBar, count: impl Fn() -> u64) {
    loop {
        progress.set_position(count());
        tokio::time::sleep(PROGRESS_INTERVAL).await;
    }
}

/// Adds what the bare client did before and after a round.
pub(crate) fn set_beside(figures: &mut Figures, ratio_of: RatioOf, before: BareFigures, after: BareFigures) {
    let mean = |of: fn(&BareFigures) -> f64| f64::midpoint(of(&before), of(&after));
    figures.bare_per_second = mean(|bare| bare.requests_per_second);
    let (ours, theirs) = match ratio_of {
        RatioOf::DeliveriesPerSecond => (figures.deliveries_per_second, figures.bare_per_second),
        RatioOf::FirstByteP50 => (figures.first_byte_ms.p50, mean(|bare| bare.call_ms.p50)),
    };
    figures.ratio = if theirs > 0.0 { ours / theirs } else { 0.0 };
}

fn failed(message: String) -> Failure {
    Failure::Serve { message, advice: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_mean_of_before_and_after() {
        let bare = |rate: f64, p50: f64| BareFigures {
            requests_per_second: rate,
            call_ms: Percentiles { p50, ..Percentiles::default() },
        };
        let mut figures = Figures {
            deliveries_per_second: 10.0,
            first_byte_ms: Percentiles { p50: 6.0, ..Percentiles::default() },
            ..Figures::default()
        };
        set_beside(&mut figures, RatioOf::DeliveriesPerSecond, bare(30.0, 1.0), bare(50.0, 2.0));
        assert!((figures.bare_per_second - 40.0).abs() < 1e-9 && (figures.ratio - 0.25).abs() < 1e-9);
        set_beside(&mut figures, RatioOf::FirstByteP50, bare(30.0, 1.0), bare(50.0, 2.0));
        assert!((figures.ratio - 4.0).abs() < 1e-9, "{}", figures.ratio);
    }
}
