-- Deliveries that are not held, counted up to a limit, and for how long the longest due of them waits. Tests are put
-- before all others, at the beginning of time, and say nothing of that.
select
    count(*),
    extract(epoch from clock_timestamp() - min(queued.due_at) filter (where queued.leased_by is null and queued.due_at > 'epoch'))::double precision
from (
    select waiting.due_at, waiting.leased_by
    from admin.delivery_queue as waiting
    where not exists (
        select from admin.held_endpoints as held
        where held.tenant_no = waiting.tenant_no and held.endpoint_id = waiting.endpoint_id
    )
    limit $1
) as queued
