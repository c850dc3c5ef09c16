-- The third condition lets the planner use the index of rare states.
select d.seq
from deliveries d indexed by deliveries_by_endpoint_and_status
where d.seq >= :from_seq and d.seq < :before_seq
    and d.endpoint_no = :endpoint_no
    and d.status = :status and d.status not in ('pending', 'success')
    and (:event_seq is null or d.event_seq = :event_seq)
order by d.seq desc
limit :limit
