-- Unguarded publishes write no stream head, and archived events are not in the log: the newest is the greater of both.
select greatest(
    coalesce((
        select max(e.aggregate_version)
        from tenant.events e
        where e.aggregate_id = $1 and e.aggregate_type = $2
    ), 0),
    coalesce((
        select h.version from tenant.stream_heads h where h.aggregate_id = $1 and h.aggregate_type = $2
    ), 0)
)
