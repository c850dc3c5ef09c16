-- Position 0 signs. The endpoint that changed last was sealed last; one that was deleted has no secrets.
select e.id, s.sealed
from endpoints e
cross join endpoint_secrets s on s.endpoint_no = e.no and s.position = 0
where e.deleted_at is null
order by e.changed desc
limit 1
