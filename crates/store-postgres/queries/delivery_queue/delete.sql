delete from admin.delivery_queue
where tenant_no = $1 and endpoint_id = $2 and due_at = $3 and delivery_id = $4
