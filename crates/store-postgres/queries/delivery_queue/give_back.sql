-- What a claim was granted of one tenant and nobody will attempt. By what the claim itself answered, and without a word
-- to the tenant's own tables: they are what could not be read.
with held as materialized (
    select place.ctid
    from unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::bigint[])
        as granted (endpoint_id, due_at, delivery_id, token)
    cross join lateral (
        select q.ctid
        from admin.delivery_queue q
        where q.tenant_no = $1
            and q.endpoint_id = granted.endpoint_id
            and q.due_at = granted.due_at
            and q.delivery_id = granted.delivery_id
            and q.lease_token = granted.token
        offset 0
    ) place
)
update admin.delivery_queue
set lease_token = null, leased_by = null, leased_until = null
-- The token once more: where the row is changed at this moment, it is looked at again, as it is then.
where ctid = any (array(select held.ctid from held)) and lease_token = any ($5::bigint[])
