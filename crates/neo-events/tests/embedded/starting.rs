//! Starting on what is there: whose trouble keeps whom from starting.

use std::{path::Path, time::Duration};

use neo_events::{
    EndpointDraft, Error, MasterKey, NeoEvents, Schema, SignedDuration, Sources, StartError, StoreError,
    TenantDraft, rusqlite,
};

use crate::{receiver::Receiver, world::World};

const GRACE: Duration = Duration::from_secs(5);

/// Makes tenants, one after the other.
async fn tenants<const N: usize>(neo: &NeoEvents, slugs: [&str; N]) -> [Schema; N] {
    for slug in slugs {
        let draft = TenantDraft { slug: Some(slug.into()), ..TenantDraft::default() };
        neo.directory().create_tenant(draft).await.unwrap();
    }
    slugs.map(|slug| Schema::tenant(slug).unwrap())
}

/// The only secret there is, of a tenant older than those that are asked at each start.
async fn with_an_old_secret() -> World {
    let world = World::new().await;
    let [first] = tenants(&world.neo, ["first"]).await;
    let draft = EndpointDraft::standard("n", "http://127.0.0.1:1/");
    world.neo.tenant(first).create_endpoint(draft, None).await.unwrap();
    for n in 0..12 {
        tenants(&world.neo, [&*format!("t{n}")]).await;
    }
    world
}

/// As a version before fingerprints left it.
fn forget_master_key(folder: &Path) {
    let file = rusqlite::Connection::open(folder.join("admin.db")).unwrap();
    file.execute("update store_state set master_key_fingerprint = null", []).unwrap();
}

fn overwrite_file_of(folder: &Path, schema: &Schema) {
    let file = folder.join("admin.db.d").join(format!("{schema}.db"));
    assert!(file.exists());
    std::fs::write(file, "no database").unwrap();
}

#[tokio::test]
async fn a_tenant_that_cannot_be_read_keeps_nobody_from_starting() {
    let World { neo, folder } = World::new().await;
    let [sound, damaged] = tenants(&neo, ["sound", "damaged"]).await;
    neo.shutdown(GRACE).await;
    overwrite_file_of(folder.path(), &damaged);
    let neo = NeoEvents::builder(folder.path().join("admin.db")).start().await.unwrap();
    neo.tenant(sound).create_and_publish("a.b", "{}").await.unwrap();
    let refused = neo.tenant(damaged).create_and_publish("a.b", "{}").await;
    assert!(matches!(refused, Err(Error::Store(StoreError::Broken(_)))), "{refused:?}");
    neo.shutdown(GRACE).await;
}

#[tokio::test]
async fn another_master_key_is_refused_and_none_made_up_however_old_the_secrets_are() {
    let World { neo, folder } = with_an_old_secret().await;
    neo.shutdown(GRACE).await;
    let builder = || NeoEvents::builder(folder.path().join("admin.db"));
    let key_file = folder.path().join("admin.db.key");
    let right = MasterKey::parse(&std::fs::read_to_string(&key_file).unwrap()).unwrap();
    let wrong = MasterKey::generate(&Sources::system());
    std::fs::remove_file(&key_file).unwrap();
    // Also where an earlier version left the data.
    for is_noted in [true, false] {
        if !is_noted {
            forget_master_key(folder.path());
        }
        let refused = builder().master_keys(vec![wrong.clone()]).start().await;
        assert!(matches!(refused, Err(StartError::Keyring(_))), "noted: {is_noted}");
        assert!(matches!(builder().start().await, Err(StartError::KeyFile { .. })), "noted: {is_noted}");
        assert!(!key_file.exists());
        builder().master_keys(vec![right.clone()]).start().await.unwrap().shutdown(GRACE).await;
    }
}

/// The secret before signs on for a day; the old key need not.
#[tokio::test]
async fn the_old_master_key_may_go_once_each_endpoint_has_another_secret() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let [old, new] = [(); 2].map(|()| MasterKey::generate(&Sources::system()));
    let start = async |keys: &[&MasterKey]| {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        let neo = NeoEvents::builder(folder.path().join("admin.db")).master_keys(keys).start().await.unwrap();
        World { neo, folder: tempfile::tempdir().unwrap() }
    };
    let world = start(&[&old]).await;
    let created = world.endpoint(&receiver.url).await;
    world.neo.shutdown(GRACE).await;
    let world = start(&[&new, &old]).await;
    let overlap = SignedDuration::from_hours(1);
    world.tenant().rotate_secret(created.endpoint.id, None, overlap).await.unwrap();
    world.neo.shutdown(GRACE).await;
    let world = start(&[&new]).await;
    world.publish("{}").await;
    let requests = receiver.wait_for(1).await;
    let signatures = requests[0].header("webhook-signature");
    assert_eq!(signatures.split(' ').count(), 2, "{signatures}");
    world.neo.shutdown(GRACE).await;
}

#[tokio::test]
async fn the_master_key_is_changed_by_a_new_one_in_front_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = [(); 2].map(|()| MasterKey::generate(&Sources::system()));
    let start = async |keys: &[&MasterKey]| {
        let keys = keys.iter().map(|key| (*key).clone()).collect();
        let started = NeoEvents::builder(folder.path().join("admin.db")).master_keys(keys).start().await;
        match started {
            Ok(neo) => {
                neo.shutdown(GRACE).await;
                true
            }
            Err(StartError::Keyring(_)) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(start(&[&old]).await && !start(&[&new]).await);
    assert!(start(&[&old, &new]).await && start(&[&new, &old]).await);
    assert!(start(&[&new]).await && !start(&[&old]).await);
}

/// While nobody can say whether there is a secret, any key may be the wrong one: none is made up.
#[tokio::test]
async fn no_key_is_made_up_while_a_tenant_cannot_be_asked() {
    let World { neo, folder } = World::new().await;
    let [damaged] = tenants(&neo, ["damaged"]).await;
    neo.shutdown(GRACE).await;
    forget_master_key(folder.path());
    overwrite_file_of(folder.path(), &damaged);
    let key_file = folder.path().join("admin.db.key");
    let kept = std::fs::read(&key_file).unwrap();
    std::fs::remove_file(&key_file).unwrap();
    let builder = || NeoEvents::builder(folder.path().join("admin.db"));
    assert!(matches!(builder().start().await, Err(StartError::KeyFile { .. })));
    std::fs::write(&key_file, kept).unwrap();
    builder().start().await.unwrap().shutdown(GRACE).await;
}

/// On one thread, which the writer that is waited for needs, too.
#[tokio::test(flavor = "current_thread")]
async fn starting_blocks_nobody_whom_it_waits_for() {
    let World { neo, folder } = World::new().await;
    neo.shutdown(GRACE).await;
    let path = folder.path().join("admin.db");
    let writer = rusqlite::Connection::open(&path).unwrap();
    writer.execute_batch("begin immediate; create table theirs (id integer)").unwrap();
    let commit = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        writer.execute_batch("commit").unwrap();
    };
    let (started, ()) = tokio::join!(NeoEvents::builder(&path).start(), commit);
    started.unwrap().shutdown(GRACE).await;
}
