select no
from event_types
where no < :before
    and (:category is null or category = :category)
    and (:is_enabled is null or is_enabled = :is_enabled)
order by no desc
limit :limit
