-- Whether an aggregate has events, and none of them in a context.
select
    exists (select 1 from events where aggregate_id = ?1 and aggregate_type = ?2)
    and not exists (select 1 from events where aggregate_id = ?1 and aggregate_type = ?2 and context_id = ?3)
