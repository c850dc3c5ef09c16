//! Publishers at work on one or more servers, and what was acknowledged to them.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Address, Client, Receiver};

const PUBLISHERS: usize = 32;
/// Of an event's data, where it is measured.
pub(crate) const EVENT_BYTES: usize = 1024;
/// Longer than anything that is waited for takes on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Ids of events that a server said it has.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged(Arc<Mutex<Vec<String>>>);

impl Acknowledged {
    pub(crate) fn add(&self, id: String) {
        self.0.lock().unwrap().push(id);
    }

    pub(crate) fn all(&self) -> HashSet<String> {
        self.0.lock().unwrap().iter().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits until every one of them has arrived.
    pub(crate) async fn arrive_at(&self, receiver: &Receiver) {
        self.arrive_between(0..self.len(), receiver).await;
    }

    /// The same for some of them, in the order of their answers.
    pub(crate) async fn arrive_between(&self, answers: Range<usize>, receiver: &Receiver) {
        let mut missing = self.0.lock().unwrap()[answers].to_vec();
        until("every acknowledged event arrives", async || {
            receiver.arrivals.retain_missing(&mut missing);
            missing.is_empty()
        })
        .await;
    }
}

/// Publishers, each on a connection of its own, which end when all is published or their server is gone.
pub(crate) struct Load {
    publishers: JoinSet<()>,
    answers: watch::Receiver<usize>,
}

impl Load {
    /// Publishes so many events one by one, taking turns at the servers.
    pub(crate) fn start(servers: &[Address], events: usize, acknowledged: &Acknowledged) -> Self {
        let (counter, answers) = watch::channel(0);
        let counter = Arc::new(counter);
        let mut publishers = JoinSet::new();
        for publisher in 0..PUBLISHERS {
            let address = servers[publisher % servers.len()];
            let (counter, acknowledged) = (Arc::clone(&counter), acknowledged.clone());
            publishers.spawn(async move {
                let mut client = Client::connect(address).await.unwrap();
                for n in 0..events / PUBLISHERS {
                    let event = format!(
                        r#"{{"event_type":"load.test","event_data":{{"publisher":{publisher},"n":{n}}}}}"#
                    );
                    // The connection breaks when the server is killed: what was not answered is not counted.
                    let Ok((status, answer)) = client.post("/v1/events", event).await else { return };
                    assert_eq!(status, 202, "{answer}");
                    acknowledged.add(answer["id"].as_str().unwrap().to_owned());
                    counter.send_modify(|answers| *answers += 1);
                }
            });
        }
        Self { publishers, answers }
    }

    /// Returns, with the publishers still at it, when so many answers came.
    pub(crate) async fn answered(&mut self, answers: usize) {
        let enough = timeout(PATIENCE, self.answers.wait_for(|count| *count >= answers)).await;
        drop(enough.expect("the servers take events").unwrap());
    }

    /// Waits until all publishers are done.
    pub(crate) async fn ended(self) {
        timeout(PATIENCE, self.publishers.join_all()).await.expect("publishing ends");
    }
}

/// How many events a second are delivered, of so many that are published one by one. The receiver has nothing else to
/// get meanwhile.
pub(crate) async fn delivered_per_second(
    server: Address,
    receiver: &Receiver,
    event_type: &str,
    events: usize,
) -> f64 {
    let (began, before) = (Instant::now(), receiver.arrivals.events());
    let (each, mut publishers) = (events / PUBLISHERS, JoinSet::new());
    for _ in 0..PUBLISHERS {
        let event = event(event_type, EVENT_BYTES);
        publishers.spawn(async move {
            let mut client = Client::connect(server).await.unwrap();
            for _ in 0..each {
                let (status, answer) = client.post("/v1/events", event.clone()).await.unwrap();
                assert_eq!(status, 202, "{answer}");
            }
        });
    }
    publishers.join_all().await;
    let deadline = Instant::now() + PATIENCE;
    while receiver.arrivals.events() < before + each * PUBLISHERS {
        assert!(Instant::now() < deadline, "of {events} {} arrived", receiver.arrivals.events() - before);
        sleep(Duration::from_millis(2)).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = (each * PUBLISHERS) as f64 / began.elapsed().as_secs_f64();
    rate
}

/// A call's body: an event with so many bytes of data.
pub(crate) fn event(event_type: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes - r#"{"text":""}"#.len());
    format!(r#"{{"event_type":"{event_type}","event_data":{{"text":"{text}"}}}}"#)
}

/// Waits until something is so, and says how long it took.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}
