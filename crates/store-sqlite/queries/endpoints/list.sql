select e.no
from endpoints e
where e.no < :before
    and e.deleted_at is null
    and (:context_id is null or e.context_id = :context_id)
    and (:is_active is null or e.is_active = :is_active)
    and (:event_type is null or exists (
        select 1
        from subscriptions s
        where s.endpoint_no = e.no and s.deleted_at is null and s.is_active = 1
            and s.pattern in (:event_type, :category_pattern, '*')
    ))
order by e.no desc
limit :limit
