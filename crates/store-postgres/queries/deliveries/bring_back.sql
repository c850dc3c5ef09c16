-- Due now what a clock that ran ahead put off. An attempt in flight keeps its lease and settles over it.
with late as (
    select q.tenant_no, q.endpoint_id, q.due_at, q.delivery_id
    from tenant.deliveries d
    join admin.delivery_queue q
        on q.tenant_no = $1
        and q.endpoint_id = d.endpoint_id
        and q.due_at = d.due_at
        and q.delivery_id = d.id
    where d.id = any ($2::uuid[]) and d.due_at > $3
    for update of q skip locked
),
moved as (
    update admin.delivery_queue q
    set due_at = $4
    from late
    where q.tenant_no = late.tenant_no
        and q.endpoint_id = late.endpoint_id
        and q.due_at = late.due_at
        and q.delivery_id = late.delivery_id
    returning q.delivery_id
)
update tenant.deliveries d
set due_at = $4
from moved
where d.id = moved.delivery_id
