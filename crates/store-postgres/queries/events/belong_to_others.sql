-- Of each aggregate, whether it has events, and none of them in a context, whose own index is not to be used: it has more.
select anybodys.id is not null and own.id is null
from unnest($1::text[], $2::uuid[]) with ordinality as asked (aggregate_type, aggregate_id, place)
left join lateral (
    select e.id from tenant.events e
    where e.aggregate_id = asked.aggregate_id and e.aggregate_type = asked.aggregate_type
    limit 1
) as anybodys on true
left join lateral (
    select e.id from tenant.events e
    where e.aggregate_id = asked.aggregate_id and e.aggregate_type = asked.aggregate_type and e.context_id is not distinct from $3
    limit 1
) as own on true
order by asked.place
