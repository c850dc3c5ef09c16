-- An event has one delivery per endpoint: few enough to sort.
select d.seq
from deliveries d indexed by deliveries_by_event
where d.seq >= :from_seq and d.seq < :before_seq
    and d.event_seq = :event_seq
    and (:endpoint_no is null or d.endpoint_no = :endpoint_no)
    and (:status is null or d.status = :status)
order by d.seq desc
limit :limit
