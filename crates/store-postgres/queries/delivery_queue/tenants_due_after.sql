-- Tenants with a delivery that is due after a time, found at the far end of each endpoint's queue, from endpoint to
-- endpoint along the key.
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
select distinct owing.tenant_no
from owing
cross join lateral (
    select 1
    from admin.delivery_queue q
    where q.tenant_no = owing.tenant_no and q.endpoint_id = owing.endpoint_id and q.due_at > $1
    limit 1
) late
