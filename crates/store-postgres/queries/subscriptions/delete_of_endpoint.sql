-- The endpoint's own change stands for these. Locked in the order in which note_triggered locks them.
update tenant.subscriptions s
set deleted_at = $2
from (
    select id
    from tenant.subscriptions
    where endpoint_id = $1 and deleted_at is null
    order by id
    for no key update
) doomed
where s.id = doomed.id
