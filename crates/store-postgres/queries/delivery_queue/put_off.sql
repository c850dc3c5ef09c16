-- Deliveries that wait longer than anything makes them, found at the far end of each endpoint's queue, from endpoint to
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
select late.tenant_no, array_agg(late.delivery_id)
from (
    select owing.tenant_no, of_endpoint.delivery_id
    from owing
    cross join lateral (
        select q.delivery_id
        from admin.delivery_queue q
        where q.tenant_no = owing.tenant_no and q.endpoint_id = owing.endpoint_id and q.due_at > $1
        limit $2
    ) of_endpoint
    where owing.tenant_no <> all ($4::integer[])
    limit $3
) late
group by late.tenant_no
