//! A server that was built where it cannot tell that a client has gone, on Windows say. It takes that setting as little as
//! any other value that it does not have; so somebody on the way makes the value such a one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use neo_events_domain::tenant::Schema;
use neo_events_store::{EventLog, EventQuery, PageRequest};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};
use neo_events_test_postgres::{Database, database};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const SETTING: &[u8] = b"client_connection_check_interval";
const VALUE: &[u8] = b"500ms";
/// As long, and refused with the same SQLSTATE.
const REFUSED: &[u8] = b"-50ms";
const CHUNK_BYTES: usize = 64 * 1024;

#[tokio::test]
async fn a_server_that_cannot_look_after_its_clients_is_read_all_the_same() {
    let database = database().await;
    let way = Way::to(&database).await;
    let store = PostgresStore::open(PostgresOptions::new(&way.url)).await.unwrap();
    let page = PageRequest::first(1);
    let events = store.events(&Schema::admin(), &EventQuery::default(), page).await.unwrap();
    assert!(events.items.is_empty());
    assert!(way.refused.load(Ordering::Relaxed) > 0, "it was asked for");
    store.close().await;
}

/// A way to a database on which the setting is changed.
struct Way {
    url: String,
    refused: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Way {
    async fn to(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, refused) = (database.url(), Arc::<AtomicUsize>::default());
        let (before, rest) = url.rsplit_once('@').unwrap();
        let (server, after) = rest.split_once('/').unwrap();
        let url = format!("{before}@{}/{after}", listener.local_addr().unwrap());
        let (server, counted) = (server.to_owned(), Arc::clone(&refused));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&server).await.unwrap();
                clients.spawn(lead(client, server, Arc::clone(&counted)));
            }
        });
        Self { url, refused, _tasks: tasks }
    }
}

async fn lead(client: TcpStream, server: TcpStream, refused: Arc<AtomicUsize>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asks = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(read @ 1..) = from_client.read(&mut chunk).await {
            if make_refused(&mut chunk[..read]) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            if to_server.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = asks => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// Whether the setting was in it.
fn make_refused(bytes: &mut [u8]) -> bool {
    let find = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).position(|part| part == wanted);
    let Some(at) = find(bytes, SETTING) else { return false };
    let value = at + find(&bytes[at..], VALUE).unwrap();
    bytes[value..value + VALUE.len()].copy_from_slice(REFUSED);
    true
}
