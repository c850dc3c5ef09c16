//! A tenant that makes more calls at once than its part: it is told so, and nobody else notices.

use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::support::{ANSWER_OK, Call, PATIENCE, Receiver, Server};

/// The server's limit on calls of a tenant that wait for a receiver.
const WAITING_MAX: usize = 16;

/// A receiver that takes every connection and says nothing.
struct Silent {
    url: String,
    connections: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let (count, connections) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
                count.send_replace(held.len());
            }
        });
        Self { url, connections, _tasks: tasks }
    }

    async fn has(&mut self, connections: usize) {
        let reached = self.connections.wait_for(|reached| *reached >= connections);
        timeout(PATIENCE, reached).await.expect("all reach it").expect("it runs");
    }
}

/// A tenant with an endpoint.
struct Tenant<'a> {
    server: &'a Server,
    key: String,
    endpoint: String,
}

impl<'a> Tenant<'a> {
    async fn of(server: &'a Server, slug: &str, url: &str) -> Self {
        server.make_tenant(slug).await;
        let key = server.make_key(slug, json!({})).await;
        let endpoint = json!({"name": "n", "endpoint_url": url, "timeout_seconds": 60});
        let call = Call::new("POST", "/v1/endpoints").key(&key).json(&endpoint);
        let created = server.send(call).await.expect(201);
        let endpoint = format!("/v1/endpoints/{}", created["id"].as_str().expect("an id"));
        Self { server, key, endpoint }
    }

    fn call(&self, path: &str, body: &Value) -> Call {
        Call::new("POST", path).key(&self.key).json(body)
    }

    /// Every call that waits for a receiver.
    fn waiting_calls(&self, url: &str) -> [Call; 3] {
        let on_endpoint = |action| self.call(&format!("{}/{action}", self.endpoint), &json!({}));
        let reach = self.call("/v1/connectivity-test", &json!({"url": url, "timeout_seconds": 60}));
        [on_endpoint("test"), on_endpoint("verify"), reach]
    }

    /// Makes a call and does not wait for its answer.
    async fn begin(&self, call: &Call) -> TcpStream {
        let mut stream = TcpStream::connect(self.server.address).await.expect("it listens");
        call.send(&mut stream).await;
        stream
    }

    async fn publishes_and_explains(&self) {
        let event = json!({"event_type": "user.created", "event_data": {"n": 1}});
        self.server.send(self.call("/v1/events", &event)).await.expect(202);
        let question = json!({"event_filters": {"n": 1}, "event": event});
        let explained = self.server.send(self.call("/v1/subscriptions/explain", &question)).await.expect(200);
        assert_eq!(explained["matches"], true);
    }
}

#[tokio::test]
async fn a_tenant_with_many_calls_that_wait_is_refused_more_and_others_are_not() {
    let server = Server::start().await;
    let (mut silent, receiver) = (Silent::start().await, Receiver::answering(ANSWER_OK).await);
    let crowd = Tenant::of(&server, "crowd", &silent.url).await;
    let calm = Tenant::of(&server, "calm", &receiver.url).await;
    // A verification would end by itself after ten seconds, and attempts at one endpoint would wait for each other.
    let [test, _, reach] = crowd.waiting_calls(&silent.url);
    let mut begun = vec![crowd.begin(&test).await];
    while begun.len() < WAITING_MAX {
        begun.push(crowd.begin(&reach).await);
    }
    silent.has(WAITING_MAX).await;
    for call in crowd.waiting_calls(&receiver.url) {
        let reply = server.send(call).await;
        assert_eq!(reply.headers["retry-after"], "1");
        let says = reply.refused(429, "too_many_requests");
        assert!(says.contains("16 tests and verifications"), "{says}");
    }
    crowd.publishes_and_explains().await;

    calm.publishes_and_explains().await;
    for (call, status) in calm.waiting_calls(&receiver.url).into_iter().zip([201, 200, 200]) {
        server.send(call).await.expect(status);
    }

    // Whoever goes away leaves its place.
    drop(begun.pop());
    let admitted = async {
        loop {
            let [.., reach] = crowd.waiting_calls(&receiver.url);
            let reply = server.send(reach).await;
            if reply.status != 429 {
                return reply;
            }
        }
    };
    let reply = timeout(PATIENCE, admitted).await.expect("a place is free");
    assert_eq!(reply.expect(200)["reachable"], true);
}
