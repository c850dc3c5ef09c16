update tenant.stream_heads
set version = $3
where aggregate_id = $1 and aggregate_type = $2
