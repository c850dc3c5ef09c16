select s.no
from subscriptions s
where s.no < :before
    and s.deleted_at is null
    and (:context_id is null or s.context_id = :context_id)
    and (:is_active is null or s.is_active = :is_active)
order by s.no desc
limit :limit
