-- Those after the one that was looked at last, so that all have their turn whoever waits; without tenants that are left
-- alone for now.
select tenant_no, endpoint_id
from admin.endpoint_removals
where (tenant_no, endpoint_id) > ($1, $2) and tenant_no <> all ($3::integer[])
order by tenant_no, endpoint_id
limit $4
