-- An operator's doing, and rare: it looks through everything owed.
with ended as (
    delete from admin.owed_dispatches
    where tenant_no = $1 and event_id = any ($2::uuid[])
    returning event_id
),
undelivered as (
    insert into tenant.undelivered_events (event_id, processed_at)
    select event_id, $3 from ended
    on conflict (event_id) do nothing
)
select count(*) from ended
