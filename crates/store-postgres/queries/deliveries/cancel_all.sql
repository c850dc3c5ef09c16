-- Ends deliveries of one endpoint whose rows in the queue are locked and which nobody works on.
with cancelled as (
    update tenant.deliveries
    set status = 'cancelled', due_at = null, cancel_reason = $4, cancel_requested = null
    where id = any ($3::uuid[]) and status in ('pending', 'retrying')
    returning id
),
unqueued as (
    delete from admin.delivery_queue
    where tenant_no = $1 and endpoint_id = $2 and delivery_id = any ($3::uuid[])
)
insert into tenant.troubled_deliveries (delivery_id, endpoint_id, status)
select id, $2, 'cancelled' from cancelled
on conflict (delivery_id) do update set status = excluded.status
