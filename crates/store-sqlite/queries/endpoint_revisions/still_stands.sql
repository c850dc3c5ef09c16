-- Whether what a receiver said to a revision still concerns the endpoint: it sends to the same URL, and nobody switched
-- it off since. Who switched it on again decided against what was said before.
select
    exists (
        select 1
        from endpoint_revisions r
        join endpoints e on e.no = r.endpoint_no
        where r.endpoint_no = ?1 and r.revision = ?2 and r.endpoint_url = e.endpoint_url
    )
    and not exists (
        select 1 from endpoint_revisions r where r.endpoint_no = ?1 and r.revision > ?2 and r.is_active = 0
    )
