-- Along the index on the flow and time.
select
    e.id, e.event_type, e.event_name, e.aggregate_id, e.aggregate_type, e.aggregate_version, e.correlation_id,
    e.causation_id, e.triggered_by_user_id, e.context_id, e.occurred_at, e.created_at, e.event_metadata, e.event_data,
    least(
        (select min(d.created_at) from tenant.deliveries d where d.event_id = e.id),
        (select u.processed_at from tenant.undelivered_events u where u.event_id = e.id)
    )
from tenant.events e
where e.correlation_id = $9
    and e.created_at >= coalesce($1::timestamptz, '-infinity')
    and e.created_at < coalesce($2::timestamptz, 'infinity')
    and (e.created_at, e.id) < ($3::timestamptz, $4::uuid)
    and ($6::text is null or e.event_type = $6)
    and ($7::text is null or e.aggregate_type = $7)
    and ($8::uuid is null or e.aggregate_id = $8)
    and ($10::uuid is null or e.context_id = $10)
    and (
        $11::boolean is null
        or $11 = (
            exists (select 1 from tenant.deliveries d where d.event_id = e.id)
            or exists (select 1 from tenant.undelivered_events u where u.event_id = e.id)
        )
    )
order by e.created_at desc, e.id desc
limit $5
