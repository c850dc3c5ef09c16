//! The running server: database, deliveries and HTTP, from start to a drained stop.
//!
//! Stopping has two stages. First nothing new is accepted, requests that have begun are answered and idle connections
//! are closed; then, with what is left of [`STOP_BUDGET`], deliveries in flight end. What does not end in time is cut
//! off, which loses nothing that was acknowledged.

mod write_deadline;

use std::{convert::Infallible, fs, io, net::SocketAddr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::Request;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use neo_events::{NeoEvents, Passes, Shutdown, Sources, StartError};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::write_deadline::WriteDeadline;
use crate::api::Api;
pub use crate::settings::{AdminKey, Database, Roles, ServeSettings};

/// From the signal until the database is closed, which takes two seconds more where somebody has locked a table: that
/// is what is promised outside.
pub const STOP_BUDGET: Duration = Duration::from_secs(13);
/// What of it requests may use.
const STOP_REQUESTS: Duration = Duration::from_secs(6);
/// Connections for calls at once.
const CONNECTIONS_MAX: usize = 4096;
/// Connections beyond those: each may ask once whether the server lives and serves, or is told to try again. More wait
/// in the kernel's queue.
const RESERVE_CONNECTIONS_MAX: usize = 256;
/// How long one of the reserve may take for its request, head and body together: while those that are silent or owe a
/// body hold the reserve, a probe behind them waits for no more than that.
const RESERVE_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may last in all: longer than a database lets `/readyz` wait, a PostgreSQL that hangs 3 s, a SQLite file that
/// another process has locked 5 s.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(7);
/// From the first moment a request could come to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
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
    places: Places,
    tasks: JoinSet<()>,
    /// Told to every connection: answer what has begun, then close.
    finish: CancellationToken,
}

impl Connections {
    fn new(api: Arc<Api>) -> Self {
        Self { api, places: Places::new(), tasks: JoinSet::new(), finish: CancellationToken::new() }
    }

    async fn accept_until(&mut self, stop: impl Future<Output = ()>, listener: &TcpListener) {
        let mut stop = pin!(stop);
        loop {
            let (place, stream) = tokio::select! {
                accepted = self.places.accept(listener) => accepted,
                () = &mut stop => return,
            };
            while self.tasks.try_join_next().is_some() {}
            let (api, finish) = (Arc::clone(&self.api), self.finish.clone());
            match place {
                Place::Ordinary(place) => self.tasks.spawn(converse(stream, api, finish, place)),
                Place::Reserve(place) => self.tasks.spawn(answer_probe(stream, api, finish, place)),
            };
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

/// How many connections there may be. Whoever has them all, the server can still be asked whether it lives: otherwise
/// it would be taken for dead, and ended.
struct Places {
    ordinary: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
}

/// What a connection counts as.
enum Place {
    /// It may ask for anything.
    Ordinary(OwnedSemaphorePermit),
    /// For probes, since all ordinary places were taken when it came.
    Reserve(OwnedSemaphorePermit),
}

impl Places {
    fn new() -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            reserve: Arc::new(Semaphore::new(RESERVE_CONNECTIONS_MAX)),
        }
    }

    /// The next connection, once there is a place for it.
    async fn accept(&self, listener: &TcpListener) -> (Place, TcpStream) {
        let reserve = tokio::select! {
            biased;
            place = free(&self.ordinary) => return (Place::Ordinary(place), accept(listener).await),
            place = free(&self.reserve) => place,
        };
        let stream = accept(listener).await;
        // There may be one by now.
        let ordinary = Arc::clone(&self.ordinary).try_acquire_owned();
        (ordinary.map_or(Place::Reserve(reserve), Place::Ordinary), stream)
    }
}

async fn free(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, request by request.
async fn converse(stream: TcpStream, api: Arc<Api>, finish: CancellationToken, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    http.header_read_timeout(HEAD_TIMEOUT);
    serve_connection(stream, http, service, finish).await;
}

/// One connection of the reserve: one request, soon.
async fn answer_probe(
    stream: TcpStream,
    api: Arc<Api>,
    finish: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let arrives_until = Instant::now() + RESERVE_REQUEST_TIMEOUT;
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer_probe(request, arrives_until).await) }
    });
    let mut http = http1::Builder::new();
    http.header_read_timeout(RESERVE_REQUEST_TIMEOUT).keep_alive(false);
    // Who takes longer needs no answer any more.
    let _ = timeout(RESERVE_TIMEOUT, serve_connection(stream, http, service, finish)).await;
}

async fn serve_connection<S, F>(
    stream: TcpStream,
    mut http: http1::Builder,
    service: S,
    finish: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    // Without it answers would wait for acknowledgements of the ones before; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let connection = http
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(WriteDeadline::new(stream)), service);
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
