-- An event has one delivery per endpoint: few enough to sort. Materialized, so that nobody walks along the primary key
-- to find them in order.
with of_event as materialized (
    select
        d.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.current_attempt, d.max_attempts,
        d.max_attempts_reached, d.max_retry_attempts, d.base_backoff_seconds, d.backoff_multiplier, d.cancel_reason,
        d.cancel_requested, d.trigger, d.subscription_ids, d.created_at
    from tenant.deliveries d
    where d.event_id = $6
)
select d.*
from of_event d
where d.id >= $1 and d.id < $2
    and d.created_at >= $3 and d.created_at < $4
    and ($7::uuid[] is null or d.endpoint_id = any ($7))
    and ($8::text is null or d.status = $8)
order by d.id desc
limit $5
