-- What is pending is in the queue: as many rows as are owed, however many were delivered.
select d.seq
from delivery_queue q cross join deliveries d on d.seq = q.delivery_seq
where d.seq >= :from_seq and d.seq < :before_seq
    and d.status = :status
    and (:event_seq is null or d.event_seq = :event_seq)
    and (:endpoint_no is null or d.endpoint_no = :endpoint_no)
order by d.seq desc
limit :limit
