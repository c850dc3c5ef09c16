-- The row that guarded publishes of an aggregate take turns on; made if it is not there. `version` does not change.
insert into tenant.stream_heads as head (aggregate_id, aggregate_type, version)
values ($1, $2, 0)
on conflict (aggregate_id, aggregate_type) do update set version = head.version
returning head.version
