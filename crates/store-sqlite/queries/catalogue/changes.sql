-- Two index ranges, merged. Kind 0 is an endpoint, 1 a subscription.
select changed, kind, no, id, is_deleted
from (
    select changed, 0 as kind, no, id, deleted_at is not null as is_deleted from endpoints where changed > ?1
    union all
    select changed, 1 as kind, no, id, deleted_at is not null as is_deleted from subscriptions where changed > ?1
    order by changed
    limit ?2
)
order by changed
