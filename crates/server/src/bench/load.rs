//! The load generator: workers that call, in a closed loop or at fixed times.
//!
//! Closed: a worker calls as soon as its last call was answered. Open: calls are due at fixed times, whoever is free
//! makes them, and their time counts from when they were due. So a slow answer that holds up the calls behind it shows
//! in their times too, instead of making them rarer (coordinated omission).

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinSet};

use super::receiver::Epoch;
use crate::cli::failure::Failure;

/// No answer within this is a failure.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Somebody who calls, one call after the other.
pub(crate) trait Caller: Send + 'static {
    /// Publishes the events with these numbers, or posts what stands for them.
    fn call(&mut self, numbers: Range<u64>) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// When the next call is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// After the answer to the last one.
    Closed,
    /// When it is due: so many events a second.
    Open(f64),
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The events.
    pub(crate) numbers: Range<u64>,
    /// How many of them a call is about; the last may be about fewer.
    pub(crate) per_call: u64,
    /// When.
    pub(crate) pace: Pace,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Driven {
    /// From the first call, or when it was due, to the last answer.
    pub(crate) elapsed: Duration,
    /// The start of it, by the epoch.
    pub(crate) began: Duration,
    /// Of each call, from its start or when it was due.
    pub(crate) latencies: Vec<Duration>,
    /// When each event's call started or was due, by the epoch in nanoseconds.
    pub(crate) starts: Arc<Vec<AtomicU64>>,
}

/// Makes the calls with these callers. The first failure ends it.
pub(crate) async fn drive<C: Caller>(load: &Load, callers: Vec<C>, epoch: Epoch) -> Result<Driven, Failure> {
    let events = usize::try_from(load.numbers.end - load.numbers.start).unwrap_or(0);
    let starts: Arc<Vec<AtomicU64>> = Arc::new((0..events).map(|_| AtomicU64::new(0)).collect());
    let turns = Arc::new(Turns::new(load.clone()));
    let _end = EndTurns(Arc::clone(&turns));
    let mut ticking = JoinSet::new();
    if turns.interval.is_some() {
        let (turns, workers) = (Arc::clone(&turns), callers.len());
        ticking.spawn_blocking(move || turns.tick(workers));
    }
    let mut workers = JoinSet::new();
    for caller in callers {
        workers.spawn(work(caller, Arc::clone(&turns), Arc::clone(&starts), epoch));
    }
    let mut latencies = Vec::with_capacity(events);
    while let Some(ended) = workers.join_next().await {
        let worked = ended.map_err(|error| Failure::Serve { message: error.to_string(), advice: None })?;
        latencies.append(&mut worked?);
    }
    let began = Duration::from_nanos(epoch.nanos(turns.began));
    Ok(Driven { elapsed: turns.began.elapsed(), began, latencies, starts })
}

async fn work<C: Caller>(
    mut caller: C,
    turns: Arc<Turns>,
    starts: Arc<Vec<AtomicU64>>,
    epoch: Epoch,
) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::new();
    while let Some(turn) = turns.next().await {
        for number in turn.numbers.clone() {
            let place = usize::try_from(number - turns.load.numbers.start).unwrap_or(usize::MAX);
            if let Some(start) = starts.get(place) {
                start.store(epoch.nanos(turn.start), Ordering::Release);
            }
        }
        let answered = tokio::time::timeout(CALL_TIMEOUT, caller.call(turn.numbers)).await;
        answered.unwrap_or_else(|_| Err(unanswered()))?;
        latencies.push(turn.start.elapsed());
    }
    Ok(latencies)
}

fn unanswered() -> Failure {
    let message = format!("a call was not answered within {} s", CALL_TIMEOUT.as_secs());
    Failure::Serve { message, advice: None }
}

/// Who calls next, about which events, from when on.
struct Turns {
    load: Load,
    calls: u64,
    next: AtomicU64,
    began: Instant,
    /// Between calls, where they are due at fixed times.
    interval: Option<Duration>,
    /// A permit for each call that is due.
    due: Semaphore,
}

struct Turn {
    numbers: Range<u64>,
    start: Instant,
}

impl Turns {
    fn new(load: Load) -> Self {
        let per_call = load.per_call.max(1);
        #[expect(clippy::cast_precision_loss, reason = "a size of batches is small")]
        let interval = match load.pace {
            Pace::Closed => None,
            Pace::Open(events_per_second) => {
                Some(Duration::from_secs_f64(per_call as f64 / events_per_second))
            }
        };
        Self {
            calls: (load.numbers.end - load.numbers.start).div_ceil(per_call),
            next: AtomicU64::new(0),
            began: Instant::now(),
            interval,
            due: Semaphore::new(0),
            load: Load { per_call, ..load },
        }
    }

    async fn next(&self) -> Option<Turn> {
        if self.interval.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        if call >= self.calls {
            return None;
        }
        let first = self.load.numbers.start + call * self.load.per_call;
        let numbers = first..self.load.numbers.end.min(first + self.load.per_call);
        let start = self.interval.map_or_else(Instant::now, |interval| self.began + times(interval, call));
        Some(Turn { numbers, start })
    }

    /// On a thread of its own: the runtime's timers are only good to a millisecond.
    fn tick(&self, workers: usize) {
        let Some(interval) = self.interval else { return };
        let mut given = 0;
        while given < self.calls && !self.due.is_closed() {
            let passed = self.began.elapsed().as_nanos() / interval.as_nanos().max(1);
            let due = u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1).min(self.calls);
            self.due.add_permits(usize::try_from(due - given).unwrap_or(0));
            given = due;
            if given == self.calls {
                break;
            }
            thread::sleep((self.began + times(interval, given)).saturating_duration_since(Instant::now()));
        }
        // Each worker is to find that there is nothing left.
        self.due.add_permits(workers);
    }
}

fn times(interval: Duration, count: u64) -> Duration {
    let nanos = interval.as_nanos().saturating_mul(count.into());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Ends the ticking too, however the driving ends.
struct EndTurns(Arc<Turns>);

impl Drop for EndTurns {
    fn drop(&mut self) {
        self.0.due.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Noting {
        noted: Arc<Mutex<Vec<Range<u64>>>>,
        takes: Duration,
    }

    impl Caller for Noting {
        async fn call(&mut self, numbers: Range<u64>) -> Result<(), Failure> {
            tokio::time::sleep(self.takes).await;
            self.noted.lock().unwrap().push(numbers);
            Ok(())
        }
    }

    async fn driven(load: &Load, workers: usize, takes: Duration) -> (Driven, Vec<Range<u64>>) {
        let noted: Arc<Mutex<Vec<_>>> = Arc::default();
        let callers = (0..workers).map(|_| Noting { noted: Arc::clone(&noted), takes }).collect();
        let driven = drive(load, callers, Epoch::start()).await.unwrap();
        let mut noted = noted.lock().unwrap().clone();
        noted.sort_by_key(|range| range.start);
        (driven, noted)
    }

    #[tokio::test]
    async fn every_event_is_called_once_in_calls_of_the_right_size() {
        for pace in [Pace::Closed, Pace::Open(10_000.0)] {
            let load = Load { numbers: 5..15, per_call: 4, pace };
            let (driven, noted) = driven(&load, 3, Duration::ZERO).await;
            assert_eq!(noted, [5..9, 9..13, 13..15], "{pace:?}");
            assert_eq!(driven.latencies.len(), 3);
            assert!(driven.starts.iter().all(|start| start.load(Ordering::Relaxed) > 0));
        }
    }

    /// Ten calls are due within 10 ms, each takes 20 ms, one caller: the last one is late by nearly 200 ms.
    #[tokio::test]
    async fn times_count_from_when_a_call_was_due() {
        let load = Load { numbers: 0..10, per_call: 1, pace: Pace::Open(1000.0) };
        let (open, _) = driven(&load, 1, Duration::from_millis(20)).await;
        let most = open.latencies.iter().max().copied().unwrap();
        assert!(most >= Duration::from_millis(10 * 20 - 9), "{most:?}");
        let spread = open.starts[9].load(Ordering::Relaxed) - open.starts[0].load(Ordering::Relaxed);
        assert_eq!(Duration::from_nanos(spread), Duration::from_millis(9), "fixed times");
    }

    #[tokio::test]
    async fn the_first_failure_ends_it() {
        struct Failing;
        impl Caller for Failing {
            async fn call(&mut self, _: Range<u64>) -> Result<(), Failure> {
                Err(Failure::Usage("no".into()))
            }
        }
        let load = Load { numbers: 0..1_000_000, per_call: 1, pace: Pace::Open(10.0) };
        let begun = Instant::now();
        assert!(matches!(drive(&load, vec![Failing, Failing], Epoch::start()).await, Err(Failure::Usage(_))));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
