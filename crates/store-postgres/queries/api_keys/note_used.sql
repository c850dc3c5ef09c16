-- Never back: notes are written late and in any order. Locked in the order of ids, so that two nodes never wait for
-- each other.
update admin.api_keys k
set last_used_at = newer.at
from (
    select k.no, used.at
    from (
        select id, max(at) as at
        from unnest($1::uuid[], $2::timestamptz[]) as used (id, at)
        group by id
    ) used
    join admin.api_keys k on k.id = used.id
    where k.last_used_at is null or k.last_used_at < used.at
    order by k.id
    for no key update of k
) newer
where k.no = newer.no
