-- What claims and publishes of this session leased whose answers were lost: found by the time until which they leased
-- it, among what the endpoints are owed that they may have leased of.
with held as materialized (
    select place.ctid
    from unnest($3::integer[], $4::uuid[]) as owner (tenant_no, endpoint_id)
    cross join lateral (
        select q.ctid
        from admin.delivery_queue q
        where q.tenant_no = owner.tenant_no
            and q.endpoint_id = owner.endpoint_id
            and q.leased_by = $1
            and q.leased_until = any ($2::timestamptz[])
        offset 0
    ) place
)
update admin.delivery_queue
set lease_token = null, leased_by = null, leased_until = null
-- The lease once more: where the row is changed at this moment, it is looked at again, as it is then.
where ctid = any (array(select held.ctid from held))
    and leased_by = $1
    and leased_until = any ($2::timestamptz[])
