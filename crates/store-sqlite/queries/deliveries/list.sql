-- Along the primary key, from the right edge.
select d.seq
from deliveries d
where d.seq >= :from_seq and d.seq < :before_seq
    and (:event_seq is null or d.event_seq = :event_seq)
    and (:endpoint_no is null or d.endpoint_no = :endpoint_no)
    and (:status is null or d.status = :status)
order by d.seq desc
limit :limit
