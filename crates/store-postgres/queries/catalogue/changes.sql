-- Two index ranges, merged, beside the number of the newest change: in one statement, so that both are of one moment.
select t.catalogue_version, changed.changed, changed.is_subscription, changed.id, changed.is_deleted
from admin.tenants t
left join lateral (
    select changed, is_subscription, id, is_deleted
    from (
        (
            select e.changed, false as is_subscription, e.id, e.deleted_at is not null as is_deleted
            from tenant.endpoints e
            where e.changed > $2
            order by e.changed
            limit $3
        )
        union all
        (
            select s.changed, true as is_subscription, s.id, s.deleted_at is not null as is_deleted
            from tenant.subscriptions s
            where s.changed > $2
            order by s.changed
            limit $3
        )
    ) both_kinds
    order by changed
    limit $3
) changed on true
where t.schema_name = $1
order by changed.changed
