//! Publishers that choose the ids of their events and go on whatever happens: what was not acknowledged can be published
//! again, and that shows whether it had been stored.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
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
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Address, Broken, Client, Receiver, STRANGER,
    load::{Acknowledged, PATIENCE, until},
};

pub(crate) const PUBLISHERS: usize = 16;
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(50);
/// Why an event was refused if no answer came: the server was gone, or went in the middle.
const NO_ANSWER: &str = "no answer";
/// By one connection. Then it is asked again which server is there: after a kill all publishers are at another.
const CALLS_MAX: u64 = 100;
/// Of so many calls one is a batch, where there are any.
const BATCH_ONE_IN: u64 = 4;
/// Of a batch of those that are published again.
const AGAIN_EVENTS: usize = 100;
/// Into which all events are divided, evenly.
const PARTS: u8 = 4;

/// What is published under an id. All of it follows from the id, so that whoever gets it knows what it must be, and it is
/// written as nobody would write it who had only understood it.
pub(crate) fn data_of(id: &str) -> String {
    format!(r#"{{"part": {},  "of":"{id}" }}"#, part_of(id))
}

/// Which of the parts an event is of, from 0.
pub(crate) fn part_of(id: &str) -> u8 {
    u8::from_str_radix(&id[id.len() - 1..], 16).unwrap() % PARTS
}

/// Where the servers are now.
#[derive(Clone)]
pub(crate) struct Addresses(Arc<Mutex<Vec<Option<Address>>>>);

impl Addresses {
    pub(crate) fn of(addresses: Vec<Address>) -> Self {
        Self(Arc::new(Mutex::new(addresses.into_iter().map(Some).collect())))
    }

    /// A server is at another one from now on.
    pub(crate) fn replace(&self, server: usize, address: Address) {
        self.0.lock().unwrap()[server] = Some(address);
    }

    /// A server is gone; its port may be anybody's.
    pub(crate) fn remove(&self, server: usize) {
        self.0.lock().unwrap()[server] = None;
    }

    /// Of this server, or of the next one that is there.
    pub(crate) fn get(&self, server: usize) -> Option<Address> {
        let all = self.0.lock().unwrap();
        let first = server % all.len();
        all[first..].iter().chain(&all[..first]).find_map(|address| *address)
    }
}

/// Events that were not acknowledged, and how they were answered.
#[derive(Default)]
pub(crate) struct Refused {
    pub(crate) ids: HashSet<String>,
    /// How often by which `code`.
    pub(crate) by_code: BTreeMap<String, usize>,
}

/// What publishers do.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) addresses: Addresses,
    /// In which tenant, if it is not the platform's own.
    pub(crate) tenant: Option<&'static str>,
    pub(crate) publishers: usize,
    /// After each acknowledged event.
    pub(crate) pace: Duration,
    /// Of a batch; there are none if it is one.
    pub(crate) batch_events: usize,
}

/// What publishers share.
struct Shared {
    work: Work,
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
        Self::at(Work {
            addresses: addresses.clone(),
            tenant: None,
            publishers: PUBLISHERS,
            pace: Duration::ZERO,
            batch_events: 1,
        })
    }

    pub(crate) fn at(work: Work) -> Self {
        let publishers = work.publishers;
        let shared = Arc::new(Shared {
            work,
            acknowledged: Acknowledged::default(),
            refused: Mutex::default(),
            enough: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for publisher in 0..publishers {
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
            let Some(mut client) = self.connect(publisher).await else {
                sleep(PAUSE).await;
                continue;
            };
            for call in 1..=CALLS_MAX {
                let events = if call % BATCH_ONE_IN == 0 { self.work.batch_events } else { 1 };
                let ids: Vec<_> = (0..events).map(|_| new_id(&sources)).collect();
                let answers = publish(&mut client, &ids).await;
                let is_there = answers.is_ok();
                let acknowledged = self.note(ids, answers.unwrap_or_else(|Gone| no_answers(events)));
                let pace = self.work.pace * u32::try_from(events).unwrap();
                sleep(if acknowledged == events { pace } else { PAUSE }).await;
                if !is_there || self.enough.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }

    async fn connect(&self, publisher: usize) -> Option<Client> {
        let client = Client::connect(self.work.addresses.get(publisher)?).await.ok()?;
        Some(match self.work.tenant {
            Some(tenant) => client.acting_in(tenant),
            None => client,
        })
    }

    /// Answers how many are acknowledged.
    fn note(&self, ids: Vec<String>, answers: Vec<Answer>) -> usize {
        let mut acknowledged = 0;
        for (id, answer) in ids.into_iter().zip(answers) {
            match answer {
                Answer::Stored { .. } => {
                    self.acknowledged.add(id);
                    acknowledged += 1;
                }
                Answer::Refused { code } => self.refuse(id, code),
            }
        }
        acknowledged
    }

    fn refuse(&self, id: String, code: String) {
        let mut refused = self.refused.lock().unwrap();
        refused.ids.insert(id);
        *refused.by_code.entry(code).or_default() += 1;
    }
}

pub(crate) fn new_id(sources: &Sources) -> String {
    let id: EventId = Id::new(sources.now(), sources.bytes());
    id.to_string()
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
        let (mut stored, ids) = (HashSet::new(), self.ids.iter().cloned().collect::<Vec<_>>());
        for ids in ids.chunks(AGAIN_EVENTS) {
            let Ok(answers) = publish(client, ids).await else { panic!("the server is gone") };
            for (id, answer) in ids.iter().zip(answers) {
                match answer {
                    Answer::Stored { is_duplicate: true } => drop(stored.insert(id.clone())),
                    Answer::Stored { is_duplicate: false } => {}
                    Answer::Refused { code } => panic!("refused again: {code}"),
                }
            }
        }
        stored
    }
}

/// Waits until a receiver has all of these and, apart from them, nothing.
pub(crate) async fn until_all_arrived(acknowledged: &Acknowledged, refused: &Refused, receiver: &Receiver) {
    acknowledged.arrive_at(receiver).await;
    let all = acknowledged.all().union(&refused.ids).cloned().collect();
    until_these_arrived(&all, receiver).await;
}

/// The same.
pub(crate) async fn until_these_arrived(all: &HashSet<String>, receiver: &Receiver) {
    until("the rest arrives", async || receiver.arrivals.events() >= all.len()).await;
    let arrived: HashSet<String> = receiver.arrivals.all().into_keys().collect();
    assert_eq!(arrived.symmetric_difference(all).count(), 0, "what was published arrived, and nothing else");
}

pub(crate) enum Answer {
    Stored { is_duplicate: bool },
    Refused { code: String },
}

/// The server, or its connection, ended before it answered; or its port is another's.
struct Gone;

impl From<Broken> for Gone {
    fn from(_: Broken) -> Self {
        Self
    }
}

fn no_answers(count: usize) -> Vec<Answer> {
    (0..count).map(|_| Answer::Refused { code: NO_ANSWER.to_owned() }).collect()
}

/// One event, or more than one as a batch; answers for each.
async fn publish(client: &mut Client, ids: &[String]) -> Result<Vec<Answer>, Gone> {
    let event = |id| format!(r#"{{"id":"{id}","event_type":"load.test","event_data":{}}}"#, data_of(id));
    let (status, answer) = if let [id] = ids {
        client.post("/v1/events", event(id)).await?
    } else {
        let events: Vec<_> = ids.iter().map(|id| event(id)).collect();
        client.post("/v1/events/batch", format!(r#"{{"events":[{}]}}"#, events.join(","))).await?
    };
    match status {
        202 if ids.len() == 1 => Ok(vec![read(&answer)]),
        202 => {
            let results = answer["results"].as_array().unwrap();
            assert_eq!(results.len(), ids.len(), "{answer}");
            Ok(results.iter().map(read).collect())
        }
        503 => Ok(ids.iter().map(|_| read(&answer)).collect()),
        STRANGER => Err(Gone),
        _ => panic!("{status}: {answer}"),
    }
}

/// An answer, a problem, or what a batch's answer says about one of its events.
fn read(answer: &Value) -> Answer {
    let problem = answer.get("error").unwrap_or(answer);
    match (answer["duplicate"].as_bool(), problem["code"].as_str()) {
        (Some(is_duplicate), None) => Answer::Stored { is_duplicate },
        (None, Some(code)) => Answer::Refused { code: code.to_owned() },
        _ => panic!("{answer}"),
    }
}
