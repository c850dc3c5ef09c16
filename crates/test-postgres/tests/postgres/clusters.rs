//! Clusters of a test's own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use neo_events_test_postgres::{Cluster, execute};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_postgres::error::SqlState;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};

use crate::{PATIENCE, Session, ask, data_directory, processes_in};

#[tokio::test]
async fn what_was_committed_survives_a_kill() {
    let mut cluster = Cluster::start(&[]).await;
    let (url, pid) = (cluster.url(), cluster.pid());
    assert_eq!(ask(&url, "show fsync").await, "on");
    execute(&url, "create table kept as select generate_series(1, 1000) as id").await;
    let open = Session::open(&url).await;
    open.client.batch_execute("begin; insert into kept values (1001)").await.unwrap();
    cluster.kill9();
    assert!(open.client.simple_query("commit").await.is_err(), "no backend answers");
    cluster.start_again().await;
    assert_eq!(cluster.url(), url);
    assert_ne!(cluster.pid(), pid);
    assert_eq!(ask(&url, "select count(*)::text from kept").await, "1000");
}

#[tokio::test]
async fn a_shutdown_ends_connections_and_the_next_start_needs_no_recovery() {
    let mut cluster = Cluster::start(&[("fsync", "off")]).await;
    let open = Session::open(&cluster.url()).await;
    execute(&cluster.url(), "create table kept (id int)").await;
    let log = data_directory(&cluster.url()).await.with_file_name("log");
    cluster.stop_fast().await;
    assert!(open.client.simple_query("select 1").await.is_err());
    cluster.start_again().await;
    assert_eq!(ask(&cluster.url(), "select count(*)::text from kept").await, "0");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("database system is shut down") && !log.contains("automatic recovery"), "{log}");
}

#[tokio::test]
async fn a_paused_server_answers_when_it_is_resumed() {
    let cluster = Cluster::start(&[("fsync", "off")]).await;
    let session = Session::open(&cluster.url()).await;
    cluster.pause();
    let mut answer = Box::pin(session.ask("select 'here'"));
    let url = cluster.url();
    let mut new_session = Box::pin(Session::open(&url));
    let a_while = Duration::from_millis(300);
    assert!(timeout(a_while, &mut answer).await.is_err(), "a backend runs");
    assert!(timeout(a_while, &mut new_session).await.is_err(), "the postmaster runs");
    cluster.resume();
    assert_eq!(timeout(PATIENCE, answer).await.unwrap(), "here");
    timeout(PATIENCE, new_session).await.unwrap();
}

#[tokio::test]
async fn settings_hold_before_and_after_a_restart() {
    let mut cluster =
        Cluster::start(&[("fsync", "off"), ("work_mem", "7MB"), ("cluster_name", "it's")]).await;
    assert_eq!(ask(&cluster.url(), "show work_mem").await, "7MB");
    cluster.kill9();
    cluster.start_again().await;
    assert_eq!(ask(&cluster.socket_url(), "show cluster_name").await, "it's");
}

#[tokio::test]
async fn a_standby_has_what_was_committed_and_takes_over() {
    let mut primary = Cluster::start(&[]).await;
    execute(&primary.url(), "create table things (id int)").await;
    let standby = primary.standby().await;
    execute(&primary.url(), "insert into things values (7)").await;
    primary.kill9();
    // It has the commit, and shows it when it comes to it; the table, too.
    let there = "select count(*)::text from pg_class where relname = 'things'";
    let deadline = Instant::now() + PATIENCE;
    while ask(&standby.url(), there).await != "1"
        || ask(&standby.url(), "select count(*)::text from things").await != "1"
    {
        assert!(Instant::now() < deadline, "what was committed is not there");
        sleep(Duration::from_millis(10)).await;
    }
    standby.promote().await;
    execute(&standby.url(), "insert into things values (8)").await;
}

#[tokio::test]
async fn a_small_disk_fills_and_has_room_again() {
    let (_cluster, url, ballast) = Cluster::start_with_small_disk(&[]).await;
    execute(&url, "create table things (id int, text text)").await;
    let fill = "insert into things select n, repeat('x', 1000) from generate_series(1, 20000) n";
    let session = Session::open(&url).await;
    let refused = session.client.batch_execute(fill).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::DISK_FULL), "{refused:?}");
    std::fs::remove_file(ballast).unwrap();
    execute(&url, fill).await;
}

#[tokio::test]
async fn tls_is_offered_with_a_certificate_that_the_authority_vouches_for() {
    let (cluster, authority) = Cluster::start_with_tls(&[("fsync", "off")]).await;
    assert_eq!(ask(&cluster.url(), "show ssl").await, "on");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for name in ["localhost", "127.0.0.1"] {
        let stream = ask_for_tls(&cluster.url()).await;
        connector.connect(ServerName::try_from(name).unwrap(), stream).await.unwrap();
    }
    let stream = ask_for_tls(&cluster.url()).await;
    let other = ServerName::try_from("example.com").unwrap();
    assert!(connector.connect(other, stream).await.is_err(), "it is for no other name");
}

/// `SSLRequest` of PostgreSQL's protocol, answered with yes.
async fn ask_for_tls(url: &str) -> TcpStream {
    let address = url.split(['@', '/']).nth(3).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    stream
}

#[tokio::test]
async fn a_dropped_cluster_is_gone_whatever_state_it_is_in() {
    let states: [fn(&mut Cluster); 3] = [|_| {}, Cluster::kill9, |cluster| cluster.pause()];
    for before in states {
        let mut cluster = Cluster::start(&[("fsync", "off")]).await;
        let home = data_directory(&cluster.url()).await.parent().unwrap().to_owned();
        let pid = cluster.pid();
        assert!(has_shared_memory(pid));
        before(&mut cluster);
        drop(cluster);
        assert!(!home.exists());
        assert_eq!(processes_in(&home), [0; 0]);
        assert!(!has_shared_memory(pid));
    }
}

/// Whether there is a segment of shared memory that the process has made.
fn has_shared_memory(pid: u32) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let is_its = |line: &str| line.split_whitespace().nth(4) == Some(&pid.to_string());
    segments.lines().any(is_its)
}
