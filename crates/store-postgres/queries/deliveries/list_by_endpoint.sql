-- A page of each endpoint, along the index that ends with the id: nobody else's deliveries are walked over.
select d.*
from unnest($6::uuid[]) as of_endpoint (id)
cross join lateral (
    select
        d.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.current_attempt, d.max_attempts,
        d.max_attempts_reached, d.max_retry_attempts, d.base_backoff_seconds, d.backoff_multiplier, d.cancel_reason,
        d.cancel_requested, d.trigger, d.subscription_ids, d.created_at
    from tenant.deliveries d
    where d.endpoint_id = of_endpoint.id
        and d.id >= $1 and d.id < $2
        and d.created_at >= $3 and d.created_at < $4
        and ($7::text is null or d.status = $7)
    order by d.id desc
    limit $5
) d
order by d.id desc
limit $5
