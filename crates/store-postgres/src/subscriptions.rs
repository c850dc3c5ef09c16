//! Subscriptions.

use futures_util::future::try_join;
use neo_events_domain::{
    Timestamp, Uuid,
    filter::Filter,
    id::{Id, SubscriptionId},
    subscription::Subscription,
    tenant::Schema,
};
use neo_events_store::{Inserted, Page, PageRequest, SubscriptionQuery, Updated};

use crate::{
    catalogue::{self, Change},
    columns::{Columns, int},
    conn::{Connection, Param},
    endpoints, event_types,
    failure::Failure,
    page::{before_number, limit_of, numbered_page},
    sql,
};

/// Adds a subscription. Nobody deletes its endpoint meanwhile: that would take a number of its own first.
pub(crate) async fn insert(
    conn: &mut Connection,
    schema: &Schema,
    subscription: &Subscription,
) -> Result<Inserted, Failure> {
    let tx = conn.begin().await?;
    let change = catalogue::advance(&tx, schema).await?;
    let inserted = insert_after(&tx, schema, subscription, &change).await?;
    if inserted == Inserted::New {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(inserted)
}

async fn insert_after(
    tx: &Connection,
    schema: &Schema,
    subscription: &Subscription,
    change: &Change,
) -> Result<Inserted, Failure> {
    let (endpoint_exists, type_is_disabled) = try_join(
        endpoints::exists(tx, schema, subscription.endpoint_id),
        event_types::pattern_is_disabled(tx, schema, &subscription.pattern),
    )
    .await?;
    if !endpoint_exists {
        return Ok(Inserted::EndpointMissing);
    }
    if type_is_disabled {
        return Ok(Inserted::TypeDisabled);
    }
    let params: [Param<'_>; 13] = [
        &subscription.id.uuid(),
        &int(subscription.revision),
        &subscription.endpoint_id.uuid(),
        &subscription.pattern.to_string(),
        &subscription.filter.as_json(),
        &subscription.is_active,
        &subscription.context_id,
        &subscription.subscription_name,
        &subscription.description,
        &subscription.created_at,
        &subscription.updated_at,
        &subscription.last_triggered_at,
        &change.number,
    ];
    let inserted = tx.execute(sql::SUBSCRIPTIONS_INSERT, schema, &params).await?;
    Ok(if inserted == 1 { Inserted::New } else { Inserted::Exists })
}

/// Writes the next revision of a subscription.
pub(crate) async fn update(
    conn: &mut Connection,
    schema: &Schema,
    subscription: &Subscription,
) -> Result<Updated, Failure> {
    let tx = conn.begin().await?;
    let change = catalogue::advance(&tx, schema).await?;
    let updated = update_after(&tx, schema, subscription, &change).await?;
    if updated == Updated::Written {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(updated)
}

/// A pattern that stays may name a type that was disabled since: whoever deactivates a subscription must be able to.
async fn update_after(
    tx: &Connection,
    schema: &Schema,
    subscription: &Subscription,
    change: &Change,
) -> Result<Updated, Failure> {
    let (id, pattern) = (subscription.id.uuid(), subscription.pattern.to_string());
    let Some(stored) = tx.query_opt(sql::SUBSCRIPTIONS_GUARD, schema, &[&id]).await? else {
        return Ok(Updated::Missing);
    };
    let mut columns = Columns::of(&stored);
    if columns.number()? + 1 != subscription.revision {
        return Ok(Updated::Stale);
    }
    let is_narrowed = columns.take::<&str>()? != pattern;
    if is_narrowed && event_types::pattern_is_disabled(tx, schema, &subscription.pattern).await? {
        return Ok(Updated::TypeDisabled);
    }
    let params: [Param<'_>; 10] = [
        &id,
        &int(subscription.revision),
        &pattern,
        &subscription.filter.as_json(),
        &subscription.is_active,
        &subscription.context_id,
        &subscription.subscription_name,
        &subscription.description,
        &subscription.updated_at,
        &change.number,
    ];
    let updated = tx.execute(sql::SUBSCRIPTIONS_UPDATE, schema, &params).await?;
    Ok(if updated == 1 { Updated::Written } else { Updated::Stale })
}

/// Deletes a subscription; `false` if it was not there.
pub(crate) async fn delete(
    conn: &mut Connection,
    schema: &Schema,
    id: SubscriptionId,
) -> Result<bool, Failure> {
    let tx = conn.begin().await?;
    let change = catalogue::advance(&tx, schema).await?;
    let is_deleted = tx.execute(sql::SUBSCRIPTIONS_DELETE, schema, &[&id.uuid(), &change.number]).await? == 1;
    if is_deleted {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(is_deleted)
}

/// Those that are not deleted, in no order.
pub(crate) async fn by_ids(
    conn: &Connection,
    schema: &Schema,
    ids: &[SubscriptionId],
) -> Result<Vec<Subscription>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = conn.query(sql::SUBSCRIPTIONS_BY_IDS, schema, &[&ids]).await?;
    rows.iter().map(|row| subscription(&mut Columns::of(row))).collect()
}

/// Subscriptions, newest first.
pub(crate) async fn list(
    conn: &Connection,
    schema: &Schema,
    query: &SubscriptionQuery,
    request: &PageRequest,
) -> Result<Page<Subscription>, Failure> {
    let (before, limit) = (before_number(request)?, limit_of(request));
    let endpoint_id = query.endpoint_id.map(Id::uuid);
    let mut params: Vec<Param<'_>> = vec![&before, &limit, &query.context_id, &query.is_active];
    let statement = match &endpoint_id {
        None => sql::SUBSCRIPTIONS_LIST,
        Some(endpoint_id) => {
            params.push(endpoint_id);
            sql::SUBSCRIPTIONS_LIST_BY_ENDPOINT
        }
    };
    let rows = conn.query(statement.filling_a_page("octet_length(filter)"), schema, &params).await?;
    numbered_page(&rows, request, subscription, |subscription| subscription.filter.as_json().len())
}

/// Notes when subscriptions last matched an event.
pub(crate) async fn note_triggered(
    conn: &Connection,
    schema: &Schema,
    triggered: &[(SubscriptionId, Timestamp)],
) -> Result<(), Failure> {
    if triggered.is_empty() {
        return Ok(());
    }
    let (ids, times): (Vec<Uuid>, Vec<Timestamp>) = triggered.iter().map(|(id, at)| (id.uuid(), *at)).unzip();
    conn.execute(sql::SUBSCRIPTIONS_NOTE_TRIGGERED, schema, &[&ids, &times]).await?;
    Ok(())
}

fn subscription(columns: &mut Columns<'_>) -> Result<Subscription, Failure> {
    Ok(Subscription {
        id: columns.id()?,
        revision: columns.number()?,
        endpoint_id: columns.id()?,
        event_type_id: columns.take::<Option<Uuid>>()?.map(Id::from_uuid),
        pattern: columns.parsed()?,
        filter: columns.text(Filter::parse_stored)?,
        is_active: columns.take()?,
        context_id: columns.take()?,
        subscription_name: columns.take()?,
        description: columns.take()?,
        created_at: columns.time()?,
        updated_at: columns.time()?,
        last_triggered_at: columns.take()?,
    })
}
