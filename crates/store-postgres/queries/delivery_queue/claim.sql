-- As many of each endpoint as there is room for, due first, and one more to know when the next is due, from its floor
-- on: what lies before that was seen to be taken or gone. What somebody else holds or is about to take is passed over.
-- Endpoints that are held are left out. The session is locked against removal, so that nobody claims in the name of one
-- whose leases were already freed.
with me as (
    select no, pg_current_xact_id()::text::bigint as token from admin.sessions where no = $1 for key share
),
quota as (
    select *
    from unnest($4::integer[], $5::uuid[], $6::integer[], $7::timestamptz[]) with ordinality
        as quota (tenant_no, endpoint_id, most, floor, position)
    where not exists (
        select 1
        from admin.held_endpoints h
        where h.tenant_no = quota.tenant_no and h.endpoint_id = quota.endpoint_id
    )
),
seen as (
    select
        quota.position, quota.most, quota.tenant_no, quota.endpoint_id, open.due_at, open.delivery_id, open.event_id,
        open.ctid as spot,
        row_number() over (partition by quota.position order by open.due_at, open.delivery_id) as place
    from quota
    cross join lateral (
        select q.due_at, q.delivery_id, q.event_id, q.ctid
        from admin.delivery_queue q
        where q.tenant_no = quota.tenant_no
            and q.endpoint_id = quota.endpoint_id
            and q.due_at >= quota.floor
            and not q.is_ending
            and (q.leased_until is null or q.leased_until <= $2)
        order by q.due_at, q.delivery_id
        limit quota.most + 1
        for update skip locked
    ) open
),
claimed as (
    update admin.delivery_queue q
    set lease_token = me.token, leased_by = me.no, leased_until = $3
    from me
    where q.ctid = any (array(select seen.spot from seen where seen.place <= seen.most and seen.due_at <= $2))
    returning q.tenant_no, q.endpoint_id, q.delivery_id, q.lease_token
)
select seen.position, seen.due_at, seen.delivery_id, seen.event_id, claimed.lease_token
from seen
left join claimed
    on claimed.tenant_no = seen.tenant_no
    and claimed.endpoint_id = seen.endpoint_id
    and claimed.delivery_id = seen.delivery_id
order by seen.position, seen.place
