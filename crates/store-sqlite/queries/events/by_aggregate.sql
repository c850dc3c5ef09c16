select aggregate_version, seq
from events
where aggregate_id = ?1 and aggregate_type = ?2
    and (aggregate_version, seq) > (?3, ?4)
    and (?5 is null or context_id = ?5)
order by aggregate_version, seq
limit ?6
