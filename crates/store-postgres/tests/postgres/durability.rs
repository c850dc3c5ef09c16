//! What is answered is on disk, also where the database's own default is that it need not be.

use crate::scene::{Scene, open};

/// What the connections that write have, by the default of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_the_disk_whatever_the_default_is() {
    let mut scene = Scene::of(1).await;
    let beside = scene.beside().await;
    beside
        .batch_execute(
            "create table admin.seen (setting text);
             create function admin.see() returns trigger language plpgsql as '
             begin
                insert into admin.seen values (current_setting(''synchronous_commit''));
                return null;
             end';
             create trigger see after insert on admin.events for each statement execute function admin.see()",
        )
        .await
        .unwrap();
    for (default, wanted) in [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")] {
        let set = format!(
            "truncate admin.seen;
             do 'begin execute format(''alter database %I set synchronous_commit = {default}'', current_database()); end'"
        );
        beside.batch_execute(&set).await.unwrap();
        scene.stores = vec![open(&scene.database).await];
        scene.publish(3).await;
        let seen = "select string_agg(distinct setting, ' ') from admin.seen";
        assert_eq!(beside.query_one(seen, &[]).await.unwrap().get::<_, String>(0), wanted, "{default}");
    }
}
