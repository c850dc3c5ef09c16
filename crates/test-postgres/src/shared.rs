//! The cluster that all test processes of a workspace share: the first starts it, and it ends after the last.

use std::{
    fs::{self, TryLockError},
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    time::Duration,
};

use tokio::task::spawn_blocking;

use crate::{
    connection::{self, Connection, SUPERUSER},
    database::Database,
    home::Home,
    installation::Installation,
    processes, server, watchdog,
};

/// Long enough for the pause between two test programs, or between two edits.
const IDLE: Duration = Duration::from_secs(20);

/// Nothing in it is worth keeping, not even through a crash of the machine.
const SETTINGS: [(&str, &str); 3] =
    [("fsync", "off"), ("full_page_writes", "off"), ("checkpoint_timeout", "1h")];

/// An empty database in the cluster of this workspace.
pub async fn database() -> Database {
    SharedCluster::of_this_workspace().database().await
}

/// A cluster for many processes. It is running as long as one of them has a [`Database`] of it, and for a while after.
pub struct SharedCluster {
    home: Home,
    idle: Duration,
}

impl SharedCluster {
    /// The one of this user, this workspace and the installed version of PostgreSQL.
    pub fn of_this_workspace() -> Self {
        let mut hasher = DefaultHasher::new();
        env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
        Installation::find().version.hash(&mut hasher);
        let user = rustix::process::geteuid().as_raw();
        let folder = std::env::temp_dir().join(format!("neo-events-pg-{user}-{:016x}", hasher.finish()));
        Self::at(&folder, IDLE)
    }

    /// The one in `folder`, which must have a short path and is created and removed with the cluster; it ends after being
    /// idle for so many whole seconds.
    pub fn at(folder: &Path, idle: Duration) -> Self {
        Self { home: Home::at(folder.to_owned()), idle }
    }

    /// An empty database, in the cluster that is running or else is started.
    pub async fn database(&self) -> Database {
        let home = self.home.clone();
        let lease = spawn_blocking(move || home.lease()).await.unwrap();
        let port = match self.running().await {
            Some(port) if self.is_guarded() => port,
            _ => self.start().await,
        };
        Database::create(self.home.clone(), port, lease).await
    }

    /// Whether there is a watchdog, which somebody may have killed.
    fn is_guarded(&self) -> bool {
        matches!(self.home.open_lock("watchdog").try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// The port of the server, if there is one and it is ours.
    async fn running(&self) -> Option<u16> {
        let port: u16 = fs::read_to_string(self.home.path().join("port")).ok()?.parse().ok()?;
        let connection = Connection::open(&connection::url(port, SUPERUSER, "postgres")).await.ok()?;
        // After a crash, the port may be the one of another cluster.
        let row = connection.client.query_one("show data_directory", &[]).await.ok()?;
        let data = fs::canonicalize(row.get::<_, &str>(0)).ok()?;
        (data == fs::canonicalize(self.home.data()).ok()?).then_some(port)
    }

    /// Sees to it that the home has a watchdog and a running server. Whoever calls it has a lease.
    async fn start(&self) -> u16 {
        let home = self.home.clone();
        let starting = spawn_blocking(move || {
            let starting = home.open_lock("starting");
            starting.lock().unwrap();
            starting
        });
        let _starting = starting.await.unwrap();
        // First the watchdog: this process may be killed at any of the next lines.
        self.ensure_watchdog();
        // Somebody else may have been faster.
        if let Some(port) = self.running().await {
            return port;
        }
        let home = self.home.clone();
        spawn_blocking(move || initialize_anew(&home)).await.unwrap();
        let (_server, port) = server::start_on_any_port(&self.home).await;
        let draft = self.home.path().join("port.draft");
        fs::write(&draft, port.to_string()).unwrap();
        fs::rename(&draft, self.home.path().join("port")).unwrap();
        port
    }

    fn ensure_watchdog(&self) {
        let guard = self.home.open_lock("watchdog");
        match guard.try_lock() {
            Ok(()) => drop(watchdog::start(&self.home, guard, self.idle)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => panic!("the watchdog's lock: {error}"),
        }
    }
}

/// Makes new data, after clearing away what a crash may have left.
fn initialize_anew(home: &Home) {
    let data = home.data();
    if data.exists() {
        processes::kill(&data);
        fs::remove_dir_all(&data).unwrap();
    }
    server::initialize(home, &SETTINGS);
}
