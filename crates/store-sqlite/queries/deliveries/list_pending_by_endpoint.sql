-- One endpoint's part of the queue, however many others owe. The span is judged by the queue's own column, before the
-- delivery is looked up.
select q.delivery_seq
from delivery_queue q
cross join deliveries d on d.seq = q.delivery_seq
where q.endpoint_no = :endpoint_no
    and q.delivery_seq >= :from_seq and q.delivery_seq < :before_seq
    and d.status = :status
    and (:event_seq is null or d.event_seq = :event_seq)
order by q.delivery_seq desc
limit :limit
