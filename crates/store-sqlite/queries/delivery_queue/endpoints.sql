-- Jumps from endpoint to endpoint: one seek each, however long their backlogs are.
with recursive owing (endpoint_no) as (
    select min(endpoint_no) from delivery_queue
    union all
    select (select min(q.endpoint_no) from delivery_queue q where q.endpoint_no > owing.endpoint_no)
    from owing
    where owing.endpoint_no is not null
)
select e.no, e.id
from owing
cross join endpoints e on e.no = owing.endpoint_no
where e.is_active = 1 and e.deleted_at is null
