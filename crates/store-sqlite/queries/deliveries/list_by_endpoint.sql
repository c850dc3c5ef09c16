-- An index entry ends with the seq, so the order comes with it.
select d.seq
from deliveries d indexed by deliveries_by_endpoint
where d.seq >= :from_seq and d.seq < :before_seq
    and d.endpoint_no = :endpoint_no
    and (:event_seq is null or d.event_seq = :event_seq)
    and (:status is null or d.status = :status)
order by d.seq desc
limit :limit
