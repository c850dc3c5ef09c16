-- The end of what events owe, with the deliveries that matching found: due at once, and none to an endpoint that was
-- deleted meanwhile. What is not ended here, because its lease was lost or somebody marked it processed, brings none.
with held as materialized (
    select place.ctid
    from unnest($3::bigint[], $4::bigint[], $5::bigint[]) as done (xid, no, token)
    cross join lateral (
        select owed.ctid
        from admin.owed_dispatches owed
        where owed.xid = done.xid::text::xid8 and owed.no = done.no and owed.lease_token = done.token
        offset 0
    ) place
),
ended as (
    delete from admin.owed_dispatches
    -- The token once more: where the row is changed at this moment, it is looked at again, as it is then.
    where ctid = any (array(select held.ctid from held)) and lease_token = any ($5::bigint[])
    returning no, event_id
),
wanted as (
    select *
    from unnest(
        $6::bigint[], $7::uuid[], $8::uuid[], $9::text[], $10::text[], $11::integer[], $12::integer[], $13::integer[],
        $14::double precision[]
    ) as wanted (
        owed_no, id, endpoint_id, trigger, subscription_ids, max_attempts, max_retry_attempts, base_backoff_seconds,
        backoff_multiplier
    )
),
written as (
    insert into tenant.deliveries (
        id, event_id, endpoint_id, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
        max_retry_attempts, base_backoff_seconds, backoff_multiplier, subscription_ids, created_at
    )
    select
        w.id, ended.event_id, w.endpoint_id, w.trigger, 'pending', $2, 0, w.max_attempts, false,
        w.max_retry_attempts, w.base_backoff_seconds, w.backoff_multiplier, w.subscription_ids::uuid[], $2
    from wanted w
    join ended on ended.no = w.owed_no
    where exists (select 1 from tenant.endpoints e where e.id = w.endpoint_id and e.deleted_at is null)
    on conflict (event_id, endpoint_id, trigger) do nothing
    returning id, event_id, endpoint_id
),
queued as (
    insert into admin.delivery_queue (tenant_no, endpoint_id, due_at, delivery_id, event_id)
    select $1, endpoint_id, $2, id, event_id from written
),
undelivered as (
    insert into tenant.undelivered_events (event_id, processed_at)
    select event_id, $2 from ended
    where not exists (select 1 from written where written.event_id = ended.event_id)
    on conflict (event_id) do nothing
)
select count(*) from written
