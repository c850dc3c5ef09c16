//! The running server: database, deliveries and HTTP, from start to a drained stop.
//!
//! Stopping has two stages. First nothing new is accepted, requests that have begun are answered and idle connections
//! are closed; then, with what is left of [`STOP_BUDGET`], deliveries in flight end. What does not end in time is cut
//! off, which loses nothing that was acknowledged.

use std::{fs, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use neo_events::{NeoEvents, Passes, Shutdown, Sources, StartError};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
pub use crate::settings::{AdminKey, Database, Roles, ServeSettings};

/// From the signal until the database is closed, which takes two seconds more where somebody has locked a table: that is
/// what is promised outside.
pub const STOP_BUDGET: Duration = Duration::from_secs(13);
/// What of it requests may use.
const STOP_REQUESTS: Duration = Duration::from_secs(6);
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;
/// From the first moment a request could come to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may not read its answer: one that never does must not hold its place for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Open files wanted: connections on both sides, and the database.
pub(crate) const OPEN_FILES_WANTED: u64 = 65_536;
/// A request's line and headers, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// How long to wait if the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why it does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The database, the keys or TLS.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The further TLS roots.
    #[error("the CA file {path} cannot be read")]
    CaFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address is taken, or is not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Serves until `stop` is ready, then drains. `ready` is told the address once requests are taken.
pub async fn serve(
    settings: ServeSettings,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<Shutdown, ServeError> {
    // The usual limit is lower than the connections that we take; what cannot be raised is no reason not to serve.
    if let Err(error) = rlimit::increase_nofile_limit(OPEN_FILES_WANTED) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    let neo = start(&settings).await?;
    let listener = match listen(settings.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            neo.shutdown(Duration::ZERO).await;
            return Err(error);
        }
    };
    let api = if settings.roles.api {
        Api::new(neo.directory(), settings.admin_key.reveal(), Sources::system())
    } else {
        Api::probes_alone(neo.directory(), Sources::system())
    };
    let mut connections = Connections::new(Arc::new(api));
    ready(listener.local_addr().unwrap_or(settings.listen));

    connections.accept_until(stop, &listener).await;
    drop(listener);
    let deadline = Instant::now() + STOP_BUDGET - NeoEvents::SHUTDOWN_EXTRA_MAX;
    connections.drain(Instant::now() + STOP_REQUESTS).await;
    Ok(neo.shutdown(deadline.saturating_duration_since(Instant::now())).await)
}

async fn start(settings: &ServeSettings) -> Result<NeoEvents, ServeError> {
    let builder = match &settings.database {
        Database::Sqlite(path) => NeoEvents::builder(path),
        Database::Postgres(url) => {
            let key_file = settings.database.key_file();
            NeoEvents::postgres(url).key_file(key_file).migrates(settings.migrates)
        }
    };
    let Roles { dispatch, deliver, .. } = settings.roles;
    let mut builder = builder
        .profile(settings.profile)
        .master_keys(settings.master_keys.clone())
        .passes(Passes { dispatch, deliver });
    if let Some(path) = &settings.ca_file {
        let pem = fs::read(path).map_err(|source| ServeError::CaFile { path: path.clone(), source })?;
        builder = builder.ca_file_pem(pem);
    }
    Ok(builder.start().await?)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

/// The open connections.
struct Connections {
    api: Arc<Api>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
    /// Told to every connection: answer what has begun, then close.
    finish: CancellationToken,
}

impl Connections {
    fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tasks: JoinSet::new(),
            finish: CancellationToken::new(),
        }
    }

    async fn accept_until(&mut self, stop: impl Future<Output = ()>, listener: &TcpListener) {
        let mut stop = pin!(stop);
        loop {
            let (place, stream) = tokio::select! {
                accepted = accept(&self.places, listener) => accepted,
                () = &mut stop => return,
            };
            while self.tasks.try_join_next().is_some() {}
            self.tasks.spawn(converse(stream, Arc::clone(&self.api), self.finish.clone(), place));
        }
    }

    async fn drain(mut self, deadline: Instant) {
        self.finish.cancel();
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout_at(deadline, all_ended).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "requests were cut off by the stop");
            self.tasks.shutdown().await;
        }
    }
}

async fn accept(places: &Arc<Semaphore>, listener: &TcpListener) -> (OwnedSemaphorePermit, TcpStream) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (place, stream),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, request by request.
async fn converse(stream: TcpStream, api: Arc<Api>, finish: CancellationToken, _place: OwnedSemaphorePermit) {
    // Without it answers would wait for acknowledgements of the ones before; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut stream = pin!(stream);
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream.as_mut()), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = finish.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
