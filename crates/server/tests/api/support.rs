//! A server in the test's own process, a client that sends any bytes, and a receiver that answers as it is told.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr, time::Duration};

use neo_events::{MasterKey, Profile, Shutdown, Sources};
use neo_events_server::serve::{AdminKey, Database, Roles, ServeError, ServeSettings, serve};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use crate::database::TestDatabase;

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const KEY: &str = "the-admin-key-of-tests";
/// A UUID that names nothing.
pub(crate) const NOBODY: &str = "01930000-0000-7000-8000-000000000000";

pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A port that the system gives to nobody who does not ask for it, so that nobody else is there when it is left.
pub(crate) fn lasting_address() -> SocketAddr {
    // Each program of tests begins elsewhere.
    let begin = 20_000 + u16::try_from(std::process::id() % 10_000).expect("small");
    let addresses = (begin..32_768).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    addresses.into_iter().find(|address| std::net::TcpListener::bind(address).is_ok()).expect("a free port")
}

/// A running server on a database of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    tasks: JoinSet<Result<Shutdown, ServeError>>,
    stop: Option<oneshot::Sender<()>>,
    _database: TestDatabase,
}

pub(crate) fn settings(database: Database) -> ServeSettings {
    ServeSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        database,
        profile: Profile::Development,
        roles: Roles::ALL,
        admin_key: AdminKey::Given(KEY.to_owned()),
        master_keys: vec![MasterKey::generate(&Sources::system())],
        ca_file: None,
        migrates: true,
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(listen: SocketAddr) -> Self {
        let database = TestDatabase::create().await;
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, address) = oneshot::channel();
        let settings = ServeSettings { listen, ..settings(database.database()) };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let announce = |address| ready.send(address).expect("the test waits");
            serve(settings, announce, async move { drop(stopped.await) }).await
        });
        let address = tokio::select! {
            address = address => address.expect("the server announces itself"),
            ended = tasks.join_next() => panic!("the server ended: {ended:?}"),
        };
        Self { address, tasks, stop: Some(stop), _database: database }
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Shutdown {
        let ended = tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.expect("it ends in time");
        ended.expect("one task").expect("no panic").expect("it had started")
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Call::new("GET", path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Call::new("DELETE", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> Reply {
        self.send(Call::new("POST", path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: impl ToString) -> Reply {
        self.send(Call::new("PATCH", path).json(&body)).await
    }

    pub(crate) async fn send(&self, call: Call) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        call.send(&mut stream).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("an answer in time").expect("a whole answer");
        Reply::parse(&answer)
    }

    /// Registers an endpoint and subscribes it to everything; answers the endpoint's id.
    pub(crate) async fn subscribe(&self, url: &str) -> String {
        let endpoint = serde_json::json!({"name": "receiver", "endpoint_url": url});
        let id =
            self.post("/v1/endpoints", endpoint).await.expect(201)["id"].as_str().expect("an id").to_owned();
        self.post("/v1/subscriptions", serde_json::json!({"endpoint_id": id, "event_type": "*"}))
            .await
            .expect(201);
        id
    }

    /// Makes a tenant.
    pub(crate) async fn make_tenant(&self, slug: &str) {
        self.post("/v1/tenants", serde_json::json!({"slug": slug})).await.expect(201);
    }

    /// Makes a key to a tenant; answers the key itself.
    pub(crate) async fn make_key(&self, tenant: &str, more: Value) -> String {
        let mut key = serde_json::json!({"name": "test", "tenant": tenant});
        key.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let key = self.post("/v1/api-keys", key).await.expect(201);
        key["key"].as_str().expect("the key").to_owned()
    }

    /// Publishes an event; answers its id.
    pub(crate) async fn publish(&self, event: Value) -> String {
        self.post("/v1/events", event).await.expect(202)["id"].as_str().expect("an id").to_owned()
    }

    /// Asks again until the first row of a list is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_row(|| Call::new("GET", path), wanted).await
    }

    /// The same, by whoever makes the call.
    pub(crate) async fn until_row(&self, call: impl Fn() -> Call, wanted: impl Fn(&Value) -> bool) -> Value {
        let polling = async {
            loop {
                let page = self.send(call()).await.expect(200);
                if let Some(row) = page["data"].get(0).filter(|row| wanted(row)) {
                    return row.clone();
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(PATIENCE, polling).await.expect("it comes in time")
    }
}

/// A request, with the admin key unless it is taken away.
pub(crate) struct Call {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Call {
    pub(crate) fn new(method: &'static str, path: &str) -> Self {
        let headers = vec![("authorization".to_owned(), format!("Bearer {KEY}"))];
        Self { method, path: path.to_owned(), headers, body: Vec::new() }
    }

    pub(crate) fn json(self, body: &(impl ToString + ?Sized)) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(crate) fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }.header("content-type", content_type)
    }

    /// Replaces a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another key.
    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// Acting in a tenant.
    pub(crate) fn tenant(self, tenant: &str) -> Self {
        self.header("x-neo-tenant-id", tenant)
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(given, _)| given != name);
        self
    }

    pub(crate) async fn send(&self, stream: &mut TcpStream) {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let keeps_alive = self.headers.iter().any(|(name, _)| name == "connection");
        let close = if keeps_alive { "" } else { "connection: close\r\n" };
        let _ = write!(head, "{close}content-length: {}\r\n\r\n", self.body.len());
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        stream.write_all(&bytes).await.expect("the server reads");
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn parse(answer: &[u8]) -> Self {
        let answer = str::from_utf8(answer).expect("UTF-8");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an answer: {answer:?}"));
        let mut lines = head.lines();
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        assert!(!headers.contains_key("transfer-encoding"), "every answer has a length");
        Self { status: status.expect("a status"), headers, text: text.to_owned() }
    }

    /// The body, if the status is as expected.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let request_id = self.headers.get("x-request-id").expect("every answer has an id");
        assert_eq!(request_id.as_bytes()[14], b'7', "a UUIDv7");
        if self.text.is_empty() {
            return Value::Null;
        }
        let body: Value = serde_json::from_str(&self.text).expect("JSON");
        let media_type = if status < 400 { "application/json" } else { "application/problem+json" };
        assert_eq!(self.headers["content-type"], media_type);
        if status >= 400 {
            assert_eq!(body["status"], status);
            assert_eq!(body["request_id"], request_id.as_str());
            assert_eq!(
                body["type"],
                format!("urn:neo-events:problem:{}", body["code"].as_str().expect("a code"))
            );
            assert!(body["title"].is_string() && body["detail"].is_string() && body["errors"].is_array());
        }
        body
    }

    /// A refusal with this code; answers its words.
    pub(crate) fn refused(self, status: u16, code: &str) -> String {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }

    /// A refusal of the input with these pointers, in this order.
    pub(crate) fn invalid_at(self, pointers: &[&str]) -> String {
        let problem = self.expect(422);
        assert_eq!(problem["code"], "validation_failed", "{problem}");
        let errors = problem["errors"].as_array().expect("errors");
        let found: Vec<_> =
            errors.iter().map(|fault| fault["pointer"].as_str().expect("a pointer")).collect();
        assert_eq!(found, pointers, "{problem}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// The keys of an object, sorted.
pub(crate) fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// The rows of a list.
pub(crate) fn rows(list: &Value) -> &[Value] {
    list["data"].as_array().expect("a list")
}

/// A receiver that gives every request the same answer and keeps what it got.
pub(crate) struct Receiver {
    pub(crate) url: String,
    received: tokio::sync::mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn answering(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let (got, received) = tokio::sync::mpsc::channel(1000);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read_request(&mut stream).await;
                // The sender may have gone, and so may the test.
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = got.send(request).await;
            }
        });
        Self { url, received, _tasks: tasks }
    }

    /// The next request, head and body.
    pub(crate) async fn next(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.received.recv()).await;
        next.expect("a request in time").expect("the receiver runs")
    }
}

pub(crate) const ANSWER_OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nconnection: close\r\n\r\nok";
pub(crate) const ANSWER_BROKEN: &str =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
pub(crate) const ANSWER_REJECTED: &str =
    "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let read = stream.read_buf(&mut bytes).await;
        if read.unwrap_or(0) == 0 {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}
