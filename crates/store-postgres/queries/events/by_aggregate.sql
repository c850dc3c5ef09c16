select
    e.id, e.event_type, e.event_name, e.aggregate_id, e.aggregate_type, e.aggregate_version, e.correlation_id,
    e.causation_id, e.triggered_by_user_id, e.context_id, e.occurred_at, e.created_at, e.event_metadata, e.event_data,
    least(
        (select min(d.created_at) from tenant.deliveries d where d.event_id = e.id),
        (select u.processed_at from tenant.undelivered_events u where u.event_id = e.id)
    )
from tenant.events e
where e.aggregate_id = $1 and e.aggregate_type = $2
    and (e.aggregate_version, e.created_at, e.id) > ($3, $4::timestamptz, $5::uuid)
    and ($6::uuid is null or e.context_id = $6)
order by e.aggregate_version, e.created_at, e.id
limit $7
