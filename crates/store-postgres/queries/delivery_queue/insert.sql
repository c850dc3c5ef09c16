insert into admin.delivery_queue (tenant_no, endpoint_id, due_at, delivery_id, event_id)
values ($1, $2, $3, $4, $5)
