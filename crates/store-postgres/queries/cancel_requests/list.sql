-- Those after the one that was looked at last, so that all have their turn whoever waits; without tenants that are left
-- alone for now.
select tenant_no, delivery_id
from admin.cancel_requests
where (tenant_no, delivery_id) > ($1, $2) and tenant_no <> all ($3::integer[])
order by tenant_no, delivery_id
limit $4
