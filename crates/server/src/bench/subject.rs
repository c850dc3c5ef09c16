//! What a mode publishes to: a server of its own (`server_process`), or the library in this process (`library`). Either
//! is subscribed to, published to in the mode's way, and stopped through one type.

use std::{net::SocketAddr, path::Path};

use neo_events::{NeoEvents, SigningSecret};

use super::{
    database::Database,
    library::{LibraryEndpoints, start_library},
    load::{Driven, Load, drive},
    plan::{Mode, Plan},
    publishers::{HttpPublisher, LibraryPublisher, SqlPublisher},
    receiver::Epoch,
    server_process::{ServerProcess, temporary_file},
    usage::forget_own_peak,
};
use crate::cli::failure::Failure;

/// A running neo-events.
pub(crate) enum Subject {
    /// In a process of its own.
    Server(Box<ServerProcess>),
    /// In this one.
    Library {
        /// It.
        neo: NeoEvents,
        /// To be removed again.
        endpoints: LibraryEndpoints,
    },
}

impl Subject {
    /// Starts what the mode needs; `folder` is for what is temporary.
    pub(crate) async fn start(plan: &Plan, mode: Mode, folder: &Path) -> Result<Self, Failure> {
        if mode != Mode::Library {
            let server = ServerProcess::start(&plan.database, folder).await?;
            return Ok(Self::Server(Box::new(server)));
        }
        let file = match &plan.database {
            Database::Temporary => temporary_file(folder),
            Database::Sqlite { path, .. } => path.clone(),
            Database::Postgres { .. } => return Err(Failure::Usage(LIBRARY_NEEDS_SQLITE.to_owned())),
        };
        forget_own_peak();
        Ok(Self::Library { neo: start_library(&file).await?, endpoints: LibraryEndpoints::none() })
    }

    /// Whether it runs in this process.
    pub(crate) const fn is_in_process(&self) -> bool {
        matches!(self, Self::Library { .. })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Server(server) => server.pid(),
            Self::Library { .. } => std::process::id(),
        }
    }

    /// Where it listens, if it does.
    pub(crate) fn server_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Server(server) => Some(server.address()),
            Self::Library { .. } => None,
        }
    }

    /// Registers an endpoint for each URL.
    pub(crate) async fn subscribe(&mut self, urls: &[String], secret: &SigningSecret) -> Result<(), Failure> {
        match self {
            Self::Server(server) => server.subscribe(urls, secret).await,
            Self::Library { neo, endpoints } => endpoints.subscribe(neo, urls, secret).await,
        }
    }

    /// Publishes in the way of the mode. Connections are made before the clock starts.
    pub(crate) async fn publish(
        &self,
        plan: &Plan,
        mode: Mode,
        load: &Load,
        epoch: Epoch,
    ) -> Result<Driven, Failure> {
        let (concurrency, bytes) = (plan.settings.concurrency, plan.settings.payload_bytes);
        let server = match self {
            Self::Server(server) => server,
            Self::Library { neo, .. } => {
                let caller = || LibraryPublisher { tenant: neo.platform(), payload_bytes: bytes };
                return drive(load, (0..concurrency).map(|_| caller()).collect(), epoch).await;
            }
        };
        if let (Mode::Sql, Database::Postgres { url, .. }) = (mode, &plan.database) {
            let mut callers = Vec::with_capacity(concurrency);
            for _ in 0..concurrency {
                callers.push(SqlPublisher::connect(url, bytes).await?);
            }
            return drive(load, callers, epoch).await;
        }
        let (authorization, is_batch) = (server.authorization()?, mode == Mode::Batch);
        let mut callers = Vec::with_capacity(concurrency);
        for _ in 0..concurrency {
            let authorization = authorization.clone();
            callers.push(HttpPublisher::connect(server.address(), authorization, bytes, is_batch).await?);
        }
        drive(load, callers, epoch).await
    }

    /// Removes what it was given and ends it.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        match self {
            Self::Server(server) => server.stop().await,
            Self::Library { neo, endpoints } => endpoints.stop(neo).await,
        }
    }
}

/// Why the library is not measured on `PostgreSQL`.
pub(crate) const LIBRARY_NEEDS_SQLITE: &str =
    "--mode library runs the library on SQLite: give --database sqlite:PATH, or none";
