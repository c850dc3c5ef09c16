-- An index entry ends with the seq, so the order comes with it.
select e.seq
from events e indexed by events_by_type
where e.seq >= :from_seq and e.seq < :before_seq
    and e.event_type = :event_type
    and (:aggregate_type is null or e.aggregate_type = :aggregate_type)
    and (:aggregate_id is null or e.aggregate_id = :aggregate_id)
    and (:correlation_id is null or e.correlation_id = :correlation_id)
    and (:context_id is null or e.context_id = :context_id)
    and (:processed is null or :processed <> exists (select 1 from owed_dispatches o where o.event_seq = e.seq))
order by e.seq desc
limit :limit
