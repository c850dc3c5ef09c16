-- Nothing is left that could be claimed: what is ending, ends by itself.
with left_over as (
    select 1 from admin.delivery_queue
    where tenant_no = $1 and endpoint_id = $2 and not is_ending
    limit 1
),
removed as (
    delete from admin.endpoint_removals
    where tenant_no = $1 and endpoint_id = $2 and not exists (select 1 from left_over)
    returning tenant_no, endpoint_id
)
delete from admin.held_endpoints h
using removed
where h.tenant_no = removed.tenant_no and h.endpoint_id = removed.endpoint_id
