-- A page of each endpoint, along the index of what is not a success. The offsets keep this order of joining, which ends
-- with the page.
select d.*
from unnest($6::uuid[]) as of_endpoint (id)
cross join lateral (
    select d.*
    from (
        select t.delivery_id
        from tenant.troubled_deliveries t
        where t.endpoint_id = of_endpoint.id
            and t.status = $7
            and t.delivery_id >= $1 and t.delivery_id < $2
        order by t.delivery_id desc
        offset 0
    ) t
    cross join lateral (
        select
            d.id, d.endpoint_id, d.event_id, d.status, d.due_at, d.current_attempt, d.max_attempts,
            d.max_attempts_reached, d.max_retry_attempts, d.base_backoff_seconds, d.backoff_multiplier,
            d.cancel_reason, d.cancel_requested, d.trigger, d.subscription_ids, d.created_at
        from tenant.deliveries d
        where d.id = t.delivery_id and d.created_at >= $3 and d.created_at < $4
        offset 0
    ) d
    order by t.delivery_id desc
    limit $5
) d
order by d.id desc
limit $5
