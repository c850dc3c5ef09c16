//! The real program as a process, a client for its API, and a receiver that counts.

#![expect(dead_code, reason = "each test program uses its own part of this")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(crate) const ADMIN_KEY: &str = "neo_admin_for_tests_only";

/// A server on a data folder; killed when dropped.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl ServerProcess {
    /// Starts the program and waits until it is ready.
    pub(crate) async fn start(folder: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let log = std::fs::File::options().create(true).append(true).open(folder.join("server.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_neo-events"))
            .arg("serve")
            .args(["--listen", &address.to_string(), "--admin-key", ADMIN_KEY])
            .arg("--database")
            .arg(format!("sqlite:{}", database(folder).display()))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { child, address };
        server.wait_until_ready(folder).await;
        server
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no line of the program runs any more.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// Resident memory now, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    async fn wait_until_ready(&mut self, folder: &Path) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(mut client) = Client::connect(self.address).await
                && client.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
            {
                return;
            }
            let said = || std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended with {status}: {}", said());
            }
            assert!(Instant::now() < deadline, "the server is not ready: {}", said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn database(folder: &Path) -> PathBuf {
    folder.join("admin.db")
}

/// One kept-alive connection to the API.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    host: String,
    _connection: JoinSet<()>,
}

pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Broken> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { sender, host: address.to_string(), _connection: driver })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<(u16, serde_json::Value), Broken> {
        self.call("GET", path, Bytes::new()).await
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(u16, serde_json::Value), Broken> {
        self.call("POST", path, body.into()).await
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, serde_json::Value), Broken> {
        self.sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {ADMIN_KEY}"))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let json = if body.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&body)? };
        Ok((status, json))
    }

    /// Registers an endpoint that gets everything, and answers its id.
    pub(crate) async fn subscribe_to_everything(&mut self, url: &str) -> String {
        let endpoint = serde_json::json!({"name": "test", "endpoint_url": url, "retry_backoff_seconds": 1});
        let (status, created) = self.post("/v1/endpoints", endpoint.to_string()).await.unwrap();
        assert_eq!(status, 201, "{created}");
        let id = created["id"].as_str().unwrap().to_owned();
        let subscription = serde_json::json!({"endpoint_id": id, "event_type": "*"});
        let (status, created) = self.post("/v1/subscriptions", subscription.to_string()).await.unwrap();
        assert_eq!(status, 201, "{created}");
        id
    }
}

/// Every arrival at a receiver, by `webhook-id`.
#[derive(Default)]
pub(crate) struct Arrivals(Mutex<HashMap<String, Vec<Instant>>>);

impl Arrivals {
    fn add(&self, id: String, at: Instant) {
        self.0.lock().unwrap().entry(id).or_default().push(at);
    }

    pub(crate) fn events(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> HashMap<String, Vec<Instant>> {
        self.0.lock().unwrap().clone()
    }
}

/// Answers everything with 204 and notes when the first bytes came.
pub(crate) struct Receiver {
    pub(crate) url: String,
    pub(crate) arrivals: Arc<Arrivals>,
    _server: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let arrivals: Arc<Arrivals> = Arc::default();
        let log = Arc::clone(&arrivals);
        let mut server = JoinSet::new();
        server.spawn(accept(listener, log));
        Self { url, arrivals, _server: server }
    }
}

async fn accept(listener: TcpListener, arrivals: Arc<Arrivals>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let arrivals = Arc::clone(&arrivals);
        let service = service_fn(move |request: Request<Incoming>| {
            let at = Instant::now();
            let id = request.headers()["webhook-id"].to_str().unwrap().to_owned();
            arrivals.add(id, at);
            async move {
                let _ = request.into_body().collect().await?;
                Ok::<_, hyper::Error>(Response::builder().status(204).body(Full::<Bytes>::default()).unwrap())
            }
        });
        connections.spawn(async move {
            // A killed server breaks its connections: that is what is being tested.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
