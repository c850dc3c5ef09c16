//! What an endpoint must have got, and what the server must say about it: when all is over, the two are the same.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};

use crate::process::{
    Client, Receiver,
    load::until,
    publishers::{part_of, until_these_arrived},
    receiver::Arrival,
};

/// Of the deliveries of which nothing special is known, one in so many is opened: its attempts cost a call.
const OPENED_ONE_IN: usize = 10;
/// The part that is wanted where not everything is.
const PART: u8 = 0;
/// Of so many requests one is refused, where some are.
const REFUSED_ONE_IN: usize = 5;

/// An endpoint, and the receiver behind it.
pub(crate) struct Endpoint {
    pub(crate) name: &'static str,
    pub(crate) receiver: Receiver,
    id: String,
    wants: fn(&str) -> bool,
}

/// A delivery as a list shows it.
struct Listed {
    id: String,
    attempts: usize,
}

impl Endpoint {
    /// It gets everything, and answers well.
    pub(crate) async fn for_everything(client: &mut Client, name: &'static str) -> Self {
        let receiver = Receiver::start().await;
        let id = client.subscribe_to_everything(&receiver.url).await;
        Self { name, receiver, id, wants: |_| true }
    }

    /// It gets what its filter lets through, and refuses a request now and then.
    pub(crate) async fn for_a_part(client: &mut Client, name: &'static str) -> Self {
        let receiver = Receiver::start().await;
        receiver.fail_one_in(REFUSED_ONE_IN);
        let settings = json!({"retry_backoff_multiplier": 1.0});
        let filtered = json!({"event_filters": {"part": PART}});
        let id = client.subscribe_to_part(&receiver.url, settings, filtered).await;
        Self { name, receiver, id, wants: |id| part_of(id) == PART }
    }

    /// Of what was published in its tenant, what it wants has arrived as it was published, and nothing else; nothing is left
    /// to do, and the server has recorded what the receiver saw.
    pub(crate) async fn settle(&self, client: &mut Client, published: &HashSet<String>) {
        let wanted: HashSet<String> = published.iter().filter(|id| (self.wants)(id)).cloned().collect();
        until_these_arrived(&wanted, &self.receiver).await;
        for status in ["pending", "retrying"] {
            let path = format!("/v1/deliveries?endpoint_id={}&limit=1&status={status}", self.id);
            until("every delivery is settled", async || rows(&get(client, &path).await).is_empty()).await;
        }
        self.receiver.arrivals.assert_signed();
        self.receiver.arrivals.assert_as_published();
        let arrivals = self.receiver.arrivals.all();
        let deliveries = self.deliveries(client, &arrivals).await;
        let retried = deliveries.iter().filter(|(_, delivery)| delivery.attempts > 1).count();
        println!("  {}: {} deliveries, {retried} after a refusal", self.name, deliveries.len());
        for (nth, (event, delivery)) in deliveries.iter().enumerate() {
            let is_special = delivery.attempts > 1 || arrivals[event].len() > 1;
            if is_special || nth % OPENED_ONE_IN == 0 {
                assert_history(client, delivery).await;
            }
        }
    }

    /// The deliveries as the API lists them, by event: one for each that arrived, which has succeeded by as many attempts as
    /// the receiver saw.
    async fn deliveries(
        &self,
        client: &mut Client,
        arrivals: &HashMap<String, Vec<Arrival>>,
    ) -> HashMap<String, Listed> {
        let (mut listed, mut cursor) = (HashMap::new(), String::new());
        loop {
            let path = format!("/v1/deliveries?endpoint_id={}&limit=1000{cursor}", self.id);
            let page = get(client, &path).await;
            for delivery in rows(&page) {
                let event = delivery["webhook_event_id"].as_str().unwrap();
                let attempts = usize::try_from(delivery["current_attempt"].as_u64().unwrap()).unwrap();
                let seen: BTreeSet<_> = arrivals[event].iter().map(|arrival| arrival.attempt).collect();
                assert_eq!(delivery["overall_status"], json!("success"), "{delivery}");
                assert_eq!(seen, (1..=attempts).collect(), "{}: {delivery}", self.name);
                let id = delivery["id"].as_str().unwrap().to_owned();
                let twin = listed.insert(event.to_owned(), Listed { id, attempts });
                assert!(twin.is_none(), "{}: there are two deliveries of {event}", self.name);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(listed.len(), arrivals.len(), "{}: what arrived has a delivery", self.name);
        listed
    }
}

/// The attempts are numbered from 1, none is missing, and all but the last were refused.
async fn assert_history(client: &mut Client, delivery: &Listed) {
    let opened = get(client, &format!("/v1/deliveries/{}", delivery.id)).await;
    let of_attempt = |attempt: &Value| {
        (attempt["attempt_number"].as_u64().unwrap(), attempt["response_status"].as_u64().unwrap())
    };
    let recorded: Vec<_> = opened["attempts"].as_array().unwrap().iter().map(of_attempt).collect();
    let last = u64::try_from(delivery.attempts).unwrap();
    let expected: Vec<_> = (1..=last).map(|number| (number, if number < last { 503 } else { 204 })).collect();
    assert_eq!(recorded, expected, "{opened}");
}

async fn get(client: &mut Client, path: &str) -> Value {
    let (status, answer) = client.get(path).await.unwrap();
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

fn rows(list: &Value) -> &[Value] {
    list["data"].as_array().unwrap()
}
