-- One pass with five counters. The ids bound the part of the index that is read, the time says which rows count.
select
    count(*) filter (where status = 'pending'),
    count(*) filter (where status = 'retrying'),
    count(*) filter (where status = 'success'),
    count(*) filter (where status = 'failed'),
    count(*) filter (where status = 'cancelled')
from tenant.deliveries
where endpoint_id = $1 and id >= $2 and created_at >= $3
