insert into admin.cancel_requests (tenant_no, delivery_id)
values ($1, $2)
on conflict (tenant_no, delivery_id) do nothing
