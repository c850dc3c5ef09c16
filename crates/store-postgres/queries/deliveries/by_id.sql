select
    d.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.current_attempt, d.max_attempts, d.max_attempts_reached,
    d.max_retry_attempts, d.base_backoff_seconds, d.backoff_multiplier, d.cancel_reason, d.cancel_requested,
    d.trigger, d.subscription_ids, d.created_at, d.due_at, p.is_active, p.deleted_at,
    p.context_id
from tenant.deliveries d
join tenant.endpoints p on p.id = d.endpoint_id
where d.id = $1
