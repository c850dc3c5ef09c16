-- What a deleted endpoint is still owed: at most a step's worth, and nothing that somebody is just settling.
select q.delivery_id, q.due_at, q.leased_until is not null and q.leased_until > $4
from admin.delivery_queue q
where q.tenant_no = $1 and q.endpoint_id = $2 and not q.is_ending
order by q.due_at, q.delivery_id
limit $3
for update skip locked
