-- Events with the rows that owe their dispatch. An id that is there already is left alone, and a type that the
-- catalogue has disabled is left out: the caller finds out which of the two it was for what is not answered.
with given as (
    select *
    from unnest(
        $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::integer[], $9::uuid[], $10::uuid[],
        $11::uuid[], $12::uuid[], $13::timestamptz[], $14::text[], $15::text[]
    ) as given (
        id, event_type, event_name, aggregate_id, aggregate_type, aggregate_version, correlation_id, causation_id,
        triggered_by_user_id, context_id, occurred_at, event_metadata, event_data
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
owed as (
    insert into admin.owed_dispatches (tenant_no, event_id)
    select $1, id from stored where $16
)
select id from stored
