-- An older time never replaces a newer one; neither revision nor catalogue version move. Locked in the order of ids, so
-- that two nodes never wait for each other.
update tenant.subscriptions s
set last_triggered_at = newer.at
from (
    select s.no, triggered.at
    from (
        select id, max(at) as at
        from unnest($1::uuid[], $2::timestamptz[]) as triggered (id, at)
        group by id
    ) triggered
    join tenant.subscriptions s on s.id = triggered.id
    where s.deleted_at is null and (s.last_triggered_at is null or s.last_triggered_at < triggered.at)
    order by s.id
    for no key update of s
) newer
where s.no = newer.no
