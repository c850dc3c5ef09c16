-- Takes the row of a delivery that is not over, waiting for whoever is settling it. In flight is what somebody holds.
select q.leased_until is not null and q.leased_until > $5
from admin.delivery_queue q
where q.tenant_no = $1 and q.endpoint_id = $2 and q.due_at = $3 and q.delivery_id = $4
for update
