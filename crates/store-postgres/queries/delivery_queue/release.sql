update admin.delivery_queue q
set lease_token = null, leased_by = null, leased_until = null
from tenant.deliveries d
where d.id = $2
    and q.tenant_no = $1
    and q.endpoint_id = d.endpoint_id
    and q.due_at = d.due_at
    and q.delivery_id = d.id
    and q.lease_token = $3
returning q.endpoint_id
