-- A head outlives its events, an unguarded publish writes no head: the newest is the greater of both.
select max(
    coalesce((select version from stream_heads where aggregate_id = ?1 and aggregate_type = ?2), 0),
    coalesce((select max(aggregate_version) from events where aggregate_id = ?1 and aggregate_type = ?2), 0)
)
