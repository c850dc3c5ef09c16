//! Starting on what is there: whose trouble keeps whom from starting.

use std::{path::Path, time::Duration};

use neo_events::{Error, NeoEvents, Schema, StoreError, TenantDraft};

use crate::world::World;

const GRACE: Duration = Duration::from_secs(5);

/// Makes tenants, one after the other.
async fn tenants<const N: usize>(neo: &NeoEvents, slugs: [&str; N]) -> [Schema; N] {
    for slug in slugs {
        let draft = TenantDraft { slug: Some(slug.into()), ..TenantDraft::default() };
        neo.directory().create_tenant(draft).await.unwrap();
    }
    slugs.map(|slug| Schema::tenant(slug).unwrap())
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
