-- Who is owed something that nobody works on, and since when. It jumps from endpoint to endpoint along the key: the
-- time it takes grows with the endpoints that have work, not with the work.
with recursive owing as (
    (
        select tenant_no, endpoint_id
        from admin.delivery_queue
        order by tenant_no, endpoint_id
        limit 1
    )
    union all
    select next.tenant_no, next.endpoint_id
    from owing
    cross join lateral (
        select q.tenant_no, q.endpoint_id
        from admin.delivery_queue q
        where (q.tenant_no, q.endpoint_id) > (owing.tenant_no, owing.endpoint_id)
        order by q.tenant_no, q.endpoint_id
        limit 1
    ) next
)
select owing.tenant_no, owing.endpoint_id, first.due_at
from owing
cross join lateral (
    select q.due_at
    from admin.delivery_queue q
    where q.tenant_no = owing.tenant_no
        and q.endpoint_id = owing.endpoint_id
        and not q.is_ending
        and (q.leased_until is null or q.leased_until <= $1)
    order by q.due_at, q.delivery_id
    limit 1
) first
where not exists (
    select 1
    from admin.held_endpoints h
    where h.tenant_no = owing.tenant_no and h.endpoint_id = owing.endpoint_id
)
