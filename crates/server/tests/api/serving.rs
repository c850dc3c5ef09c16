//! Starting, and stopping without losing a request.

use neo_events::Shutdown;
use neo_events_server::serve::{Database, ServeError, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    database::TestDatabase,
    support::{Call, PATIENCE, Reply, Server, lasting_address, settings},
};

#[tokio::test]
async fn a_stop_closes_idle_connections_and_answers_what_has_begun() {
    let mut server = Server::start_at(lasting_address()).await;
    let mut untouched = TcpStream::connect(server.address).await.unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    Call::new("GET", "/livez").header("connection", "keep-alive").send(&mut idle).await;
    let mut answer = vec![];
    while !answer.ends_with(b"}") {
        assert_ne!(idle.read_buf(&mut answer).await.unwrap(), 0);
    }
    let mut begun = TcpStream::connect(server.address).await.unwrap();
    let body = r#"{"event_type":"a.b","event_data":{}}"#;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        crate::support::KEY,
        body.len()
    );
    begun.write_all(head.as_bytes()).await.unwrap();
    // The handler waits for the body: the request has begun.
    let mut go_on = [0; 25];
    begun.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    server.tell_to_stop();
    for stream in [&mut untouched, &mut idle] {
        let mut rest = vec![];
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        assert!(closed.is_ok() && rest.is_empty());
    }
    begun.write_all(body.as_bytes()).await.unwrap();
    let mut answer = vec![];
    begun.read_to_end(&mut answer).await.unwrap();
    Reply::parse(&answer).expect(202);
    let address = server.address;
    assert_eq!(server.ended().await, Shutdown::Drained);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_stands_in_the_way_of_starting_is_named() {
    let server = Server::start().await;
    let database = TestDatabase::create().await;
    let refused =
        async |settings| serve(settings, |_| panic!("it must not start"), async {}).await.unwrap_err();

    let mut taken = settings(database.database());
    taken.listen = server.address;
    assert!(matches!(refused(taken).await, ServeError::Listen { .. }));

    let mut no_ca = settings(database.database());
    no_ca.ca_file = Some("/proc/nowhere/absent.pem".into());
    assert!(matches!(refused(no_ca).await, ServeError::CaFile { .. }));

    let mut no_database = settings(database.database());
    no_database.database = Database::Sqlite("/proc/nowhere/admin.db".into());
    assert!(matches!(refused(no_database).await, ServeError::Start(_)));

    let mut no_key = settings(database.database());
    no_key.profile = neo_events::Profile::Production;
    no_key.master_keys.clear();
    assert!(refused(no_key).await.to_string().contains("NEO_EVENTS_MASTER_KEY"));
}
