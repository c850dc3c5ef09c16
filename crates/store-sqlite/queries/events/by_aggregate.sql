select seq
from events
where aggregate_id = ?1 and aggregate_type = ?2 and aggregate_version > ?3
order by aggregate_version, seq
limit ?4
