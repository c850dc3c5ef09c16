delete from admin.held_endpoints
where tenant_no = $1 and endpoint_id = $2
