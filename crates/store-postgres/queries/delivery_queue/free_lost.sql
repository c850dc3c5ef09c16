-- What claims of this session leased whose answers were lost: found by the time until which they leased it.
update admin.delivery_queue
set lease_token = null, leased_by = null, leased_until = null
where leased_by = $1 and leased_until = any ($2::timestamptz[])
