//! The network and the receivers at its other end: good, slow, failing, lying, hanging.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use neo_events_domain::{delivery::ReceivedResponse, id::EndpointId, retry::FailureCode};
use neo_events_engine::{Transport, TransportReport, TransportRequest};
use tokio::time::{Instant, sleep};

use crate::{
    happening::{Happening, Tally},
    judge::{Judge, Sent},
    life::Life,
    random::Dice,
};

/// How a receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// 200, soon.
    Good,
    /// 200, after seconds.
    Slow,
    /// 5xx.
    Failing,
    /// 429 or 503, and when to come again.
    Busy,
    /// 400.
    Refusing,
    /// 410.
    Gone,
    /// Nobody listens.
    Dead,
    /// Takes the request and breaks the connection.
    Resetting,
    /// Takes the request, does what it says, and answers too late.
    Lying,
    /// Takes the request and never answers.
    Hanging,
    /// 200, or a failure that may pass; all soon.
    Erratic,
    /// Any of the others but the erratic, anew for each request.
    Moody,
}

impl Manner {
    const EACH: [Self; 10] = [
        Self::Good,
        Self::Slow,
        Self::Failing,
        Self::Busy,
        Self::Refusing,
        Self::Gone,
        Self::Dead,
        Self::Resetting,
        Self::Lying,
        Self::Hanging,
    ];

    /// One of all.
    pub(crate) fn draw(dice: &Dice) -> Self {
        if dice.per_mille(200) { Self::Moody } else { *dice.pick(&Self::EACH).unwrap_or(&Self::Good) }
    }
}

/// What all nodes send into.
#[derive(Clone)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    tally: Tally,
}

#[derive(Default)]
struct State {
    manners: BTreeMap<EndpointId, Manner>,
    /// Whether all others are erratic, and not good.
    is_erratic: bool,
    cut: BTreeSet<usize>,
}

impl Network {
    /// Everybody is good.
    pub(crate) fn new(tally: Tally) -> Self {
        Self { state: Arc::default(), tally }
    }

    /// From now on a receiver behaves like this.
    pub(crate) fn set(&self, of: EndpointId, manner: Manner) {
        self.state().manners.insert(of, manner);
    }

    /// Cuts a node off, or joins it again.
    pub(crate) fn cut(&self, node: usize, is_cut: bool) {
        let mut state = self.state();
        if is_cut {
            state.cut.insert(node)
        } else {
            state.cut.remove(&node)
        };
    }

    /// From now on everybody fails now and then.
    pub(crate) fn fail_now_and_then(&self) {
        *self.state() = State { is_erratic: true, ..State::default() };
    }

    /// Everybody is good and reachable again.
    pub(crate) fn heal(&self) {
        *self.state() = State::default();
    }

    fn manner(&self, of: EndpointId) -> Manner {
        let state = self.state();
        let otherwise = if state.is_erratic { Manner::Erratic } else { Manner::Good };
        state.manners.get(&of).copied().unwrap_or(otherwise)
    }

    fn is_cut(&self, node: usize) -> bool {
        self.state().cut.contains(&node)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one life of a node sends.
pub(crate) struct SimulatedTransport {
    /// Whose.
    pub(crate) life: Life,
    /// Where to.
    pub(crate) network: Network,
    /// Who sees it.
    pub(crate) judge: Judge,
    /// How long things take.
    pub(crate) dice: Dice,
}

type Answer = Result<ReceivedResponse, FailureCode>;

#[async_trait]
impl Transport for SimulatedTransport {
    async fn send(&self, request: TransportRequest<'_>) -> TransportReport {
        self.life.go_on().await;
        let began = Instant::now();
        let Some(sent) = self.judge.read(&request) else {
            return report(Err(FailureCode::ProtocolError), began);
        };
        let on_its_way = self.judge.leaves(&self.life, &sent);
        let result = self.exchange(&sent, request.timeout).await;
        self.life.go_on().await;
        let is_fast = began.elapsed() < Duration::from_secs(1);
        self.judge.answered(&self.life, &sent, result.as_ref().ok(), is_fast);
        drop(on_its_way);
        report(result, began)
    }
}

impl SimulatedTransport {
    async fn exchange(&self, sent: &Sent, timeout: Duration) -> Answer {
        let manner = match self.network.manner(sent.to) {
            Manner::Moody => *self.dice.pick(&Manner::EACH).unwrap_or(&Manner::Good),
            manner => manner,
        };
        if self.network.is_cut(self.life.node) {
            self.network.tally.note(Happening::NetworkCut);
            return self.unreachable(timeout).await;
        }
        if manner == Manner::Dead {
            sleep(self.millis(1, 5)).await;
            return Err(FailureCode::ConnectionRefused);
        }
        sleep(self.millis(0, 30)).await;
        self.life.go_on().await;
        self.judge.arrives(&self.life, sent);
        let answer = tokio::time::timeout(timeout, self.answer(manner)).await;
        if self.network.is_cut(self.life.node) {
            return Err(FailureCode::ConnectionReset);
        }
        answer.unwrap_or(Err(FailureCode::TimeoutTotal))
    }

    async fn unreachable(&self, timeout: Duration) -> Answer {
        let (wait, code) = match self.dice.below(3) {
            0 => (Duration::ZERO, FailureCode::Dns),
            1 => (timeout.min(Duration::from_secs(10)), FailureCode::TimeoutConnect),
            _ => (self.millis(1, 50), FailureCode::ConnectionError),
        };
        sleep(wait).await;
        Err(code)
    }

    async fn answer(&self, manner: Manner) -> Answer {
        sleep(self.millis(0, 30)).await;
        let response = match manner {
            Manner::Good | Manner::Dead | Manner::Moody => answered(200, None),
            Manner::Slow => {
                sleep(self.millis(1000, 4500)).await;
                answered(204, None)
            }
            Manner::Failing => answered(*self.dice.pick(&[500, 502, 503, 408]).unwrap_or(&500), None),
            Manner::Busy => {
                let (status, seconds) =
                    (if self.dice.per_mille(500) { 429 } else { 503 }, self.dice.between(0, 40));
                answered(status, Some(seconds))
            }
            Manner::Refusing => answered(400, None),
            Manner::Gone => answered(410, None),
            Manner::Erratic => match self.dice.below(4) {
                0 => answered(500, None),
                1 => answered(503, Some(self.dice.between(0, 4))),
                2 => return Err(FailureCode::ConnectionReset),
                _ => answered(200, None),
            },
            Manner::Resetting => return Err(FailureCode::ConnectionReset),
            Manner::Lying => {
                sleep(Duration::from_mins(10)).await;
                answered(200, None)
            }
            Manner::Hanging => std::future::pending().await,
        };
        Ok(response)
    }

    fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.dice.between(from, to))
    }
}

fn answered(status: u16, retry_after: Option<u64>) -> ReceivedResponse {
    let headers = retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string()));
    ReceivedResponse {
        status,
        headers: headers.into_iter().collect(),
        body: Vec::new(),
        body_truncated: false,
    }
}

fn report(result: Answer, began: Instant) -> TransportReport {
    TransportReport { result, error_message: None, connection_reused: false, elapsed: began.elapsed() }
}
