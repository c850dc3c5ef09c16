//! A cluster of a test's own, for what must not happen to others: kills, restarts, pauses, settings.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    certificate::ServerCertificate,
    connection::{self, SUPERUSER, answers, execute},
    home::{Home, Lease},
    processes, server, watchdog,
};

/// How long a shutdown may take, and how long a port may be taken by somebody who leaves again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of its own; killed and removed when dropped, and also when the test's process is killed.
pub struct Cluster {
    home: TemporaryHome,
    server: Child,
    port: u16,
}

impl Cluster {
    /// A new cluster, with these lines of `postgresql.conf`. It is durable, unless they say `fsync = off`.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_at(TemporaryHome::new(), settings).await
    }

    /// The same, offering TLS with a certificate for `localhost` and 127.0.0.1, and the PEM of the authority to trust.
    pub async fn start_with_tls(settings: &[(&str, &str)]) -> (Self, String) {
        let home = TemporaryHome::new();
        let issued = ServerCertificate::issue();
        let certificate = home.write("server.crt", &issued.certificate);
        let key = home.write("server.key", &issued.key);
        let tls = [("ssl", "on"), ("ssl_cert_file", &certificate), ("ssl_key_file", &key)];
        (Self::start_at(home, &[&tls, settings].concat()).await, issued.authority)
    }

    /// The same with a small disk beside its data, and a database whose tables are there: its URL, and a file to remove
    /// when there should be room again. The log of transactions is elsewhere and has room.
    pub async fn start_with_small_disk(settings: &[(&str, &str)]) -> (Self, String, PathBuf) {
        let home = TemporaryHome::new();
        let disk = home.home.disk();
        fs::create_dir(&disk).unwrap();
        let cluster = Self::start_at(home, settings).await;
        let space = disk.join("space");
        let space = space.to_str().expect("a directory for temporary files with a name in UTF-8");
        execute(&cluster.url(), &format!("create tablespace small location '{space}'")).await;
        execute(&cluster.url(), "create database small template template0 tablespace small").await;
        // As the server sees it: the disk is mounted for it alone.
        let seen = Path::new("/proc").join(cluster.pid().to_string()).join("root");
        let ballast = seen.join(disk.join("ballast").strip_prefix("/").unwrap());
        let url = connection::url(cluster.port, SUPERUSER, "small");
        (cluster, url, ballast)
    }

    /// Another cluster that has what this one has, and follows it until it is promoted. From here on this one answers
    /// for a commit only when the other has it too.
    pub async fn standby(&self) -> Self {
        let home = TemporaryHome::new();
        let (folder, primary) = (home.home.clone(), self.port);
        spawn_blocking(move || server::copy(&folder, primary)).await.unwrap();
        let (server, port) = server::start_on_any_port(&home.home).await;
        for statement in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
            execute(&self.url(), statement).await;
        }
        self.until_commits_wait_for_the_standby().await;
        Self { home, server, port }
    }

    /// The server takes the setting up when it comes to it, and then waits for the standby once that follows it closely.
    async fn until_commits_wait_for_the_standby(&self) {
        let wait = "select 1 from pg_stat_replication \
                    where sync_state = 'sync' and current_setting('synchronous_standby_names') = '*'";
        let deadline = Instant::now() + PATIENCE;
        while !answers(&self.url(), wait).await {
            assert!(Instant::now() < deadline, "commits do not wait for the standby");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a standby a primary.
    pub async fn promote(&self) {
        execute(&self.url(), "select pg_promote()").await;
    }

    async fn start_at(home: TemporaryHome, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let folder = home.home.clone();
        let initialized = spawn_blocking(move || {
            let settings: Vec<_> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
            server::initialize(&folder, &settings);
        });
        initialized.await.unwrap();
        let (server, port) = server::start_on_any_port(&home.home).await;
        Self { home, server, port }
    }

    /// Where the superuser finds the database `postgres`, by TCP on the loopback interface; the same after a restart.
    pub fn url(&self) -> String {
        connection::url(self.port, SUPERUSER, "postgres")
    }

    /// The same by a Unix socket.
    pub fn socket_url(&self) -> String {
        connection::socket_url(self.home.home.path(), self.port, SUPERUSER, "postgres")
    }

    /// The process id of the server that was started last.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// Kills the server and all its processes. What it had not written is lost, and nobody says goodbye.
    pub fn kill9(&mut self) {
        processes::kill(&self.home.home.data());
        self.server.wait().unwrap();
    }

    /// Shuts the server down: it ends its connections, writes what it has, and ends.
    pub async fn stop_fast(&mut self) {
        kill_process(Pid::from_child(&self.server), Signal::INT).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.server.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the server does not shut down");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the server again after it was killed or stopped, on the same port and data, and waits until it serves.
    pub async fn start_again(&mut self) {
        assert!(self.server.try_wait().unwrap().is_some(), "the server is running");
        let deadline = Instant::now() + PATIENCE;
        loop {
            match server::start(&self.home.home, self.port).await {
                Ok(server) => {
                    self.server = server;
                    return;
                }
                Err(taken) => assert!(Instant::now() < deadline, "port {}: {taken:?}", self.port),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops every process of the server where it is: connections stay, and nothing answers, as with a machine that hangs.
    pub fn pause(&self) {
        processes::pause(&self.home.home.data());
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        processes::resume(&self.home.home.data());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.home.remove();
        let _ = self.server.try_wait();
    }
}

/// A home with a watchdog that does not wait.
struct TemporaryHome {
    home: Home,
    lease: Option<Lease>,
    watchdog: Child,
}

impl TemporaryHome {
    fn new() -> Self {
        let home = Home::fresh();
        let lease = Some(home.lease());
        let watchdog = watchdog::start(&home, home.open_lock("watchdog"), Duration::ZERO);
        Self { home, lease, watchdog }
    }

    /// Writes a file that only the server may read, and returns its path.
    fn write(&self, name: &str, content: &str) -> String {
        let path = self.home.path().join(name);
        File::create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, content).unwrap();
        self.home.account.give(&path);
        path.into_os_string().into_string().unwrap()
    }

    /// The watchdog does it, here as after a crash; this waits for it.
    fn remove(&mut self) {
        self.lease = None;
        let _ = self.watchdog.wait();
    }
}

impl Drop for TemporaryHome {
    fn drop(&mut self) {
        self.remove();
    }
}
