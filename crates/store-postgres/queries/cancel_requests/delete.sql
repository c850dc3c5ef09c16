delete from admin.cancel_requests
where tenant_no = $1 and delivery_id = $2
