-- One delivery that needs no dispatch; nobody is written to whose endpoint was deleted meanwhile.
with written as (
    insert into tenant.deliveries (
        id, event_id, endpoint_id, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
        max_retry_attempts, base_backoff_seconds, backoff_multiplier, subscription_ids, created_at
    )
    select $3, $4, $5, $6, 'pending', $8, 0, $9, false, $10, $11, $12, $7::text::uuid[], $2
    where exists (select 1 from tenant.endpoints e where e.id = $5 and e.deleted_at is null)
    on conflict (event_id, endpoint_id, trigger) do nothing
    returning id, event_id, endpoint_id
),
queued as (
    insert into admin.delivery_queue (tenant_no, endpoint_id, due_at, delivery_id, event_id)
    select $1, endpoint_id, $8, id, event_id from written
),
undelivered as (
    insert into tenant.undelivered_events (event_id, processed_at)
    select $4, $2 where not exists (select 1 from written)
)
select count(*) from written
