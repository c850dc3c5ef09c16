//! Starts the passes, restarts one that panics, and stops them in two stages: first nothing new is begun, what is
//! in hand but not in flight is given back and what is in flight may end, then what remains is cut off and given back.
//!
//! Which passes run on a node is a choice ([`Passes`]): nodes that share a database may divide the work.

use std::{error::Error, sync::Arc, time::Duration};

use neo_events_store::Store;
use tokio::{
    sync::{
        Mutex, Semaphore,
        mpsc::{self, UnboundedReceiver},
    },
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    Keyring, Sources, Transport,
    admission::Admission,
    deliver::{Complaints, Deliverer},
    direct::{DirectDispatcher, Taken},
    dispatch::Dispatcher,
    handle::EngineHandle,
    registry::Registry,
    stop::{Shutdown, StopSignals},
    usage::{FLUSH_INTERVAL, UsageLog},
    watched::WatchedDeliveries,
    webhook::Webhook,
};

const TEND_INTERVAL: Duration = Duration::from_millis(500);
const RESTART_INTERVAL: Duration = Duration::from_secs(1);
/// What was answered when the passes are cut off may be recorded for so long: of a database that hangs nothing is
/// heard.
const CUT_OFF_MAX: Duration = Duration::from_secs(2);
/// For the last-used times, at the end.
const LAST_FLUSH_MAX: Duration = Duration::from_secs(1);

/// The running passes.
pub struct Engine {
    parts: Arc<Parts>,
    passes: JoinSet<()>,
}

/// Which passes run on this node. What is dispatched here and delivered elsewhere is found there within half a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Events become deliveries.
    pub dispatch: bool,
    /// Deliveries are attempted.
    pub deliver: bool,
}

impl Passes {
    /// Everything.
    pub const ALL: Self = Self { dispatch: true, deliver: true };
    /// Nothing: the node only takes events in and answers questions.
    pub const NONE: Self = Self { dispatch: false, deliver: false };
}

/// What passes and handles share.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sources: Sources,
    pub(crate) admission: Arc<Admission>,
    usage: Arc<UsageLog>,
    pub(crate) watched: Arc<WatchedDeliveries>,
    transport: Arc<dyn Transport>,
    keyring: Arc<Keyring>,
    pub(crate) runs: Passes,
    registry: Arc<Registry>,
    pub(crate) direct: DirectDispatcher,
    /// What [`Self::direct`] took; the deliver pass has it while it runs.
    taken: Mutex<UnboundedReceiver<Taken>>,
    pub(crate) signals: StopSignals,
}

impl Engine {
    /// How long a shutdown may take beyond its grace.
    pub const SHUTDOWN_EXTRA_MAX: Duration = CUT_OFF_MAX.saturating_add(LAST_FLUSH_MAX);

    /// Starts the passes on the current runtime.
    pub fn start(
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        keyring: Arc<Keyring>,
        sources: Sources,
        runs: Passes,
    ) -> Self {
        let (taken, to_attempt) = mpsc::unbounded_channel();
        let direct = DirectDispatcher {
            sources: sources.clone(),
            registry: Arc::default(),
            admission: Arc::default(),
            usage: Arc::default(),
            taken,
        };
        let parts = Arc::new(Parts {
            store,
            sources,
            admission: Arc::clone(&direct.admission),
            usage: Arc::clone(&direct.usage),
            watched: Arc::default(),
            transport,
            keyring,
            runs,
            registry: Arc::clone(&direct.registry),
            direct,
            taken: Mutex::new(to_attempt),
            signals: StopSignals::default(),
        });
        let mut passes = JoinSet::new();
        if runs.dispatch {
            passes.spawn(supervise("dispatch", Arc::clone(&parts), run_dispatch));
        }
        if runs.deliver {
            passes.spawn(supervise("deliver", Arc::clone(&parts), run_deliver));
        }
        if runs != Passes::NONE {
            passes.spawn(supervise("tend", Arc::clone(&parts), run_tend));
        }
        Self { parts, passes }
    }

    /// What others may ask of the engine, and tell it.
    pub fn handle(&self) -> EngineHandle {
        EngineHandle::new(Arc::clone(&self.parts))
    }

    /// Stops: lets what is in flight end for up to `grace`, then cuts it off. Takes [`Self::SHUTDOWN_EXTRA_MAX`] more at
    /// most. What is leased then is given back by the store as it closes.
    pub async fn shutdown(mut self, grace: Duration) -> Shutdown {
        self.parts.signals.stop.cancel();
        let drained = timeout(grace, join_all(&mut self.passes)).await.is_ok();
        self.parts.signals.abort.cancel();
        if timeout(CUT_OFF_MAX, join_all(&mut self.passes)).await.is_err() {
            tracing::warn!(
                "the database did not take in time what was answered last; it will be attempted again"
            );
            self.passes.shutdown().await;
        }
        if timeout(LAST_FLUSH_MAX, self.parts.usage.flush(self.parts.store.as_ref())).await.is_err() {
            tracing::warn!("the database did not take the last-used times in time");
        }
        if drained { Shutdown::Drained } else { Shutdown::CutOff }
    }
}

impl Drop for Engine {
    /// Like a crash; but what handles still publish must not be leased to passes that are gone.
    fn drop(&mut self) {
        self.parts.signals.stop.cancel();
    }
}

async fn join_all(passes: &mut JoinSet<()>) {
    while passes.join_next().await.is_some() {}
}

async fn run_dispatch(parts: Arc<Parts>) {
    let Parts { store, sources, admission, usage, runs, registry, signals, .. } = parts.as_ref();
    let dispatcher = Dispatcher {
        store: Arc::clone(store),
        sources: sources.clone(),
        admission: runs.deliver.then(|| Arc::clone(admission)),
        usage: Arc::clone(usage),
        registry: Arc::clone(registry),
        costly: Semaphore::new(1),
    };
    Arc::new(dispatcher).run(signals.stop.clone()).await;
}

async fn run_deliver(parts: Arc<Parts>) {
    let Parts { store, sources, admission, usage, watched, transport, keyring, signals, .. } = parts.as_ref();
    let webhook =
        Webhook { transport: Arc::clone(transport), keyring: Arc::clone(keyring), sources: sources.clone() };
    let deliverer = Deliverer {
        store: Arc::clone(store),
        sources: sources.clone(),
        admission: Arc::clone(admission),
        usage: Arc::clone(usage),
        watched: Arc::clone(watched),
        webhook,
        complaints: Complaints::default(),
    };
    let mut taken = parts.taken.lock().await;
    Arc::new(deliverer).run(&mut taken, signals.clone()).await;
}

/// Finishes what was begun, and writes last-used times.
async fn run_tend(parts: Arc<Parts>) {
    let stop = &parts.signals.stop;
    let mut flushed_at = Instant::now();
    while !stop.is_cancelled() {
        let more = parts.store.tend(parts.sources.now()).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn Error, "tending failed; trying again");
            false
        });
        if flushed_at.elapsed() >= FLUSH_INTERVAL {
            parts.usage.flush(parts.store.as_ref()).await;
            flushed_at = Instant::now();
        }
        if !more {
            let _ = stop.run_until_cancelled(tokio::time::sleep(TEND_INTERVAL)).await;
        }
    }
}

/// Runs a pass, and runs it again if it panics: what it held expires or is given back, and the tables are the truth.
async fn supervise<F>(name: &'static str, parts: Arc<Parts>, run: fn(Arc<Parts>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let mut pass = JoinSet::new();
        pass.spawn(run(Arc::clone(&parts)));
        match pass.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(pass = name, %error, "a pass panicked; starting it again");
                tokio::time::sleep(RESTART_INTERVAL).await;
            }
            _ => return,
        }
    }
}
