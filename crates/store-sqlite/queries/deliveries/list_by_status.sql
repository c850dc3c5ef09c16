-- The second condition lets the planner use the index of rare states.
select d.seq
from deliveries d indexed by deliveries_by_status
where d.seq >= :from_seq and d.seq < :before_seq
    and d.status = :status and d.status not in ('pending', 'success')
    and (:event_seq is null or d.event_seq = :event_seq)
    and (:endpoint_no is null or d.endpoint_no = :endpoint_no)
order by d.seq desc
limit :limit
