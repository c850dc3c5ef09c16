-- Sorts one aggregate's events; an index that keeps them sorted would cost every append.
select e.seq
from events e indexed by events_by_aggregate
where e.seq >= :from_seq and e.seq < :before_seq
    and e.aggregate_id = :aggregate_id
    and (:event_type is null or e.event_type = :event_type)
    and (:aggregate_type is null or e.aggregate_type = :aggregate_type)
    and (:correlation_id is null or e.correlation_id = :correlation_id)
    and (:context_id is null or e.context_id = :context_id)
    and (:processed is null or :processed <> exists (select 1 from owed_dispatches o where o.event_seq = e.seq))
order by e.seq desc
limit :limit
