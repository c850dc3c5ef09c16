-- One pass with five counters; grouping would sort every row first.
select
    count(*) filter (where status = 'pending'),
    count(*) filter (where status = 'retrying'),
    count(*) filter (where status = 'success'),
    count(*) filter (where status = 'failed'),
    count(*) filter (where status = 'cancelled')
from deliveries
where endpoint_no = ?1 and seq >= ?2
