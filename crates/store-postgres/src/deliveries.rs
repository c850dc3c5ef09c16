//! Delivery rows as they are read: one, or a list along the index that visits the fewest rows for what a query fixes.

use neo_events_domain::{
    Timestamp, Uuid,
    delivery::{Delivery, DeliveryState, DeliveryStatus},
    id::{DeliveryId, Id},
    retry::RetryPolicy,
    tenant::Schema,
};
use neo_events_store::{
    DeliveryQuery, EndpointStanding, Page, PageRequest, SUBSCRIPTION_ID_WEIGHT, StoredDelivery, TimeRange,
};
use tokio_postgres::Row;

use crate::{
    columns::Columns,
    conn::{Connection, Param},
    endpoints,
    failure::Failure,
    page::{before_id, id_cursor, limit_of, page},
    sql::{self, Sql},
};

/// How far the time in a delivery's id may be from `created_at`, in milliseconds: an id is made before its row is
/// written, and written again later where the database could not be reached.
const ID_SLACK_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// Before everything that was ever created, and a time that the database has.
const BEGINNING: Timestamp = Timestamp::UNIX_EPOCH;

/// A delivery with what nobody outside sees.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRow {
    pub(crate) stored: StoredDelivery,
    /// When its next attempt is due, if it is not over.
    pub(crate) due_at: Option<Timestamp>,
}

/// What a delivery weighs in a page, in the database; [`bytes`] is the same here.
const WEIGHT: &str = "cardinality(subscription_ids) * 39";

/// What a delivery weighs in a page.
const fn bytes(delivery: &Delivery) -> usize {
    delivery.subscription_ids.len() * SUBSCRIPTION_ID_WEIGHT
}

/// One delivery.
pub(crate) async fn by_id(
    conn: &Connection,
    schema: &Schema,
    id: DeliveryId,
) -> Result<Option<DeliveryRow>, Failure> {
    let row = conn.query_opt(sql::DELIVERIES_BY_ID, schema, &[&id.uuid()]).await?;
    row.as_ref().map(delivery_row).transpose()
}

/// Which rows were created in a span of time. Ids are in the order of time, so it is also a span of ids, wider by what
/// the times in ids may be off.
pub(crate) struct Span {
    pub(crate) from_id: Uuid,
    pub(crate) before_id: Uuid,
    pub(crate) created_from: Timestamp,
    pub(crate) created_before: Timestamp,
}

impl Span {
    pub(crate) fn of(created: TimeRange) -> Self {
        let from = created.from.unwrap_or(BEGINNING).max(BEGINNING);
        let before = created.to.unwrap_or(Timestamp::MAX).max(BEGINNING);
        Self {
            from_id: first_id_at(from.as_millisecond() - ID_SLACK_MILLIS),
            before_id: created
                .to
                .map_or(Uuid::max(), |_| first_id_at(before.as_millisecond() + ID_SLACK_MILLIS)),
            created_from: from,
            created_before: before,
        }
    }
}

/// The least `UUIDv7` of a millisecond, or of the nearest one that has any.
fn first_id_at(millis: i64) -> Uuid {
    const MILLIS_MAX: u64 = (1 << 48) - 1;
    let millis = u64::try_from(millis).unwrap_or(0).min(MILLIS_MAX);
    Uuid::from_u128(u128::from(millis) << 80)
}

/// Deliveries, newest first.
pub(crate) async fn list(
    conn: &Connection,
    (schema, tenant_no): (&Schema, i32),
    query: &DeliveryQuery,
    request: &PageRequest,
) -> Result<Page<Delivery>, Failure> {
    use DeliveryStatus::{Cancelled, Failed, Pending, Retrying};
    let Span { from_id, before_id: end_id, created_from, created_before } = Span::of(query.created);
    let before_id = before_id(request)?.min(end_id);
    let limit = limit_of(request);
    let event_id = query.event_id.map(Id::uuid);
    let endpoint_ids = endpoint_ids(conn, schema, query).await?;
    let status = query.status.map(DeliveryStatus::as_str);
    let (statement, of_list): (Sql, Vec<Param<'_>>) = match (event_id, &endpoint_ids, query.status) {
        (Some(_), _, _) => (sql::DELIVERIES_LIST_BY_EVENT, vec![&event_id, &endpoint_ids, &status]),
        (None, Some(_), Some(Retrying | Failed | Cancelled)) => {
            (sql::DELIVERIES_LIST_BY_ENDPOINT_AND_STATUS, vec![&endpoint_ids, &status])
        }
        (None, None, Some(Retrying | Failed | Cancelled)) => (sql::DELIVERIES_LIST_BY_STATUS, vec![&status]),
        (None, Some(_), Some(Pending)) => {
            (sql::DELIVERIES_LIST_PENDING_BY_ENDPOINT, vec![&tenant_no, &endpoint_ids])
        }
        (None, None, Some(Pending)) => (sql::DELIVERIES_LIST_PENDING, vec![&tenant_no]),
        (None, Some(_), _) => (sql::DELIVERIES_LIST_BY_ENDPOINT, vec![&endpoint_ids, &status]),
        (None, None, _) => (sql::DELIVERIES_LIST, vec![&status]),
    };
    let mut params: Vec<Param<'_>> = vec![&from_id, &before_id, &created_from, &created_before, &limit];
    params.extend(of_list);
    let rows = conn.query(statement.filling_a_page(WEIGHT), schema, &params).await?;
    let deliveries = rows.iter().map(|row| delivery(&mut Columns::of(row))).collect::<Result<_, _>>()?;
    Ok(page(deliveries, request, |delivery: &Delivery| id_cursor(delivery.id.uuid()), bytes))
}

/// The endpoints that a query names, or those of the context that it names; `None` if it names neither.
async fn endpoint_ids(
    conn: &Connection,
    schema: &Schema,
    query: &DeliveryQuery,
) -> Result<Option<Vec<Uuid>>, Failure> {
    let Some(context_id) = query.context_id else {
        return Ok(query.endpoint_id.map(|id| vec![id.uuid()]));
    };
    let mut ids = endpoints::any_ids_by_context(conn, schema, context_id).await?;
    ids.retain(|id| query.endpoint_id.is_none_or(|wanted| wanted.uuid() == *id));
    Ok(Some(ids))
}

fn delivery_row(row: &Row) -> Result<DeliveryRow, Failure> {
    let mut columns = Columns::of(row);
    let delivery = delivery(&mut columns)?;
    let due_at = columns.take()?;
    let endpoint = EndpointStanding::of(columns.take()?, columns.take()?);
    Ok(DeliveryRow { stored: StoredDelivery { delivery, endpoint, context_id: columns.take()? }, due_at })
}

fn delivery(columns: &mut Columns<'_>) -> Result<Delivery, Failure> {
    let (id, webhook_endpoint_id, webhook_event_id) = (columns.id()?, columns.id()?, columns.id()?);
    let (status, due_at) = (columns.parsed()?, columns.take()?);
    let (current_attempt, max_attempts) = (columns.number()?, columns.number()?);
    let max_attempts_reached = columns.take()?;
    let retry = RetryPolicy {
        max_retry_attempts: columns.number()?,
        backoff_seconds: columns.number()?,
        backoff_multiplier: columns.take()?,
    };
    let state = DeliveryState::from_stored(status, due_at, max_attempts_reached, columns.take()?);
    Ok(Delivery {
        id,
        webhook_endpoint_id,
        webhook_event_id,
        state,
        current_attempt,
        max_attempts,
        retry,
        cancel_requested: columns.take()?,
        trigger: columns.parsed()?,
        subscription_ids: columns.take::<Vec<Uuid>>()?.into_iter().map(Id::from_uuid).collect(),
        created_at: columns.time()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_weighs_a_delivery_as_we_do() {
        assert_eq!(WEIGHT, format!("cardinality(subscription_ids) * {SUBSCRIPTION_ID_WEIGHT}"));
    }

    #[test]
    fn a_span_of_time_is_one_of_ids_wherever_it_lies() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let created = TimeRange { from: Some(at(1_700_000_000)), to: Some(at(1_700_000_060)) };
        let span = Span::of(created);
        for (second, random) in [(1_700_000_000, [0; 10]), (1_700_000_060, [0xff; 10])] {
            let id = DeliveryId::new(at(second), random).uuid();
            assert!(span.from_id <= id && id < span.before_id);
        }
        assert!(span.from_id > DeliveryId::new(at(1_690_000_000), [0xff; 10]).uuid());
        assert!(span.before_id < DeliveryId::new(at(1_710_000_000), [0; 10]).uuid());

        let everything = Span::of(TimeRange { from: Some(Timestamp::MIN), to: Some(Timestamp::MAX) });
        assert_eq!((everything.from_id, everything.created_from), (Uuid::nil(), BEGINNING));
        assert!(everything.before_id > DeliveryId::new(at(9_000_000_000), [0xff; 10]).uuid());
        let nothing = Span::of(TimeRange { from: None, to: Some(Timestamp::MIN) });
        assert_eq!((nothing.from_id, nothing.created_before), (Uuid::nil(), BEGINNING));
    }
}
