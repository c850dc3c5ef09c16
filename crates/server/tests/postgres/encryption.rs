//! TLS on the way to the database.

use std::fs;

use neo_events_test_postgres::Cluster;

use crate::{
    process::{ServerProcess, load::until},
    sql::Sql,
};

const CONNECTIONS: &str = "
    select s.ssl
    from pg_stat_ssl s
    join pg_stat_activity a using (pid)
    where a.application_name = 'neo-events'";

#[tokio::test]
async fn the_url_says_how_connections_are_encrypted() {
    let (cluster, authority) = Cluster::start_with_tls(&[]).await;
    let (_other, stranger) = Cluster::start_with_tls(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (authority, stranger) = (write("authority.pem", &authority), write("stranger.pem", &stranger));
    let sql = Sql::connect(&cluster.url()).await;
    for (parameters, is_encrypted) in [
        (format!("sslmode=verify-full&sslrootcert={authority}"), true),
        ("sslmode=require".to_owned(), true),
        ("sslmode=disable".to_owned(), false),
        (String::new(), true),
    ] {
        let url = format!("{}?{parameters}", cluster.url());
        // Those of the server before may not have been closed yet.
        until("all connections are new", async || sql.column::<bool>(CONNECTIONS).await.is_empty()).await;
        let server = ServerProcess::start_on(folder.path(), &url, &[]).await;
        let connections: Vec<bool> = sql.column(CONNECTIONS).await;
        assert!(!connections.is_empty());
        assert!(connections.iter().all(|ssl| *ssl == is_encrypted), "{parameters}: {connections:?}");
        assert!(server.terminate().success());
    }
    for parameters in [
        format!("sslmode=verify-full&sslrootcert={stranger}"),
        // Bundled roots, which do not know the authority.
        "sslmode=verify-full".to_owned(),
        format!("sslmode=require&sslrootcert={stranger}"),
    ] {
        let url = format!("{}?{parameters}", cluster.url());
        let (status, said) = ServerProcess::launch(folder.path(), &url, &[]).ended().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains("invalid peer certificate"), "{said}");
    }
}
