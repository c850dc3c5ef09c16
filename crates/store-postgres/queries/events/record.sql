-- Publishes events in order, in the transaction and with the rights of whoever runs this: a publisher may execute the
-- function and see no table. Whatever the driver, parameters are of three types; texts become what the function takes.
-- Times come and go in ways that need no extension of a driver.
select
    recorded.id,
    recorded.aggregate_version,
    (extract(epoch from recorded.created_at) * 1000000)::bigint as created_at_micros,
    recorded.is_duplicate
from unnest(
    $1::text[], $2::text[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::bigint[], $8::bigint[], $9::text[],
    $10::uuid[], $11::uuid[], $12::uuid[], $13::uuid[], $14::text[]
) with ordinality as draft (
    event_type, event_data, id, event_name, aggregate_id, aggregate_type, aggregate_version, expected_version,
    event_metadata, correlation_id, causation_id, triggered_by_user_id, context_id, occurred_at, position
)
cross join lateral tenant.record_event(
    draft.event_type, draft.event_data::json, draft.id, draft.event_name, draft.aggregate_id, draft.aggregate_type,
    draft.aggregate_version, draft.expected_version, draft.event_metadata::json, draft.correlation_id,
    draft.causation_id, draft.triggered_by_user_id, draft.context_id, draft.occurred_at::timestamptz
) as recorded
order by draft.position
