//! A store at work on a disk that takes notes, and what its callers were told when: publishers in two schemas, whose
//! events come with two deliveries each, or owe their dispatch for a while; some deliveries are attempted.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use neo_events_domain::{
    endpoint::Endpoint,
    id::{DeliveryId, EventId},
    tenant::{Schema, Tenant},
};
use neo_events_store::{
    Arrival, Catalogue, CatalogueVersion, DeliveryWork, DirectDelivery, DirectDispatch, Dispatched, Inserted,
    Lease, NewDelivery, Settled, StoreError, Tenants, WorkQueue,
};
use neo_events_store_sqlite::{
    SqliteOptions, SqliteStore,
    rusqlite::{Connection, Row},
};
use neo_events_test_disk::{Failing, Honesty, Recording, written_again};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::drafts::{at, delivery, endpoint, event, settlement};

/// Publishers at a time: their events share commits.
const PUBLISHERS: u64 = 8;
/// Of so many events one owes its dispatch.
const OWING_ONE_IN: u64 = 4;
/// Of so many events that come with their deliveries, one has a delivery that is attempted at once.
const ATTEMPTED_ONE_IN: u64 = 3;

impl Device {
    /// What the store answered. An error is one of the device, which may be gone next time, and only if the device
    /// fails.
    fn expects<T>(self, answer: Result<T, StoreError>) -> Option<T> {
        match (answer, self) {
            (Ok(answer), _) => Some(answer),
            (Err(error), Self::Fails { .. }) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                None
            }
            (Err(error), Self::Works) => panic!("{error:?}"),
        }
    }
}

/// What is written. The log is moved into the file when a store is closed, and when it has 16 MiB.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) lives: u32,
    /// Events of each publisher before some are dispatched, and again afterwards.
    pub(crate) rounds: u64,
    pub(crate) data_bytes: usize,
}

/// When what is asked of the store is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// When the store does.
    Honest,
    /// Publishes before that, while the store is at it.
    BeforePublishing,
    /// Attempts before that.
    BeforeSettling,
}

/// When something was asked for and when it was answered, as moments of the disk; [`NEVER`] if the answer was an error.
pub(crate) type Span = Range<usize>;

/// Nobody was told that it is done.
pub(crate) const NEVER: usize = usize::MAX;

/// When an event's deliveries were written.
pub(crate) enum Dispatch {
    WithTheEvent,
    NotYet,
    Later(Span),
}

impl Dispatch {
    /// What was refused before may have been done all the same.
    fn was_tried(&mut self, span: Span) {
        let asked = if let Self::Later(before) = self { before.start } else { span.start };
        *self = Self::Later(asked..span.end);
    }
}

/// An event, and what its publisher knows of it.
pub(crate) struct Known {
    n: u64,
    pub(crate) schema: Schema,
    pub(crate) id: EventId,
    pub(crate) data: String,
    pub(crate) stored: Span,
    pub(crate) deliveries: [DeliveryId; 2],
    pub(crate) dispatch: Dispatch,
    /// Of the first delivery.
    pub(crate) attempt: Option<(Span, bool)>,
}

/// A schema, and the endpoints that get what is published there.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) schema: Schema,
    pub(crate) endpoints: Arc<[Endpoint; 2]>,
}

pub(crate) struct World {
    pub(crate) recording: Arc<Recording>,
    pub(crate) places: [Place; 2],
    pub(crate) events: Vec<Known>,
    answers: Answers,
    device: Device,
    folder: TempDir,
    /// Somebody else has the admin file open to the end.
    others: Option<Connection>,
}

/// What the device does while events are published and dispatched, and when a store is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Works,
    Fails { failing: Failing, one_in: usize, seed: u64 },
}

impl World {
    /// What the lives of a store leave: the first ends by closing, others by being dropped.
    pub(crate) async fn after(honesty: Honesty, answers: Answers, load: Load) -> Self {
        Self::of(Device::Works, honesty, answers, load).await
    }

    /// The same on a device that fails now and then.
    pub(crate) async fn on(device: Device, load: Load) -> Self {
        Self::of(device, Honesty::Honest, Answers::Honest, load).await
    }

    /// What is left where somebody read from the admin file while a part of its log was moved, the next sync of that file
    /// failed, and those after it did not. And when the store was about to be closed. It is opened and closed once more, while
    /// somebody else has the file open, or not.
    pub(crate) async fn after_a_sync_failed_behind_a_reader(stays_open: bool) -> (Self, usize) {
        let device = Device::Fails { failing: Failing::SyncsOfDatabases, one_in: 1, seed: 0 };
        let mut world = Self::new(device, Honesty::Honest, Answers::Honest);
        let store = world.open();
        world.furnish(&store).await;
        let versions = world.versions(&store).await;
        let large = |rounds| Load { lives: 1, rounds, data_bytes: 90_000 };
        world.publish(&store, versions, large(14)).await;
        let mut reader = Connection::open(world.admin_file()).unwrap();
        let reading = reader.transaction().unwrap();
        reading.query_row("select count(*) from events", [], |_| Ok(())).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while !world.is_moved_in_part() {
            assert!(Instant::now() < deadline, "nothing is moved beside a reader");
            world.publish(&store, versions, large(1)).await;
        }
        reading.rollback().unwrap();
        world.recording.fail(Failing::SyncsOfDatabases, 1, 0);
        while world.recording.syncs_failed("admin.db") == 0 {
            assert!(Instant::now() < deadline, "nothing is moved");
            world.publish(&store, versions, large(1)).await;
        }
        world.recording.heal();
        world.publish(&store, versions, large(1)).await;
        assert!(world.is_moved_in_part(), "and no more than that since the failure");
        let reader = stays_open.then_some(reader);
        let closing = world.recording.position();
        drop(store);
        drop(world.open());
        world.others = reader;
        (world, closing)
    }

    /// Whether a part of the admin file's log is in the file, and another is not.
    fn is_moved_in_part(&self) -> bool {
        let conn = Connection::open(self.admin_file()).unwrap();
        let progress = |row: &Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let (pages, moved) = conn.query_row("pragma wal_checkpoint(noop)", [], progress).unwrap();
        0 < moved && moved < pages
    }

    fn new(device: Device, honesty: Honesty, answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recording = Arc::new(Recording::of(folder.path(), honesty));
        let place = |schema, n| Place { schema, endpoints: Arc::new([endpoint(n), endpoint(n + 1)]) };
        let places = [place(Schema::admin(), 1), place(Schema::tenant("acme").unwrap(), 3)];
        Self { recording, places, events: Vec::new(), answers, device, folder, others: None }
    }

    async fn of(device: Device, honesty: Honesty, answers: Answers, load: Load) -> Self {
        let mut world = Self::new(device, honesty, answers);
        for life in 1..=load.lives {
            let store = world.open();
            if life == 1 {
                world.furnish(&store).await;
            }
            let versions = world.versions(&store).await;
            if let Device::Fails { failing, one_in, seed } = device {
                world.recording.fail(failing, one_in, seed + u64::from(life));
            }
            world.publish(&store, versions, load).await;
            world.dispatch(&store, 10).await;
            world.publish(&store, versions, load).await;
            if life == 1 {
                store.close().await;
            } else {
                drop(store);
            }
            world.recording.heal();
        }
        world
    }

    fn admin_file(&self) -> PathBuf {
        self.folder.path().join("admin.db")
    }

    fn open(&self) -> SqliteStore {
        let path = self.admin_file();
        SqliteStore::open(SqliteOptions { written_beside: written_again, ..SqliteOptions::new(path) })
            .unwrap()
    }

    /// A tenant with a file of its own, and the endpoints.
    async fn furnish(&self, store: &SqliteStore) {
        let tenant = Tenant { schema: self.places[1].schema.clone(), name: None, created_at: at(0) };
        assert_eq!(store.create_tenant(&tenant).await.unwrap(), Inserted::New);
        for place in &self.places {
            for endpoint in &*place.endpoints {
                let inserted = store.insert_endpoint(&place.schema, endpoint).await.unwrap();
                assert_eq!(inserted, Inserted::New);
            }
        }
    }

    /// Of the places' catalogues.
    async fn versions(&self, store: &SqliteStore) -> [CatalogueVersion; 2] {
        let [one, two] = &self.places;
        [version(store, &one.schema).await, version(store, &two.schema).await]
    }

    async fn publish(&mut self, store: &SqliteStore, versions: [CatalogueVersion; 2], load: Load) {
        for _ in 0..load.rounds {
            let mut publishers = JoinSet::new();
            for publisher in 0..PUBLISHERS {
                let n = u64::try_from(self.events.len()).unwrap() + publisher;
                let at_place = usize::from(n / OWING_ONE_IN % 2 == 1);
                let (place, version) = (self.places[at_place].clone(), versions[at_place]);
                let desk = Desk {
                    store: store.clone(),
                    recording: Arc::clone(&self.recording),
                    answers: self.answers,
                    device: self.device,
                };
                publishers.spawn(async move { desk.publish(n, load.data_bytes, &place, version).await });
            }
            self.events.extend(publishers.join_all().await);
        }
    }

    /// Writes the deliveries of some of the events that owe their dispatch.
    async fn dispatch(&mut self, store: &SqliteStore, limit: u32) {
        let claimed = store.claim_dispatches(at(0), limit, at(1000)).await;
        for claim in self.device.expects(claimed).unwrap_or_default() {
            let place = self.places.iter().find(|place| place.schema == claim.schema).unwrap();
            let ids: Vec<_> = claim.owed.iter().map(|lease| lease.work().event.id).collect();
            let known = |id| self.events.iter().position(|known| known.id == id).unwrap();
            let all: Vec<_> = ids.into_iter().map(known).collect();
            let to_all = |(lease, nth): (_, &usize)| {
                let deliveries = deliveries(self.events[*nth].n, place).to_vec();
                Dispatched { lease, deliveries }
            };
            let dispatched = claim.owed.into_iter().zip(&all).map(to_all).collect();
            let asked = self.recording.position();
            let settled = store.settle_dispatches(dispatched, at(1)).await;
            let answered = self
                .device
                .expects(settled.map_err(|unsettled| unsettled.error))
                .map_or(NEVER, |_| self.recording.position());
            for nth in all {
                self.events[nth].dispatch.was_tried(asked..answered);
            }
        }
    }
}

async fn version(store: &SqliteStore, schema: &Schema) -> CatalogueVersion {
    let mut version = CatalogueVersion(0);
    loop {
        let changes = store.catalogue_changes(schema, version, 100).await.unwrap();
        version = changes.version;
        if !changes.more {
            return version;
        }
    }
}

/// Of the n-th event, one to each endpoint.
fn deliveries(n: u64, place: &Place) -> [NewDelivery; 2] {
    let [one, two] = &*place.endpoints;
    [delivery(2 * n, one), delivery(2 * n + 1, two)]
}

/// Where a publisher works.
struct Desk {
    store: SqliteStore,
    recording: Arc<Recording>,
    answers: Answers,
    device: Device,
}

impl Desk {
    /// Publishes the n-th event, and attempts its first delivery if it is that one's turn. The disk's moment is read
    /// here, as soon as the answer is.
    async fn publish(self, n: u64, data_bytes: usize, place: &Place, version: CatalogueVersion) -> Known {
        let (new, deliveries) = (event(n, data_bytes), deliveries(n, place));
        let mut known = Known {
            n,
            schema: place.schema.clone(),
            id: new.id,
            data: new.event_data.as_str().to_owned(),
            stored: 0..0,
            deliveries: deliveries.each_ref().map(|delivery| delivery.id),
            dispatch: Dispatch::WithTheEvent,
            attempt: None,
        };
        let handed = Hand::default();
        let mut arrival = Arrival::from(new);
        if n.is_multiple_of(OWING_ONE_IN) {
            known.dispatch = Dispatch::NotYet;
        } else {
            arrival.dispatch = Some(handed.dispatch(version, deliveries));
        }
        let (store, schema, device) = (self.store.clone(), place.schema.clone(), self.device);
        let append = async move {
            let appended = store.append_arrivals(&schema, vec![arrival], at(0)).await;
            device.expects(appended).is_some()
        };
        known.stored = self.timed(Answers::BeforePublishing, append).await;
        if n.is_multiple_of(ATTEMPTED_ONE_IN)
            && let Some(lease) = handed.take()
        {
            known.attempt = Some(self.attempt(lease, n.is_multiple_of(2)).await);
        }
        known
    }

    async fn attempt(&self, lease: Lease<DeliveryWork>, succeeds: bool) -> (Span, bool) {
        let (store, device) = (self.store.clone(), self.device);
        let settle = async move {
            let settled = store.settle(settlement(lease, succeeds)).await;
            let Some(settled) = device.expects(settled.map_err(|unsettled| unsettled.error)) else {
                return false;
            };
            assert!(matches!(settled, Settled::Recorded(_)), "{settled:?}");
            true
        };
        (self.timed(Answers::BeforeSettling, settle).await, succeeds)
    }

    /// Does something that answers whether it is done, and waits for it; if its answer is one of the hasty ones, only
    /// afterwards.
    async fn timed(&self, hasty: Answers, step: impl Future<Output = bool> + Send + 'static) -> Span {
        let asked = self.recording.position();
        if self.answers != hasty {
            return if step.await { asked..self.recording.position() } else { asked..NEVER };
        }
        let mut steps = JoinSet::new();
        steps.spawn(step);
        let answered = self.recording.position();
        steps.join_all().await;
        asked..answered
    }
}

/// Where a delivery is put that was leased as it was written.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Option<Lease<DeliveryWork>>>>);

impl Hand {
    fn take(&self) -> Option<Lease<DeliveryWork>> {
        self.0.lock().unwrap().take()
    }

    /// The first delivery is taken, the second is left to whoever comes.
    fn dispatch(&self, catalogue_version: CatalogueVersion, [one, two]: [NewDelivery; 2]) -> DirectDispatch {
        let hand = self.clone();
        DirectDispatch {
            catalogue_version,
            deliveries: vec![
                DirectDelivery { delivery: one, is_taken: true },
                DirectDelivery { delivery: two, is_taken: false },
            ],
            lease_until: at(1000),
            hand_over: Box::new(move |mut leases| *hand.0.lock().unwrap() = leases.pop()),
        }
    }
}
