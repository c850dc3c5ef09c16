-- The lease stays with whoever holds it.
update admin.delivery_queue
set due_at = $5, is_ending = $6
where tenant_no = $1 and endpoint_id = $2 and due_at = $3 and delivery_id = $4
