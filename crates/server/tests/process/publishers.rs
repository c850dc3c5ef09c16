//! Publishers that choose the ids of their events and go on whatever happens: what was not acknowledged can be published
//! again, and that shows whether it had been stored.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use neo_events::{
    Sources,
    domain::id::{EventId, Id},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Broken, Client, Receiver,
    load::{Acknowledged, PATIENCE, until},
};

pub(crate) const PUBLISHERS: usize = 16;
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(50);
/// Why an event was refused if no answer came: the server was gone, or went in the middle.
const NO_ANSWER: &str = "no answer";

/// Where the servers are now.
#[derive(Clone)]
pub(crate) struct Addresses(Arc<Mutex<Vec<SocketAddr>>>);

impl Addresses {
    pub(crate) fn of(addresses: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Mutex::new(addresses)))
    }

    /// A server is at another one from now on.
    pub(crate) fn replace(&self, server: usize, address: SocketAddr) {
        self.0.lock().unwrap()[server] = address;
    }

    pub(crate) fn get(&self, server: usize) -> SocketAddr {
        let all = self.0.lock().unwrap();
        all[server % all.len()]
    }
}

/// Events that were not acknowledged, and how they were answered.
#[derive(Default)]
pub(crate) struct Refused {
    pub(crate) ids: HashSet<String>,
    /// How often by which `code`.
    pub(crate) by_code: BTreeMap<String, usize>,
}

/// What publishers share.
struct Shared {
    addresses: Addresses,
    /// After each acknowledged event.
    pace: Duration,
    acknowledged: Acknowledged,
    refused: Mutex<Refused>,
    enough: AtomicBool,
}

/// Publishers at work.
pub(crate) struct Publishers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Publishers {
    /// Each begins the next event when the last was answered.
    pub(crate) fn start(addresses: &Addresses) -> Self {
        Self::paced(addresses, Duration::ZERO)
    }

    /// Each pauses after every event.
    pub(crate) fn paced(addresses: &Addresses, pace: Duration) -> Self {
        let shared = Arc::new(Shared {
            addresses: addresses.clone(),
            pace,
            acknowledged: Acknowledged::default(),
            refused: Mutex::default(),
            enough: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for publisher in 0..PUBLISHERS {
            tasks.spawn(Arc::clone(&shared).publish(publisher));
        }
        Self { shared, tasks }
    }

    pub(crate) fn so_far(&self) -> &Acknowledged {
        &self.shared.acknowledged
    }

    /// Waits for so many more acknowledgements.
    pub(crate) async fn acknowledged(&self, many: usize) {
        let before = self.shared.acknowledged.len();
        until("events are taken", async || self.shared.acknowledged.len() >= before + many).await;
    }

    /// Waits until so many have been refused.
    pub(crate) async fn refused(&self, many: usize) {
        until("events are refused", async || self.shared.refused.lock().unwrap().ids.len() >= many).await;
    }

    /// Waits until so many have been refused with a code.
    pub(crate) async fn refused_with(&self, code: &str, many: usize) {
        let so_far = || self.shared.refused.lock().unwrap().by_code.get(code).copied().unwrap_or_default();
        until(&format!("events are refused with {code}"), async || so_far() >= many).await;
    }

    pub(crate) async fn end(self) -> (Acknowledged, Refused) {
        self.shared.enough.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.tasks.join_all()).await.expect("publishing ends");
        let refused = std::mem::take(&mut *self.shared.refused.lock().unwrap());
        (self.shared.acknowledged.clone(), refused)
    }
}

impl Shared {
    async fn publish(self: Arc<Self>, publisher: usize) {
        let sources = Sources::system();
        while !self.enough.load(Ordering::Relaxed) {
            let Ok(mut client) = Client::connect(self.addresses.get(publisher)).await else {
                sleep(PAUSE).await;
                continue;
            };
            while !self.enough.load(Ordering::Relaxed) {
                let id: EventId = Id::new(sources.now(), sources.bytes());
                let code = match publish(&mut client, &id.to_string()).await {
                    Ok(Answer::Stored { .. }) => {
                        self.acknowledged.add(id.to_string());
                        sleep(self.pace).await;
                        continue;
                    }
                    Ok(Answer::Refused { code }) => code,
                    Err(_) => NO_ANSWER.to_owned(),
                };
                let is_gone = code == NO_ANSWER;
                self.refuse(id.to_string(), code);
                sleep(PAUSE).await;
                if is_gone {
                    break;
                }
            }
        }
    }

    fn refuse(&self, id: String, code: String) {
        let mut refused = self.refused.lock().unwrap();
        refused.ids.insert(id);
        *refused.by_code.entry(code).or_default() += 1;
    }
}

impl Refused {
    /// They were answered in these ways and no other; without an answer only where the server was killed.
    pub(crate) fn assert_only(&self, codes: &[&str]) {
        let codes: BTreeSet<_> = codes.iter().map(|code| (*code).to_owned()).collect();
        let answered: BTreeSet<_> = self.by_code.keys().cloned().collect();
        assert!(answered.is_subset(&codes), "{:?}", self.by_code);
    }

    /// The same, where servers were killed.
    pub(crate) fn assert_only_or_no_answer(&self, codes: &[&str]) {
        self.assert_only(&[codes, &[NO_ANSWER]].concat());
    }

    /// Publishes them again. Answers which had been stored.
    pub(crate) async fn publish_again(&self, client: &mut Client) -> HashSet<String> {
        let mut stored = HashSet::new();
        for id in &self.ids {
            match publish(client, id).await.unwrap() {
                Answer::Stored { is_duplicate: true } => drop(stored.insert(id.clone())),
                Answer::Stored { is_duplicate: false } => {}
                Answer::Refused { code } => panic!("refused again: {code}"),
            }
        }
        stored
    }
}

/// Waits until a receiver has all of these and, apart from them, nothing.
pub(crate) async fn until_all_arrived(acknowledged: &Acknowledged, refused: &Refused, receiver: &Receiver) {
    acknowledged.arrive_at(receiver).await;
    let all: HashSet<String> = acknowledged.all().union(&refused.ids).cloned().collect();
    until("the rest arrives", async || receiver.arrivals.events() >= all.len()).await;
    let arrived: HashSet<String> = receiver.arrivals.all().into_keys().collect();
    assert_eq!(arrived.symmetric_difference(&all).count(), 0, "what was published arrived, and nothing else");
}

pub(crate) enum Answer {
    Stored { is_duplicate: bool },
    Refused { code: String },
}

async fn publish(client: &mut Client, id: &str) -> Result<Answer, Broken> {
    let event = json!({"id": id, "event_type": "load.test", "event_data": {"of": id}});
    let (status, answer) = client.post("/v1/events", event.to_string()).await?;
    if status == 202 {
        return Ok(Answer::Stored { is_duplicate: answer["duplicate"].as_bool().unwrap() });
    }
    assert_eq!(status, 503, "{answer}");
    let Value::String(code) = &answer["code"] else { panic!("{answer}") };
    Ok(Answer::Refused { code: code.clone() })
}
