-- An older time never replaces a newer one; neither revision nor catalogue version move. Locked in the order of ids, so
-- that two nodes never wait for each other.
update tenant.endpoints e
set last_used_at = newer.at
from (
    select e.no, used.at
    from (
        select id, max(at) as at
        from unnest($1::uuid[], $2::timestamptz[]) as used (id, at)
        group by id
    ) used
    join tenant.endpoints e on e.id = used.id
    where e.deleted_at is null and (e.last_used_at is null or e.last_used_at < used.at)
    order by e.id
    for no key update of e
) newer
where e.no = newer.no
