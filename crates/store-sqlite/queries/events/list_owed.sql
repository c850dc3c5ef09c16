-- What is owed is few; cross join keeps the planner from walking the events instead.
select e.seq
from owed_dispatches w cross join events e on e.seq = w.event_seq
where w.event_seq >= :from_seq and w.event_seq < :before_seq
    and (:event_type is null or e.event_type = :event_type)
    and (:aggregate_type is null or e.aggregate_type = :aggregate_type)
    and (:aggregate_id is null or e.aggregate_id = :aggregate_id)
    and (:correlation_id is null or e.correlation_id = :correlation_id)
    and (:context_id is null or e.context_id = :context_id)
order by w.event_seq desc
limit :limit
