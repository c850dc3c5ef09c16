-- What is pending is in the queue: as many rows as are owed are sorted, however many were delivered. The offsets keep
-- this order of joining, which ends with the page.
select d.*
from (
    select q.delivery_id
    from admin.delivery_queue q
    where q.tenant_no = $6 and q.delivery_id >= $1 and q.delivery_id < $2
    order by q.delivery_id desc
    offset 0
) q
cross join lateral (
    select
        d.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.current_attempt, d.max_attempts,
        d.max_attempts_reached, d.max_retry_attempts, d.base_backoff_seconds, d.backoff_multiplier, d.cancel_reason,
        d.cancel_requested, d.trigger, d.subscription_ids, d.created_at
    from tenant.deliveries d
    where d.id = q.delivery_id and d.status = 'pending' and d.created_at >= $3 and d.created_at < $4
    offset 0
) d
order by q.delivery_id desc
limit $5
