//! Rows that the passes read by their ids, and one of which may be damaged.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use neo_events_domain::{Uuid, tenant::Schema};

use crate::{backed_off_tenants::may_be_one_rows, failure::Failure};

/// Damaged rows that are told from the others in one reading: of more, it is taken for the whole table's trouble.
const DAMAGED_MAX: usize = 8;

/// All of these that can be read. A damaged page, or a value that none of us has written, keeps back what needs that row,
/// and nothing that was read with it: the reading is halved until the row is found.
pub(crate) async fn all_but_damaged<'a, T>(
    schema: &Schema,
    ids: &'a [Uuid],
    read: impl Fn(&'a [Uuid]) -> BoxFuture<'a, Result<HashMap<Uuid, T>, Failure>>,
) -> Result<HashMap<Uuid, T>, Failure> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    match read(ids).await {
        Err(failure) if may_be_one_rows(&failure) => {}
        done => return done,
    }
    let (mut found, mut damaged, mut parts) = (HashMap::new(), 0, vec![ids]);
    while let Some(part) = parts.pop() {
        match (read(part).await, part) {
            (Ok(rows), _) => found.extend(rows),
            (Err(failure), _) if damaged == DAMAGED_MAX || !may_be_one_rows(&failure) => return Err(failure),
            (Err(failure), [id]) => {
                tracing::error!(%schema, %id, %failure, "a row cannot be read: what needs it waits until it is mended");
                damaged += 1;
            }
            (Err(_), _) => {
                let (first, last) = part.split_at(part.len() / 2);
                parts.extend([last, first]);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{FutureExt as _, future::ready};

    use super::*;

    /// How many are read of a hundred, and with how many readings, if those are damaged.
    async fn read(damaged: &[u128]) -> (Option<usize>, u32) {
        let ids: Vec<Uuid> = (0..100).map(Uuid::from_u128).collect();
        let readings = Cell::new(0);
        let found = all_but_damaged(&Schema::admin(), &ids, |part| {
            readings.set(readings.get() + 1);
            let is_damaged = part.iter().any(|id| damaged.contains(&id.as_u128()));
            let damage = || Failure::Stored("not one of ours".into());
            let rows = || part.iter().map(|id| (*id, ())).collect();
            ready(if is_damaged { Err(damage()) } else { Ok(rows()) }).boxed()
        })
        .await;
        (found.ok().map(|found| found.len()), readings.get())
    }

    #[tokio::test]
    async fn damaged_rows_are_found_and_keep_no_others_back() {
        assert_eq!(read(&[]).await, (Some(100), 1));
        let (found, readings) = read(&[41]).await;
        assert_eq!(found, Some(99));
        assert!(readings <= 2 + 2 * 7, "{readings}");
        let few: Vec<u128> = (0..8).map(|n| n * 12).collect();
        assert_eq!(read(&few).await.0, Some(92));
        let all: Vec<u128> = (0..100).collect();
        let (found, readings) = read(&all).await;
        assert_eq!(found, None, "then it is the table's");
        assert!(readings < 50, "{readings}");
    }

    #[tokio::test]
    async fn for_nothing_nothing_is_read() {
        let read = |_| ready(Err(Failure::Stored("not one of ours".into()))).boxed();
        assert!(all_but_damaged::<()>(&Schema::admin(), &[], read).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_everybodys_trouble_is_not_looked_for_in_a_row() {
        let readings = Cell::new(0);
        let failed = all_but_damaged::<()>(&Schema::admin(), &[Uuid::nil(); 4], |_| {
            readings.set(readings.get() + 1);
            ready(Err(Failure::Closed)).boxed()
        })
        .await;
        assert!(matches!(failed, Err(Failure::Closed)));
        assert_eq!(readings.get(), 1);
    }
}
