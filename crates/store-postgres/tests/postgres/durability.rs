//! What is answered is on disk, also where the default of the database or the server is that it need not be.

use neo_events_domain::tenant::Schema;
use neo_events_store::{Appended, EventLog};
use neo_events_store_postgres::{PostgresOptions, PostgresStore};
use neo_events_test_postgres::Cluster;
use tokio::time::Instant;

use crate::scene::{Beside, PATIENCE, Scene, at, draft, event, open};

/// Notes what the connections have that write.
async fn watch(beside: &Beside) {
    let watch = "create table admin.seen (setting text);
         create function admin.see() returns trigger language plpgsql as '
         begin
            insert into admin.seen values (current_setting(''synchronous_commit''));
            return null;
         end';
         create trigger see after insert on admin.events for each statement execute function admin.see()";
    beside.batch_execute(watch).await.unwrap();
}

async fn seen(beside: &Beside) -> String {
    let seen = "select string_agg(distinct setting, ' ') from admin.seen";
    beside.query_one(seen, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_the_disk_whatever_the_default_is() {
    let mut scene = Scene::of(1).await;
    let beside = scene.beside().await;
    watch(&beside).await;
    for (default, wanted) in [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")] {
        let set = format!(
            "truncate admin.seen;
             do 'begin execute format(''alter database %I set synchronous_commit = {default}'', current_database()); end'"
        );
        beside.batch_execute(&set).await.unwrap();
        scene.stores = vec![open(&scene.database).await];
        scene.publish(3).await;
        assert_eq!(seen(&beside).await, wanted, "{default}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_the_disk_whatever_the_default_becomes() {
    let cluster = Cluster::start(&[]).await;
    let store = PostgresStore::open(PostgresOptions::new(cluster.url())).await.unwrap();
    let beside = Beside::connect(&cluster.url()).await;
    watch(&beside).await;
    let publish = async || {
        let appended = store.append(&Schema::admin(), vec![event(draft())], at(0)).await.unwrap();
        assert!(matches!(appended[..], [Appended::Stored { .. }]));
    };
    publish().await;
    beside.batch_execute("alter system set synchronous_commit = off").await.unwrap();
    beside.batch_execute("select pg_reload_conf()").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let is_off = "select (current_setting('synchronous_commit') = 'off')::integer::bigint";
    while beside.number(is_off).await == 0 {
        assert!(Instant::now() < deadline, "it is never loaded");
    }
    // On each of the connections that are there.
    for _ in 0..20 {
        publish().await;
    }
    assert_eq!(seen(&beside).await, "on");
}
