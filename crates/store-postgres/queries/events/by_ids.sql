select
    e.id, e.event_type, e.event_name, e.aggregate_id, e.aggregate_type, e.aggregate_version, e.correlation_id,
    e.causation_id, e.triggered_by_user_id, e.context_id, e.occurred_at, e.created_at, e.event_metadata, e.event_data
from tenant.events e
where e.id = any ($1::uuid[])
