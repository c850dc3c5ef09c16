//! What systems stand on: a `PostgreSQL`, a Redis and a `RabbitMQ` of a scenario's own, and their programs.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use neo_events_test_postgres::Cluster;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

/// For a start.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Redis as it is run where its data matter: what was written is on the disk within a second.
const REDIS_DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// The databases of one scenario, removed when it is over.
pub(crate) struct Ground {
    pub(crate) folder: TempDir,
    pub(crate) cluster: Cluster,
    pub(crate) redis: Option<(Program, SocketAddr)>,
    pub(crate) rabbitmq: Option<(Program, SocketAddr)>,
}

impl Ground {
    /// `PostgreSQL` with its defaults, but for a log that is not written out in the middle of a measurement and enough
    /// connections for whoever wants many.
    pub(crate) async fn prepare() -> Self {
        let settings = [("max_wal_size", "4GB"), ("max_connections", "400")];
        let (folder, cluster) = (tempfile::tempdir().unwrap(), Cluster::start(&settings).await);
        Self { folder, cluster, redis: None, rabbitmq: None }
    }

    /// The same with the database that a URL's path names; the user needs no password.
    pub(crate) fn postgres(&self) -> url::Url {
        self.cluster.url().parse().unwrap()
    }

    pub(crate) async fn redis(&mut self) -> SocketAddr {
        let address = free_address();
        let folder = self.folder.path().to_owned();
        let mut program = Program::new(folder.join("redis.log"), move || {
            let mut command = Command::new("redis-server");
            command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(REDIS_DURABLE).arg("--dir").arg(&folder);
            command
        });
        program.start();
        until_it_listens(address).await;
        self.redis = Some((program, address));
        address
    }

    pub(crate) async fn rabbitmq(&mut self) -> SocketAddr {
        let (address, distribution) = (free_address(), free_address().port());
        let folder = self.folder.path().join("rabbitmq");
        fs::create_dir(&folder).unwrap();
        let mut program = Program::new(folder.join("log"), move || {
            let mut command = Command::new(RABBITMQ);
            command
                .env("RABBITMQ_NODENAME", format!("bench{}@localhost", address.port()))
                .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
                .env("RABBITMQ_NODE_PORT", address.port().to_string())
                .env("RABBITMQ_DIST_PORT", distribution.to_string())
                .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
            for place in ["HOME", "RABBITMQ_MNESIA_BASE", "RABBITMQ_LOG_BASE"] {
                command.env(place, &folder);
            }
            for (name, file) in [("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"), ("RABBITMQ_PID_FILE", "pid")] {
                command.env(name, folder.join(file));
            }
            command
        });
        program.start();
        until_it_listens(address).await;
        self.rabbitmq = Some((program, address));
        address
    }
}

/// A program that can be killed and started again; killed when dropped.
pub(crate) struct Program {
    command: Box<dyn Fn() -> Command + Send>,
    child: Option<Child>,
    log: PathBuf,
}

impl Program {
    pub(crate) fn new(log: PathBuf, command: impl Fn() -> Command + Send + 'static) -> Self {
        Self { command: Box::new(command), child: None, log }
    }

    pub(crate) fn start(&mut self) {
        let mut command = (self.command)();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// The most memory that it had resident so far, in KiB.
    pub(crate) fn resident_peak_kib(&self) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
        line.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The commands of a program that runs in this folder, with these settings in its environment.
pub(crate) fn command_in(
    folder: &Path,
    program: &Path,
    settings: Vec<(&'static str, String)>,
) -> impl Fn(&[&str]) -> Command + Clone + Send + use<> {
    let (program, folder) = (program.to_owned(), folder.to_owned());
    move |arguments| {
        let mut command = Command::new(&program);
        command.args(arguments).envs(settings.clone()).current_dir(&folder);
        command
    }
}

/// Runs a program to its end and answers what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A program beside another one.
pub(crate) fn sibling(program: &Path, name: &str) -> PathBuf {
    program.with_file_name(name)
}

/// One that nobody listens on at this moment.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn until_it_listens(address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "nobody listens on {address}");
        sleep(POLL_INTERVAL).await;
    }
}
