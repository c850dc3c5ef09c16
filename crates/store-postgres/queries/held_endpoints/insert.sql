insert into admin.held_endpoints (tenant_no, endpoint_id)
values ($1, $2)
on conflict (tenant_no, endpoint_id) do nothing
