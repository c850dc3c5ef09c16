//! Dispatch at the moment of publishing: deliveries written by the statement that stores their event, those that this
//! node has room for already leased to it. It spares an event three statements and four row operations; whatever
//! cannot be dispatched like this owes its dispatch as ever.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use neo_events_domain::{
    Timestamp, Uuid,
    event::{DomainEvent, NewEvent},
    tenant::Schema,
    time::to_micros,
};
use neo_events_store::{Arrival, DeliveryWork, DirectDelivery, DirectDispatch, Lease};
use tokio_postgres::Row;

use crate::{
    columns::{Columns, int, uuid_array},
    failure::Failure,
    lease::{LeaseTerms, queue_key},
};

/// What a statement that stores events did with their dispatches, by event: of those that it stored.
pub(crate) type Stored = HashMap<Uuid, Done>;

/// What became of one event's dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is owed.
    Owed,
    /// Its deliveries are written; taken ones are leased with this token.
    Dispatched { token: Option<i64> },
}

impl Done {
    pub(crate) fn read(row: &Row) -> Result<(Uuid, Self), Failure> {
        let mut columns = Columns::of(row);
        let (id, is_dispatched, token) = (columns.uuid()?, columns.take()?, columns.take()?);
        Ok((id, if is_dispatched { Self::Dispatched { token } } else { Self::Owed }))
    }
}

/// The dispatches of a statement's events, to be turned into columns.
pub(crate) struct Dispatches<'a> {
    of: Vec<Option<&'a DirectDispatch>>,
    deliveries: Vec<(Uuid, &'a DirectDelivery)>,
    pub(crate) lease: LeaseTerms,
}

impl<'a> Dispatches<'a> {
    /// Every event owes its dispatch.
    pub(crate) const fn none() -> Self {
        let lease = LeaseTerms { session: 0, until: Timestamp::UNIX_EPOCH };
        Self { of: Vec::new(), deliveries: Vec::new(), lease }
    }

    /// Of two events with the same id only one is stored, and what the other brought must not be dispatched in its
    /// name: both owe their dispatch.
    pub(crate) fn of(arrivals: impl Iterator<Item = &'a Arrival> + Clone, lease: LeaseTerms) -> Self {
        let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
        for Arrival { event, .. } in arrivals.clone().filter(|arrival| arrival.event.id_is_given) {
            if !seen.insert(event.id) {
                twice.insert(event.id);
            }
        }
        let dispatch =
            |arrival: &'a Arrival| arrival.dispatch.as_ref().filter(|_| !twice.contains(&arrival.event.id));
        let deliveries = arrivals.clone().flat_map(|arrival| {
            let deliveries = dispatch(arrival).into_iter().flat_map(|dispatch| &dispatch.deliveries);
            deliveries.map(|delivery| (arrival.event.id.uuid(), delivery))
        });
        Self { deliveries: deliveries.collect(), of: arrivals.map(dispatch).collect(), lease }
    }

    /// With which catalogue each of `count` events was matched.
    pub(crate) fn catalogue_versions(&self, count: usize) -> Vec<Option<i64>> {
        let version = |dispatch: &DirectDispatch| i64::try_from(dispatch.catalogue_version.0).ok();
        let mut versions: Vec<_> = self.of.iter().map(|dispatch| dispatch.and_then(version)).collect();
        versions.resize(count, None);
        versions
    }

    /// The catalogue that all of them were matched with, if there is one.
    pub(crate) fn of_one_catalogue(&self) -> Option<i64> {
        let mut catalogues = self.of.iter().map(|dispatch| Some(dispatch.as_ref()?.catalogue_version));
        let first = catalogues.next()??;
        catalogues.all(|catalogue| catalogue == Some(first)).then(|| i64::try_from(first.0).ok())?
    }

    /// Which of these events, those that they are of, have no deliveries.
    pub(crate) fn unwanted(&self, events: &[&NewEvent]) -> Vec<Uuid> {
        let dispatched =
            events.iter().zip(&self.of).filter_map(|(event, dispatch)| Some((event, (*dispatch)?)));
        let unwanted = dispatched.filter(|(_, dispatch)| dispatch.deliveries.is_empty());
        unwanted.map(|(event, _)| event.id.uuid()).collect()
    }

    pub(crate) fn event_ids(&self) -> Vec<Uuid> {
        self.deliveries.iter().map(|(event_id, _)| *event_id).collect()
    }

    pub(crate) fn column<T>(&self, field: impl Fn(&'a DirectDelivery) -> T) -> Vec<T> {
        self.deliveries.iter().map(|(_, delivery)| field(delivery)).collect()
    }
}

/// Columns of a delivery that need more than a field's name.
pub(crate) fn subscriptions(direct: &DirectDelivery) -> String {
    uuid_array(&direct.delivery.subscription_ids)
}

pub(crate) fn retries(direct: &DirectDelivery) -> i32 {
    int(direct.delivery.retry.max_retry_attempts)
}

/// Hands what was taken over to whoever took it; it was stored as due then.
pub(crate) fn hand_over(
    schema: &Schema,
    event: &Arc<DomainEvent>,
    dispatch: DirectDispatch,
    (token, now, until): (Option<i64>, Timestamp, Timestamp),
) {
    let lease = |DirectDelivery { delivery, .. }: DirectDelivery| {
        let work = DeliveryWork::first(schema, event, &delivery);
        Lease::grant(queue_key(to_micros(now)), token.unwrap_or_default().unsigned_abs(), until, work)
    };
    let leased = dispatch.deliveries.into_iter().filter(|direct| direct.is_taken && token.is_some());
    (dispatch.hand_over)(leased.map(lease).collect());
}

#[cfg(test)]
mod tests {
    use neo_events_store::CatalogueVersion;

    use super::*;

    #[test]
    fn only_what_was_all_matched_with_one_catalogue_has_one() {
        let of_one = |versions: &[Option<u64>]| {
            let dispatch = |version: &u64| DirectDispatch {
                catalogue_version: CatalogueVersion(*version),
                deliveries: Vec::new(),
                lease_until: Timestamp::UNIX_EPOCH,
                hand_over: Box::new(|_| ()),
            };
            let made: Vec<_> = versions.iter().map(|version| version.as_ref().map(dispatch)).collect();
            let lease = LeaseTerms { session: 1, until: Timestamp::UNIX_EPOCH };
            let of = made.iter().map(Option::as_ref).collect();
            Dispatches { of, deliveries: Vec::new(), lease }.of_one_catalogue()
        };
        assert_eq!([of_one(&[Some(3)]), of_one(&[Some(3), Some(3)])], [Some(3); 2]);
        for mixed in
            [&[][..], &[None], &[Some(3), Some(2)], &[Some(2), Some(3)], &[Some(3), None], &[None, Some(3)]]
        {
            assert_eq!(of_one(mixed), None, "{mixed:?}");
        }
    }
}
