update admin.delivery_queue
set lease_token = null, leased_by = null, leased_until = null
where leased_by = any ($1::bigint[])
