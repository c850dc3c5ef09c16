-- Events, and what follows from them: deliveries where the publishing node has matched the event with the catalogue as
-- it is, else the row that owes the dispatch. An id that is there already is left alone, and a type that the catalogue
-- has disabled is left out: the caller finds out which of the two it was for what is not answered.
with given as (
    select *
    from unnest(
        $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::integer[], $9::uuid[], $10::uuid[],
        $11::uuid[], $12::uuid[], $13::timestamptz[], $14::text[], $15::text[], $29::bigint[]
    ) as given (
        id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id, causation_id,
        triggered_by_user_id, context_id, occurred_at, event_metadata, event_data, catalogue_version
    )
),
stored as (
    insert into tenant.events (
        id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id, causation_id,
        triggered_by_user_id, context_id, occurred_at, created_at, event_metadata, event_data
    )
    select
        id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id, causation_id,
        triggered_by_user_id, context_id, occurred_at, $2, event_metadata, event_data
    from given
    where not exists (
        select 1 from tenant.event_types t where t.event_type = given.event_type and not t.is_enabled
    )
    on conflict (id) do nothing
    returning id
),
-- As of this statement's snapshot: whatever was changed before the event was published is counted in it, and was known
-- to whoever matched with this number.
dispatched as materialized (
    select stored.id
    from stored
    join given on given.id = stored.id
    where given.catalogue_version = (select t.catalogue_version from admin.tenants t where t.no = $1)
),
wanted as materialized (
    select *
    from unnest(
        $16::uuid[], $17::uuid[], $18::uuid[], $19::text[], $20::integer[], $21::integer[], $22::integer[],
        $23::double precision[], $24::boolean[]
    ) as wanted (
        event_id, id, endpoint_id, subscription_ids, max_attempts, max_retry_attempts, base_backoff_seconds,
        backoff_multiplier, is_taken
    )
    where event_id in (select dispatched.id from dispatched)
),
written as (
    insert into tenant.deliveries (
        id, event_id, endpoint_id, trigger, status, due_at, current_attempt, max_attempts, max_attempts_reached,
        max_retry_attempts, base_backoff_seconds, backoff_multiplier, subscription_ids, created_at
    )
    select
        w.id, w.event_id, w.endpoint_id, 'event', 'pending', $25, 0, w.max_attempts, false, w.max_retry_attempts,
        w.base_backoff_seconds, w.backoff_multiplier, w.subscription_ids::uuid[], $25
    from wanted w
),
-- The session is locked against removal, so that nothing is leased to one whose leases were already freed.
me as (
    select no, pg_current_xact_id()::text::bigint as token from admin.sessions where no = $26 for key share
),
queued as (
    insert into admin.delivery_queue (
        tenant_no, endpoint_id, due_at, delivery_id, event_id, lease_token, leased_by, leased_until
    )
    select
        $1, w.endpoint_id, $25, w.id, w.event_id,
        me.token,
        me.no,
        case when me.no is not null then $27::timestamptz end
    from wanted w
    left join me on w.is_taken
    returning lease_token
),
undelivered as (
    insert into tenant.undelivered_events (event_id, processed_at)
    select id, $25 from dispatched where id not in (select w.event_id from wanted w)
),
owed as (
    insert into admin.owed_dispatches (tenant_no, event_id)
    select $1, id from stored where $28 and id not in (select dispatched.id from dispatched)
)
select
    stored.id,
    dispatched.id is not null,
    (select max(lease_token) from queued)
from stored
left join dispatched on dispatched.id = stored.id
