-- Jumps from endpoint to endpoint and looks at the far end of each: two seeks, however long their backlogs are.
with recursive owing (endpoint_no) as (
    select min(endpoint_no) from delivery_queue
    union all
    select (select min(q.endpoint_no) from delivery_queue q where q.endpoint_no > owing.endpoint_no)
    from owing
    where owing.endpoint_no is not null
)
select q.delivery_seq
from owing
cross join delivery_queue q on q.endpoint_no = owing.endpoint_no and q.due_at > ?1
limit ?2
