//! The real program as a process, a client for its API, and a receiver that counts.

#![expect(dead_code, reason = "each test program uses its own part of this")]

pub(crate) mod load;
pub(crate) mod proxy;
pub(crate) mod publishers;
pub(crate) mod receiver;

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

pub(crate) use self::receiver::Receiver;

/// What all nodes on one database seal secrets with.
const MASTER_KEY: &str = "bWFzdGVyIGtleSBvZiB0ZXN0cyBvbmx5LCAzMiBieXQ=";
/// How a server answers somebody with the key of another one.
pub(crate) const STRANGER: u16 = 401;
/// How long a start, an end, and a stop may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a server listens, and what its admin key is made of. No two servers have the same key: a port that one of them
/// has left may be another's a moment later, and whoever still calls there must be refused.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    key: u64,
}

impl Address {
    /// A port that is free now.
    fn choose() -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { socket, key: RandomState::new().hash_one(socket) }
    }

    fn admin_key(self) -> String {
        format!("neo_admin_for_tests_{:016x}", self.key)
    }
}

/// A server; killed when dropped.
pub(crate) struct ServerProcess {
    child: Child,
    pub(crate) address: Address,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts the program on a file in this folder, and waits until it is ready.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_on(folder, &format!("sqlite:{}", database(folder).display()), &[]).await
    }

    /// The same on any database, with further arguments.
    pub(crate) async fn start_on(folder: &Path, database: &str, arguments: &[&str]) -> Self {
        loop {
            let mut server = Self::launch(folder, database, arguments);
            match server.wait_until_ready().await {
                Ok(()) => return server,
                // Somebody has taken the port since it was chosen.
                Err(_) if server.log().contains("cannot listen") => {}
                Err(ended) => panic!("the server {ended}: {}", server.log()),
            }
        }
    }

    /// Starts the program, which may not succeed.
    pub(crate) fn launch(folder: &Path, database: &str, arguments: &[&str]) -> Self {
        Self::launch_by(Command::new(env!("CARGO_BIN_EXE_neo-events")), folder, database, arguments)
    }

    /// Starts the program on a file on a disk of its own with so many MiB, of which a [`Ballast`] has some.
    pub(crate) async fn start_on_small_disk(folder: &Path, mib: u32, ballast_mib: u32) -> (Self, Ballast) {
        let disk = folder.join("disk");
        std::fs::create_dir(&disk).unwrap();
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        // The disk is mounted for this process alone, and goes with it.
        let script = format!(
            "mount -t tmpfs -o size={mib}m tmpfs disk && head -c {ballast_mib}M /dev/zero >disk/ballast && \
             exec \"$0\" \"$@\""
        );
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_neo-events")]);
        let database = format!("sqlite:{}", disk.join("admin.db").display());
        let mut server = Self::launch_by(command, folder, &database, &[]);
        server.wait_until_ready().await.unwrap_or_else(|ended| panic!("it {ended}: {}", server.log()));
        let inside = disk.join("ballast");
        let path = Path::new("/proc").join(server.id().to_string()).join("root");
        (server, Ballast(path.join(inside.strip_prefix("/").unwrap())))
    }

    /// Starts the program where not a line of its log can be written, and it has much to say.
    pub(crate) async fn start_without_a_log(folder: &Path) -> Self {
        let mut command = Command::new("sh");
        let script = "RUST_LOG=debug exec \"$0\" \"$@\" 2>/dev/full";
        command.args(["-c", script, env!("CARGO_BIN_EXE_neo-events")]);
        let database = format!("sqlite:{}", database(folder).display());
        let mut server = Self::launch_by(command, folder, &database, &[]);
        server.wait_until_ready().await.unwrap();
        server
    }

    fn launch_by(mut program: Command, folder: &Path, database: &str, arguments: &[&str]) -> Self {
        let address = Address::choose();
        let log = folder.join(format!("server-{:016x}.log", address.key));
        let child = program
            .arg("serve")
            .args(["--listen", &address.socket.to_string(), "--admin-key", &address.admin_key()])
            .args(["--database", database])
            .args(arguments)
            .current_dir(folder)
            .env("RUST_LOG", "warn")
            .env("NEO_EVENTS_MASTER_KEY", MASTER_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, address, log }
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Operators find all of these in its log.
    pub(crate) fn assert_logged(&self, texts: &[&str]) {
        let log = self.log();
        for text in texts {
            assert!(log.contains(text), "{text}: {log}");
        }
    }

    /// Waits for its end; how it ended, and what it said.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.log());
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.child.wait().unwrap()
    }

    /// SIGSTOP: it hangs, and its connections stay. When this returns, none of its threads runs: they go on until one of
    /// them has taken the signal, which may be a while on a busy machine.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
        let deadline = Instant::now() + PATIENCE;
        while !self.is_stopped() {
            assert!(Instant::now() < deadline, "it runs on though it was told to stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let mut states = threads.map(|thread| std::fs::read_to_string(thread?.path().join("status")));
        // One that ends meanwhile was running.
        states.all(|status| status.is_ok_and(|status| status.contains("\nState:\tT")))
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Resident memory now, in MiB.
    pub(crate) fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    /// The error is that it has ended.
    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.is_ready().await {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(format!("ended with {status}"));
            }
            assert!(Instant::now() < deadline, "the server is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether it serves: it, and nobody who took the port since it was chosen, for another does not know the key.
    async fn is_ready(&self) -> bool {
        let Ok(mut client) = Client::connect(self.address).await else { return false };
        let is_ready = client.get("/readyz").await.is_ok_and(|(status, _)| status == 200);
        is_ready && client.get("/v1/tenants?limit=1").await.is_ok_and(|(status, _)| status != STRANGER)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that fills a disk.
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    /// Makes room.
    pub(crate) fn drop_it(self) {
        std::fs::remove_file(self.0).unwrap();
    }
}

/// What all servers in a folder have said, those that are dead too.
pub(crate) fn logs(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.map(|log| std::fs::read_to_string(log).unwrap()).collect()
}

pub(crate) fn database(folder: &Path) -> PathBuf {
    folder.join("admin.db")
}

/// One kept-alive connection to the API.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    address: Address,
    tenant: Option<String>,
    _connection: JoinSet<()>,
}

pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub(crate) async fn connect(address: Address) -> Result<Self, Broken> {
        let stream = TcpStream::connect(address.socket).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { sender, address, tenant: None, _connection: driver })
    }

    /// From now on acts in another tenant than the platform's own.
    pub(crate) fn acting_in(self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self }
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

    pub(crate) async fn patch(
        &mut self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<(u16, serde_json::Value), Broken> {
        self.call("PATCH", path, body.into()).await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Result<(u16, serde_json::Value), Broken> {
        self.call("DELETE", path, Bytes::new()).await
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, serde_json::Value), Broken> {
        self.sender.ready().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.socket.to_string())
            .header("authorization", format!("Bearer {}", self.address.admin_key()))
            .header("content-type", "application/json");
        if let Some(tenant) = &self.tenant {
            request = request.header("x-neo-tenant-id", tenant);
        }
        let response = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let json = if body.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&body)? };
        Ok((status, json))
    }

    /// Registers an endpoint that gets everything, and answers its id.
    pub(crate) async fn subscribe_to_everything(&mut self, url: &str) -> String {
        self.subscribe_with(url, serde_json::json!({})).await
    }

    /// The same with further settings of the endpoint.
    pub(crate) async fn subscribe_with(&mut self, url: &str, settings: serde_json::Value) -> String {
        self.subscribe_to_part(url, settings, serde_json::json!({})).await
    }

    /// The same with further settings of the subscription, such as a filter.
    pub(crate) async fn subscribe_to_part(
        &mut self,
        url: &str,
        settings: serde_json::Value,
        subscription: serde_json::Value,
    ) -> String {
        let endpoint = serde_json::json!({
            "name": "test", "endpoint_url": url, "retry_backoff_seconds": 1, "secret_token": receiver::SECRET,
        });
        let created = self.create("/v1/endpoints", with(endpoint, settings)).await;
        let id = created["id"].as_str().unwrap().to_owned();
        let everything = serde_json::json!({"endpoint_id": id, "event_type": "*"});
        self.create("/v1/subscriptions", with(everything, subscription)).await;
        id
    }

    pub(crate) async fn create(&mut self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let (status, created) = self.post(path, body.to_string()).await.unwrap();
        assert_eq!(status, 201, "{created}");
        created
    }
}

/// An object with the fields of another one, too.
fn with(mut object: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    let serde_json::Value::Object(more) = more else { panic!("no object: {more}") };
    object.as_object_mut().unwrap().extend(more);
    object
}
