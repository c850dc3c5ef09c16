-- Ends deliveries of one endpoint whose rows in the queue are locked and which nobody works on. Those rows are reached
-- by their keys: by the endpoint alone, each step would walk over all that is left of a backlog.
with cancelled as (
    update tenant.deliveries
    set status = 'cancelled', due_at = null, cancel_reason = $5, cancel_requested = null
    where id = any ($3::uuid[]) and status in ('pending', 'retrying')
    returning id
),
unqueued as (
    delete from admin.delivery_queue
    where ctid = any (
        array(
            select place.ctid
            from unnest($3::uuid[], $4::timestamptz[]) as locked (id, due_at)
            cross join lateral (
                select q.ctid
                from admin.delivery_queue q
                where q.tenant_no = $1
                    and q.endpoint_id = $2
                    and q.due_at = locked.due_at
                    and q.delivery_id = locked.id
                offset 0
            ) place
        )
    )
)
insert into tenant.troubled_deliveries (delivery_id, endpoint_id, status)
select id, $2, 'cancelled' from cancelled
on conflict (delivery_id) do update set status = excluded.status
