-- Asks for the end of deliveries of one endpoint that are in flight, whose rows in the queue are locked.
with requested as (
    update tenant.deliveries
    set cancel_requested = $4
    where id = any ($3::uuid[]) and status in ('pending', 'retrying')
    returning id
),
ending as (
    update admin.delivery_queue
    set is_ending = true
    where tenant_no = $1 and endpoint_id = $2 and delivery_id = any ($3::uuid[])
)
insert into admin.cancel_requests (tenant_no, delivery_id)
select $1, id from requested
on conflict (tenant_no, delivery_id) do nothing
