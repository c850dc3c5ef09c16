//! A test's own database in a cluster that it shares.

use std::{process, thread, time::Duration};

use tokio::{runtime, time::timeout};

use crate::{
    connection::{self, Connection, SUPERUSER, execute},
    home::{Home, Lease, random},
};

/// Dropping is given up after this, and left to the end of the cluster.
const DROP_TIMEOUT: Duration = Duration::from_secs(20);

/// An empty database, dropped with this value, whoever is still connected to it.
pub struct Database {
    name: String,
    home: Home,
    port: u16,
    _lease: Lease,
}

/// Somebody who may log in.
pub struct Role {
    /// Its name, which needs no quotes in SQL.
    pub name: String,
    /// Where it finds the database.
    pub url: String,
}

impl Database {
    pub(crate) async fn create(home: Home, port: u16, lease: Lease) -> Self {
        let name = format!("test_{}_{:016x}", process::id(), random());
        // Nobody connects to template0, so that any number of databases can be made of it at the same time.
        execute(
            &connection::url(port, SUPERUSER, "postgres"),
            &format!("create database {name} template template0"),
        )
        .await;
        Self { name, home, port, _lease: lease }
    }

    /// Its name, which needs no quotes in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the superuser finds it, by TCP on the loopback interface.
    pub fn url(&self) -> String {
        connection::url(self.port, SUPERUSER, &self.name)
    }

    /// Where the superuser finds it, by a Unix socket.
    pub fn socket_url(&self) -> String {
        connection::socket_url(self.home.path(), self.port, SUPERUSER, &self.name)
    }

    /// Creates a role that may log in, with `attributes` such as `createdb connection limit 3`. Roles are the cluster's:
    /// its name is `name` behind the database's, so that tests do not meet, and it goes when the cluster goes.
    pub async fn create_role(&self, name: &str, attributes: &str) -> Role {
        let name = format!("{}_{name}", self.name);
        execute(&self.url(), &format!("create role {name} login {attributes}")).await;
        let url = connection::url(self.port, &name, &self.name);
        Role { name, url }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let url = connection::url(self.port, SUPERUSER, "postgres");
        let statement = format!("drop database if exists {} with (force)", self.name);
        // A thread, because there may be a runtime around us, in which another cannot be waited for.
        let dropping = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let dropped = async {
                if let Ok(connection) = Connection::open(&url).await {
                    let _ = connection.client.batch_execute(&statement).await;
                }
            };
            let _ = runtime.block_on(async { timeout(DROP_TIMEOUT, dropped).await });
        });
        let _ = dropping.join();
    }
}
