-- Events that were all matched with the same catalogue, and their deliveries: all of them; or none, and no row is
-- answered, if the catalogue has changed since or has disabled one of the types. An id that is there already is an
-- error. What is stored here is what `append.sql` would have stored, at three quarters of the cost: nothing is asked
-- for each event, and no part reads another's rows. Arrays are taken apart in the list of what is selected, where a
-- value is made when its row is; a function in `from` would first put all of its values aside.
--
-- The events come first, because what is selected at the end asks for them: an id that is there already ends the
-- statement before anything else is locked or written. The parts that nobody asks for would be carried out from the
-- last to the first.
with stands as materialized (
    -- As of this statement's snapshot: whatever was changed before the events were published is counted in it, and was
    -- known to whoever matched with this number.
    select
    where (select t.catalogue_version from admin.tenants t where t.no = $1) = $28::bigint
        and not exists (
            select from tenant.event_types t where t.event_type = any ($4::text[]) and not t.is_enabled
        )
),
stored as (
    insert into tenant.events (
        id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id, causation_id,
        triggered_by_user_id, context_id, occurred_at, created_at, event_metadata, event_data
    )
    select
        unnest($3::uuid[]),
        unnest($4::text[]),
        unnest($5::text[]),
        unnest($6::uuid[]),
        unnest($7::text[]),
        unnest($8::integer[]),
        unnest($9::uuid[]),
        unnest($10::uuid[]),
        unnest($11::uuid[]),
        unnest($12::uuid[]),
        unnest($13::timestamptz[]),
        $2::timestamptz,
        unnest($14::text[]),
        unnest($15::text[])
    where exists (select from stands)
    returning 1
),
written as (
    insert into tenant.deliveries (
        id, event_id, endpoint_id, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
        max_retry_attempts, base_backoff_seconds, backoff_multiplier, subscription_ids, created_at
    )
    select
        unnest($17::uuid[]),
        unnest($16::uuid[]),
        unnest($18::uuid[]),
        'event',
        'pending',
        $25::timestamptz,
        0,
        unnest($20::integer[]),
        false,
        unnest($21::integer[]),
        unnest($22::integer[]),
        unnest($23::double precision[]),
        unnest($19::text[])::uuid[],
        $25::timestamptz
    where exists (select from stands)
),
-- The session is locked against removal, so that nothing is leased to one whose leases were already freed.
me as materialized (
    select no, pg_current_xact_id()::text::bigint as token from admin.sessions where no = $26 for key share
),
queued as (
    insert into admin.delivery_queue (
        tenant_no, endpoint_id, due_at, delivery_id, event_id, lease_token, leased_by, leased_until
    )
    select
        $1,
        w.endpoint_id,
        $25::timestamptz,
        w.id,
        w.event_id,
        case when w.is_taken then (select token from me) end,
        case when w.is_taken then (select no from me) end,
        case when w.is_taken and exists (select from me) then $27::timestamptz end
    from (
        select
            unnest($16::uuid[]) as event_id,
            unnest($17::uuid[]) as id,
            unnest($18::uuid[]) as endpoint_id,
            unnest($24::boolean[]) as is_taken
        where exists (select from stands)
    ) as w
),
undelivered as (
    insert into tenant.undelivered_events (event_id, processed_at)
    select unnest($29::uuid[]), $25::timestamptz
    where exists (select from stands)
)
select (select token from me) as token
from stands
where (select count(*) from stored) > 0
