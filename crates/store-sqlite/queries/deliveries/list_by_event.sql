-- An event has one delivery per endpoint: few enough to sort.
select d.seq
from deliveries d indexed by deliveries_by_event
where d.seq >= :from_seq and d.seq < :before_seq
    and d.event_seq = :event_seq
    and (:endpoint_no is null or d.endpoint_no = :endpoint_no)
    and (:status is null or d.status = :status)
    and (:context_id is null or exists (
        select 1 from endpoints e where e.no = d.endpoint_no and e.context_id = :context_id
    ))
order by d.seq desc
limit :limit
