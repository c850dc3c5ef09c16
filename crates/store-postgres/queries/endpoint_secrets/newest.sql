-- Position 0 signs. The endpoint that changed last was sealed last; one that was deleted has no secrets.
select e.id, s.sealed
from tenant.endpoints e
join tenant.endpoint_secrets s on s.endpoint_id = e.id and s.position = 0
where e.deleted_at is null
order by e.changed desc
limit 1
