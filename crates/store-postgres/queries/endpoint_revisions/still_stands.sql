-- Whether what a receiver said to a revision still concerns the endpoint: it is active, sends to the same URL, and
-- nobody switched it off since. Who switched it on again decided against what was said before.
select
    exists (
        select 1
        from tenant.endpoint_revisions r
        join tenant.endpoints e on e.id = r.endpoint_id
        where r.endpoint_id = $1
            and r.revision = $2
            and r.endpoint_url = e.endpoint_url
            and e.is_active
            and e.deleted_at is null
    )
    and not exists (
        select 1
        from tenant.endpoint_revisions r
        where r.endpoint_id = $1 and r.revision > $2 and not r.is_active
    )
