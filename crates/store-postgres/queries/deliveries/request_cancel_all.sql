-- Asks for the end of deliveries of one endpoint that are in flight, whose rows in the queue are locked, and reached by
-- their keys.
with requested as (
    update tenant.deliveries
    set cancel_requested = $5
    where id = any ($3::uuid[]) and status in ('pending', 'retrying')
    returning id
),
ending as (
    update admin.delivery_queue
    set is_ending = true
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
insert into admin.cancel_requests (tenant_no, delivery_id)
select $1, id from requested
on conflict (tenant_no, delivery_id) do nothing
