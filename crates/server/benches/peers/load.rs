//! Callers that publish, in a closed loop or at a fixed rate.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::timeout,
};

use crate::{
    ledger::{EVENTS_MAX, Ledger},
    line::{Broken, Line},
};

const CALLERS: usize = 32;
const DATA_BYTES: usize = 1024;
/// For an answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The call that publishes event `number`.
pub(crate) type Publish = Arc<dyn Fn(usize) -> Request<Full<Bytes>> + Send + Sync>;

/// An event's data, which name its number.
pub(crate) fn data(number: usize) -> String {
    let around = r#"{"bench":"000000000000","fill":""}"#.len();
    format!(r#"{{"bench":"{number:012}","fill":"{}"}}"#, "x".repeat(DATA_BYTES - around))
}

/// Publishes one after the other for so long. A caller whose connection breaks or who is refused ends: answers how many did
/// and what the first of them was told.
pub(crate) async fn flat_out(
    api: SocketAddr,
    publish: &Publish,
    ledger: &Arc<Ledger>,
    lasting: Duration,
) -> Ended {
    let next = Arc::new(AtomicUsize::new(0));
    let (began, mut callers) = (Instant::now(), JoinSet::new());
    for _ in 0..CALLERS {
        let (publish, ledger, next) = (Arc::clone(publish), Arc::clone(ledger), Arc::clone(&next));
        callers.spawn(async move {
            let mut line = Line::open(api).await?;
            while began.elapsed() < lasting {
                let number = next.fetch_add(1, Relaxed);
                assert!(number < EVENTS_MAX, "more than {EVENTS_MAX} events");
                ledger.publishing(number, Instant::now());
                call(&mut line, &publish, &ledger, number).await?;
            }
            Ok(())
        });
    }
    Ended::of(callers).await
}

/// Publishes at a rate for so long; what is late counts from when it was due.
pub(crate) async fn steadily(
    api: SocketAddr,
    publish: &Publish,
    ledger: &Arc<Ledger>,
    each_second: u32,
    lasting: Duration,
) -> Ended {
    let (due, given) = mpsc::unbounded_channel();
    let (given, mut callers) = (Arc::new(Mutex::new(given)), JoinSet::new());
    for _ in 0..CALLERS {
        let (publish, ledger, given) = (Arc::clone(publish), Arc::clone(ledger), Arc::clone(&given));
        callers.spawn(async move {
            let mut line = Line::open(api).await?;
            while let Some((number, since)) = async { given.lock().await.recv().await }.await {
                ledger.publishing(number, since);
                call(&mut line, &publish, &ledger, number).await?;
            }
            Ok(())
        });
    }
    let count = usize::try_from(lasting.as_secs() * u64::from(each_second)).unwrap();
    // On a thread of its own: the runtime's timers are only good to a millisecond.
    let ticking = tokio::task::spawn_blocking(move || {
        let mut at = Instant::now();
        for number in 0..count {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // All callers may have ended.
            let _ = due.send((number, at));
            at += Duration::from_secs(1) / each_second;
        }
    });
    ticking.await.unwrap();
    Ended::of(callers).await
}

async fn call(line: &mut Line, publish: &Publish, ledger: &Ledger, number: usize) -> Result<(), Broken> {
    let (status, answer) = timeout(PATIENCE, line.exchange(publish(number))).await??;
    if !status.is_success() {
        return Err(format!("{status} {}", String::from_utf8_lossy(&answer)).into());
    }
    ledger.acknowledge(number);
    Ok(())
}

/// Of callers: how many ended early, and why the first did.
#[derive(Default)]
pub(crate) struct Ended {
    pub(crate) early: usize,
    pub(crate) why: String,
}

impl Ended {
    async fn of(mut callers: JoinSet<Result<(), Broken>>) -> Self {
        let mut ended = Self::default();
        while let Some(caller) = callers.join_next().await {
            if let Err(error) = caller.unwrap() {
                if ended.early == 0 {
                    ended.why = error.to_string();
                }
                ended.early += 1;
            }
        }
        ended
    }
}
